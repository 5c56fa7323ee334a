"""The disk of a sandbox: a sparse file with a file system in it.

The file's size is the sandbox's hard limit, kept by the kernel on any file system the host may
have, without quotas. It takes up only what the sandbox has written; what the sandbox deletes is
given back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import threading
from pathlib import Path

from atoll.errors import HostError

_LOOP_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_AUTOCLEAR, _DIRECT_IO = 4, 16
_BLOCK = 4096
_MAJOR = 7
_CHUNK = 1 << 24

_MKFS = (
    "mkfs.ext4",
    "-q",
    "-F",
    # The disk ends with the sandbox's processes: a journal would only be written, never read. It
    # never grows: without room for that, an empty file system takes 0.2 MB instead of 4.
    *("-O", "^has_journal,^resize_inode"),
    *("-E", "lazy_itable_init=1,nodiscard"),
    *("-b", str(_BLOCK)),
    *("-i", "32768"),
    *("-m", "0"),
)


class Disks:
    """Makes disks. An empty one of each size is kept, as copying it is cheaper than making it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def create(self, path: Path, size_mb: int) -> None:
        """Make an empty disk of `size_mb` MiB at `path`."""
        blank = self._directory / f"{size_mb}.img"
        with self._lock:
            if not blank.exists():
                self._make_blank(blank, size_mb)
        _copy_sparse(blank, path)

    def _make_blank(self, blank: Path, size_mb: int) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        draft = blank.with_suffix(".new")
        with draft.open("wb") as file:
            file.truncate(size_mb << 20)
        done = subprocess.run(
            [*_MKFS, str(draft)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            draft.unlink()
            raise HostError(f"mkfs.ext4 failed: {done.stderr.strip() or done.returncode}")
        # It is kept for good: after a power failure it must be whole, or not there.
        _flush(draft)
        draft.replace(blank)
        _flush(self._directory)


class LoopDevice:
    """A block device over a disk file.

    The kernel frees it by itself once it is neither open nor mounted anywhere.
    """

    def __init__(self, path: Path) -> None:
        backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._descriptor, self.name = _attach(backing)
        finally:
            os.close(backing)

    def __enter__(self) -> LoopDevice:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _attach(backing: int) -> tuple[int, str]:
    # Direct: the file system on the device has its page cache already. struct loop_config of
    # linux/loop.h: descriptor, block size, loop_info64 (whose 14th field is the flags), padding.
    info = struct.pack("=5Q4I64s64s32s2Q", *(0,) * 8, _AUTOCLEAR | _DIRECT_IO, b"", b"", b"", 0, 0)
    config = struct.pack("=II", backing, _BLOCK) + info + bytes(64)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            number = fcntl.ioctl(control, _LOOP_GET_FREE)
            name = f"/dev/loop{number}"
            with contextlib.suppress(FileExistsError):  # no devtmpfs: nobody else makes the node
                if not os.path.exists(name):  # noqa: PTH110
                    os.mknod(name, 0o600 | 0o060000, os.makedev(_MAJOR, number))
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # else somebody took it between the two calls
                    raise
            else:
                return device, name
    finally:
        os.close(control)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy only what is data. Files share it where the file system can."""
    with source.open("rb") as reader, target.open("xb") as writer:
        size = os.fstat(reader.fileno()).st_size
        os.ftruncate(writer.fileno(), size)
        position = 0
        while True:
            try:
                position = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            end = os.lseek(reader.fileno(), position, os.SEEK_HOLE)
            while position < end:
                count = min(end - position, _CHUNK)
                copied = os.copy_file_range(
                    reader.fileno(), writer.fileno(), count, position, position
                )
                position += copied
