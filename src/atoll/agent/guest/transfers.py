"""Reading and writing files, chunk by chunk.

A write to a path that does not exist makes the file at once under its final name (a watcher sees
it created, as with E2B's envd) and removes it again if the content does not arrive whole. An
existing file is overwritten in place, as envd does: it keeps its inode, owner, mode and links, and
a write that fails half-way leaves it with what was written until then.
"""

from __future__ import annotations

import errno
import os
import stat

from .agent import Agent
from .connection import Body, Connection, Task
from .paths import describe_path, locate, make_parents, replace_metadata
from .refusal import Refusal, quote, refuse_path
from .requests import mapping, number, text
from .users import User, acting_as
from .wire import DATA, DATA_LIMIT, END, HEADER_SIZE, header, message

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .users import Accounts

# Non-blocking, so that opening a pipe or a terminal cannot stop the agent; such things are refused.
_SAFELY = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST = 2**63 - 1
_UNKNOWN_SIZE_BUFFER = 64 * 1024


def read_file(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`read`: the entry, then the content from `offset`, at most `length` bytes."""
    user = agent.user(request)
    path = locate(text(request, "path"), user)
    offset = number(request, "offset", 0, _MOST)
    length = number(request, "length", 0, _MOST, _MOST)
    try:
        with acting_as(user):
            fd = os.open(path, os.O_RDONLY | _SAFELY)
            try:
                info = os.fstat(fd)
                _require_regular(info, path)
                entry = describe_path(path, agent.accounts)
            except BaseException:
                os.close(fd)
                raise
    except NotADirectoryError as error:
        raise Refusal("not_found", f"path {quote(path)} does not exist") from error
    except OSError as error:
        raise _refuse_open(error, path) from error
    # Of the file that is open, not of a link or a successor.
    entry["size"], entry["modified_ns"] = info.st_size, info.st_mtime_ns
    connection.send(message({"entry": entry}))
    Reading(connection, fd, path, offset, length, info.st_size).on_room()


class Reading(Task):
    """A file on its way to the host: one buffer, filled again when the last has left."""

    def __init__(
        self, connection: Connection, fd: int, path: str, offset: int, length: int, size: int
    ) -> None:
        self._connection = connection
        self._fd = fd
        self._path = path
        self._left = length
        if size:
            # What is appended meanwhile is not part of the file as it was described.
            self._left = max(0, min(length, size - offset))
        # Files that say they are empty, as those of /proc do, are read until they end.
        expected = self._left if size else _UNKNOWN_SIZE_BUFFER
        self._buffer = bytearray(HEADER_SIZE + min(expected, DATA_LIMIT))
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        connection.task = self

    def on_room(self) -> None:
        """Send the next chunk, or the end."""
        view = memoryview(self._buffer)
        want = min(len(self._buffer) - HEADER_SIZE, self._left)
        try:
            # By position, not by offset: generated files are slow to find an arbitrary place.
            count = os.readv(self._fd, [view[HEADER_SIZE : HEADER_SIZE + want]])
        except OSError as error:
            self._end(refuse_path(error, self._path))
            return
        if count:
            self._left -= count
            view[:HEADER_SIZE] = header(DATA, count)
            self._connection.send(view[: HEADER_SIZE + count])
        if count and self._left:
            self._connection.request_room()
        else:
            self._end(None)

    def _end(self, refusal: Refusal | None) -> None:
        os.close(self._fd)
        if refusal is not None:
            self._connection.fail(refusal)
            return
        self._connection.send(header(END, 0))
        self._connection.finish()

    def on_gone(self) -> None:
        """The host has closed the connection."""
        os.close(self._fd)


def write_file(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`write`: the content that follows goes into the file, which is created if need be."""
    user = agent.user(request)
    path = locate(text(request, "path"), user)
    metadata = mapping(request, "metadata")
    try:
        with acting_as(user):
            fd, is_new = _open_for_writing(path)
            try:
                _require_regular(os.fstat(fd), path)
                if is_new:
                    # Explicit, as envd changes a new file's mode (which watchers are told).
                    os.fchmod(fd, 0o644)
                else:
                    os.ftruncate(fd, 0)
                replace_metadata(fd, metadata)
            except BaseException:
                _drop(fd, path, is_new)
                raise
    except OSError as error:
        raise _refuse_open(error, path) from error
    connection.take_body(Writing(agent.accounts, connection, fd, path, user, is_new))


def _open_for_writing(path: str) -> tuple[int, bool]:
    """Open, creating the file and what is missing above it. Says whether the file is new."""
    try:
        return os.open(path, os.O_WRONLY | _SAFELY), False
    except FileNotFoundError:
        make_parents(path)
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o644), True
    except FileExistsError:  # A symlink to nothing, or someone was faster.
        return os.open(path, os.O_WRONLY | os.O_CREAT | _SAFELY, 0o644), False


def _drop(fd: int, path: str, is_new: bool) -> None:
    """Close, and remove what was created, if it is still what has the name."""
    try:
        if is_new:
            mine, there = os.fstat(fd), os.lstat(path)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                os.unlink(path)
    except OSError:
        return  # Moved or removed meanwhile: nothing half-written has the name.
    finally:
        os.close(fd)


class Writing(Body):
    """A file on its way from the host."""

    def __init__(
        self,
        accounts: Accounts,
        connection: Connection,
        fd: int,
        path: str,
        user: User,
        is_new: bool,
    ) -> None:
        self._accounts = accounts
        self._connection = connection
        self._fd = fd
        self._path = path
        self._user = user
        self._is_new = is_new

    def on_data(self, piece: memoryview) -> None:
        """Write a piece."""
        try:
            while piece:
                piece = piece[os.write(self._fd, piece) :]
        except OSError as error:
            self._discard()
            refusal = refuse_path(error, self._path)
            if not self._is_new:
                refusal.message += " (it was being overwritten and is incomplete now)"
            raise refusal from error

    def on_end(self) -> None:
        """The file is complete."""
        try:
            os.close(self._fd)  # Where some file systems report what they could not keep.
            with acting_as(self._user):
                entry = describe_path(self._path, self._accounts)
        except OSError as error:
            raise refuse_path(error, self._path) from error
        self._connection.finish({"entry": entry})

    def on_gone(self) -> None:
        """The host gave up before the end."""
        self._discard()

    def _discard(self) -> None:
        with acting_as(self._user):
            _drop(self._fd, self._path, self._is_new)


def _require_regular(info: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise Refusal("invalid_argument", f"path {quote(path)} is a directory")
    if not stat.S_ISREG(info.st_mode):
        raise Refusal("invalid_argument", f"path {quote(path)} is not a regular file")


def _refuse_open(error: OSError, path: str) -> Refusal:
    if error.errno in (errno.ENXIO, errno.ENODEV):  # A socket, or a pipe without a reader.
        return Refusal("invalid_argument", f"path {quote(path)} is not a regular file")
    return refuse_path(error, path)
