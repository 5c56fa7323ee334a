"""A directory under watch: which directories belong to it, and what happened in them.

inotify watches single directories, and tells of a new one only after it is there. So whatever is
found in a directory that appeared during the watch is reported as if its own events had come.
"""

from __future__ import annotations

import errno
import os
import stat

from . import inotify
from .inotify import Inotify, is_on_network, parse
from .paths import describe_path, printable
from .refusal import Refusal, quote, refuse_path, refuse_resources
from .users import acting_as

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .users import Accounts, User

_KINDS = (
    (inotify.CREATE | inotify.MOVED_TO, "create"),
    (inotify.MOVED_FROM | inotify.MOVE_SELF, "rename"),
    (inotify.ATTRIB, "chmod"),
    (inotify.MODIFY, "write"),
    (inotify.DELETE | inotify.DELETE_SELF | inotify.UNMOUNT, "remove"),
)
_APPEARED = inotify.CREATE | inotify.MOVED_TO
_VANISHED = inotify.DELETE | inotify.MOVED_FROM
_GONE = ("rename", "remove")

_FOLDERS_LIMIT = 65_536
_KERNELS = ("/proc", "/sys")
"""What the kernel shows of itself there changes without an event."""
_FOUND_LIMIT = 16_384
_STEPS = 256
"""Names looked at in one turn: a few milliseconds."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What is no failure: a directory that went away again, or that this user may not see into.
_PASSED_OVER = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM))


class Watched:
    """The directories of one watch. Looks at them as its user."""

    def __init__(
        self,
        root: str,
        user: User,
        accounts: Accounts,
        report: Callable[[dict[str, object]], None],
        *,
        recursive: bool,
        include_entry: bool,
        network: bool,
    ) -> None:
        """Begin to watch `root`; what is below it takes `walk`. Raises `Refusal`."""
        self._root = root
        self._user = user
        self._accounts = accounts
        self._report = report
        self._recursive = recursive
        self._include_entry = include_entry
        self._folders: dict[int, str] = {}
        """The directories by number; their paths start at the root, which is ''."""
        self._pending: list[tuple[str, bool]] = []
        """Directories to watch and look into, and whether to report what is there."""
        self._walk: Generator[None] | None = None
        self._found: set[str] = set()
        """What was reported because it was found, and may be in the queue as well."""
        try:
            with acting_as(user):
                if not stat.S_ISDIR(os.stat(root).st_mode):
                    raise Refusal("invalid_argument", f"path {quote(root)} is not a directory")
                if not network and is_on_network(root):
                    raise Refusal(
                        "invalid_argument",
                        f"cannot watch path on network filesystem: {quote(root)}, where changes "
                        "may go unseen (allow_network_mounts watches it all the same)",
                    )
        except NotADirectoryError as error:
            raise Refusal("not_found", f"path {quote(root)} does not exist") from error
        except OSError as error:
            raise refuse_path(error, root) from error
        try:
            self._inotify = Inotify()
        except OSError as error:
            raise refuse_resources(error, "cannot watch directories") from error
        try:
            with acting_as(user):
                self._add("")
        except BaseException:
            self.close()
            raise
        self.fd = self._inotify.fd
        if recursive:
            self._walk = self._look_into("", report=False)

    def close(self) -> None:
        """Stop watching."""
        if self._walk is not None:
            self._walk.close()
        self._inotify.close()

    def queued(self) -> int:
        """How many bytes of events wait to be read."""
        return self._inotify.queued()

    # Events ------------------------------------------------------------------------------------

    def read(self) -> int:
        """Report some of the events that wait; return how many bytes they took.

        Raises `Refusal` (data_loss) when the kernel had to drop some.
        """
        events = self._inotify.read()
        if not events:
            self._found.clear()
            return 0
        with acting_as(self._user):
            for number, mask, name in parse(events):
                self._take(number, mask, name)
        return len(events)

    def _take(self, number: int, mask: int, name: str) -> None:
        if mask & inotify.OVERFLOW:
            raise Refusal(
                "data_loss",
                "watcher error: more happened than could be told, and events were lost; "
                "watch again, and look at the directory anew",
            )
        if mask & inotify.IGNORED:
            self._folders.pop(number, None)
            return
        folder = self._folders.get(number)
        if folder is None or (folder and not name):
            return  # What happens to a directory itself, the one above it tells.
        path = _join(folder, name) if name else ""
        if mask & _VANISHED:
            self._found.discard(path)
        elif mask & _APPEARED and path in self._found:
            self._found.discard(path)
            return
        self._tell(path, mask)
        if name and mask & inotify.IS_DIRECTORY and self._recursive:
            if mask & inotify.MOVED_FROM:
                self._forget(path)
            elif mask & _APPEARED:
                self._note(path, True)

    def _tell(self, path: str, mask: int) -> None:
        for bits, kind in _KINDS:
            if mask & bits:
                event: dict[str, object] = {"name": printable(path or "."), "type": kind}
                if self._include_entry and kind not in _GONE:
                    event["entry"] = self._describe(path)
                self._report(event)

    def _describe(self, path: str) -> dict[str, object] | None:
        try:
            return describe_path(self._absolute(path), self._accounts)
        except OSError:
            return None  # Gone meanwhile.

    def _forget(self, path: str) -> None:
        """A directory was moved away: what it is called from now on is another event's matter."""
        below = f"{path}/"
        for number, folder in list(self._folders.items()):
            if folder == path or folder.startswith(below):
                self._inotify.remove(number)
                del self._folders[number]
        self._pending = [
            each for each in self._pending if each[0] != path and not each[0].startswith(below)
        ]

    # Directories -------------------------------------------------------------------------------

    def walk(self) -> bool:
        """Watch some of the directories that are not watched yet, and report what is in them.

        Says whether more are left. Raises `Refusal` when there are too many to watch.
        """
        with acting_as(self._user):
            for _ in range(_STEPS):
                if self._walk is None:
                    if not self._pending:
                        return False
                    self._walk = self._look_into(*self._pending.pop())
                if next(self._walk, self) is self:
                    self._walk = None
        return self._walk is not None or bool(self._pending)

    def _look_into(self, folder: str, report: bool) -> Generator[None]:
        """Watch a directory and note what is in it, a name at a time."""
        if folder and not self._add(folder):
            return
        try:
            fd = os.open(self._absolute(folder), _FOLDER if folder else _FOLDER & ~os.O_NOFOLLOW)
        except OSError:
            return
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    path = _join(folder, entry.name)
                    try:
                        is_folder = entry.is_dir(follow_symlinks=False)
                        written = report and _is_written(entry)
                    except OSError:
                        continue  # Gone since the directory was read.
                    if report:
                        self._tell(path, inotify.CREATE | (inotify.MODIFY if written else 0))
                        if len(self._found) < _FOUND_LIMIT:
                            self._found.add(path)
                    if is_folder:
                        self._note(path, report)
                    yield
        except OSError:
            return
        finally:
            os.close(fd)

    def _note(self, folder: str, report: bool) -> None:
        """Have `walk` see to a directory."""
        if self._absolute(folder) in _KERNELS:
            return
        if len(self._folders) + len(self._pending) >= _FOLDERS_LIMIT:
            raise _too_many()
        self._pending.append((folder, report))

    def _add(self, folder: str) -> bool:
        """Watch one more directory. Says whether it is new to the watch."""
        path = self._absolute(folder)
        try:
            number = self._inotify.add(path, follow=not folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise _too_many() from error
            if folder and error.errno in _PASSED_OVER:
                return False
            raise refuse_path(error, path) from error
        if self._folders.get(number) == folder:
            return False
        self._folders[number] = folder
        return True

    def _absolute(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}" if path else self._root


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_written(entry: os.DirEntry[str]) -> bool:
    """Whether a file has content, which it was given before it was watched."""
    return entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size > 0


def _too_many() -> Refusal:
    return Refusal(
        "resource_exhausted",
        "watcher error: there are more directories than can be watched; watch fewer of them",
    )
