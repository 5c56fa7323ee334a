"""Creates with a key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from atoll.errors import Overloaded, RequestMismatch
from atoll.sandboxes.model import Idempotency, Sandbox
from atoll.sandboxes.repeats import Repeats

MakeSandbox = Callable[..., Sandbox]
WANTED = Idempotency("key", "this")


class Maker:
    """Makes a sandbox when it is let."""

    def __init__(self, make: MakeSandbox) -> None:
        self._make = make
        self.count = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> Sandbox:
        self.count += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self._make(idempotency=WANTED)


@pytest.fixture
def maker(make_sandbox: MakeSandbox) -> Maker:
    return Maker(make_sandbox)


async def test_those_who_come_meanwhile_wait_for_the_first(maker: Maker) -> None:
    repeats = Repeats()

    async def ask() -> Sandbox:
        return await repeats.once("team", WANTED, made=[], make=maker)

    waiting = [asyncio.create_task(ask()) for _ in range(5)]
    foreign = asyncio.create_task(repeats.once("other", WANTED, made=[], make=maker))
    await asyncio.sleep(0)
    waiting[0].cancel()  # the first one leaves; the others get what it asked for
    with pytest.raises(RequestMismatch):
        await repeats.once("team", Idempotency("key", "that"), made=[], make=maker)
    maker.go.set()
    made = {(await task).sandbox_id for task in waiting[1:]}
    assert len(made) == 1
    assert (await foreign).sandbox_id not in made
    assert maker.count == 2


async def test_a_key_stands_for_its_sandbox(maker: Maker, make_sandbox: MakeSandbox) -> None:
    repeats = Repeats()
    made = [make_sandbox(), make_sandbox(idempotency=WANTED)]
    assert await repeats.once("team", WANTED, made=made, make=maker) is made[1]
    with pytest.raises(RequestMismatch, match="key"):
        await repeats.once("team", Idempotency("key", "that"), made=made, make=maker)
    assert maker.count == 0


async def test_a_failure_is_not_remembered(maker: Maker) -> None:
    repeats = Repeats()
    maker.go.set()
    maker.error = Overloaded("full")
    with pytest.raises(Overloaded):
        await repeats.once("team", WANTED, made=[], make=maker)
    maker.error = None
    await repeats.once("team", WANTED, made=[], make=maker)
    assert maker.count == 2


async def test_closing_breaks_off(maker: Maker) -> None:
    repeats = Repeats()
    task = asyncio.create_task(repeats.once("team", WANTED, made=[], make=maker))
    await asyncio.sleep(0)
    await repeats.close()
    with pytest.raises(asyncio.CancelledError):
        await task
