"""What clients hear of a server that ends."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from atoll.http import Orderly


@pytest.mark.parametrize("begun", [False, True])
async def test_what_is_broken_off_is_answered_unless_that_has_begun(begun: bool) -> None:
    under_way = asyncio.Event()
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        under_way.set()
        await asyncio.Event().wait()

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    task = asyncio.create_task(Orderly(app)({"type": "http"}, receive, send))
    await under_way.wait()
    task.cancel()
    await task
    statuses = [message["status"] for message in sent if "status" in message]
    assert statuses == ([200] if begun else [503])
    # A clean end would make half an answer look whole.
    assert ("http.response.body" in [message["type"] for message in sent]) is not begun
