"""Watches of directories, as the SDKs see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Literal, TypeAlias

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof

from atoll.agent.model import WatchConfig, WatchEvent
from atoll.agent.watches import WatchStream
from atoll.doors.e2b.entries import describe_entry, printable
from atoll.doors.e2b.gen import filesystem_pb as pb

_TYPES = {
    "create": pb.EventType.CREATE,
    "write": pb.EventType.WRITE,
    "remove": pb.EventType.REMOVE,
    "rename": pb.EventType.RENAME,
    "chmod": pb.EventType.CHMOD,
}

_Start: TypeAlias = Oneof[Literal["start"], pb.WatchDirResponse.StartEvent]
_Event: TypeAlias = Oneof[Literal["filesystem"], pb.FilesystemEvent]
_KeepAlive: TypeAlias = Oneof[Literal["keepalive"], pb.WatchDirResponse.KeepAlive]


def read_config(request: pb.WatchDirRequest | pb.CreateWatcherRequest) -> WatchConfig:
    """What the client wants to watch."""
    return WatchConfig(
        path=request.path,
        recursive=request.recursive,
        include_entry=request.include_entry,
        allow_network_mounts=request.allow_network_mounts,
    )


def describe_event(event: WatchEvent) -> pb.FilesystemEvent:
    """The event as the SDKs read it."""
    described = pb.FilesystemEvent(name=printable(event.name), type=_TYPES[event.type])
    if event.entry is not None:
        described.entry = describe_entry(event.entry)
    return described


async def follow(
    stream: WatchStream, *, keepalive: float, timeout_ms: float | None
) -> AsyncGenerator[pb.WatchDirResponse]:
    """`start`, then the events as they come, with a sign of life whenever it was quiet for long.

    Raises what the stream raises, and `ConnectError` when the time that the client set is over.
    """
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    start: _Start = Oneof("start", pb.WatchDirResponse.StartEvent())
    yield pb.WatchDirResponse(event=start)
    batch = asyncio.ensure_future(anext(stream))
    try:
        while True:
            patience = keepalive
            if deadline is not None:
                patience = min(patience, deadline - time.monotonic())
                if patience <= 0:
                    raise ConnectError(Code.DEADLINE_EXCEEDED, "the time for the watch is over")
            await asyncio.wait({batch}, timeout=patience)
            if batch.done():
                for event in batch.result():
                    told: _Event = Oneof("filesystem", describe_event(event))
                    yield pb.WatchDirResponse(event=told)
                batch = asyncio.ensure_future(anext(stream))
            elif deadline is None or time.monotonic() < deadline:
                quiet: _KeepAlive = Oneof("keepalive", pb.WatchDirResponse.KeepAlive())
                yield pb.WatchDirResponse(event=quiet)
    finally:
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
