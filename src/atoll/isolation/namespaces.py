"""The system calls about namespaces and mounts that Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import os

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOATIME = 0x400
MS_REC = 0x4000
MS_SLAVE = 0x80000

_MNT_DETACH = 0x2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, subject: str = "") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)


def unshare(flags: int) -> None:
    """Give the calling thread its own copy of what `flags` name (CLONE_*)."""
    _check(_libc.unshare(flags))


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace of that descriptor and kind (CLONE_NEW*)."""
    _check(_libc.setns(descriptor, kind))


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount; relative paths are meant from the calling thread's working directory."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(options) if options else None,
    )
    _check(result, target)


def detach(target: str) -> None:
    """Unmount: at once for path look-ups, and for good when its last user is gone."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), target)
