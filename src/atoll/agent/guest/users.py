"""The sandbox's own accounts, and acting under them.

/etc/passwd and /etc/group are read by hand: the C library's name service would load libraries of
the image. What they say is the sandbox's business (root inside may write anything there), so it is
read with bounds and never trusted to be well-formed.
"""

from __future__ import annotations

import errno
import os
import stat

from .refusal import Refusal, quote, refuse_resources

_FILE_LIMIT = 1024 * 1024
_GROUPS_LIMIT = 1024
_HIGHEST_ID = 2**32 - 2


class User:
    """Who an operation runs as."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int, home: str, groups: list[int]) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home
        self.groups = groups


class _Table:
    """One account file, read again when it changes."""

    def __init__(self, path: str, columns: int) -> None:
        self._path = path
        self._columns = columns
        self._seen: tuple[int, ...] | None = None
        self.rows: list[list[str]] = []

    def refresh(self) -> bool:
        """Read the file if it is not the one read before. Says whether it was."""
        try:
            # Non-blocking, so that a pipe put in its place cannot stop the agent.
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise refuse_resources(error, "cannot look up the user") from error
            changed = bool(self.rows)
            self._seen, self.rows = None, []
            return changed
        try:
            info = os.fstat(fd)
            seen = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            if seen == self._seen:
                return False
            self._seen = seen
            self.rows = []
            if stat.S_ISREG(info.st_mode):
                content = os.read(fd, _FILE_LIMIT)
                for line in content.decode("utf-8", "surrogateescape").split("\n"):
                    row = line.split(":")
                    if len(row) >= self._columns and row[0]:
                        self.rows.append(row)
        except OSError:
            self.rows = []
        finally:
            os.close(fd)
        return True


class Accounts:
    """Looks up users and groups by name and by number."""

    def __init__(self, passwd: str = "/etc/passwd", group: str = "/etc/group") -> None:  # noqa: S107
        self._passwd = _Table(passwd, 6)
        self._group = _Table(group, 4)
        self._users: dict[str, User] = {}
        self._user_names: dict[int, str] = {}
        self._group_names: dict[int, str] = {}

    def refresh(self) -> None:
        """Notice changes of the files."""
        changed = self._passwd.refresh()
        if self._group.refresh() or changed:
            self._build()

    def find(self, name: str) -> User:
        """Look up by name or number.

        Raises `Refusal` (unauthenticated), with the message of E2B's envd.
        """
        self.refresh()
        user = self._users.get(name)
        if user is not None:
            return user
        uid = _number(name)
        if uid is not None:  # As images and Dockerfiles name users; it need have no account.
            known = self._user_names.get(uid)
            return self._users[known] if known else User(name, uid, 0, "/", [0])
        if name == "root":  # Also in an image that has no account file at all.
            return User("root", 0, 0, "/root", [0])
        raise Refusal("unauthenticated", f"invalid username: {quote(name)}")

    def user_name(self, uid: int) -> str:
        """Name a number; the number itself if it has no name."""
        return self._user_names.get(uid) or str(uid)

    def group_name(self, gid: int) -> str:
        """Name a number; the number itself if it has no name."""
        return self._group_names.get(gid) or str(gid)

    def find_group(self, name: str) -> int | None:
        """Look up a group's number by name."""
        self.refresh()
        return next((gid for gid, each in self._group_names.items() if each == name), None)

    def _build(self) -> None:
        self._users.clear()
        self._user_names.clear()
        self._group_names.clear()
        memberships: dict[str, list[int]] = {}
        for row in self._group.rows:
            gid = _number(row[2])
            if gid is None:
                continue
            self._group_names.setdefault(gid, row[0])
            for member in row[3].split(","):
                if member:
                    memberships.setdefault(member, []).append(gid)
        for row in self._passwd.rows:
            uid, gid = _number(row[2]), _number(row[3])
            if uid is None or gid is None or row[0] in self._users:
                continue
            self._user_names.setdefault(uid, row[0])
            home = row[5] if row[5].startswith("/") else "/"
            groups = [gid, *(g for g in memberships.get(row[0], ()) if g != gid)]
            self._users[row[0]] = User(row[0], uid, gid, home, groups[:_GROUPS_LIMIT])


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    value = int(text)
    return value if value <= _HIGHEST_ID else None


class acting_as:
    """Borrow a user's identity for the system calls of a block.

    The kernel then checks every path against that user. The saved user id stays root's (and the
    real one, unless asked for), so the user's processes cannot trace the agent meanwhile. While the
    effective id is not root's, the kernel takes the effective capabilities away too.

    With `for_exec` the real ids are borrowed too. A program that is executed in the block (in a
    child made by vfork, which shares everything until then) is that user for good: an exec sets the
    saved id to the effective one, and drops all capabilities when no id is root's.
    """

    __slots__ = ("_borrowed", "_for_exec", "_user")

    _own_groups = os.getgroups()

    def __init__(self, user: User, *, for_exec: bool = False) -> None:
        self._user = user
        self._for_exec = for_exec
        self._borrowed = False

    def __enter__(self) -> None:
        user = self._user
        if user.uid == 0 and user.gid == 0 and not self._for_exec:
            return
        self._borrowed = True
        try:
            os.setgroups(user.groups)
            if self._for_exec:
                os.setresgid(user.gid, user.gid, 0)
                os.setresuid(user.uid, user.uid, 0)
            else:
                os.setegid(user.gid)
                os.seteuid(user.uid)
        except OSError as error:
            self._give_back()
            raise Refusal(
                "unauthenticated", f"the ids of user {quote(user.name)} do not exist here"
            ) from error

    def __exit__(self, *_: object) -> None:
        if self._borrowed:
            self._give_back()

    def _give_back(self) -> None:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(self._own_groups)


def become(user: User) -> None:
    """Take a user's identity for good (in a forked child)."""
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
