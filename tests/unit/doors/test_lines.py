"""Cutting open requests when their sandbox ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from atoll.doors.lines import Line, Lines
from atoll.errors import AgentFailed, NotFound, SandboxGone
from atoll.sandboxes.model import Sandbox

Sent = list[Any]


@pytest.fixture
def sent() -> Sent:
    return []


async def run(lines: Lines, sandbox: Sandbox, sent: Sent, work: Any) -> None:
    async def send(message: Any) -> None:
        sent.append(message)

    await lines.run(sandbox, send, work)


async def test_work_is_done(make_sandbox: Callable[..., Sandbox], sent: Sent) -> None:
    lines = Lines()
    await run(lines, make_sandbox(), sent, lambda line: line.send({"n": 1}))
    assert sent == [{"n": 1}]
    lines.close()


async def test_end_cuts_what_has_begun(make_sandbox: Callable[..., Sandbox], sent: Sent) -> None:
    lines, sandbox = Lines(), make_sandbox()

    async def stubborn(line: Line) -> None:
        await line.send({"n": 1})
        try:
            await asyncio.sleep(60)
        finally:
            await line.send({"n": "the clean end"})
            raise ValueError("whatever")

    task = asyncio.create_task(run(lines, sandbox, sent, stubborn))
    await asyncio.sleep(0.01)
    sandbox.ended.set()
    await asyncio.wait_for(task, 1)
    assert sent == [{"n": 1}]


async def test_end_before_an_answer(make_sandbox: Callable[..., Sandbox], sent: Sent) -> None:
    lines, sandbox = Lines(), make_sandbox()
    task = asyncio.create_task(run(lines, sandbox, sent, lambda line: asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    sandbox.ended.set()
    with pytest.raises(SandboxGone):
        await asyncio.wait_for(task, 1)


async def test_work_that_ends_as_it_is_cut(
    make_sandbox: Callable[..., Sandbox], sent: Sent
) -> None:
    lines = Lines()

    async def work(line: Line) -> None:
        await line.send({"n": 1})
        line.sever()

    async def request() -> str:
        await run(lines, make_sandbox(), sent, work)
        await asyncio.sleep(0.01)  # the cancellation must not strike later
        return "alive"

    assert await asyncio.create_task(request()) == "alive"
    lines.close()


async def test_errors_before_and_after_the_answer(
    make_sandbox: Callable[..., Sandbox], sent: Sent
) -> None:
    lines, sandbox = Lines(), make_sandbox()

    async def refuse(line: Line) -> None:
        raise NotFound("no")

    async def break_off(line: Line) -> None:
        await line.send({"n": 1})
        raise AgentFailed("broke")

    with pytest.raises(NotFound):
        await run(lines, sandbox, sent, refuse)
    await run(lines, sandbox, sent, break_off)
    assert sent == [{"n": 1}]
    lines.close()


async def test_cancelling_from_outside_is_no_cut(
    make_sandbox: Callable[..., Sandbox], sent: Sent
) -> None:
    lines = Lines()
    task = asyncio.create_task(run(lines, make_sandbox(), sent, lambda line: asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lines.close()
