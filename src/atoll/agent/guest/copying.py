"""Copying for builds of templates: from an archive into the sandbox, and from it into an archive.

A program of its own that the host has the agent run as root; it needs nothing of the image. What it
does is said by its one argument, a JSON object; what goes wrong is said on stderr, in one line.

Archives come from whoever: names that lead out of the place where they are unpacked, devices and
the like are refused. And what they do is done in here, with this sandbox's limits.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import json
import lzma
import os
import shutil
import stat
import sys
import tarfile
import zlib

from .refusal import Refusal
from .users import Accounts

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Iterator

    Owner = tuple[int, int] | None

_STAGING = "/.atoll-copy"
_NOT_PACKED = ("/dev", "/proc", "/sys", "/.atoll", _STAGING)
_MAGIC = "*?["


class Failed(Exception):
    """Why nothing can be copied, for the reader of the build's log."""


def main(argument: str) -> None:
    """Do what is asked for; the exit status is 1 when it fails."""
    request = json.loads(argument)
    os.umask(0o022)
    try:
        if request["op"] == "directory":
            make_directory(request["path"], _find_owner(request["owner"]))
        elif request["op"] == "pack":
            pack(request["sources"])
        else:
            receive(request)
    except (Failed, tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        sys.exit(str(error))
    except OSError as error:
        name = error.filename or ""
        shown = name.replace(_STAGING + "/", "") if isinstance(name, str) else ""
        sys.exit(f"{shown}: {error.strerror}" if shown else str(error.strerror or error))


def make_directory(path: str, owner: Owner) -> None:
    """Make a directory and what is missing above it; what is made belongs to the owner."""
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise Failed(f"{path} is not a directory")
    for each in reversed(missing):
        os.mkdir(each, 0o755)
        if owner is not None:
            os.chown(each, *owner)


# Out -------------------------------------------------------------------------------------------


def pack(sources: list[str]) -> None:
    """Write an archive of what the patterns match to stdout, with owners and hard links."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for source in sources:
            pattern = _clean(source)
            found = list(match("/", pattern))
            if not found:
                raise Failed(f"nothing is at /{pattern}")
            for name in found:
                archive.add("/" + name, name, filter=_leave_mounts)


def _leave_mounts(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = "/" + member.name
    return None if path.startswith(_NOT_PACKED) and _is_within(path) else member


def _is_within(path: str) -> bool:
    return any(path == each or path.startswith(each + "/") for each in _NOT_PACKED)


# In --------------------------------------------------------------------------------------------


def receive(request: dict[str, object]) -> None:
    """Unpack the archive on stdin aside, and copy what the patterns match to the destination."""
    sources, destination = request["sources"], request["destination"]
    mode, unpack, most = request["mode"], request["unpack"], request["most_bytes"]
    stdin = sys.stdin.buffer
    assert isinstance(stdin, io.BufferedReader)
    assert isinstance(sources, list)
    assert isinstance(destination, str)
    assert mode is None or isinstance(mode, int)
    assert isinstance(most, int)
    owner = _find_owner(request["owner"])
    if not destination.startswith("/"):
        destination = os.path.join(_find_home(request["user"]), destination)
    os.mkdir(_STAGING, 0o700)
    try:
        content = io.BufferedReader(_Measured(_decompress(stdin), most), 1 << 18)
        with content, tarfile.open(fileobj=content, mode="r|") as archive:
            extract(archive, _STAGING, keep_owner=bool(request["keep_owner"]))
        found: list[str] = []
        for source in sources:
            matches = list(match(_STAGING, _clean(source)))
            if not matches:
                raise Failed(f"no file matches {source!r}")
            found += matches
        into = destination.endswith("/") or len(found) > 1
        for name in found:
            place(os.path.join(_STAGING, name), destination, into, owner, mode, bool(unpack))
    finally:
        shutil.rmtree(_STAGING, ignore_errors=True)


def _decompress(stream: io.BufferedReader) -> io.BufferedIOBase:
    """Whatever it is compressed with. (What tarfile does by itself ends with the first of several
    parts.)"""
    head = stream.peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stream)
    return stream


class _Measured(io.RawIOBase):
    """Gives no more than so many bytes."""

    def __init__(self, stream: io.BufferedIOBase, most: int) -> None:
        self._stream = stream
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._stream.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise Failed("the archive holds more than the server lets it")
        return count


def extract(archive: tarfile.TarFile, directory: str, *, keep_owner: bool) -> None:
    """Unpack into a directory that nobody else uses, and nowhere else."""
    times: list[tuple[str, float]] = []
    for member in archive:
        name = _check(member.name)
        path = os.path.join(directory, name) if name else directory
        _make_parents(directory, name)
        if member.isdir():
            if not os.path.isdir(path) or os.path.islink(path):
                _remove(path)
                os.mkdir(path)
            times.append((path, member.mtime))
        elif name:
            _extract_other(archive, member, directory, path)
        if keep_owner:
            os.lchown(path, member.uid, member.gid)
        if not member.issym() and name:
            os.chmod(path, member.mode & 0o7777)
        if member.isreg():
            os.utime(path, (member.mtime, member.mtime))
    for path, moment in reversed(times):
        os.utime(path, (moment, moment))


def _extract_other(
    archive: tarfile.TarFile, member: tarfile.TarInfo, directory: str, path: str
) -> None:
    _remove(path)
    if member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        target = _check(member.linkname)
        _refuse_links(directory, target)
        origin = os.path.join(directory, target)
        if not os.path.lexists(origin) or not stat.S_ISREG(os.lstat(origin).st_mode):
            raise Failed(f"{member.name!r} is a hard link to what is not in the archive")
        os.link(origin, path)
    elif member.isreg():
        content = archive.extractfile(member)
        assert content is not None
        with open(path, "xb") as file:
            shutil.copyfileobj(content, file, 1 << 18)
    else:
        raise Failed(f"{member.name!r} is neither a file, a directory nor a link")


def _check(name: str) -> str:
    if name.startswith("/"):
        raise Failed(f"the archive names an absolute path: {name!r}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Failed(f"the archive names a path outside itself: {name!r}")
    return "/".join(parts)


def _make_parents(directory: str, name: str) -> None:
    _refuse_links(directory, os.path.dirname(name))
    os.makedirs(os.path.join(directory, os.path.dirname(name)), exist_ok=True)


def _refuse_links(directory: str, name: str) -> None:
    """Nothing is written, or linked, through a link that the archive itself has made."""
    path = directory
    for part in name.split("/"):
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise Failed(f"the archive leads through its own link {name!r}")


def match(root: str, pattern: str) -> Iterator[str]:
    """Paths below the root that match, by name; each part of a pattern for itself."""
    found = [""]
    for part in pattern.split("/") if pattern else ():
        below: list[str] = []
        for base in found:
            directory = os.path.join(root, base) if base else root
            if not any(sign in part for sign in _MAGIC):
                if os.path.lexists(os.path.join(directory, part)):
                    below.append(f"{base}/{part}" if base else part)
            elif os.path.isdir(directory):
                names = sorted(os.listdir(directory))
                chosen = [each for each in names if fnmatch.fnmatchcase(each, part)]
                below += [f"{base}/{each}" if base else each for each in chosen]
        found = below
    yield from found


def place(
    source: str, destination: str, into: bool, owner: Owner, mode: int | None, unpack: bool
) -> None:
    """Move one source to where it is to be: of a directory, what is in it."""
    is_archive = unpack and os.path.isfile(source) and tarfile.is_tarfile(source)
    if is_archive:
        aside = source + ".unpacked"
        os.mkdir(aside, 0o755)
        with tarfile.open(source) as archive:
            extract(archive, aside, keep_owner=owner is None)
        source = aside
    prepare(source, owner, mode, top=not (os.path.isdir(source) and not os.path.islink(source)))
    target = os.path.normpath(destination)
    if os.path.isdir(source) and not os.path.islink(source):
        make_directory(target, owner)
        merge(source, target)
        return
    if into or os.path.isdir(target):
        make_directory(target, owner)
        target = os.path.join(target, os.path.basename(source))
    else:
        make_directory(os.path.dirname(target), owner)
    _move(source, target)


def prepare(path: str, owner: Owner, mode: int | None, *, top: bool) -> None:
    """Give everything below and, with `top`, the path itself its owner and permissions."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            prepare(os.path.join(path, name), owner, mode, top=True)
    if not top:
        return
    info = os.lstat(path)
    if owner is not None:
        os.lchown(path, *owner)
    if not stat.S_ISLNK(info.st_mode):
        # A change of the owner takes set-id bits away.
        os.chmod(path, stat.S_IMODE(info.st_mode) if mode is None else mode)


def merge(source: str, target: str) -> None:
    """Move what is in a directory into another one, whose own entries give way."""
    for name in sorted(os.listdir(source)):
        one, other = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(one) and not os.path.islink(one) and os.path.isdir(other):
            merge(one, other)
            info = os.stat(one)
            if not os.path.islink(other):
                os.chown(other, info.st_uid, info.st_gid)
                os.chmod(other, stat.S_IMODE(info.st_mode))
        else:
            _move(one, other)


def _move(source: str, target: str) -> None:
    if os.path.isdir(target) and not os.path.islink(target):
        raise Failed(f"{target} is a directory, which a file can't replace")
    _remove(target)
    shutil.move(source, target)


def _remove(path: str) -> None:
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)


def _clean(source: str) -> str:
    parts = [part for part in source.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Failed(f"{source!r} leads out of the directory that is copied from")
    return "/".join(parts)


def _find_home(user: object) -> str:
    assert isinstance(user, str)
    accounts = Accounts()
    try:
        return accounts.find(user).home
    except Refusal as error:
        raise Failed(error.message) from None


def _find_owner(owner: object) -> Owner:
    """Look up `user`, `user:group`, or numbers."""
    if not isinstance(owner, str):
        return None
    accounts = Accounts()
    accounts.refresh()
    user, colon, group = owner.partition(":")
    if user.isdecimal():
        uid = gid = int(user)
    else:
        try:
            found = accounts.find(user or "root")
        except Refusal as error:
            raise Failed(error.message) from None
        uid, gid = found.uid, found.gid
    if colon and group:
        number = int(group) if group.isdecimal() else accounts.find_group(group)
        if number is None:
            raise Failed(f"there is no group {group!r}")
        gid = number
    return uid, gid
