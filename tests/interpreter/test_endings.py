"""Clients that go, kernels that die, code that does not stop."""

from __future__ import annotations

import asyncio
import time

import pytest
from e2b import NotFoundException, TimeoutException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from tests.server import RunningServer


def test_a_timeout_interrupts_and_the_next_call_works(sandbox: Sandbox) -> None:
    sandbox.run_code("import time; kept = 'state'")
    with pytest.raises(TimeoutException):
        sandbox.run_code("time.sleep(600)", timeout=1)
    assert sandbox.run_code("kept", timeout=20).text == "state"


def test_code_that_awaits_is_interrupted_too(sandbox: Sandbox) -> None:
    sandbox.run_code("import asyncio; kept = 'awaiting'")
    with pytest.raises(TimeoutException):
        sandbox.run_code("await asyncio.sleep(600)", timeout=1)
    assert sandbox.run_code("kept", timeout=10).text == "awaiting"


def test_a_loss_of_state_is_told_once(sandbox: Sandbox) -> None:
    sandbox.run_code("const kept = 1", language="js")
    with pytest.raises(TimeoutException):
        sandbox.run_code("await new Promise((r) => setTimeout(r, 60000))", language="js", timeout=1)
    after = sandbox.run_code("1 + 1", language="js", timeout=60)
    assert after.text == "2"
    assert "is lost" in "".join(after.logs.stderr)
    assert sandbox.run_code("1 + 1", language="js").logs.stderr == []


def test_code_that_holds_on_is_stopped_in_the_end(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context()
    stubborn = "while True:\n try:\n  import time; time.sleep(600)\n except BaseException: pass"
    with pytest.raises(TimeoutException):
        sandbox.run_code(stubborn, context=context, timeout=1)
    assert sandbox.run_code("1 + 1", context=context, timeout=90).text == "2"


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os._exit(3)", "exited with status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("x = bytearray(1)\nwhile True: x += bytearray(1 << 26)", "SIGKILL"),
    ],
    ids=["exit", "crash", "memory"],
)
def test_a_kernel_that_dies_is_reported_and_replaced(
    server: RunningServer, code: str, how: str
) -> None:
    with Sandbox.create(timeout=300, **server.options) as sandbox:
        other = sandbox.create_code_context()
        sandbox.run_code("kept = 'other'", context=other)
        error = sandbox.run_code(code, timeout=60).error
        assert error is not None
        assert error.name == "KernelDied"
        assert how in error.value
        assert sandbox.run_code("1 + 1", timeout=60).text == "2"
        assert sandbox.run_code("kept", context=other).text == "other"


async def test_callbacks_come_in_order_while_the_code_runs(async_sandbox: AsyncSandbox) -> None:
    seen: list[str] = []

    async def on_stdout(message: object) -> None:
        seen.append(f"out {str(message).strip()}")
        if len(seen) == 1:
            await async_sandbox.files.write("/tmp/seen", "")

    code = """
import os, sys, time
print('first', flush=True)
while not os.path.exists('/tmp/seen'): time.sleep(0.01)
print('second', flush=True)
'result'
"""
    execution = await async_sandbox.run_code(
        code, on_stdout=on_stdout, on_result=lambda result: seen.append(f"result {result.text}")
    )
    assert seen == ["out first", "out second", "result result"]
    assert execution.error is None


async def test_variables_of_the_sandbox_reach_every_context(server: RunningServer) -> None:
    envs = {"GREETING": "hello 'you'"}
    async with await AsyncSandbox.create(timeout=120, envs=envs, **server.options) as sandbox:
        code = "import os; os.environ['GREETING']"
        assert (await sandbox.run_code(code)).text == "hello 'you'"
        context = await sandbox.create_code_context()
        assert (await sandbox.run_code(code, context=context)).text == "hello 'you'"
        given = await sandbox.run_code(code, envs={"GREETING": "other"})
        assert given.text == "other"
        assert (await sandbox.run_code(code)).text == "hello 'you'"


async def test_a_sandbox_with_private_traffic(server: RunningServer) -> None:
    sandbox = await AsyncSandbox.create(
        timeout=120, network={"allow_public_traffic": False}, **server.options
    )
    try:
        assert (await sandbox.run_code("6 * 7")).text == "42"
    finally:
        await sandbox.kill()


_ENDLESS = "import time; print('on', flush=True); time.sleep(600)"


async def test_a_restart_ends_what_runs(async_sandbox: AsyncSandbox) -> None:
    context = await async_sandbox.create_code_context()
    running = asyncio.Event()
    call = async_sandbox.run_code(
        _ENDLESS, context=context, envs={"A": "1"}, on_stdout=lambda _: running.set()
    )
    ended = asyncio.create_task(call)
    await running.wait()
    await async_sandbox.restart_code_context(context)
    error = (await ended).error
    assert error is not None
    assert error.name == "KernelDied"
    assert (await async_sandbox.run_code("1 + 1", context=context)).text == "2"


async def test_a_removal_ends_what_runs_and_who_waits(async_sandbox: AsyncSandbox) -> None:
    context = await async_sandbox.create_code_context()
    running = asyncio.Event()
    first = asyncio.create_task(
        async_sandbox.run_code(_ENDLESS, context=context, on_stdout=lambda _: running.set())
    )
    await running.wait()
    second = asyncio.create_task(async_sandbox.run_code("1", context=context))
    await asyncio.sleep(0.5)  # it has got as far as waiting for its turn
    await async_sandbox.remove_code_context(context)
    error = (await first).error
    assert error is not None
    assert error.name == "KernelDied"
    with pytest.raises(NotFoundException):
        await second
    assert await _count_kernels(async_sandbox) == 1


async def test_a_start_that_is_given_up_leaves_nothing(async_sandbox: AsyncSandbox) -> None:
    with pytest.raises(TimeoutException):
        await async_sandbox.run_code("1", language="java", timeout=0.3)
    # What the Python kernel has: a connection file, and a directory for its sockets.
    listing = "ls -d /tmp/kernel-* /tmp/tmp*.json | wc -l"
    deadline = time.monotonic() + 20
    while (
        await _count_kernels(async_sandbox) != 1
        or (await async_sandbox.commands.run(listing)).stdout.strip() != "2"
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def _count_kernels(sandbox: AsyncSandbox) -> int:
    count = await sandbox.commands.run("pgrep -c -f '[i]pykernel_launcher|[j]java'")
    return int(count.stdout)


def test_nothing_of_much_output_is_lost(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("for n in range(10000): display(n)", timeout=100)
    assert [result.text for result in execution.results] == [str(n) for n in range(10000)]


def test_a_result_that_is_no_text(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("display({'text/plain': 5}, raw=True)")
    assert len(execution.results) == 1


def test_an_interpreter_that_is_killed_comes_back(server: RunningServer) -> None:
    with Sandbox.create(timeout=300, **server.options) as sandbox:
        sandbox.commands.run("pkill -9 python")
        ready = "until curl -sf -o /dev/null http://localhost:49999/health; do sleep 0.1; done"
        sandbox.commands.run(ready, timeout=60)
        assert sandbox.run_code("1 + 1").text == "2"
