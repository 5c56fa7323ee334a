"""The directory that a Dockerfile takes files from, without what `.dockerignore` leaves out."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import posixpath
import re
import stat
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from e2b_dockerfile_utils import PatternMatcher

from atoll.errors import InvalidInput, PathNotFound

_WILDCARD = re.compile(r"[*?\[]")
_IGNORE_BYTES = 1 << 20
_BLOCK = 1 << 20
# A tenth of the time for a twentieth more bytes: the way to the server is mostly short.
_COMPRESSION = 1


@dataclass(frozen=True, slots=True)
class Member:
    """One file, directory or link of an archive."""

    path: str
    """Relative to the archive's root, with slashes."""
    mode: int
    """Permissions, set-id bits included."""
    kind: int
    """`stat.S_IFREG`, `S_IFDIR` or `S_IFLNK`."""
    source: Path | None = None
    """The file that holds the content; None when `content` does."""
    content: bytes = b""
    """The content, or where a link leads."""
    modified: int = 0
    """In seconds since 1970; now, for what no file is."""

    def open(self) -> io.BytesIO | io.BufferedReader:
        """The content of a file."""
        return io.BytesIO(self.content) if self.source is None else self.source.open("rb")


class Archive:
    """What one COPY sends: known by its content, and written only when it has to be sent."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = sorted(members, key=lambda member: member.path)
        self.hash = self._digest()
        """SHA-256 of names, permissions and content; times and owners don't count."""

    def _digest(self) -> str:
        whole = hashlib.sha256()
        for member in self.members:
            head = f"{member.path}\0{member.kind:o}\0{member.mode:o}\0"
            whole.update(head.encode(errors="surrogateescape"))
            if member.kind == stat.S_IFREG:
                with member.open() as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
            else:
                whole.update(hashlib.sha256(member.content).digest())
        return whole.hexdigest()

    def write(self, file: BinaryIO) -> None:
        """Write it as a compressed tar archive. Raises `OSError` when files change meanwhile."""
        now = int(time.time())
        # No name and no time in the head: the same content is the same bytes.
        with (
            gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as tar,
        ):
            for member in self.members:
                entry = tarfile.TarInfo(member.path)
                entry.mode, entry.mtime = member.mode, member.modified or now
                if member.kind == stat.S_IFDIR:
                    entry.type = tarfile.DIRTYPE
                    tar.addfile(entry)
                elif member.kind == stat.S_IFLNK:
                    entry.type, entry.linkname = tarfile.SYMTYPE, os.fsdecode(member.content)
                    tar.addfile(entry)
                else:
                    with member.open() as content:
                        entry.size = content.seek(0, os.SEEK_END)
                        content.seek(0)
                        tar.addfile(entry, content)


