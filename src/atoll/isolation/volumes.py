"""Volumes: file systems of their own that outlive the sandboxes they are mounted in.

A volume is a disk file, as a sandbox's own disk is, with a journal. It is mounted once for every
sandbox and every request that uses it, always through the one device that its file has, so all
mounts are of one and the same file system. Nobody counts them: the kernel lets go of file system
and device when the last is gone, after a `kill -9` of the server just the same, and knows of
the device what is in use. The image is only ever written by the kernel, through these mounts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from atoll.errors import Conflict, HostError, InvalidInput, NotFound, Overloaded
from atoll.isolation import namespaces
from atoll.isolation.bundle import ID_BASE
from atoll.isolation.disk import LoopDevice, flush, lock_disk, make_disk
from atoll.isolation.mounts import STAGE
from atoll.isolation.records import is_id

_OWNER = ID_BASE + 1000
"""User `user` of the templates."""
_OPEN_TO_ALL = 0o777
_LARGEST_JOURNAL_MB = 16
_RELEASE_SECONDS = 3.0
_FLAGS = namespaces.MS_NOSUID | namespaces.MS_NODEV
# As on a sandbox's disk: what is deleted is given back, inode tables are not written in advance.
_OPTIONS = "discard,noinit_itable"


class Volumes:
    """The volumes in a directory. All methods block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create(self, volume_id: str, size_mb: int) -> None:
        """Make an empty volume. To be called on a thread of a mount namespace.

        Raises `HostError`, `Overloaded`, `Conflict` for an id in use or `InvalidInput` for what is
        none, and leaves nothing.
        """
        image = self._image(volume_id)
        if image.exists():
            raise Conflict(f"there is a volume {volume_id!r} already")
        draft = image.with_suffix(".new")
        with _host_errors("make a volume"):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            try:
                make_disk(draft, size_mb, _options(size_mb))
                _prepare(draft)
                draft.replace(image)
                flush(self._directory)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise

    def mount(self, volume_id: str, target: str) -> None:
        """Mount a volume in the calling thread's namespace. Raises `NotFound`, OSError."""
        _mount(self._image(volume_id), target)

    def open(self, volume_id: str) -> int:
        """Open the root directory of a volume. To be called on a thread of a mount namespace.

        The descriptor keeps the volume mounted, where no path leads to it. Closing it may take as
        long as the kernel has to write. Raises `NotFound`, `HostError`.
        """
        with _host_errors("mount a volume"):
            return _open(self._image(volume_id))

    def remove(self, volume_id: str) -> None:
        """Remove a volume; one that is not there is removed.

        Raises `Conflict` when it is mounted. A sandbox that has just ended may not have let go of
        it yet, so that is waited for a little.
        """
        image = self._image(volume_id)
        with _host_errors("remove a volume"):
            try:
                hold = lock_disk(image, _RELEASE_SECONDS)
            except FileNotFoundError:
                return
            if hold is None:
                raise Conflict(
                    "the volume is in use", remedy="end the sandboxes that it is mounted in first"
                )
            try:
                image.unlink()
                flush(self._directory)
            finally:
                os.close(hold)

    def settle(self, seconds: float) -> None:
        """Wait until no volume is mounted any more, but no longer than that."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(FileNotFoundError):
            for image in self._directory.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    hold = lock_disk(image, deadline - time.monotonic())
                    if hold is not None:
                        os.close(hold)

    def discard_drafts(self) -> None:
        """Remove what a server left half-made when it died."""
        for draft in self._directory.glob("*.new"):
            draft.unlink()

    def _image(self, volume_id: str) -> Path:
        if not is_id(volume_id):
            raise InvalidInput(f"{volume_id!r} cannot be the id of a volume")
        return self._directory / f"{volume_id}.img"


def _prepare(draft: Path) -> None:
    root = _open(draft)
    try:
        os.rmdir("lost+found", dir_fd=root)
        os.fchmod(root, _OPEN_TO_ALL)
    finally:
        os.close(root)


def _open(image: Path) -> int:
    target = tempfile.mkdtemp(dir=STAGE)
    try:
        _mount(image, target)
        try:
            return os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            namespaces.detach(target)
    finally:
        Path(target).rmdir()


def _mount(image: Path, target: str) -> None:
    try:
        with LoopDevice(image, shared=True) as device:
            namespaces.mount(device.name, target, "ext4", _FLAGS, _OPTIONS)
    except FileNotFoundError:
        raise NotFound("the volume was not found") from None


@contextlib.contextmanager
def _host_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = Overloaded if error.errno in (errno.ENOSPC, errno.EDQUOT) else HostError
        raise kind(f"cannot {what}: {error}") from error


def _options(size_mb: int) -> list[str]:
    journal = min(_LARGEST_JOURNAL_MB, max(4, size_mb // 64))
    return [
        *("-O", "^resize_inode"),
        *("-J", f"size={journal}"),
        *("-E", f"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={_OWNER}:{_OWNER}"),
        # Many small files, such as packages, are what volumes are often for.
        *("-i", "16384"),
        # A file system that contradicts itself is not written any further.
        *("-e", "remount-ro"),
    ]
