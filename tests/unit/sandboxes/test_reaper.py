"""Deadlines."""

from __future__ import annotations

import asyncio

import pytest

from atoll.sandboxes.reaper import Reaper


class Ends:
    """Records what was ended, and when."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    async def __call__(self, sandbox_id: str) -> None:
        self.at[sandbox_id] = asyncio.get_running_loop().time()
        if sandbox_id == "slow":
            await asyncio.sleep(0.3)
        if sandbox_id == "broken":
            raise RuntimeError("it would not end")


@pytest.fixture
async def ends() -> Ends:
    return Ends()


async def test_each_ends_at_its_time_whatever_the_order(ends: Ends) -> None:
    reaper = Reaper(ends)
    reaper.start()
    began = asyncio.get_running_loop().time()
    for name, seconds in (("c", 0.3), ("a", 0.1), ("slow", 0.1), ("broken", 0.12), ("b", 0.2)):
        reaper.schedule(name, seconds)
    await asyncio.sleep(0.5)
    await reaper.stop()
    late = {name: at - began for name, at in ends.at.items()}
    for name, due in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        assert due <= late[name] < due + 0.15


async def test_a_deadline_moves_both_ways_and_is_forgotten(ends: Ends) -> None:
    reaper = Reaper(ends)
    reaper.start()
    reaper.schedule("sooner", 60)
    reaper.schedule("later", 0.05)
    reaper.schedule("never", 0.05)
    reaper.schedule("sooner", 0.05)
    reaper.schedule("later", 60)
    reaper.cancel("never")
    await asyncio.sleep(0.3)
    await reaper.stop()
    assert list(ends.at) == ["sooner"]


async def test_the_past_is_now(ends: Ends) -> None:
    reaper = Reaper(ends)
    reaper.start()
    reaper.schedule("overdue", -100)
    await asyncio.sleep(0.05)
    await reaper.stop()
    assert list(ends.at) == ["overdue"]
