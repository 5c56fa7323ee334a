"""Paths as requests name them, and what is at a path."""

from __future__ import annotations

import os
import stat

from .refusal import Refusal, refuse_path

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .users import Accounts, User

METADATA_PREFIX = "user.e2b."
_METADATA_SIZE = 16 * 1024
"""Most bytes of metadata that are told of one file: four times what an upload may give it. Programs
in the sandbox can write more on some file systems; that must not make the file untellable."""


def locate(path: str, user: User) -> str:
    """Make a path absolute: relative ones and `~` start at the user's home.

    `..` is resolved in the text, as E2B's envd does. No access is decided here: the kernel checks
    the result against the user.
    """
    if path in ("", "~"):
        path = user.home
    elif path.startswith("~/"):
        path = user.home + path[1:]
    elif path.startswith("~"):
        raise Refusal("invalid_argument", "cannot expand the home directory of another user")
    elif not path.startswith("/"):
        path = f"{user.home}/{path}"
    path = os.path.normpath(path)
    return path[1:] if path.startswith("//") else path


def describe_path(path: str, accounts: Accounts) -> dict[str, object]:
    """Describe what is at a path, itself a symlink or not. Raises `OSError`."""
    info = os.lstat(path)
    mode = stat.S_IMODE(info.st_mode)
    is_symlink = stat.S_ISLNK(info.st_mode)
    target: str | None = None
    kind = _kind(info.st_mode)
    if is_symlink:
        target = os.path.realpath(path)
        try:
            behind = os.stat(path)
        except OSError:  # Broken, or the user may not look there.
            pass
        else:
            kind = _kind(behind.st_mode)
            mode = stat.S_IMODE(behind.st_mode)
    return {
        "name": printable(os.path.basename(path) or "/"),
        "type": kind,
        "path": printable(path),
        "size": info.st_size,
        "mode": mode & 0o777,
        "permissions": permissions(info.st_mode),
        "owner": printable(accounts.user_name(info.st_uid)),
        "group": printable(accounts.group_name(info.st_gid)),
        "modified_ns": info.st_mtime_ns,
        "symlink_target": printable(target) if target is not None else None,
        "is_symlink": is_symlink,
        "metadata": read_metadata(path) if kind in ("file", "directory") else {},
    }


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISLNK(mode):
        return "symlink"
    return "other"


_LETTERS = (
    (stat.S_ISDIR, "d"),
    (stat.S_ISLNK, "L"),
    (stat.S_ISBLK, "D"),
    (stat.S_ISCHR, "Dc"),
    (stat.S_ISFIFO, "p"),
    (stat.S_ISSOCK, "S"),
)


def permissions(mode: int) -> str:
    """Write a mode as Go's `FileMode.String` does, which E2B's envd sends ("-rw-r--r--")."""
    letters = "".join(letter for check, letter in _LETTERS if check(mode))
    letters += "u" if mode & stat.S_ISUID else ""
    letters += "g" if mode & stat.S_ISGID else ""
    letters += "t" if mode & stat.S_ISVTX else ""
    bits = "".join(
        letter if mode & (0o400 >> place) else "-" for place, letter in enumerate("rwxrwxrwx")
    )
    return (letters or "-") + bits


def read_metadata(path: str | int) -> dict[str, str]:
    """Read the E2B metadata of a file, in the order of the names, as far as it is told. What
    cannot be read does not exist."""
    try:
        names = os.listxattr(path)
    except OSError:
        return {}
    found: dict[str, str] = {}
    size = 0
    for name in sorted(names):
        if name.startswith(METADATA_PREFIX):
            try:
                value = os.getxattr(path, name)
            except OSError:
                continue
            size += len(name) + len(value)
            if size > _METADATA_SIZE:
                break
            found[printable(name[len(METADATA_PREFIX) :])] = value.decode("utf-8", "replace")
    return found


def replace_metadata(fd: int, metadata: dict[str, str]) -> None:
    """Make exactly this the E2B metadata of an open file. Raises `OSError`."""
    try:
        names = os.listxattr(fd)
    except OSError:
        if not metadata:
            return  # A file system without attributes holds none: nothing is to be cleared.
        raise
    for name in names:
        if name.startswith(METADATA_PREFIX):
            os.removexattr(fd, name)
    for key, value in metadata.items():
        os.setxattr(fd, METADATA_PREFIX + key, value.encode("utf-8", "surrogateescape"))


def make_parents(path: str) -> None:
    """Create the missing directories above a path. Raises `Refusal`."""
    parent = os.path.dirname(path)
    missing: list[str] = []
    while not os.path.isdir(parent) and parent != "/":
        missing.append(parent)
        parent = os.path.dirname(parent)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError as error:
            if not os.path.isdir(folder):  # Else someone else has just made it.
                raise Refusal(
                    "invalid_argument", f"path {printable(folder)!r} is not a directory"
                ) from error
        except OSError as error:
            raise refuse_path(error, folder) from error


def printable(name: str) -> str:
    """Replace what is not Unicode in a name that the kernel gave."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
