"""Deadlines."""

from __future__ import annotations

import asyncio

import pytest

from atoll.sandboxes.reaper import Reaper


class Ends:
    """Records what was ended, and when; `slow` takes until it is let go."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.go = asyncio.Event()
        self._news = asyncio.Event()

    async def __call__(self, sandbox_id: str) -> None:
        self.at[sandbox_id] = asyncio.get_running_loop().time()
        self._news.set()
        if sandbox_id == "slow":
            await self.go.wait()
        if sandbox_id == "broken":
            raise RuntimeError("it would not end")

    async def wait_for(self, *names: str) -> None:
        async with asyncio.timeout(30):
            while not self.at.keys() >= set(names):
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def ends() -> Ends:
    return Ends()


async def test_each_ends_at_its_time_whatever_the_order(ends: Ends) -> None:
    reaper = Reaper(ends)
    reaper.start()
    began = asyncio.get_running_loop().time()
    for name, seconds in (("c", 0.3), ("a", 0.1), ("slow", 0.1), ("broken", 0.12), ("b", 0.2)):
        reaper.schedule(name, seconds)
    await ends.wait_for("a", "b", "c")  # neither the slow one nor the broken one holds them up
    ends.go.set()
    await reaper.stop()
    assert list(ends.at) == ["a", "slow", "broken", "b", "c"]
    for name, due in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        assert due <= ends.at[name] - began


async def test_a_deadline_moves_both_ways_and_is_forgotten(ends: Ends) -> None:
    reaper = Reaper(ends)
    reaper.start()
    reaper.schedule("sooner", 60)
    reaper.schedule("later", 0.05)
    reaper.schedule("never", 0.05)
    reaper.schedule("sooner", 0.05)
    reaper.schedule("later", 60)
    reaper.cancel("never")
    await ends.wait_for("sooner")  # the last of those that are due
    await reaper.stop()
    assert list(ends.at) == ["sooner"]


async def test_the_past_is_now(ends: Ends) -> None:
    reaper = Reaper(ends)
    reaper.start()
    reaper.schedule("overdue", -100)
    await ends.wait_for("overdue")
    await reaper.stop()
    assert list(ends.at) == ["overdue"]
