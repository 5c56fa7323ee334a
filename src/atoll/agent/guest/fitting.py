"""What sandboxes count on and a container image may lack: the user, a home, places for files.

A program of its own that the host has the agent run as root, in a sandbox of the image; it needs
nothing of the image, which may be one static binary.
"""

from __future__ import annotations

import os
import stat
import sys

_FILE_LIMIT = 1 << 20
_FIRST_ID, _LAST_ID = 1000, 60000
_ROOT_SHELLS = ("/bin/bash", "/bin/sh")
_DAYS = 19000
"""When the password was changed last, in days since 1970: any day will do that is past."""


def main(name: str) -> None:
    """Fit the image out, with a user of this name."""
    os.umask(0o022)
    try:
        _make_directories()
        _make_user(name)
    except OSError as error:
        sys.exit(f"{error.filename or ''}: {error.strerror or error}")


def _make_directories() -> None:
    for path, mode in (
        *(("/etc", 0o755), ("/home", 0o755), ("/root", 0o700), ("/run", 0o755), ("/var", 0o755)),
        *(("/tmp", 0o1777), ("/var/tmp", 0o1777)),  # noqa: S108 (the image's own)
    ):
        if not os.path.isdir(path):
            if os.path.lexists(path):
                os.unlink(path)  # a link that leads nowhere
            os.mkdir(path)
            os.chmod(path, mode)


def _make_user(name: str) -> None:
    shell = next((each for each in _ROOT_SHELLS if os.path.exists(each)), "/bin/sh")
    users, groups = _read("/etc/passwd"), _read("/etc/group")
    if "root" not in users:
        _append("/etc/passwd", f"root:x:0:0:root:/root:{shell}")
    if "root" not in groups:
        _append("/etc/group", "root:x:0:")
    if name in users:
        return  # the image's own
    taken = {row[2] for row in users.values()} | {row[2] for row in groups.values()}
    free = (number for number in range(_FIRST_ID, _LAST_ID) if str(number) not in taken)
    uid = next(free)
    gid = uid
    if name in groups and groups[name][2].isdigit():
        gid = int(groups[name][2])
    else:
        _append("/etc/group", f"{name}:x:{gid}:")
        if os.path.exists("/etc/gshadow"):
            _append("/etc/gshadow", f"{name}:!::")
    home = f"/home/{name}"
    _append("/etc/passwd", f"{name}:x:{uid}:{gid}::{home}:{shell}")
    if os.path.exists("/etc/shadow"):
        _append("/etc/shadow", f"{name}:*:{_DAYS}:0:99999:7:::")
    if not os.path.isdir(home):
        os.mkdir(home)
        os.chown(home, uid, gid)
    if os.path.exists("/etc/sudoers"):
        os.makedirs("/etc/sudoers.d", 0o750, exist_ok=True)
        _write(f"/etc/sudoers.d/{name}", f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440)


def _read(path: str) -> dict[str, list[str]]:
    """The rows of an account file, by name."""
    rows: dict[str, list[str]] = {}
    for line in _content(path).split("\n"):
        row = line.split(":")
        if len(row) > 2:
            rows.setdefault(row[0], row)
    return rows


def _content(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, _FILE_LIMIT).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def _append(path: str, line: str) -> None:
    before = _content(path)
    between = "" if not before or before.endswith("\n") else "\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, f"{between}{line}\n".encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def _write(path: str, content: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, mode)
    try:
        os.fchmod(fd, mode)
        os.write(fd, content.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)
