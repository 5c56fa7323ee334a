"""Entries of a sandbox's file system, as the SDKs see them."""

from __future__ import annotations

from protobuf.wkt import Timestamp

from atoll.agent.model import Entry
from atoll.doors.e2b.gen import filesystem_pb as pb

_TYPES = {
    "file": pb.FileType.FILE,
    "directory": pb.FileType.DIRECTORY,
    "symlink": pb.FileType.SYMLINK,
}


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


def summarize_entry(entry: Entry) -> dict[str, object]:
    """What the routes of `/files` answer with about a file that was written."""
    summary: dict[str, object] = {
        "name": printable(entry.name),
        "type": "file",
        "path": printable(entry.path),
    }
    if entry.metadata:
        summary["metadata"] = {printable(k): printable(v) for k, v in entry.metadata.items()}
    return summary


def printable(text: str) -> str:
    """The text with what is not Unicode replaced: file names in Linux may be any bytes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
