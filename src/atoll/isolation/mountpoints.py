"""Where in a sandbox a volume may be mounted."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Sequence
from pathlib import Path

from atoll.errors import InvalidInput
from atoll.isolation import namespaces

_LIBRARIES = ("lib", "lib32", "lib64", "libx32")
_RESERVED = (
    *("/proc", "/sys", "/dev", "/run", "/etc", "/.atoll"),
    *(f"{above}/{each}" for above in ("", "/usr") for each in ("bin", "sbin", *_LIBRARIES)),
    "/usr/libexec",
)
"""What the sandbox itself needs, with all that is below and above it."""
_MOST = 16
_LONGEST = 1024


def resolve_mount_points(root: Path, paths: Sequence[str]) -> list[str]:
    """Find out where paths lead in a root file system, so that no symlink has a say any more.

    To be called while nothing runs in it. Raises `InvalidInput` for what is no place for a volume.
    """
    if len(paths) > _MOST:
        raise InvalidInput(f"a sandbox takes {_MOST} volumes at most")
    for path in paths:
        _check_form(path)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolved = [_resolve(directory, path) for path in paths]
    finally:
        os.close(directory)
    for index, path in enumerate(resolved):
        _check_place(path)
        for other in resolved[:index]:
            if _overlap(path, other):
                raise InvalidInput(
                    f"two volumes can't be mounted at {other!r} and {path!r}, one within the other"
                )
    return resolved


def _check_form(path: str) -> None:
    if not path.startswith("/"):
        raise InvalidInput(f"the mount path {path!r} is not absolute")
    if "\0" in path or len(os.fsencode(path)) > _LONGEST:
        raise InvalidInput(f"a mount path has at most {_LONGEST} bytes, and no null byte")
    if posixpath.normpath(path) != path.removesuffix("/") or path.startswith("//"):
        raise InvalidInput(f"the mount path {path!r} is not in its shortest form, or is `/`")


def _resolve(root: int, path: str) -> str:
    """Follow what is there already; what is not will be made, as directories."""
    names = path.strip("/").split("/")
    for count in range(len(names), -1, -1):
        known = "/".join(names[:count]) or "."
        try:
            found = namespaces.open_in_root(root, known, os.O_PATH)
        except FileNotFoundError:
            _refuse_link(root, known, path)
            continue
        except OSError as error:
            raise InvalidInput(f"the mount path {path!r} can't be used: {error.strerror}") from None
        try:
            there = str(Path(f"/proc/self/fd/{found}").readlink())
            if not stat.S_ISDIR(os.fstat(found).st_mode):
                raise InvalidInput(f"the mount path {path!r} leads through what is no directory")
        finally:
            os.close(found)
        base = str(Path(f"/proc/self/fd/{root}").readlink())
        return "/" + "/".join([there[len(base) :], *names[count:]]).strip("/")
    raise AssertionError("a root directory is always there")


def _refuse_link(root: int, known: str, path: str) -> None:
    """A symlink that leads nowhere yet would be followed when the directory is made."""
    try:
        found = namespaces.open_in_root(root, known, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return
    os.close(found)
    raise InvalidInput(f"the mount path {path!r} leads through a symlink that leads nowhere")


def _check_place(path: str) -> None:
    if any(_overlap(path, each) for each in _RESERVED):
        raise InvalidInput(
            f"no volume can be mounted at {path!r}: the sandbox needs it",
            remedy="choose another path, such as /data",
        )


def _overlap(one: str, other: str) -> bool:
    """Whether one of two paths is the other or lies in it."""
    first, second = (f"{path.rstrip('/')}/" for path in (one, other))
    return first.startswith(second) or second.startswith(first)
