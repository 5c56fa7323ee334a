"""Operations on paths: stat, list, mkdir, move, remove, disk, configure.

What is short is done in the event loop under the user's identity; what may take long is delegated
to a worker.
"""

from __future__ import annotations

import errno
import os
import stat

from .agent import Agent
from .paths import describe_path, locate, make_parents
from .refusal import Refusal, quote, refuse_path
from .requests import mapping, number, text
from .trees import list_tree, move_across, remove_tree
from .users import acting_as
from .wire import Batch

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .connection import Connection

_SHORT_LISTING = 128
"""Entries up to which a directory is listed in the event loop."""


def stat_path(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`stat`: describe a path. A path through something that is no directory does not exist.

    As with E2B's envd, which is root, this asks no permission: whether something exists has an
    answer where the user may not look, too.
    """
    user = agent.user(request)
    path = locate(text(request, "path"), user)
    try:
        entry = describe_path(path, agent.accounts)
    except NotADirectoryError as error:
        raise Refusal("not_found", f"path {quote(path)} does not exist") from error
    except OSError as error:
        raise refuse_path(error, path) from error
    connection.finish({"entry": entry})


def list_directory(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`list`: describe what is in a directory, `depth` levels down."""
    user = agent.user(request)
    path = locate(text(request, "path"), user)
    depth = max(1, number(request, "depth", 0, 2**32 - 1, 1))
    entries: list[dict[str, object]] | None = []
    try:
        with acting_as(user):
            if not stat.S_ISDIR(os.stat(path).st_mode):
                raise Refusal("invalid_argument", f"path {quote(path)} is not a directory")
            names = _first_names(path)
            if depth > 1 or len(names) > _SHORT_LISTING:
                entries = None
            else:
                entries = _describe_all(agent, path, names)
    except NotADirectoryError as error:
        raise Refusal("not_found", f"path {quote(path)} does not exist") from error
    except OSError as error:
        raise refuse_path(error, path) from error
    if entries is None:
        accounts = agent.accounts
        agent.delegate(connection, user, lambda sender: list_tree(sender, path, depth, accounts))
        return
    batch = Batch("entries", connection.send)
    for entry in entries:
        batch.add(entry)
    batch.flush()
    connection.finish()


def _first_names(path: str) -> list[str]:
    """The names in a directory, or at least one more than a short listing has."""
    names = []
    with os.scandir(path) as found:
        for entry in found:
            names.append(entry.name)
            if len(names) > _SHORT_LISTING:
                break
    return names


def _describe_all(agent: Agent, path: str, names: list[str]) -> list[dict[str, object]]:
    prefix = path if path == "/" else f"{path}/"
    entries = []
    for name in sorted(names):
        try:
            entries.append(describe_path(prefix + name, agent.accounts))
        except OSError:
            continue  # Gone since its directory was read.
    return entries


def make_directory(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`mkdir`: create a directory and what is missing above it."""
    user = agent.user(request)
    path = locate(text(request, "path"), user)
    try:
        with acting_as(user):
            if os.path.isdir(path):
                raise Refusal("already_exists", f"directory {quote(path)} already exists")
            if os.path.lexists(path):
                raise Refusal(
                    "invalid_argument", f"path {quote(path)} exists and is not a directory"
                )
            make_parents(path)
            os.mkdir(path, 0o755)
            entry = describe_path(path, agent.accounts)
    except OSError as error:
        raise refuse_path(error, path) from error
    connection.finish({"entry": entry})


def move(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`move`: rename, creating what is missing above the destination. A file in its place is
    replaced, a directory that is not empty is not."""
    user = agent.user(request)
    source = locate(text(request, "source"), user)
    destination = locate(text(request, "destination"), user)
    try:
        with acting_as(user):
            os.lstat(source)
            make_parents(destination)
            across = not _rename(source, destination)
            entry = None if across else describe_path(destination, agent.accounts)
    except OSError as error:
        # A missing source is the only thing that can be missing: the rest was just made.
        taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR)
        raise refuse_path(error, destination if taken else source) from error
    if entry is not None:
        connection.finish({"entry": entry})
        return
    accounts = agent.accounts

    def work(_: object) -> dict[str, object]:
        move_across(source, destination)
        return {"entry": describe_path(destination, accounts)}

    agent.delegate(connection, user, work)


def _rename(source: str, destination: str) -> bool:
    """Rename; False when it takes a copy."""
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def remove(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`remove`: a file, a symlink, or a directory with all in it. What is missing is removed."""
    user = agent.user(request)
    path = locate(text(request, "path"), user)
    if path == "/":
        raise Refusal("invalid_argument", "the root directory cannot be removed")
    is_folder = False
    try:
        with acting_as(user):
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
            if not is_folder:
                os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError as error:
        raise refuse_path(error, path) from error
    if is_folder:
        agent.delegate(connection, user, lambda _: remove_tree(path))
    else:
        connection.finish()


def configure(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`configure`: write the sandbox's small system files as root, mode 0644."""
    for path, content in mapping(request, "files").items():
        if not path.startswith("/"):
            raise Refusal("invalid_argument", f"path {quote(path)} is not absolute")
        try:
            make_parents(path)
            _put(path, content.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise refuse_path(error, path) from error
    connection.finish()


def _put(path: str, content: bytes) -> None:
    """Put a file in place of whatever has the name: a symlink of the image is replaced, never
    followed."""
    temporary = f"{path}.atoll-{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags | os.O_EXCL, 0o644)
    try:
        try:
            _write_all(fd, content)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        if error.errno != errno.EBUSY:
            raise
        # A mount point cannot be replaced, only written to.
        fd = os.open(path, flags | os.O_TRUNC, 0o644)
        try:
            _write_all(fd, content)
        finally:
            os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
