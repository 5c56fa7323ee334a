"""Contexts: made, listed, restarted, removed; kept apart."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from e2b import NotFoundException, SandboxException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from tests.server import RunningServer


def test_there_are_contexts_from_the_beginning(sandbox: Sandbox) -> None:
    languages = {context.language for context in sandbox.list_code_contexts()}
    assert languages >= {"python", "javascript"}


def test_a_context_has_its_own_state_and_directory(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context(cwd="/tmp")
    assert (context.language, context.cwd) == ("python", "/tmp")
    assert context.id in [each.id for each in sandbox.list_code_contexts()]
    sandbox.run_code("here = 'context'", context=context)
    sandbox.run_code("here = 'default'")
    assert sandbox.run_code("here", context=context).text == "context"
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
    sandbox.remove_code_context(context)
    assert context.id not in [each.id for each in sandbox.list_code_contexts()]
    with pytest.raises(NotFoundException, match=context.id):
        sandbox.run_code("1", context=context)


def test_a_restart_forgets(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context()
    sandbox.run_code("kept = 1", context=context)
    sandbox.restart_code_context(context)
    error = sandbox.run_code("kept", context=context).error
    assert error is not None
    assert error.name == "NameError"
    sandbox.remove_code_context(context.id)


def test_a_directory_that_is_not_there(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxException, match="/home/user/nowhere is not a directory"):
        sandbox.create_code_context(cwd="nowhere")
    sandbox.files.make_dir("somewhere")
    context = sandbox.create_code_context(cwd="~/somewhere")
    assert context.cwd == "/home/user/somewhere"
    sandbox.remove_code_context(context)


@pytest.mark.parametrize("name", ["remove_code_context", "restart_code_context"])
def test_a_context_that_is_not_there(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(NotFoundException):
        getattr(sandbox, name)("no-such-context")


async def test_executions_of_one_context_wait_for_each_other(async_sandbox: AsyncSandbox) -> None:
    await async_sandbox.run_code("import time; order = []")
    await asyncio.gather(
        *(
            async_sandbox.run_code(f"order.append({n}); time.sleep(0.1); order.append({n})")
            for n in range(4)
        )
    )
    order = (await async_sandbox.run_code("order")).results[0].json
    assert isinstance(order, list)
    assert len(order) == 8
    assert order[::2] == order[1::2]


async def test_contexts_run_side_by_side(async_sandbox: AsyncSandbox) -> None:
    first, second = await asyncio.gather(
        async_sandbox.create_code_context(), async_sandbox.create_code_context()
    )
    wait = "import os, time\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)"
    waiting = asyncio.create_task(async_sandbox.run_code(wait, context=first))
    execution = await async_sandbox.run_code("open('/tmp/go', 'w').close()", context=second)
    assert execution.error is None
    assert (await waiting).error is None


def test_pages_of_any_origin_may_run_code(server: RunningServer, sandbox: Sandbox) -> None:
    routed = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49999"}
    origin = {**routed, "Origin": "https://example.com"}
    asked = {"Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "content-type,x-access-token"
    preflight = httpx.options(f"{server.url}/execute", headers={**origin, **asked})
    assert preflight.is_success
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "x-access-token" in preflight.headers["access-control-allow-headers"]
    answer = httpx.get(f"{server.url}/health", headers=origin)
    assert (answer.json(), answer.headers["access-control-allow-origin"]) == ("OK", "*")
