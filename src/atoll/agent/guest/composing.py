"""`compose`: many files into one, in their place. Runs in a worker, as the user."""

from __future__ import annotations

import os
import stat

from .agent import Agent
from .connection import Connection
from .paths import describe_path, locate, make_parents
from .refusal import Refusal, quote, refuse_path
from .requests import text, texts

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .users import Accounts

_SOURCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TARGET = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 2**30


def compose(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`compose`: join `sources`, in their order, to `destination`; then remove them.

    What was at the destination stays until all is joined.
    """
    user = agent.user(request)
    sources = [locate(each, user) for each in texts(request, "sources")]
    destination = locate(text(request, "destination"), user)
    if not sources:
        raise Refusal("invalid_argument", "there are no sources")
    if destination in sources:
        raise Refusal(
            "invalid_argument",
            f"source path {quote(destination)} cannot be the same as destination",
        )
    accounts = agent.accounts
    agent.delegate(connection, user, lambda _: _compose(sources, destination, accounts))


def _compose(sources: list[str], destination: str, accounts: Accounts) -> dict[str, object]:
    for path in sources:
        try:
            _require_regular(os.stat(path), path)
        except OSError as error:
            raise refuse_path(error, path) from error
    make_parents(destination)
    if os.path.isdir(destination):
        raise Refusal("invalid_argument", f"path {quote(destination)} is a directory")
    folder, name = os.path.split(destination)
    temporary = f"{folder.rstrip('/')}/.{name[:60]}.composing-{os.getpid()}"
    try:
        target = os.open(temporary, _TARGET, 0o644)
        try:
            try:
                for path in sources:
                    _append(path, target)
            finally:
                os.close(target)
            os.rename(temporary, destination)
        except BaseException:
            os.unlink(temporary)
            raise
        entry = describe_path(destination, accounts)
    except OSError as error:
        raise refuse_path(error, destination) from error
    for path in sources:
        try:
            os.unlink(path)
        except OSError:
            continue  # Named twice, or in a directory that the user may not change.
    return {"entry": entry}


def _append(path: str, target: int) -> None:
    try:
        source = os.open(path, _SOURCE)
    except OSError as error:
        raise refuse_path(error, path) from error
    try:
        _require_regular(os.fstat(source), path)
        while os.sendfile(target, source, None, _CHUNK):
            pass
    finally:
        os.close(source)


def _require_regular(info: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise Refusal("invalid_argument", f"source path is not a regular file: {quote(path)}")
