"""`atoll demo`: a server, and a sandbox made and used through the official E2B package."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from atoll.cli.environment import collect_variables, format_exports
from atoll.cli.options import DataDir
from atoll.errors import HostError
from atoll.running import RunningServer, find_server

if TYPE_CHECKING:
    from atoll.settings import Settings

T = TypeVar("T")

_PROGRAM = "print(sum(range(10)))"
_FILE = "/home/user/hello.txt"


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the demonstration instead of serving.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The one port of the server.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Start a server, use a sandbox through the official E2B SDK, then serve until Ctrl-C."""
    from atoll.settings import load_settings

    settings = load_settings(host=host, port=port, data_dir=data_dir)
    # A closed terminal and a polite kill end the server as Ctrl-C does, in order.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    shown = False
    with contextlib.suppress(KeyboardInterrupt), _run_server(settings) as (process, server):
        _demonstrate(server)
        shown = True
        if once:
            return
        typer.echo("\nAtoll is ready")
        for line in format_exports(server):
            typer.echo(line)
        typer.echo(_SNIPPET)
        typer.echo("Serving until Ctrl-C.")
        process.wait()
    if not shown:
        raise typer.Exit(130)


_SNIPPET = """
# In another shell: paste the lines above, `pip install e2b`, then
from e2b import Sandbox
with Sandbox.create() as sandbox:
    print(sandbox.commands.run("uname -a").stdout)
"""


@contextlib.contextmanager
def _run_server(settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], RunningServer]]:
    command = [sys.executable, "-m", "atoll", "serve", "--stop-sandboxes"]
    command += ["--host", settings.host, "--port", str(settings.port)]
    command += ["--data-dir", str(settings.data_dir)]
    # In a session of its own: Ctrl-C is for us, and we end the server in order.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process, _wait_for(process, settings.data_dir)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if process.poll() is None:
            process.terminate()
        status = process.wait()
    if status != 0:
        raise HostError(
            f"the server ended with status {status}", remedy="see what it printed above"
        )


def _wait_for(process: subprocess.Popen[bytes], data_dir: Path) -> RunningServer:
    while process.poll() is None:
        server = find_server(data_dir)
        if server is not None and server.pid == process.pid:
            return server
        time.sleep(0.05)
    raise SystemExit(process.returncode)  # it said itself why


def _demonstrate(server: RunningServer) -> None:
    os.environ.update(collect_variables(server))
    try:
        from e2b import Sandbox
    except ModuleNotFoundError:
        raise HostError(
            "the official E2B package is not installed", remedy="pip install 'atoll[e2b]'"
        ) from None

    typer.echo("Through the official e2b package:")
    sandbox = _step("create a sandbox", Sandbox.create, lambda made: made.sandbox_id)
    try:
        _step(
            "run a command",
            lambda: sandbox.commands.run("echo hello from $(whoami)@$(hostname)"),
            lambda result: result.stdout.strip(),
            expect=lambda result: result.stdout.startswith("hello from user@"),
        )
        _step(
            "run a Python program",
            lambda: sandbox.commands.run(f"python3 -c {json.dumps(_PROGRAM)}"),
            lambda result: f"{_PROGRAM} → {result.stdout.strip()}",
            expect=lambda result: result.stdout == "45\n",
        )
        text = f"written at {time.time()}"
        _step("write a file", lambda: sandbox.files.write(_FILE, text), lambda info: info.path)
        _step(
            "read it back",
            lambda: sandbox.files.read(_FILE),
            lambda read: read,
            expect=lambda read: read == text,
        )
    finally:
        _step("kill the sandbox", sandbox.kill, str, expect=bool)


def _step(
    name: str,
    act: Callable[[], T],
    show: Callable[[T], str],
    *,
    expect: Callable[[T], bool] = lambda _: True,
) -> T:
    began = time.perf_counter()
    try:
        result = act()
    except Exception as error:  # whatever the SDK raises, the step has failed
        raise HostError(f"the step {name!r} failed: {error}") from error
    took = (time.perf_counter() - began) * 1000
    good = expect(result)
    typer.echo(f"  {'ok ' if good else 'BAD'}  {name:22} {took:7.1f} ms   {show(result)}")
    if not good:
        raise HostError(f"the step {name!r} gave something else than it should")
    return result
