"""How soon a client hears of a change in a watched directory."""

from __future__ import annotations

import asyncio
import select
import subprocess
import sys
import tempfile
import time

from e2b import AsyncSandbox, FilesystemEvent, FilesystemEventType, Sandbox

from atoll.agent.guest.inotify import Inotify, parse
from bench.samples import Samples
from bench.servers import Target, run_atoll
from bench.table import Row

_COUNT = 200
# Makes files whose names say when: the clock is the same inside of a sandbox and outside.
_WRITER = f"""
import sys, time
for _ in range({_COUNT}):
    time.sleep(0.02)
    open(f"{{sys.argv[1]}}/{{time.monotonic_ns()}}", "w").close()
"""
_FOLDER = "/home/user/watched"


def measure_watching() -> list[Row]:
    """From the moment a program makes a file, to the moment its event is at the client."""
    with run_atoll(pool_size=1) as target:
        streamed = asyncio.run(_stream(target))
        polled = _poll(target)
    floor = _watch_here()
    return [
        Row(
            f"watch, {how}: from the change to the client",
            str(ours),
            f"inotify in Python on the host {floor}",
            ours.p50 / floor.p50,
            f"p50 ≤ {bar} ms",
            ours.p50 <= bar,
        )
        for how, ours, bar in (("streamed", streamed, 5), ("polled without pause", polled, 10))
    ]


def _age(name: str) -> float:
    """Milliseconds since the file was made."""
    return (time.monotonic_ns() - int(name)) / 1e6


async def _stream(target: Target) -> Samples:
    sandbox = await AsyncSandbox.create(**target.options)
    ages: list[float] = []
    complete = asyncio.Event()

    def on_event(event: FilesystemEvent) -> None:
        if event.type == FilesystemEventType.CREATE:
            ages.append(_age(event.name))
            if len(ages) == _COUNT:
                complete.set()

    await sandbox.files.make_dir(_FOLDER)
    await sandbox.files.write("writer.py", _WRITER)
    handle = await sandbox.files.watch_dir(_FOLDER, on_event)
    await sandbox.commands.run(f"python3 writer.py {_FOLDER}", background=True, timeout=0)
    async with asyncio.timeout(60):
        await complete.wait()
    await handle.stop()  # type: ignore[no-untyped-call]
    await sandbox.kill()
    return Samples(ages)


def _poll(target: Target) -> Samples:
    ages: list[float] = []
    with Sandbox.create(**target.options) as sandbox:
        sandbox.files.make_dir(_FOLDER)
        sandbox.files.write("writer.py", _WRITER)
        handle = sandbox.files.watch_dir(_FOLDER)
        sandbox.commands.run(f"python3 writer.py {_FOLDER}", background=True, timeout=0)
        deadline = time.monotonic() + 60
        while len(ages) < _COUNT and time.monotonic() < deadline:
            for event in handle.get_new_events():
                if event.type == FilesystemEventType.CREATE:
                    ages.append(_age(event.name))
    return Samples(ages)


def _watch_here() -> Samples:
    """The floor: no sandbox, no server, no client."""
    ages: list[float] = []
    inotify = Inotify()
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as folder:
        inotify.add(folder, follow=True)
        poll = select.poll()
        poll.register(inotify.fd, select.POLLIN)
        with subprocess.Popen([sys.executable, "-c", _WRITER, folder]):
            while len(ages) < _COUNT and poll.poll(60_000):
                names = dict.fromkeys(name for _, _, name in parse(inotify.read()))
                ages += [_age(name) for name in names]
    inotify.close()
    return Samples(ages)
