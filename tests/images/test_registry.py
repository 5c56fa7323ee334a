"""Images from a registry."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from atoll.errors import InvalidInput, TooLarge
from atoll.templates.images.library import ImageLibrary
from atoll.templates.images.reference import parse_reference
from atoll.templates.images.skopeo import Access, FetchFailed
from atoll.templates.recipe import Credentials
from tests.images.conftest import Workplace
from tests.images.making import LayerMaker, Picture, busybox_layer
from tests.images.registry import PASSWORD, USERNAME, Registry

CONFIG = {
    "Env": ["PATH=/opt/bin:/bin", "GREETING=hello world"],
    "User": "1000:1000",
    "WorkingDir": "/srv",
}


async def test_an_image_runs_with_what_it_says_of_itself(
    workplace: Workplace, registry: Registry
) -> None:
    upper = LayerMaker().directory("srv").add("srv/note", b"from the second layer").finish()
    picture = Picture([busybox_layer(), upper], CONFIG)
    ground = await workplace.ground(parse_reference(registry.push(picture, "team/tool:1")))
    assert dict(ground.envs) == {"PATH": "/opt/bin:/bin", "GREETING": "hello world"}
    assert (ground.user, ground.workdir) == ("1000", "/srv")
    async with workplace.box(ground) as box:
        assert await box.run("cat /srv/note") == "from the second layer"
        assert await box.run("id -un; echo ~; pwd") == "user\n/home/user\n/home/user"


async def test_what_is_known_is_not_fetched_again(workplace: Workplace, registry: Registry) -> None:
    own = LayerMaker().add("one", b"1").finish()
    reference = parse_reference(registry.push(Picture([own]), "known"))
    first = await workplace.ground(reference)
    before = registry.count_blobs()
    assert await workplace.ground(reference) == first
    assert registry.count_blobs() == before
    # Another image that begins alike shares what is alike.
    more = LayerMaker().add("two", b"2").finish()
    second = await workplace.ground(parse_reference(registry.push(Picture([own, more]), "more")))
    assert second.layers[-1] == first.layers[-1]


async def test_a_name_that_means_another_image_now(
    workplace: Workplace, registry: Registry
) -> None:
    grounds = []
    for content in (b"old", b"new"):
        layer = LayerMaker().add("which", content).finish()
        name = registry.push(Picture([busybox_layer(), layer]), "moving:latest")
        grounds.append(await workplace.ground(parse_reference(name)))
    async with workplace.box(grounds[1]) as box:
        assert await box.run("cat /which") == "new"
    assert grounds[0].layers != grounds[1].layers


async def test_many_at_a_time_fetch_it_once(workplace: Workplace, registry: Registry) -> None:
    layer = LayerMaker().add("big", bytes(1 << 20)).finish()
    reference = parse_reference(registry.push(Picture([layer]), "wanted"))
    workplace.said.clear()
    grounds = await asyncio.gather(*(workplace.ground(reference) for _ in range(5)))
    assert len({ground.layers for ground in grounds}) == 1
    assert sum(line.startswith("fetching") for line in workplace.said) == 1


async def test_a_private_registry(workplace: Workplace, private_registry: Registry) -> None:
    layer = LayerMaker().add("secret", b"s").finish()
    reference = parse_reference(private_registry.push(Picture([layer]), "own/secret"))
    for access in (Access(), Access(Credentials(USERNAME, "wrong"))):
        with pytest.raises(FetchFailed) as failure:
            await workplace.ground(reference, access)
        assert "authentication required" in str(failure.value)
    ground = await workplace.ground(reference, Access(Credentials(USERNAME, PASSWORD)))
    assert len(ground.layers) == 2


async def test_who_may_not_fetch_it_does_not_get_what_others_have_fetched(
    workplace: Workplace, private_registry: Registry
) -> None:
    layer = LayerMaker().add("secret", b"other").finish()
    reference = parse_reference(private_registry.push(Picture([layer]), "own/other"))
    image = await workplace.library.pull(
        reference, access=Access(Credentials(USERNAME, PASSWORD)), progress=print
    )
    pinned = parse_reference(f"{private_registry.address}/own/other@{image.digest}")
    with pytest.raises(FetchFailed):
        await workplace.ground(pinned)


async def test_what_is_not_there(workplace: Workplace, registry: Registry) -> None:
    with pytest.raises(FetchFailed) as failure:
        await workplace.ground(parse_reference(f"{registry.address}/nobody/nothing:1"))
    assert "manifest unknown" in str(failure.value)
    assert "nobody/nothing:1" in str(failure.value)


async def test_for_another_machine(workplace: Workplace, registry: Registry) -> None:
    picture = Picture([LayerMaker().finish()], architecture="s390x")
    with pytest.raises(InvalidInput) as failure:
        await workplace.ground(parse_reference(registry.push(picture, "mainframe")))
    assert "linux/s390x" in str(failure.value)


async def test_too_large(workplace: Workplace, registry: Registry) -> None:
    layers = workplace.layers
    small = ImageLibrary(layers.directory.parent, layers, max_image_mb=1)
    picture = Picture([LayerMaker().add("zeros", bytes(4 << 20)).finish()])
    with pytest.raises(InvalidInput) as failure:
        await small.pull(parse_reference(registry.push(picture, "bomb")), progress=print)
    assert "more in it than" in str(failure.value)

    picture = Picture([LayerMaker().add("noise", random.Random(1).randbytes(9 << 20)).finish()])
    with pytest.raises(TooLarge):
        await small.pull(parse_reference(registry.push(picture, "noise")), progress=print)


async def test_a_layer_that_is_not_what_the_image_says(
    workplace: Workplace, registry: Registry
) -> None:
    """It would get the name of somebody else's layer."""
    picture = Picture([LayerMaker().add("evil").finish()], diff_ids=["sha256:" + "1" * 64])
    with pytest.raises(InvalidInput) as failure:
        await workplace.ground(parse_reference(registry.push(picture, "liar")))
    assert "is not sha256:1111" in str(failure.value)


async def test_what_is_pruned(registry: Registry, workplace: Workplace) -> None:
    """A record without its layers, and what a killed fetch has left."""
    layer = LayerMaker().add("short-lived", b"1").finish()
    reference = parse_reference(registry.push(Picture([layer]), "short"))
    image = await workplace.library.pull(reference, progress=print)
    store = workplace.layers.directory.parent
    record = store / "images" / image.digest.removeprefix("sha256:")
    left = record / ".building-killed"
    left.mkdir()
    await workplace.library.prune()
    assert not left.exists()
    assert (record / "image.json").exists()
    await workplace.layers.prune(in_use=[], grace=-timedelta(days=1))
    await workplace.library.prune()
    assert not (record / "image.json").exists()
    assert (await workplace.library.pull(reference, progress=print)).layers[0].is_dir()
