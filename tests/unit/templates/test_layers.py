"""Layers: made once, found again, removed when nothing needs them."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from atoll.templates.layers import Layer, LayerStore, derive_key

WEEK = timedelta(days=7)


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path)


async def make(root: Path) -> None:
    await asyncio.to_thread(root.mkdir)
    (root / "file").write_text("content")


async def stack(store: LayerStore, *names: str) -> list[Layer]:
    """Layers one upon the other, the lowest first."""
    made: list[Layer] = []
    below: tuple[Path, ...] = ()
    for name in names:
        layer = await store.ensure(derive_key(name), below, make)
        made.append(layer)
        below = (layer.rootfs, *below)
    return made


def age(*layers: Layer) -> None:
    """Let nobody have used them for a month."""
    for layer in layers:
        moment = time.time() - 30 * 86400
        os.utime(layer.directory, (moment, moment))


async def test_many_want_one(store: LayerStore) -> None:
    count = 0

    async def make_slowly(root: Path) -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(0.05)
        await make(root)

    waited: list[int] = []
    key = derive_key("one")
    layers = await asyncio.gather(
        *(
            store.ensure(key, (), make_slowly, on_wait=lambda each=each: waited.append(each))  # type: ignore[misc]
            for each in range(4)
        )
    )
    assert count == 1
    assert len(waited) == 3
    assert {layer.rootfs for layer in layers} == {layers[0].rootfs}


async def test_one_that_fails_leaves_nothing(store: LayerStore) -> None:
    async def fail(root: Path) -> None:
        await make(root)
        raise ValueError("half made")

    key = derive_key("failing")
    with pytest.raises(ValueError, match="half made"):
        await store.ensure(key, (), fail)
    assert store.find(key) is None
    assert [path.name for path in (store.directory / key).iterdir()] == [".lock"]
    await store.ensure(key, (), make)
    assert store.find(key) is not None


async def test_what_a_killed_build_left_is_removed(store: LayerStore) -> None:
    key = derive_key("killed")
    leftover = store.directory / key / ".building-abc" / "rootfs"
    leftover.mkdir(parents=True)
    await store.ensure(key, (), make)
    assert not leftover.parent.exists()


async def test_what_is_in_use_keeps_what_it_stands_on(store: LayerStore) -> None:
    low, middle, top = await stack(store, "low", "middle", "top")
    (alone,) = await stack(store, "alone")
    age(low, middle, top, alone)
    removed = await store.prune(in_use=[middle.rootfs], grace=WEEK)
    assert set(removed) == {top.directory, alone.directory}
    assert store.find(low.key) is not None
    assert store.find(middle.key) is not None
    assert store.find(top.key) is None


async def test_what_was_used_lately_stays(store: LayerStore) -> None:
    low, top = await stack(store, "low", "top")
    age(low, top)
    assert store.find(top.key) is not None
    assert await store.prune(in_use=[], grace=WEEK) == []
    age(low, top)
    assert set(await store.prune(in_use=[], grace=WEEK)) == {low.directory, top.directory}


async def test_one_that_is_being_made_stays(store: LayerStore) -> None:
    (layer,) = await stack(store, "busy")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def make_and_wait(root: Path) -> None:
        await make(root)
        begun.set()
        await go_on.wait()

    making = asyncio.create_task(store.ensure(derive_key("under way"), (), make_and_wait))
    await begun.wait()
    age(layer)
    assert await store.prune(in_use=[], grace=WEEK) == [layer.directory]
    go_on.set()
    assert (await making).rootfs.is_dir()


async def test_what_was_made_anew_is_found(store: LayerStore) -> None:
    old, new = await stack(store, "old", "new")
    assert store.latest(old.key) == old.key
    store.redirect(old.key, new.key)
    assert store.latest(old.key) == new.key
    (store.directory / old.key / "latest").write_text("../../etc")
    assert store.latest(old.key) == old.key


async def test_a_layer_without_its_note_is_none(store: LayerStore) -> None:
    (layer,) = await stack(store, "broken")
    for content in ("", "{}", '{"format": 99, "below": []}', '{"format": 1}'):
        (layer.directory / "layer.json").write_text(content)
        assert store.find(layer.key) is None
