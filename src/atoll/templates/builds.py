"""Finished builds of a template on disk, and how one comes to be there.

    <directory>/<digest>/template.json   what it is; written last
    <directory>/<digest>/rootfs/         the root file system
    <directory>/.building-…/             a build under way, or what a killed one left
    <directory>/.lock                    held while building or tidying

A build becomes visible by one rename, when everything of it is on the disk. A directory without a
readable `template.json` is no build.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from atoll.threads import finish

MANIFEST = "template.json"
ROOTFS = "rootfs"
_LOCK = ".lock"
_ASIDE = ".building-"
_FORMAT = 1
_POLL_SECONDS = 0.2
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build."""

    directory: Path
    recipe: str
    """Digest of everything that was decided before the build began."""
    build_id: str
    """A UUID; no two builds share one, whatever they have in common."""
    created_at: datetime
    distribution_authorities: frozenset[str]
    """Fingerprints of the certificates that the distribution's own packages brought."""
    extra_authorities: frozenset[str]
    """Fingerprints of those that were added."""
    envs: Mapping[str, str] = field(default_factory=dict)

    @property
    def rootfs(self) -> Path:
        """The root file system, owned in the sandboxes' range of ids."""
        return self.directory / ROOTFS


def read_builds(directory: Path) -> list[Build]:
    """All finished builds, the newest first. What is not a finished build is passed over."""
    if not directory.is_dir():
        return []
    builds = [
        build
        for path in directory.iterdir()
        if not path.name.startswith(".") and (build := _read(path)) is not None
    ]
    return sorted(builds, key=lambda build: build.created_at, reverse=True)


def _read(directory: Path) -> Build | None:
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
        if manifest["format"] != _FORMAT or not (directory / ROOTFS).is_dir():
            return None
        return Build(
            directory=directory,
            recipe=manifest["recipe"],
            build_id=manifest["build_id"],
            created_at=datetime.fromisoformat(manifest["created_at"]),
            distribution_authorities=frozenset(manifest["distribution_authorities"]),
            extra_authorities=frozenset(manifest["extra_authorities"]),
            envs=dict(manifest["envs"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def publish(build: Build, aside: Path) -> None:
    """Make the build in `aside` the finished one at `build.directory`, in one step.

    The caller holds the lock. Raises `OSError`.
    """
    manifest = {
        "format": _FORMAT,
        "recipe": build.recipe,
        "build_id": build.build_id,
        "created_at": build.created_at.isoformat(),
        "distribution_authorities": sorted(build.distribution_authorities),
        "extra_authorities": sorted(build.extra_authorities),
        "envs": dict(build.envs),
    }
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    await settle(aside, build.directory)


async def settle(aside: Path, directory: Path, *, lasting: bool = True) -> None:
    """Let what is whole in `aside` be at `directory` from now on, in one step.

    What is not `lasting` may be gone after a power cut. Raises `OSError`.
    """
    # To the end in any case: the caller removes `aside` when this is cancelled.
    await finish(asyncio.to_thread(_settle, aside, directory, lasting=lasting))


def _settle(aside: Path, directory: Path, *, lasting: bool) -> None:
    if lasting:
        # Without this a power cut after the rename could leave a named build with empty files.
        _sync(aside, _libc.syncfs)
    discard(directory)  # if there, it is no finished build: the caller would have used it
    aside.rename(directory)
    if lasting:
        _sync(directory.parent, os.fsync)


def _sync(directory: Path, sync: Callable[[int], int | None]) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if sync(descriptor):
            raise OSError(ctypes.get_errno(), "cannot write to the disk", str(directory))
    finally:
        os.close(descriptor)


@asynccontextmanager
async def locked(directory: Path, *, on_wait: Callable[[], None]) -> AsyncIterator[int]:
    """Hold the directory's lock, waiting for whoever has it; yields its file descriptor.

    A process that inherits the descriptor keeps the lock for as long as it lives.
    """
    descriptor = _open_lock(directory)
    try:
        waited = False
        while not _try_lock(descriptor):
            if not waited:
                on_wait()
                waited = True
            await asyncio.sleep(_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def try_locked(directory: Path) -> Iterator[bool]:
    """Hold the directory's lock; yields False when somebody else has it."""
    descriptor = _open_lock(directory)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def try_tidy(directory: Path) -> None:
    """Remove what killed builds left, unless a build is under way now. Blocking."""
    if not any(directory.glob(f"{_ASIDE}*")):
        return
    with try_locked(directory) as held:
        if held:
            tidy(directory)


def tidy(directory: Path) -> None:
    """Remove what killed builds left. The caller holds the lock. Blocking."""
    for leftover in directory.glob(f"{_ASIDE}*"):
        discard(leftover)


@asynccontextmanager
async def building(directory: Path) -> AsyncIterator[Path]:
    """A place for a new build beside the finished ones; removed when the build is not published.

    The caller holds the lock.
    """
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=directory))
    try:
        yield aside
    finally:
        with suppress(OSError):  # then the next build's tidying removes it
            await asyncio.to_thread(discard, aside)


def discard(path: Path) -> None:
    """Remove a directory with everything in it, and nothing of what is mounted there. Blocking."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    for point in _mounts_below(path):
        _libc.umount2(os.fsencode(point), _MNT_DETACH)
    if _mounts_below(path):
        raise OSError(f"{path} has file systems mounted in it that can't be detached")
    if path.exists():
        shutil.rmtree(path)


def _mounts_below(path: Path) -> list[str]:
    """Mount points at or below a path, the innermost first."""
    real = os.path.realpath(path)
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # proc(5): the fifth field; blanks and backslashes are written as three octal digits
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point == real or point.startswith(real + "/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def _open_lock(directory: Path) -> int:
    return os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
