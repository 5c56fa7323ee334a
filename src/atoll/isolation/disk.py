"""The disk of a sandbox: a sparse file with a file system in it.

The file's size is the sandbox's hard limit, kept by the kernel on any file system the host may
have, without quotas. It takes up only what the sandbox has written; what the sandbox deletes is
given back. A volume is the same, but for a journal, and for the one device that all who mount it
share.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from atoll.errors import HostError

_LOOP_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_AUTOCLEAR, _DIRECT_IO = 4, 16
_BLOCK = 4096
_MAJOR = 7
_CHUNK = 1 << 24
_SHARE_SECONDS = 10.0
_POLL_SECONDS = 0.005

_MKFS = ("mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), "-m", "0")
_SANDBOX_DISK = (
    # The disk ends with the sandbox's processes: a journal would only be written, never read. It
    # never grows: without room for that, an empty file system takes 0.2 MB instead of 4.
    *("-O", "^has_journal,^resize_inode"),
    *("-E", "lazy_itable_init=1,nodiscard"),
    *("-i", "32768"),
)


def make_disk(path: Path, size_mb: int, options: Sequence[str]) -> None:
    """Make a disk with an empty file system of `size_mb` MiB. `options` are those of `mkfs.ext4`.

    It is on the host's disk for good when this returns. Raises `HostError` and leaves nothing.
    """
    with path.open("wb") as file:
        file.truncate(size_mb << 20)
    done = subprocess.run(
        [*_MKFS, *options, str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        path.unlink()
        raise HostError(f"mkfs.ext4 failed: {done.stderr.strip() or done.returncode}")
    flush(path)


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
        # It is kept for good: after a power failure it must be whole, or not there.
        make_disk(draft, size_mb, _SANDBOX_DISK)
        draft.replace(blank)
        flush(self._directory)


class LoopDevice:
    """A block device over a disk file.

    The kernel frees it by itself once it is neither open nor mounted anywhere.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """With `shared`, all who ask for the same file get the same device, whatever process they
        are in: a file system that is mounted through two devices at once destroys itself.

        Raises OSError.
        """
        backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._descriptor, self.name = _share(backing) if shared else _attach(backing)
        finally:
            os.close(backing)

    def __enter__(self) -> LoopDevice:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def lock_disk(path: Path, seconds: float) -> int | None:
    """Take hold of a disk that no shared device uses; None when one still does after that time.

    Nobody gets a device for it until the returned descriptor is closed.
    """
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    deadline = time.monotonic() + seconds
    while not _lock(backing):
        if time.monotonic() > deadline:
            os.close(backing)
            return None
        time.sleep(_POLL_SECONDS)
    return backing


def _lock(backing: int) -> bool:
    """Lock an open disk. The device keeps it open, and so locked, for as long as it lives."""
    try:
        fcntl.flock(backing, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _share(backing: int) -> tuple[int, str]:
    deadline = time.monotonic() + _SHARE_SECONDS
    while time.monotonic() < deadline:
        if _lock(backing):
            if not os.fstat(backing).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "the disk was removed")
            return _attach(backing)
        found = _find_device(backing)
        if found is not None:
            return found
        # Its device is just being freed, or made, or someone is about to remove the disk.
        time.sleep(_POLL_SECONDS)
    raise OSError(errno.EBUSY, "the disk is locked, and by no device")


def _find_device(backing: int) -> tuple[int, str] | None:
    """Open the device that a disk has; None when there is none."""
    info = os.fstat(backing)
    for entry in Path("/sys/block").glob("loop*/loop"):
        name = f"/dev/{entry.parent.name}"
        with contextlib.suppress(OSError):
            # Not to write: kernels may be built to refuse that while the device is mounted.
            device = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # struct loop_info64 begins with device and inode of the file.
                status = fcntl.ioctl(device, _LOOP_GET_STATUS64, bytes(232))
                if struct.unpack_from("=2Q", status) == (info.st_dev, info.st_ino):
                    return device, name
            except OSError:
                pass
            os.close(device)
    return None


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


def flush(path: Path) -> None:
    """Write a file or directory out to the host's disk."""
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
