"""The examination of a machine, up to a sandbox that boots."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import typer
import uvloop

from atoll.agent.client import AgentClient
from atoll.agent.model import ProcessConfig, ProcessEnd
from atoll.errors import AtollError, HostError
from atoll.isolation.checks import check_host
from atoll.isolation.driver import SandboxSpec
from atoll.logs import configure_logs
from atoll.parts import build_driver
from atoll.sandboxes.model import new_sandbox_id
from atoll.settings import Settings, load_settings
from atoll.templates.catalog import TemplateCatalog
from atoll.templates.images import skopeo


def examine(data_dir: Path | None) -> bool:
    """Look, and print what is there and what is not. Says whether all is well."""
    settings = load_settings(data_dir=data_dir)
    configure_logs("text")
    return uvloop.run(_examine(settings))


async def _examine(settings: Settings) -> bool:
    problems = await check_host()
    for problem in problems:
        typer.echo(f"bad   {problem.name}: {problem.detail}")
        typer.echo(f"FIX: {problem.fix}")
    if problems:
        typer.echo(f"{len(problems)} problem(s); the test sandbox was not booted")
        return False
    typer.echo("ok    the machine has all that sandboxes need")
    try:
        await _boot(settings)
    except (AtollError, TimeoutError) as error:
        typer.echo(f"bad   sandbox: {error or 'it did not answer in time'}")
        remedy = error.remedy if isinstance(error, AtollError) else None
        typer.echo(f"FIX: {remedy or 'the log of the server says more'}")
        return False
    if shutil.which(skopeo.PROGRAM) is None:
        typer.echo(f"note  {skopeo.PROGRAM} is not installed: no container images can be fetched")
        typer.echo(f"FIX: apt-get install {skopeo.PROGRAM}")
    return True


async def _boot(settings: Settings) -> None:
    templates = TemplateCatalog(settings.templates)
    await templates.ensure_base(
        progress=lambda line: typer.echo(f"      {line}"),
        authorities=[Path(each) for each in settings.authorities],
    )
    template = templates.get("base")
    # A data directory of its own: a server that runs meanwhile is not disturbed.
    with tempfile.TemporaryDirectory(prefix="atoll-doctor-") as scratch:
        driver = build_driver(settings.model_copy(update={"data_dir": Path(scratch)}))
        try:
            await driver.start()
            began = time.perf_counter()
            instance = await driver.create(
                SandboxSpec(new_sandbox_id(), template.layers, template.resources)
            )
            booted = time.perf_counter()
            typer.echo(f"ok    a sandbox booted in {(booted - began) * 1000:.0f} ms")
            agent = AgentClient(lambda: driver.dial_agent(instance))
            await _run(agent, template.user, "true", "a command runs in it")
            await _run(agent, template.user, "sudo -n true", "sudo works in it")
            await agent.close()
        finally:
            await driver.purge()


async def _run(agent: AgentClient, user: str, command: str, what: str) -> None:
    config = ProcessConfig("/bin/bash", ("-l", "-c", command), {}, None)
    stream = await agent.start_process(config, user=user)
    output = b""
    async with asyncio.timeout(20):
        async for event in stream:
            if isinstance(event, ProcessEnd):
                if event.exit_code == 0:
                    typer.echo(f"ok    {what}")
                    return
                break
            output += event.data
    raise HostError(
        f"{command!r} failed in the test sandbox: {output.decode(errors='replace').strip()}",
        remedy="look for the cause in the output above; docs/setup.md has the known ones",
    )
