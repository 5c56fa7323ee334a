"""What runs in a sandbox before it is handed out: the start command of its template."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from atoll.agent.client import AgentClient
from atoll.agent.model import ProcessConfig, ProcessEnd
from atoll.errors import HostError
from atoll.templates.model import Template

TAG = "start"
"""By this tag the process can be found and attached to."""

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_LAST_BYTES = 2000


async def run_start_command(
    agent: AgentClient, template: Template, envs: Mapping[str, str]
) -> None:
    """Start it and wait until the ready command succeeds. Does nothing when there is none.

    Raises `HostError` that holds the end of its output when it fails, or is not ready in time.
    """
    if template.start_command is None:
        return
    stream = await agent.start_process(
        _shell(template.start_command, template, envs), user=template.user, tag=TAG
    )
    said = bytearray()

    async def listen() -> ProcessEnd:
        async for event in stream:
            if isinstance(event, ProcessEnd):
                return event
            said[:] = (said + event.data)[-_LAST_BYTES:]
        raise HostError("the start command's end was not seen")

    listening = asyncio.create_task(listen())
    ready = asyncio.create_task(_wait_until_ready(agent, template, envs))
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await asyncio.wait({listening, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            # It may do its work and end, so long as that work leaves the sandbox ready.
            end = listening.result()
            if end.exit_code:
                raise HostError(
                    f"the start command of the template failed ({end.status}): {_tail(said)}"
                )
            async with asyncio.timeout(_READY_SECONDS):
                await ready
        ready.result()
    except TimeoutError:
        raise HostError(
            f"what the template starts was not ready within {_READY_SECONDS:g} s: {_tail(said)}"
        ) from None
    finally:
        for task in (listening, ready):
            task.cancel()
        await asyncio.gather(listening, ready, return_exceptions=True)
        await stream.close()


async def _wait_until_ready(
    agent: AgentClient, template: Template, envs: Mapping[str, str]
) -> None:
    if template.ready_command is None:
        return
    check = _shell(template.ready_command, template, envs)
    while True:
        async with await agent.start_process(check, user=template.user) as stream:
            async for event in stream:
                if isinstance(event, ProcessEnd) and event.exit_code == 0:
                    return
        await asyncio.sleep(_POLL_SECONDS)


def _shell(command: str, template: Template, envs: Mapping[str, str]) -> ProcessConfig:
    return ProcessConfig("/bin/bash", ("-l", "-c", command), envs, template.workdir)


def _tail(said: bytearray) -> str:
    return said.decode(errors="replace").strip() or "it printed nothing"
