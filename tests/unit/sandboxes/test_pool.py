"""The pool keeps what is wanted, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from atoll.errors import HostError
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.pool import Pool
from atoll.templates.model import Template
from tests.unit.conftest import make_template


class Yard:
    """Boots and discards, and counts."""

    def __init__(self, make: Callable[..., Sandbox]) -> None:
        self._make = make
        self.booted: list[Sandbox] = []
        self.discarded: list[Sandbox] = []
        self.failing = False

    async def boot(self, template: Template) -> Sandbox:
        await asyncio.sleep(0.001)
        if self.failing:
            raise HostError("no room")
        self.booted.append(self._make(template=template))
        return self.booted[-1]

    async def discard(self, sandbox: Sandbox) -> None:
        self.discarded.append(sandbox)

    def pool(self, size: int) -> Pool:
        pool = Pool(size, boot=self.boot, discard=self.discard)
        pool.start()
        return pool


@pytest.fixture
def yard(make_sandbox: Callable[..., Sandbox]) -> Yard:
    return Yard(make_sandbox)


async def settle(pool: Pool, template: Template, count: int) -> None:
    async with asyncio.timeout(5):
        while pool.count(template) != count:
            await asyncio.sleep(0.005)


async def test_it_fills_hands_out_the_oldest_and_refills(yard: Yard) -> None:
    pool, template = yard.pool(3), make_template()
    pool.warm(template)
    await settle(pool, template, 3)
    assert pool.take(template) is yard.booted[0]
    assert pool.take(template) is yard.booted[1]
    await settle(pool, template, 3)
    assert len(yard.booted) == 5
    await pool.close()
    assert yard.discarded == yard.booted[2:]
    assert pool.take(template) is None


async def test_an_empty_pool_gives_nothing_and_size_zero_never_does(yard: Yard) -> None:
    pool, template = yard.pool(1), make_template()
    assert pool.take(template) is None
    await settle(pool, template, 1)  # asking for it has put it in use
    await pool.close()
    off = yard.pool(0)
    off.warm(template)
    await asyncio.sleep(0.02)
    assert off.take(template) is None
    await off.close()


async def test_an_older_build_is_never_handed_out(yard: Yard) -> None:
    pool, old, new = yard.pool(2), make_template(build="1"), make_template(build="2")
    pool.warm(old)
    await settle(pool, old, 2)
    pool.warm(new)
    await settle(pool, new, 2)
    assert yard.discarded == yard.booted[:2]
    taken = pool.take(new)
    assert taken is not None
    assert taken.template.build_id == "2"
    await pool.close()


async def test_one_that_died_is_passed_over_and_replaced(yard: Yard) -> None:
    pool, template = yard.pool(2), make_template()
    pool.warm(template)
    await settle(pool, template, 2)
    dead, alive = yard.booted
    dead.ended.set()
    assert pool.take(template) is alive
    await settle(pool, template, 2)
    pool.remove(yard.booted[-1])
    await settle(pool, template, 2)
    await pool.close()


async def test_what_is_adopted_counts(yard: Yard, make_sandbox: Callable[..., Sandbox]) -> None:
    pool, template = Pool(2, boot=yard.boot, discard=yard.discard), make_template()
    stranger = make_sandbox(template=make_template("other"))
    pool.warm(template)
    adopted = make_sandbox(template=template)
    assert pool.put(adopted) is True
    assert pool.put(stranger) is False
    assert pool.put(make_sandbox(template=make_template(build="0"))) is False
    await asyncio.sleep(0.02)
    assert yard.booted == []  # nothing is booted before it is started
    pool.start()
    await settle(pool, template, 2)
    assert pool.put(make_sandbox(template=template)) is False  # it is full
    assert len(yard.booted) == 1
    await pool.close()


async def test_a_boot_that_fails_does_not_end_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.sandboxes.pool._RETRY_SECONDS", 0.02)
    pool, template = yard.pool(1), make_template()
    yard.failing = True
    pool.warm(template)
    await asyncio.sleep(0.05)
    assert pool.count(template) == 0
    yard.failing = False
    await settle(pool, template, 1)
    await pool.close()


async def test_a_build_without_changes_leaves_the_pool_as_it_is(yard: Yard) -> None:
    template = make_template()
    pool = yard.pool(2)
    pool.warm(template)
    await settle(pool, template, 2)
    again = replace(template, build_id="again")
    taken = pool.take(again)
    assert taken is yard.booted[0]
    assert taken.template is again
    assert yard.discarded == []
    await pool.close()


async def test_an_old_build_by_its_tag_takes_nothing_from_the_new(yard: Yard) -> None:
    new, old = make_template(build="2"), make_template(build="1")
    old = replace(old, created_at=old.created_at - timedelta(days=1))
    pool = yard.pool(1)
    pool.warm(new)
    await settle(pool, new, 1)
    pool.warm(old)
    assert pool.count(new) == 1
    assert yard.discarded == []
    await pool.close()


async def test_one_is_kept_for_who_asks_first(
    yard: Yard, make_sandbox: Callable[..., Sandbox]
) -> None:
    pool = Pool(1, boot=yard.boot, discard=yard.discard)
    assert pool.keep(make_sandbox(template=make_template())) is False  # it does not run yet
    pool.start()
    kept = [make_sandbox(template=make_template(str(number))) for number in range(10)]
    assert all(pool.keep(each) for each in kept)
    await asyncio.sleep(0)
    assert yard.discarded == kept[:2]
    assert yard.booted == []  # nobody has asked for more
    newer = make_sandbox(template=make_template("9", build="2"))
    assert pool.keep(newer)
    await asyncio.sleep(0)
    assert yard.discarded == [*kept[:2], kept[9]]
    assert pool.take(newer.template) is newer
    pool.forget(kept[8].template.template_id)
    await asyncio.sleep(0)
    assert yard.discarded[-1] is kept[8]
    assert pool.count(kept[8].template) == 0
    await pool.close()
