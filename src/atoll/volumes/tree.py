"""Paths in a volume, while sandboxes may change everything in it at the same time.

Nothing here trusts a name: every path is opened by the kernel below the volume's root, which no
symlink and no `..` leads out of, and what is done is done to what was opened. All of it blocks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import secrets
import stat
import time
from collections.abc import Iterator

from atoll.errors import (
    Conflict,
    HostError,
    InvalidInput,
    NoSpace,
    PathExists,
    PathNotFound,
    TooLarge,
)
from atoll.isolation import namespaces
from atoll.isolation.driver import VolumeRoot
from atoll.volumes.model import Attributes, Entry, EntryKind

DEFAULT_UID = 1000
"""User `user` of the templates, to whom belongs what a client makes and gives no owner."""
DIRECTORY_MODE = 0o777
DEEPEST = 10
"""How many levels one listing goes down, as on E2B."""
MOST_ENTRIES = 20_000
MOST_BYTES = 8 << 20
"""Characters of paths and targets in one listing."""
_LONGEST = 4096
_TRIES = 100
_REMOVAL_SECONDS = 120.0
"""How long one removal goes on: sandboxes may add to a tree as fast as it is removed."""
_NOBODY = 65534
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """The content of one open volume."""

    def __init__(self, root: VolumeRoot) -> None:
        self._root = root

    def describe(self, path: str) -> Entry:
        """Describe what is at a path. Raises `PathNotFound`, `InvalidInput`."""
        path = clean_path(path)
        with path_errors(path), self._opened(path, os.O_PATH | os.O_NOFOLLOW) as descriptor:
            return self.describe_open(path, descriptor)

    def describe_open(self, path: str, descriptor: int) -> Entry:
        """Describe an open file, under the path that it was found at."""
        info = os.fstat(descriptor)
        target = os.readlink("", dir_fd=descriptor) if stat.S_ISLNK(info.st_mode) else None
        return self._entry(path, info, target)

    def list_directory(self, path: str, depth: int) -> list[Entry]:
        """List a directory so many levels deep: each directory's entries in order of name, what is
        in a directory right after it. Raises `PathNotFound`, `InvalidInput`, `TooLarge`."""
        if not 1 <= depth <= DEEPEST:
            raise InvalidInput(f"depth must be between 1 and {DEEPEST}")
        path = clean_path(path)
        with path_errors(path):
            with self._opened(path, os.O_PATH) as descriptor:
                if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    raise InvalidInput(f"path {path!r} is not a directory")
            budget = _Budget()
            found: list[Entry] = []
            pending = [(each, 1) for each in reversed(self._read_directory(path, budget))]
            while pending:
                entry, level = pending.pop()
                found.append(entry)
                if entry.kind is EntryKind.DIRECTORY and level < depth:
                    with contextlib.suppress(OSError):  # gone, or moved, since it was listed
                        inner = self._read_directory(entry.path, budget)
                        pending += [(each, level + 1) for each in reversed(inner)]
        return found

    def _read_directory(self, path: str, budget: _Budget) -> list[Entry]:
        entries = []
        with self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as folder, os.scandir(folder) as scan:
            for each in scan:
                with contextlib.suppress(OSError):  # gone, or something else, by now
                    info = os.stat(each.name, dir_fd=folder, follow_symlinks=False)
                    is_link = stat.S_ISLNK(info.st_mode)
                    target = os.readlink(each.name, dir_fd=folder) if is_link else None
                    entry = self._entry(posixpath.join(path, each.name), info, target)
                    entries.append(entry)
                    budget.spend(entry)
        return sorted(entries, key=lambda entry: entry.path)

    def make_directory(self, path: str, wanted: Attributes, *, parents: bool) -> Entry:
        """Make a directory. With `parents` those that are missing are made too, and it may exist.

        Raises `PathExists`, `PathNotFound`, `InvalidInput`, `NoSpace`.
        """
        path = clean_path(path)
        self.check_owner(wanted)
        if parents:
            self.make_parents(path, wanted)
        try:
            return self._make_directory(path, wanted)
        except PathExists:
            entry = self.describe(path)
            if parents and entry.kind is EntryKind.DIRECTORY:
                return entry
            raise

    def make_parents(self, path: str, wanted: Attributes) -> None:
        """Make the directories above a path that are missing, with that owner."""
        missing = []
        above = posixpath.dirname(path)
        while above != "/" and not self._is_directory(above):
            missing.append(above)
            above = posixpath.dirname(above)
        for each in reversed(missing):
            with contextlib.suppress(PathExists):  # somebody else has just made it
                self._make_directory(each, Attributes(wanted.uid, wanted.gid))

    def _make_directory(self, path: str, wanted: Attributes) -> Entry:
        with path_errors(path):
            if path == "/":
                raise FileExistsError(errno.EEXIST, "it is always there")
            with self.parent(path) as (parent, name):
                os.mkdir(name, 0o700, dir_fd=parent)
                descriptor = os.open(name, _FOLDER, dir_fd=parent)
            try:
                self.apply(descriptor, wanted, DIRECTORY_MODE)
                return self.describe_open(path, descriptor)
            finally:
                os.close(descriptor)

    def change(self, path: str, wanted: Attributes) -> Entry:
        """Change owner and mode; of a symlink, its own. Raises `PathNotFound`, `InvalidInput`."""
        path = clean_path(path)
        self.check_owner(wanted)
        with path_errors(path), self._opened(path, os.O_PATH | os.O_NOFOLLOW) as descriptor:
            # What is only opened by its path can be changed through /proc, and is never followed.
            itself = f"/proc/self/fd/{descriptor}"
            if wanted.mode is not None:
                if stat.S_ISLNK(os.fstat(descriptor).st_mode):
                    raise InvalidInput(f"path {path!r} is a symlink, which has no mode of its own")
                os.chmod(itself, wanted.mode)  # noqa: PTH101
            if wanted.uid is not None or wanted.gid is not None:
                os.chown(itself, self._outside(wanted.uid), self._outside(wanted.gid))
            return self.describe_open(path, descriptor)

    def remove(self, path: str) -> None:
        """Remove what is at a path, of a directory all that is in it.

        Raises `PathNotFound`, and `Conflict` when there is no end to it.
        """
        path = clean_path(path)
        if path == "/":
            raise InvalidInput("the root of a volume can't be removed")
        with path_errors(path), self.parent(path) as (parent, name):
            try:
                os.unlink(name, dir_fd=parent)
            except IsADirectoryError:
                _remove_directory(parent, name)

    def open_file(self, path: str) -> int:
        """Open a file to be read. Raises `PathNotFound`, `InvalidInput` for what is no file."""
        path = clean_path(path)
        # Nonblocking: neither a FIFO nor somebody's lease on the file may make us wait.
        with path_errors(path):
            descriptor = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise InvalidInput(f"path {path!r} is not a file")
            return descriptor

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that a path is in, and its name there."""
        above, name = posixpath.split(path)
        with self._opened(above, os.O_PATH | os.O_DIRECTORY) as descriptor:
            yield descriptor, name

    def check_owner(self, wanted: Attributes) -> None:
        """Raises `InvalidInput` for an owner that no sandbox has, before anything is done."""
        for number in (wanted.uid, wanted.gid):
            if number is not None and not 0 <= number < self._root.id_count:
                raise InvalidInput(f"{number} is no user or group id of a sandbox")

    def apply(self, descriptor: int, wanted: Attributes, mode: int) -> None:
        """Give something new its owner and its mode, `mode` when none is wanted."""
        uid = DEFAULT_UID if wanted.uid is None else wanted.uid
        gid = DEFAULT_UID if wanted.gid is None else wanted.gid
        os.fchown(descriptor, self._outside(uid), self._outside(gid))
        os.fchmod(descriptor, mode if wanted.mode is None else wanted.mode)

    def _is_directory(self, path: str) -> bool:
        try:
            with self._opened(path, os.O_PATH | os.O_DIRECTORY):
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _refuse(error, path) from error

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        descriptor = self._open(path, flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self, path: str, flags: int) -> int:
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):  # something was moved just now
                return namespaces.open_beneath(self._root.descriptor, path[1:] or ".", flags)
        raise Conflict(f"path {path!r} is held or being changed by a sandbox", remedy="try again")

    def _entry(self, path: str, info: os.stat_result, target: str | None) -> Entry:
        return Entry(
            path=path,
            kind=_kind(info.st_mode),
            size=info.st_size,
            mode=info.st_mode & 0o777,
            uid=self._inside(info.st_uid),
            gid=self._inside(info.st_gid),
            accessed=info.st_atime,
            modified=info.st_mtime,
            changed=info.st_ctime,
            target=target,
        )

    def _outside(self, number: int | None) -> int:
        """What a user or group id of the sandboxes is on the disk; -1, which changes none."""
        return -1 if number is None else self._root.id_base + number

    def _inside(self, number: int) -> int:
        inner = number - self._root.id_base
        return inner if 0 <= inner < self._root.id_count else _NOBODY


