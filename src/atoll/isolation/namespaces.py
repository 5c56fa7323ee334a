"""The system calls about namespaces, mounts and paths that Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import os
import struct

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

_OPENAT2 = 437
# Never into another mount, never through /proc's links to open files, never out of the directory.
_BENEATH = 0x01 | 0x02 | 0x08
_IN_ROOT = 0x02 | 0x10

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


def open_beneath(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path below a directory that others may change meanwhile.

    What would lead out of the directory, by `..` or by a symlink, is refused by the kernel with
    EXDEV; EAGAIN means that something was moved at that moment. Raises OSError.
    """
    return _openat2(directory, path, flags, mode, _BENEATH)


def open_in_root(directory: int, path: str, flags: int) -> int:
    """Open a path as it would be if the directory were `/`: no symlink leads out of it."""
    return _openat2(directory, path, flags, 0, _IN_ROOT)


def _openat2(directory: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)  # struct open_how
    number: int = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(directory),
        os.fsencode(path),
        how,
        ctypes.c_size_t(len(how)),
    )
    if number < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return number
