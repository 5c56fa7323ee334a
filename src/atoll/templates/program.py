"""Running a host program that may take minutes, with its output passed on line by line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

_CHUNK = 64 * 1024
_TAIL_LINES = 40
_TELLING = ("e:", "error", "dpkg: error")

_ALONE = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
)
"""Runs a program in its own mount and process namespaces. Whatever it mounts is gone when it ends,
no process outlives it, and it does not outlive the server."""


class ProgramFailed(Exception):
    """A program ended with an error; `output` holds its last lines."""

    def __init__(self, name: str, status: int, output: Sequence[str]) -> None:
        super().__init__(f"{name} ended with status {status}")
        self.name = name
        self.status = status
        self.output = tuple(output)

    @property
    def last_words(self) -> str:
        """The line that most likely says what went wrong: the first that calls itself an error."""
        for line in self.output:
            if line.lower().startswith(_TELLING):
                return line.strip()
        return self.output[-1].strip() if self.output else str(self)


async def run(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    alone: bool = False,
    held: Sequence[int] = (),
) -> None:
    """Run `command` to its end; standard output and standard error both go to `on_line`.

    `alone` gives it namespaces of its own, so that its mounts and processes die with it. The file
    descriptors in `held` stay open in it: a lock on one of them lasts as long as the program does,
    even when this process is killed.

    Raises `ProgramFailed` when its exit status is not 0, and `FileNotFoundError` when there is no
    such program. When the caller is cancelled the program is killed.
    """
    process = await asyncio.create_subprocess_exec(
        *(_ALONE if alone else ()),
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        pass_fds=held,
    )
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        async for line in _lines(process.stdout):
            tail.append(line)
            on_line(line)
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        raise ProgramFailed(command[0], status, tail)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Split at line ends and at carriage returns (progress bars); cut lines that never end."""
    pending = b""
    while chunk := await stream.read(_CHUNK):
        *complete, pending = (pending + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(pending) > _CHUNK:
            complete, pending = [*complete, pending], b""
        for line in complete:
            if line.strip():
                yield line.decode(errors="replace").rstrip()
    if pending.strip():
        yield pending.decode(errors="replace").rstrip()
