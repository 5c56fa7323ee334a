"""Starts the interpreter: `python3 -m interpreter [--port N] [--cwd DIRECTORY]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

from aiohttp import web

from .app import Interpreter
from .contexts import Contexts
from .kernel import Kernel
from .languages import LANGUAGES

PORT = 49999


async def serve(port: int, cwd: str) -> None:
    """Serve until told to stop. The port answers as soon as Python is ready to run."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    contexts = Contexts(cwd)
    await contexts.start()
    # A client that goes away must stop what it asked for.
    runner = web.AppRunner(
        Interpreter(contexts).build_app(), handler_cancellation=True, access_log=None
    )
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104 - the sandbox's own network
    try:
        await stopping.wait()
    finally:
        await runner.cleanup()
        await contexts.close()


async def try_kernel(name: str, cwd: str) -> None:
    """See whether a kernel starts. Raises `KernelUnavailable`."""
    language = next(each for each in LANGUAGES if each.kernel == name)
    kernel = await Kernel.start(language, cwd=cwd, env=os.environ)
    await kernel.stop()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="interpreter", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--cwd", default="/home/user")
    parser.add_argument("--try", dest="kernel", help="start one kernel, stop it, and end")
    arguments = parser.parse_args()
    if arguments.kernel is not None:
        asyncio.run(try_kernel(arguments.kernel, arguments.cwd))
    else:
        asyncio.run(serve(arguments.port, arguments.cwd))


main()