class Context:
    """The directory, and what of it counts."""

    def __init__(self, root: Path, ignored: Sequence[str] = ()) -> None:
        """`ignored`: patterns as in `.dockerignore`. Raises `InvalidInput` for a bad one."""
        self.root = root.resolve()
        self._ignored = _match(ignored)

    def select(self, source: str, *, excluded: Sequence[str] = ()) -> list[Member]:
        """What a COPY's source stands for: a file, a directory with all in it, or a pattern.

        Raises `PathNotFound` when it is nothing, `InvalidInput` when it leads out of the context
        or to what can't be copied.
        """
        wanted = _clean(source)
        excluding = _match(excluded)
        found: dict[str, Member] = {}
        for path in self._match_source(wanted):
            for member in self._gather(path):
                # As seen from the context, and from the directory that is copied.
                inner = posixpath.relpath(member.path, path)
                name = posixpath.basename(path) if inner == "." else inner
                if not (excluding.matches(member.path) or excluding.matches(name)):
                    found[member.path] = member
        if not found:
            hidden = "; .dockerignore leaves it out" if self._is_there(wanted) else ""
            raise PathNotFound(f"there is no {source!r} in {self.root}{hidden}")
        return list(found.values())

    def name_sources(self, source: str, found: Sequence[Member]) -> list[str]:
        """How the builder is told which of the archive's members a source stands for.

        Its patterns know `*` and `?` as ours do; what else ours know is told as plain paths.
        """
        wanted = _clean(source)
        if not re.search(r"[\\\[]", wanted):
            return [wanted]
        paths = {member.path for member in found}
        tops = [path for path in paths if posixpath.dirname(path) not in paths]
        return sorted(_WILDCARD.sub(r"[\g<0>]", path) for path in tops)

    def _match_source(self, wanted: str) -> Iterator[str]:
        if _WILDCARD.search(wanted):
            # A pattern of COPY has no negation and no comments.
            pattern = PatternMatcher(["./" + wanted])
            yield from self._search(pattern, "", wanted.count("/") + 1)
        elif wanted == "." or not self._leaves_out(wanted):
            yield wanted

    def _search(self, pattern: PatternMatcher, directory: str, depth: int) -> Iterator[str]:
        """Paths that fit, the topmost only; `*` never stands for a slash, so depth is known."""
        for entry in self._list(directory):
            path = posixpath.join(directory, entry.name)
            if pattern.matches(path):
                if not self._leaves_out(path):
                    yield path
            elif depth > 1 and entry.is_dir(follow_symlinks=False):
                yield from self._search(pattern, path, depth - 1)

    def _gather(self, path: str) -> Iterator[Member]:
        """A path and all below it; a link that is named is followed, those below are kept."""
        real = self._resolve(path)
        try:
            member = _describe(path, real, real.lstat())
        except (FileNotFoundError, NotADirectoryError):
            return
        if member is None:
            return
        if path != ".":
            yield member
        if member.kind == stat.S_IFDIR:
            yield from self._walk("" if path == "." else path, real)

    def _walk(self, directory: str, real: Path) -> Iterator[Member]:
        for entry in sorted(os.scandir(real), key=lambda each: each.name):
            path = posixpath.join(directory, entry.name)
            left_out = self._ignored.matches(path)
            inside = entry.is_dir(follow_symlinks=False)
            if left_out and not (inside and self._ignored.may_match_under(path)):
                continue
            below = list(self._walk(path, real / entry.name)) if inside else []
            if left_out and not below:
                continue
            member = _describe(path, real / entry.name, os.lstat(real / entry.name))
            if member is not None:
                yield member
            yield from below

    def _resolve(self, path: str) -> Path:
        real = (self.root / path).resolve()
        if not real.is_relative_to(self.root):
            raise InvalidInput(f"{path!r} is a link that leads out of {self.root}")
        return real

    def _list(self, directory: str) -> list[os.DirEntry[str]]:
        with os.scandir(self.root / directory) as entries:
            return sorted(entries, key=lambda each: each.name)

    def _leaves_out(self, path: str) -> bool:
        return self._ignored.matches(path) and not self._ignored.may_match_under(path)

    def _is_there(self, path: str) -> bool:
        return os.path.lexists(self.root / path)


def read_ignored(context: Path, dockerfile: Path) -> list[str]:
    """The patterns of the file that counts: the Dockerfile's own, else the directory's."""
    own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    for path in (own, context / ".dockerignore"):
        try:
            with path.open("rb") as file:
                text = file.read(_IGNORE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if len(text) > _IGNORE_BYTES:
            raise InvalidInput(f"{path} is bigger than {_IGNORE_BYTES >> 10} KiB")
        lines = text.decode("utf-8-sig", errors="replace").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]
    return []


def _match(patterns: Sequence[str]) -> PatternMatcher:
    try:
        return PatternMatcher(list(patterns))
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _clean(source: str) -> str:
    """The source as a path below the context; a leading slash means its root."""
    cleaned = posixpath.normpath(source.lstrip("/") or ".")
    if cleaned == ".." or cleaned.startswith("../"):
        raise InvalidInput(f"{source!r} leads out of the build context")
    return cleaned


def _describe(path: str, real: Path, found: os.stat_result) -> Member | None:
    mode, modified = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    match stat.S_IFMT(found.st_mode):
        case stat.S_IFREG:
            return Member(path, mode, stat.S_IFREG, real, modified=modified)
        case stat.S_IFDIR:
            return Member(path, mode, stat.S_IFDIR, modified=modified)
        case stat.S_IFLNK:
            return Member(path, 0o777, stat.S_IFLNK, content=os.fsencode(os.readlink(real)))  # noqa: PTH115
        case stat.S_IFSOCK:
            return None  # what a program on this machine listens on is no content
        case _:
            raise InvalidInput(f"{real} is neither a file nor a directory nor a link")
