"""Work for a client that may leave."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from atoll.doors.leaving import unless_gone


class Client:
    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.undone: list[str] = []

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def undo(self, result: str) -> None:
        self.undone.append(result)


async def test_a_client_that_stays_gets_the_result() -> None:
    client = Client()

    async def work() -> str:
        await asyncio.sleep(0)
        return "made"

    async def fail() -> str:
        raise ValueError("no")

    assert await unless_gone(client.receive, work(), undo=client.undo) == "made"
    with pytest.raises(ValueError, match="no"):
        await unless_gone(client.receive, fail(), undo=client.undo)
    assert client.undone == []


async def test_a_client_that_leaves_breaks_the_work_off() -> None:
    client = Client()
    cleaned = asyncio.Event()

    async def work() -> str:
        client.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()
        return "never"

    with pytest.raises(ClientDisconnect):
        await unless_gone(client.receive, work(), undo=client.undo)
    assert cleaned.is_set()


async def test_what_was_through_just_then_is_undone() -> None:
    client = Client()

    async def work() -> str:
        client.left.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "made all the same"
        return "never"

    with pytest.raises(ClientDisconnect):
        await unless_gone(client.receive, work(), undo=client.undo)
    assert client.undone == ["made all the same"]


async def test_a_server_that_ends_breaks_the_work_off() -> None:
    client = Client()
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()
        return "never"

    task = asyncio.create_task(unless_gone(client.receive, work(), undo=client.undo))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned.is_set()
