"""Giving a root file system to the range of ids that a user namespace maps.

In a sandbox's user namespace id 0 is `ID_BASE` outside. The files of a template are stored with
the outside ids, so that no id-mapped mount is needed and the kernel sees root of the sandbox as the
owner of root's files.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from atoll.isolation.bundle import ID_BASE, ID_COUNT

_CAPABILITY = "security.capability"
_REVISION_MASK = 0xFF000000
_REVISION_2 = 0x02000000  # linux/capability.h: magic, then permitted and inheritable, low and high
_REVISION_3 = 0x03000000  # the same, followed by the id of root of the namespace that it is for
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID


def shift(root: Path, *, by: int = ID_BASE) -> int:
    """Add `by` to the owner and the group of everything below and including `root`.

    Set-id bits and file capabilities, which the kernel drops when the owner changes, are put back;
    capabilities become those of the namespace whose root is `by`. Symbolic links are changed
    themselves and never followed; a file with several names is changed once. Returns the number of
    changed inodes. Blocking.

    Raises `ValueError` for an id that the range has no room for: the tree is then half changed and
    good for nothing.
    """
    changed = 0
    seen: set[tuple[int, int]] = set()
    pending = [os.fspath(root)]
    changed += _shift_one(os.fspath(root), root.lstat(), by)
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif status.st_nlink > 1:
                    identity = (status.st_dev, status.st_ino)
                    if identity in seen:
                        continue
                    seen.add(identity)
                changed += _shift_one(entry.path, status, by)
    return changed


def _shift_one(path: str, status: os.stat_result, by: int) -> int:
    if status.st_uid >= ID_COUNT or status.st_gid >= ID_COUNT:
        raise ValueError(f"{path} belongs to {status.st_uid}:{status.st_gid}, beyond {ID_COUNT}")
    capability = None
    if stat.S_ISREG(status.st_mode):
        try:
            capability = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
        except OSError:  # it has none, as nearly all files, or the file system knows no such thing
            capability = None
    os.chown(path, status.st_uid + by, status.st_gid + by, follow_symlinks=False)
    if status.st_mode & _SPECIAL_BITS and not stat.S_ISLNK(status.st_mode):
        Path(path).chmod(stat.S_IMODE(status.st_mode))
    if capability is not None:
        os.setxattr(path, _CAPABILITY, _move_capability(capability, by), follow_symlinks=False)
    return 1


def _move_capability(value: bytes, by: int) -> bytes:
    """The same capabilities, valid only where `by` is root."""
    (magic,) = struct.unpack_from("<I", value)
    revision = magic & _REVISION_MASK
    if revision == _REVISION_2 and len(value) == 20:
        root = 0
    elif revision == _REVISION_3 and len(value) == 24:
        (root,) = struct.unpack_from("<I", value, 20)
    else:
        raise ValueError(f"unknown form of file capabilities: {value.hex()}")
    head = struct.pack("<I", _REVISION_3 | magic & ~_REVISION_MASK)
    return head + value[4:20] + struct.pack("<I", root + by)
