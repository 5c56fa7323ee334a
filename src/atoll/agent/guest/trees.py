"""Whole directory trees: listing, removing, copying. Runs in workers, as the user.

Other programs in the sandbox may move and replace things meanwhile. So nothing here follows a
symlink that it did not mean to, and no descent trusts a path it has checked before.
"""

from __future__ import annotations

import errno
import os
import stat

from .paths import describe_path
from .refusal import Refusal, quote, refuse_path
from .wire import ENTRY_LIMIT, Batch

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Callable

    from .users import Accounts
    from .worker import Sender

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def list_tree(sender: Sender, root: str, depth: int, accounts: Accounts) -> dict[str, object]:
    """Send the entries below a directory in batches: each directory's in order of name, what is in
    a directory right after it."""
    batch = Batch("entries", sender.send)
    count = 0
    pending = [(path, 1) for path in reversed(_names(root))]
    while pending:
        path, level = pending.pop()
        try:
            entry = describe_path(path, accounts)
            inside = level < depth and stat.S_ISDIR(os.lstat(path).st_mode)
        except OSError:
            continue  # Gone, or hidden from this user, since its directory was read.
        count += 1
        if count > ENTRY_LIMIT:
            raise Refusal("resource_exhausted", f"more than {ENTRY_LIMIT} entries")
        batch.add(entry)
        if inside:
            try:
                pending.extend((name, level + 1) for name in reversed(_names(path)))
            except OSError:
                continue
    batch.flush()
    return {}


def _names(path: str) -> list[str]:
    prefix = path if path == "/" else f"{path}/"
    names: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            names.append(prefix + entry.name)
            if len(names) > ENTRY_LIMIT:
                raise Refusal("resource_exhausted", f"more than {ENTRY_LIMIT} entries")
    names.sort()
    return names


def remove_tree(path: str) -> dict[str, object]:
    """Remove a directory and all in it; what cannot be removed is reported after the rest is gone.

    The worker walks by changing its directory, so depth costs no descriptors; on the way up it
    checks that `..` is the directory it came from.
    """
    first: list[OSError] = []

    def attempt(call: Callable[[str], None], name: str) -> None:
        try:
            call(name)
        except FileNotFoundError:
            pass
        except OSError as error:
            first.append(error)

    parent, name = os.path.split(path)
    levels: list[tuple[tuple[int, int], str, list[str]]] = []
    try:
        os.chdir(parent)
        place = _here()
        content = _enter(name)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise refuse_path(error, path) from error
    levels.append((place, name, _clear(content, attempt)))
    while levels:
        came_from, name, folders = levels[-1]
        if folders:
            inner = folders.pop()
            place = _here()
            try:
                content = _enter(inner)
            except FileNotFoundError:
                continue
            except OSError as error:
                first.append(error)
                continue
            levels.append((place, inner, _clear(content, attempt)))
            continue
        os.chdir("..")
        if _here() != came_from:
            raise Refusal("internal", f"path {quote(path)} was moved while it was being removed")
        attempt(os.rmdir, name)
        levels.pop()
    if first:
        # "Not empty" is only the consequence of what failed further down.
        cause = next((e for e in first if e.errno != errno.ENOTEMPTY), first[0])
        raise refuse_path(cause, path) from cause
    return {}


def _here() -> tuple[int, int]:
    info = os.stat(".")
    return info.st_dev, info.st_ino


def _enter(name: str) -> list[tuple[str, bool]]:
    """Change into a directory, never through a symlink, and read it."""
    fd = os.open(name, _FOLDER)
    try:
        os.fchdir(fd)
        with os.scandir(fd) as entries:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except BaseException:
        os.chdir("..")
        raise
    finally:
        os.close(fd)


def _clear(
    content: list[tuple[str, bool]], attempt: Callable[[Callable[[str], None], str], None]
) -> list[str]:
    """Remove what is no directory from here; return the directories."""
    folders = []
    for name, is_folder in content:
        if is_folder:
            folders.append(name)
        else:
            attempt(os.unlink, name)
    return folders


def move_across(source: str, destination: str) -> dict[str, object]:
    """Move to another file system (or out of a lower overlay layer): copy, put in place, remove.

    Until the copy is complete it has a temporary name beside the destination.
    """
    parent, name = os.path.split(destination)
    temporary = f"{parent}/.{name[:200]}.moving-{os.getpid()}"
    try:
        there = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        from_fd = os.open(os.path.dirname(source), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _copy(from_fd, os.path.basename(source), there, os.path.basename(temporary))
            os.rename(temporary, destination)
        except BaseException:
            _discard(temporary)
            raise
    except OSError as error:
        raise refuse_path(error, source) from error
    _discard(source)
    return {}


def _discard(path: str) -> None:
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        remove_tree(path)
    else:
        os.unlink(path)


def _copy(source: int, name: str, target: int, new_name: str) -> None:
    """Copy one thing from an open directory to another, with all that is in it."""
    info = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFDIR:
        fd = os.open(name, _FOLDER, dir_fd=source)
        os.mkdir(new_name, 0o700, dir_fd=target)
        new_fd = os.open(new_name, _FOLDER, dir_fd=target)
        try:
            for inner in os.listdir(fd):
                _copy(fd, inner, new_fd, inner)
            _copy_attributes(fd, new_fd, info)
        finally:
            os.close(fd)
            os.close(new_fd)
    elif kind == stat.S_IFREG:
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=source)
        try:
            create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags
            new_fd = os.open(new_name, create, 0o600, dir_fd=target)
            try:
                _copy_content(fd, new_fd)
                _copy_attributes(fd, new_fd, info)
            finally:
                os.close(new_fd)
        finally:
            os.close(fd)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), new_name, dir_fd=target)
        _keep_owner(new_name, info, dir_fd=target)
    else:
        os.mknod(new_name, info.st_mode, info.st_rdev, dir_fd=target)
        _keep_owner(new_name, info, dir_fd=target)


def _copy_content(source: int, target: int) -> None:
    """Copy the data of a file, and leave its holes holes."""
    size = os.fstat(source).st_size
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # Only a hole is left.
                break
            raise
        end = os.lseek(source, position, os.SEEK_HOLE)
        os.lseek(target, position, os.SEEK_SET)
        while position < end:
            copied = os.sendfile(target, source, position, end - position)
            if not copied:
                break
            position += copied
        if position < end:
            break  # The file shrank meanwhile.
    os.ftruncate(target, size)


def _copy_attributes(source: int, target: int, info: os.stat_result) -> None:
    try:
        for name in os.listxattr(source):
            if name.startswith("user."):
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    mode = stat.S_IMODE(info.st_mode)
    if not _keep_owner(target, info):
        mode &= 0o777  # Set-uid is a promise about the owner.
    os.fchmod(target, mode)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _keep_owner(target: int | str, info: os.stat_result, dir_fd: int | None = None) -> bool:
    """Give the copy the owner of the original. Says whether the user may (root may)."""
    try:
        if isinstance(target, int):
            os.fchown(target, info.st_uid, info.st_gid)
        else:
            os.chown(target, info.st_uid, info.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    except PermissionError:
        return False
    return True
