"""`filesystem.Filesystem`: look at, make, move, remove and watch the entries of a sandbox."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from connectrpc.request import RequestContext

from atoll.doors.e2b.entries import describe_entry
from atoll.doors.e2b.gen import filesystem_pb as pb
from atoll.doors.e2b.gen.filesystem_connect import Filesystem as FilesystemService
from atoll.doors.e2b.rpc import wired_errors
from atoll.doors.e2b.watching import describe_event, follow, read_config
from atoll.doors.lines import Line
from atoll.sandboxes.model import Sandbox


class Filesystem(FilesystemService):
    """The service, for one request."""

    def __init__(self, sandbox: Sandbox, line: Line, *, user: str, keepalive: float) -> None:
        self._sandbox = sandbox
        self._line = line
        self._user = user
        self._keepalive = keepalive

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
    ) -> AsyncGenerator[pb.WatchDirResponse]:
        """Stream what happens in a directory."""
        return self._follow(request, ctx)

    async def _follow(
        self, request: pb.WatchDirRequest, ctx: RequestContext[Any, Any]
    ) -> AsyncGenerator[pb.WatchDirResponse]:
        with wired_errors(self._line):
            config = read_config(request)
            async with await self._sandbox.agent.watch(config, user=self._user) as stream:
                events = follow(stream, keepalive=self._keepalive, timeout_ms=ctx.timeout_ms)
                async with contextlib.aclosing(events):
                    async for event in events:
                        yield event

    async def create_watcher(
        self, request: pb.CreateWatcherRequest, ctx: RequestContext[Any, Any]
    ) -> pb.CreateWatcherResponse:
        """Watch a directory, for a client that asks for the events from time to time."""
        with wired_errors(self._line):
            watchers = self._sandbox.agent.watchers
            watcher_id = await watchers.create(read_config(request), user=self._user)
        return pb.CreateWatcherResponse(watcher_id=watcher_id)

    async def get_watcher_events(
        self, request: pb.GetWatcherEventsRequest, ctx: RequestContext[Any, Any]
    ) -> pb.GetWatcherEventsResponse:
        """Tell what happened since the client last asked, until this very moment."""
        with wired_errors(self._line):
            events = await self._sandbox.agent.watchers.poll(request.watcher_id)
        return pb.GetWatcherEventsResponse(events=[describe_event(each) for each in events])

    async def remove_watcher(
        self, request: pb.RemoveWatcherRequest, ctx: RequestContext[Any, Any]
    ) -> pb.RemoveWatcherResponse:
        """Stop watching."""
        with wired_errors(self._line):
            self._sandbox.agent.watchers.remove(request.watcher_id)
        return pb.RemoveWatcherResponse()
