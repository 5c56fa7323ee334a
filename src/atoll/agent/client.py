"""What the host asks of the agent in a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atoll.agent.calls import TREE_SECONDS, Calls, Dial
from atoll.agent.channel import Channel
from atoll.agent.guest.wire import ENTRY_LIMIT, MESSAGE_LIMIT, PROTOCOL
from atoll.agent.model import (
    AgentInfo,
    Entry,
    ProcessConfig,
    ProcessInfo,
    PtySize,
    WatchConfig,
)
from atoll.agent.replies import (
    decode_entries,
    decode_entry,
    decode_process,
    take_number,
    take_object,
    take_pid,
    weigh_entry,
    weigh_process,
)
from atoll.agent.streams import FileReader, ProcessStream
from atoll.agent.watches import Watch, Watchers, WatchStream
from atoll.errors import AgentFailed, PathNotFound, ProcessNotFound

_PROCESS_LIMIT = 32_768
_PROCESSES_SIZE = 8 * 1024 * 1024
"""Most bytes of a list of processes: two and a half times the largest request to start one."""


class AgentClient:
    """Speaks to one sandbox's agent. All methods are coroutine-safe.

    Each operation has a connection of its own; a few idle ones are kept for the next. Besides what
    the methods name, all raise `SandboxGone` when the sandbox has ended and `AgentFailed` when the
    agent breaks the protocol or does not answer.
    """

    def __init__(self, dial: Dial) -> None:
        self._calls = Calls(dial)
        self.watchers = Watchers(self._begin_polled)
        """The watches whose events wait in the sandbox until somebody asks."""

    async def close(self) -> None:
        """Drop all connections; operations under way raise `SandboxGone`. Idempotent."""
        self.watchers.close()
        await self._calls.close()

    # The sandbox -------------------------------------------------------------------------------

    async def hello(self, *, timeout: float) -> AgentInfo:
        """Wait until the agent answers, for at most `timeout` seconds.

        Raises `AgentFailed` when it does not, or speaks another version of the protocol.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._calls.wait_until_ready()
                result = await self._calls.call("hello", {}, timeout=timeout)
        except TimeoutError as error:
            raise AgentFailed(f"the agent did not answer within {timeout:g} s") from error
        info = AgentInfo(take_number(result, "version", 0, 2**31), take_pid(result))
        if info.version != PROTOCOL:
            raise AgentFailed(f"the agent speaks version {info.version}, not {PROTOCOL}")
        return info

    async def configure(self, files: Mapping[str, str]) -> None:
        """Write small text files as root, by absolute path, mode 0644.

        What had the name is replaced; a symlink there is not followed.
        """
        await self._calls.call("configure", {"files": dict(files)})

    # Processes ---------------------------------------------------------------------------------

    async def start_process(
        self,
        config: ProcessConfig,
        *,
        user: str,
        tag: str | None = None,
        pty: PtySize | None = None,
        stdin: bool = False,
        lifetime: float | None = None,
    ) -> ProcessStream:
        """Run a program and return its output, once it really runs.

        When it runs for more than `lifetime` seconds it is killed, whether anybody listens or not.
        Raises `Unauthenticated` for an unknown user, `InvalidInput` for a command or cwd that does
        not exist, `Forbidden` when the user may not, `Exhausted` when the sandbox can take no more
        processes or memory.
        """
        request = {
            "user": user,
            "cmd": config.cmd,
            "args": list(config.args),
            "envs": dict(config.envs),
            "cwd": config.cwd,
            "tag": tag,
            "pty": _size(pty) if pty is not None else None,
            "stdin": stdin,
            "lifetime": 0 if lifetime is None else max(1, round(lifetime * 1000)),
        }
        channel, first = await self._calls.open("start", request, "start", ProcessNotFound)
        return self._stream(channel, first)

    async def attach_process(self, selector: int | str, *, output: bool = True) -> ProcessStream:
        """Receive a process's output: first what was held while nobody did, then what comes.

        A process that ended unseen can be attached to for five minutes. `selector` is a pid or a
        tag. Without `output` only the end comes, for the last 256 also when it was seen, and other
        clients notice nothing. Raises `ProcessNotFound`.
        """
        request = {**_select(selector), "output": output}
        channel, first = await self._calls.open("attach", request, "start", ProcessNotFound)
        return self._stream(channel, first)

    def _stream(self, channel: Channel, first: Mapping[str, Any]) -> ProcessStream:
        try:
            return ProcessStream(channel, self._calls.release, take_pid(first))
        except BaseException:
            self._calls.discard(channel)
            raise

    async def list_processes(self) -> list[ProcessInfo]:
        """All processes started here that have not ended.

        Raises `Exhausted` when their arguments and environments are too many or too large.
        """
        found: list[ProcessInfo] = []

        def take(message: dict[str, Any]) -> int:
            if len(found) >= _PROCESS_LIMIT:
                raise AgentFailed("the agent listed too many processes")
            process = decode_process(take_object(message, "process"))
            found.append(process)
            return weigh_process(process)

        await self._calls.gather(
            "processes", {}, take, message_limit=MESSAGE_LIMIT, limit=_PROCESSES_SIZE
        )
        return found

    async def send_input(
        self, selector: int | str, data: bytes | AsyncIterable[bytes], *, pty: bool
    ) -> None:
        """Write to a process's stdin, or to its terminal; returns when the kernel has taken all.

        Raises `ProcessNotFound`, and `InvalidInput` when the process takes no such input (any
        more). Cancelling drops what was not yet written.
        """
        chunks = _once(data) if isinstance(data, bytes) else data
        request = {**_select(selector), "pty": pty}
        await self._calls.upload("input", request, chunks, gather=False, not_found=ProcessNotFound)

    async def close_stdin(self, selector: int | str) -> None:
        """Let a process read the end of its stdin. Raises `ProcessNotFound`, `InvalidInput`."""
        await self._calls.call("close_stdin", _select(selector), not_found=ProcessNotFound)

    async def signal(self, selector: int | str, signum: int) -> None:
        """Signal a process and its group. Raises `ProcessNotFound` when it has ended."""
        request = {**_select(selector), "signal": signum}
        await self._calls.call("signal", request, not_found=ProcessNotFound)

    async def resize(self, selector: int | str, size: PtySize) -> None:
        """Set the size of a process's terminal. Raises `ProcessNotFound`, `InvalidInput`."""
        request = {**_select(selector), "pty": _size(size)}
        await self._calls.call("resize", request, not_found=ProcessNotFound)

    # Files: paths may be relative to the user's home, which `~` names too ------------------------

    async def stat(self, path: str, *, user: str) -> Entry:
        """Describe a path, also one that the user may not see.

        Raises `PathNotFound`, `Unauthenticated`.
        """
        result = await self._calls.call("stat", {"path": path, "user": user})
        return decode_entry(take_object(result, "entry"))

    async def list_dir(self, path: str, *, user: str, depth: int = 1) -> list[Entry]:
        """Describe what is in a directory, `depth` levels down (0 counts as 1), by name.

        Raises `PathNotFound`, `InvalidInput` when it is no directory, and `Exhausted` when there
        are more than 100 000 entries, or fewer with very long paths or much metadata.
        """
        found: list[Entry] = []

        def take(message: dict[str, Any]) -> int:
            batch = decode_entries(message)
            found.extend(batch)
            if len(found) > ENTRY_LIMIT:
                raise AgentFailed("the agent listed too many entries")
            return sum(map(weigh_entry, batch))

        await self._calls.gather("list", {"path": path, "user": user, "depth": depth}, take)
        return found

    async def make_dir(self, path: str, *, user: str) -> Entry:
        """Create a directory and what is missing above it. Raises `PathExists` if it is there."""
        result = await self._calls.call("mkdir", {"path": path, "user": user})
        return decode_entry(take_object(result, "entry"))

    async def move(self, source: str, destination: str, *, user: str) -> Entry:
        """Rename or move, creating what is missing above the destination; a file there is replaced.

        Raises `PathNotFound`, `PathExists` when a directory that is not empty is in the way.
        """
        request = {"source": source, "destination": destination, "user": user}
        result = await self._calls.call("move", request, timeout=TREE_SECONDS)
        return decode_entry(take_object(result, "entry"))

    async def remove(self, path: str, *, user: str) -> None:
        """Remove a file, a symlink, or a directory with all in it. A missing path is no error."""
        await self._calls.call("remove", {"path": path, "user": user}, timeout=TREE_SECONDS)

    async def read_file(
        self, path: str, *, user: str, offset: int = 0, length: int | None = None
    ) -> FileReader:
        """Open a file and read it from `offset`, at most `length` bytes.

        Raises `PathNotFound`, `Forbidden`, and `InvalidInput` for what is not a regular file.
        """
        request: dict[str, object] = {"path": path, "user": user, "offset": offset}
        if length is not None:
            request["length"] = length
        channel, entry = await self._calls.open("read", request, "entry", PathNotFound)
        try:
            return FileReader(channel, self._calls.release, decode_entry(entry))
        except BaseException:
            self._calls.discard(channel)
            raise

    async def write_file(
        self,
        path: str,
        *,
        user: str,
        chunks: AsyncIterable[bytes],
        metadata: Mapping[str, str] | None = None,
    ) -> Entry:
        """Write a file: a new one, mode 0644, with what is missing above it, or in place of the
        content (and metadata) of the one that is there.

        A new file disappears again when this fails or is cancelled; an existing one then holds
        what was written until then. Raises `NoSpace`, `Forbidden`, and `InvalidInput` for what is
        not a regular file; what `chunks` raises passes through.
        """
        request = {"path": path, "user": user, "metadata": dict(metadata or {})}
        result = await self._calls.upload(
            "write", request, chunks, gather=True, not_found=PathNotFound
        )
        return decode_entry(take_object(result, "entry"))

    async def compose(self, sources: Sequence[str], destination: str, *, user: str) -> Entry:
        """Join files to one, which takes its place when it is complete; the sources are removed.

        Raises `PathNotFound`, `NoSpace`, `Forbidden`, and `InvalidInput` for what is not a regular
        file, or is source and destination at once.
        """
        request = {"sources": list(sources), "destination": destination, "user": user}
        result = await self._calls.call("compose", request, timeout=TREE_SECONDS)
        return decode_entry(take_object(result, "entry"))

    # Watches -----------------------------------------------------------------------------------

    async def watch(self, config: WatchConfig, *, user: str) -> WatchStream:
        """Follow what happens in a directory from now on.

        Raises `PathNotFound`, `Forbidden`, `InvalidInput` for what is no directory or on a network,
        `Exhausted` when there are too many watches, or directories to watch.
        """
        return WatchStream(await self._begin_watch(config, user, polled=False), self._calls.release)

    async def _begin_polled(self, config: WatchConfig, user: str) -> Watch:
        return Watch(await self._begin_watch(config, user, polled=True), self._calls.release)

    async def _begin_watch(self, config: WatchConfig, user: str, *, polled: bool) -> Channel:
        request = {"body": True, "user": user, "polled": polled, **asdict(config)}
        channel, _ = await self._calls.open("watch", request, "start", PathNotFound)
        return channel


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _select(selector: int | str) -> dict[str, object]:
    return {"pid": selector} if isinstance(selector, int) else {"tag": selector}


def _size(size: PtySize) -> dict[str, object]:
    return {"cols": size.cols, "rows": size.rows}
