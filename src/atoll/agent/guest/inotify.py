"""inotify, and which kind of file system a path is on: calls that the os module does not have.

Imported with the first watch only: ctypes would cost every sandbox a third of a megabyte.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Iterator

# Numbers of linux/inotify.h.
MODIFY = 0x2
ATTRIB = 0x4
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
IS_DIRECTORY = 0x40000000
_ONLY_DIRECTORIES = 0x01000000
_NO_SYMLINK = 0x02000000
_WATCHED = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF

_EVENT = struct.Struct("iIII")
_READ_SIZE = 16 * 1024
"""Bytes read at once: up to some 500 events, which take a few milliseconds to tell."""

# Numbers of linux/magic.h: NFS, SMB, CIFS, SMB2, FUSE.
_NETWORK = frozenset((0x6969, 0x517B, 0xFF534D42, 0xFE534D42, 0x65735546))
_QUEUED = 0x541B  # FIONREAD

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """One queue of events, and the directories that it is about."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        self.fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, path: str, *, follow: bool) -> int:
        """Watch a directory; return its number. Raises `OSError`."""
        mask = _WATCHED | _ONLY_DIRECTORIES | (0 if follow else _NO_SYMLINK)
        return _check(_libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(mask)))

    def remove(self, number: int) -> None:
        """Watch a directory no more; one that is gone is fine."""
        _libc.inotify_rm_watch(self.fd, number)

    def queued(self) -> int:
        """How many bytes of events wait."""
        size = ctypes.c_int(0)
        _libc.ioctl(self.fd, ctypes.c_ulong(_QUEUED), ctypes.byref(size))
        return size.value

    def read(self) -> bytes:
        """Take some events off the queue, for `parse`; nothing when there are none."""
        try:
            return os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self.fd)


def parse(events: bytes) -> Iterator[tuple[int, int, str]]:
    """The number of the directory, what happened, and the name in the directory (or nothing)."""
    position = 0
    while position < len(events):
        number, mask, _, length = _EVENT.unpack_from(events, position)
        position += _EVENT.size
        name = events[position : position + length].rstrip(b"\0")
        position += length
        yield number, mask, os.fsdecode(name)


def is_on_network(path: str) -> bool:
    """Whether changes may be made elsewhere, unknown to this kernel. Raises `OSError`."""
    # The first word of the structure, whose size depends on the machine, is the kind.
    found = ctypes.create_string_buffer(512)
    _check(_libc.statfs(os.fsencode(path), found))
    return ctypes.c_ulong.from_buffer(found).value & 0xFFFFFFFF in _NETWORK


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
