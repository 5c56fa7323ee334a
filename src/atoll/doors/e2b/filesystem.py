"""`filesystem.Filesystem`: look at, make, move and remove the entries of a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from protobuf.wkt import Timestamp

from atoll.agent.model import Entry
from atoll.doors.e2b.gen import filesystem_pb as pb
from atoll.doors.e2b.gen.filesystem_connect import Filesystem as FilesystemService
from atoll.doors.e2b.rpc import wired_errors
from atoll.doors.lines import Line
from atoll.sandboxes.model import Sandbox

_TYPES = {
    "file": pb.FileType.FILE,
    "directory": pb.FileType.DIRECTORY,
    "symlink": pb.FileType.SYMLINK,
}


class Filesystem(FilesystemService):
    """The service, for one request."""

    def __init__(self, sandbox: Sandbox, line: Line, *, user: str) -> None:
        self._sandbox = sandbox
        self._line = line
        self._user = user

    async def stat(self, request: pb.StatRequest, ctx: RequestContext[Any, Any]) -> pb.StatResponse:
        """Describe an entry; a symlink by what it leads to."""
        with wired_errors(self._line):
            entry = await self._sandbox.agent.stat(request.path, user=self._user)
        return pb.StatResponse(entry=describe_entry(entry))

    async def list_dir(
        self, request: pb.ListDirRequest, ctx: RequestContext[Any, Any]
    ) -> pb.ListDirResponse:
        """Describe what is in a directory, down to a depth."""
        with wired_errors(self._line):
            entries = await self._sandbox.agent.list_dir(
                request.path, user=self._user, depth=request.depth or 1
            )
        return pb.ListDirResponse(entries=[describe_entry(each) for each in entries])

    async def make_dir(
        self, request: pb.MakeDirRequest, ctx: RequestContext[Any, Any]
    ) -> pb.MakeDirResponse:
        """Make a directory and those above it."""
        with wired_errors(self._line):
            entry = await self._sandbox.agent.make_dir(request.path, user=self._user)
        return pb.MakeDirResponse(entry=describe_entry(entry))

    async def move(self, request: pb.MoveRequest, ctx: RequestContext[Any, Any]) -> pb.MoveResponse:
        """Rename an entry."""
        with wired_errors(self._line):
            entry = await self._sandbox.agent.move(
                request.source, request.destination, user=self._user
            )
        return pb.MoveResponse(entry=describe_entry(entry))

    async def remove(
        self, request: pb.RemoveRequest, ctx: RequestContext[Any, Any]
    ) -> pb.RemoveResponse:
        """Remove an entry and all below it; one that is not there is fine."""
        with wired_errors(self._line):
            await self._sandbox.agent.remove(request.path, user=self._user)
        return pb.RemoveResponse()

    def watch_dir(
        self, request: pb.WatchDirRequest, ctx: RequestContext[Any, Any]
    ) -> AsyncIterator[pb.WatchDirResponse]:
        """Refuse: see `_no_watching`."""
        raise _no_watching()

    async def create_watcher(
        self, request: pb.CreateWatcherRequest, ctx: RequestContext[Any, Any]
    ) -> pb.CreateWatcherResponse:
        """Refuse: see `_no_watching`."""
        raise _no_watching()

    async def get_watcher_events(
        self, request: pb.GetWatcherEventsRequest, ctx: RequestContext[Any, Any]
    ) -> pb.GetWatcherEventsResponse:
        """Refuse: see `_no_watching`."""
        raise _no_watching()

    async def remove_watcher(
        self, request: pb.RemoveWatcherRequest, ctx: RequestContext[Any, Any]
    ) -> pb.RemoveWatcherResponse:
        """Refuse: see `_no_watching`."""
        raise _no_watching()


def _no_watching() -> ConnectError:
    return ConnectError(Code.UNIMPLEMENTED, "this server can't watch directories yet")


def describe_entry(entry: Entry) -> pb.EntryInfo:
    """The entry as the SDKs read it."""
    info = pb.EntryInfo(
        name=printable(entry.name),
        type=_TYPES.get(entry.type, pb.FileType.UNSPECIFIED),
        path=printable(entry.path),
        size=entry.size,
        mode=entry.mode,
        permissions=entry.permissions,
        owner=printable(entry.owner),
        group=printable(entry.group),
        modified_time=Timestamp(
            seconds=entry.modified_ns // 1_000_000_000, nanos=entry.modified_ns % 1_000_000_000
        ),
        metadata={printable(k): printable(v) for k, v in (entry.metadata or {}).items()},
        is_symlink=entry.is_symlink,
    )
    if entry.symlink_target is not None:
        info.symlink_target = printable(entry.symlink_target)
    return info


def printable(text: str) -> str:
    """The text with what is not Unicode replaced: file names in Linux may be any bytes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