def clean_path(path: str) -> str:
    """Make a path absolute from the volume's root. `..` is resolved in the text, as on E2B."""
    if not path or "\0" in path:
        raise InvalidInput("the path is empty or not a path")
    if len(os.fsencode(path)) > _LONGEST:
        raise InvalidInput(f"the path is longer than {_LONGEST} bytes")
    return posixpath.normpath(f"/{path.lstrip('/')}")


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return EntryKind.FILE
    if stat.S_ISDIR(mode):
        return EntryKind.DIRECTORY
    return EntryKind.SYMLINK if stat.S_ISLNK(mode) else EntryKind.UNKNOWN


def _remove_directory(parent: int, name: str) -> None:
    """Remove a directory tree, however deep, and whoever adds to it meanwhile.

    Each directory is taken from the sandboxes first: they have no right to what belongs to no user
    of theirs. Directories further down are moved up, so depth costs neither descriptors nor stack.
    """
    deadline = time.monotonic() + _REMOVAL_SECONDS
    top = os.open(name, _FOLDER, dir_fd=parent)
    try:
        _seize(top)
        while names := _some_names(top):
            for each in names:
                if time.monotonic() > deadline:
                    raise Conflict("there was too much to remove at once", remedy="try again")
                _remove_or_flatten(top, each)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _remove_or_flatten(top: int, name: str) -> None:
    if _remove_plain(top, name):
        return
    inner = os.open(name, _FOLDER, dir_fd=top)
    try:
        _seize(inner)
        while names := _some_names(inner):
            for each in names:
                if not _remove_plain(inner, each):
                    new_name = f".{secrets.token_hex(16)}"
                    os.rename(each, new_name, src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _remove_plain(folder: int, name: str) -> bool:
    """Remove what is no directory, or an empty one. Says whether it is gone."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
    return True


def _seize(folder: int) -> None:
    os.fchown(folder, 0, 0)
    os.fchmod(folder, 0o700)


def _some_names(folder: int) -> list[str]:
    with os.scandir(folder) as scan:
        return [entry.name for entry, _ in zip(scan, range(1000), strict=False)]


class _Budget:
    """How much one listing may still hold: names and targets may be long."""

    def __init__(self) -> None:
        self._entries, self._bytes = MOST_ENTRIES, MOST_BYTES

    def spend(self, entry: Entry) -> None:
        """Raises `TooLarge` when there is no more."""
        self._entries -= 1
        self._bytes -= len(entry.path) + len(entry.target or "")
        if self._entries < 0 or self._bytes < 0:
            raise TooLarge(
                f"there are more than {MOST_ENTRIES} entries, or their paths are too long",
                remedy="list less deep",
            )


@contextlib.contextmanager
def path_errors(path: str) -> Iterator[None]:
    """Translate what the kernel says about a path of a volume."""
    try:
        yield
    except OSError as error:
        raise _refuse(error, path) from error


def _refuse(error: OSError, path: str) -> Exception:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return PathNotFound(f"path {path!r} was not found")
        case errno.EEXIST:
            return PathExists(f"path {path!r} exists already")
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace("the volume is full", remedy="remove something from it")
        case errno.EXDEV:
            return InvalidInput(f"path {path!r} leads out of the volume by a symlink")
        case errno.ELOOP:
            return InvalidInput(f"path {path!r} leads through too many symlinks")
        case errno.ENXIO:
            return InvalidInput(f"path {path!r} is not a file")
        case errno.ENAMETOOLONG:
            return InvalidInput(f"a name in the path {path!r} is too long")
        case errno.ENOTEMPTY | errno.ESTALE:
            return Conflict(f"path {path!r} was changed meanwhile", remedy="try again")
        case _:
            return HostError(f"the volume can't be used: {error.strerror}")
