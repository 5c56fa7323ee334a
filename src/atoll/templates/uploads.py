"""Archives of files that clients have sent for their builds, by the names that they gave them.

    <data>/uploads/<team>/<hash>.tar        as it was sent
    <data>/uploads/<team>/<hash>.sha256     the digest of its bytes; written last
    <data>/uploads/<team>/.coming-…         one that is under way

The client's hash is only a name: it decides what need not be sent again. What a layer is keyed by
is the digest of the bytes, which nobody can choose. Nothing is unpacked here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from pathlib import Path

from atoll.errors import InvalidInput, NoSpace, NotFound, TooLarge

_HASH = re.compile(r"[0-9a-f]{64}")
_TEAM = re.compile(r"[0-9A-Za-z-]{1,64}")
_COMING = ".coming-"
_CHUNK = 256 << 10


class Uploads:
    """The archives of one team."""

    def __init__(
        self, directory: Path, team_id: str, *, max_bytes: int, min_free_bytes: int
    ) -> None:
        """`min_free_bytes` stay free on the disk. Raises `InvalidInput` for an id that is no
        team's."""
        if not _TEAM.fullmatch(team_id):
            raise InvalidInput(f"{team_id!r} is not the id of a team")
        self._directory = directory / team_id
        self.max_bytes = max_bytes
        """Of one archive, as it is sent."""
        self._min_free = min_free_bytes

    def digest(self, name: str) -> str | None:
        """The SHA-256 of an archive's bytes, or None when there is none of this name."""
        path = self._path(name)
        try:
            digest = path.with_suffix(".sha256").read_text()
            os.utime(path)
        except OSError:
            return None
        return digest

    async def read(self, name: str, digest: str) -> AsyncIterator[bytes]:
        """Read an archive. Raises `NotFound` when it is not (any more) the one of this digest."""
        gone = NotFound("the uploaded files were replaced meanwhile", remedy="build again")
        try:
            file = self._path(name).open("rb")
        except FileNotFoundError:
            raise gone from None
        found = hashlib.sha256()
        with file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                found.update(chunk)
                yield chunk
        if found.hexdigest() != digest:
            raise gone

    async def receive(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Take an archive in, in place of one of that name. Raises `TooLarge`, `InvalidInput`."""
        path = self._path(name)
        await asyncio.to_thread(self._directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        draft = Draft(self._directory, self.max_bytes, self._min_free)
        try:
            async for chunk in chunks:
                await asyncio.to_thread(draft.write, chunk)
            await asyncio.to_thread(draft.settle, path)
        finally:
            draft.discard()

    def _path(self, name: str) -> Path:
        if not _HASH.fullmatch(name):
            raise InvalidInput(f"{name!r} is not a SHA-256 in hexadecimal digits")
        return self._directory / f"{name}.tar"


class Draft:
    """An archive on its way in. All methods block."""

    def __init__(self, directory: Path, most: int, min_free: int) -> None:
        descriptor, name = tempfile.mkstemp(prefix=_COMING, dir=directory)
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)
        self._most = most
        self._min_free = min_free
        self._size = 0
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Add to it. Raises `TooLarge`, `NoSpace`."""
        self._size += len(chunk)
        if self._size > self._most:
            raise TooLarge(
                f"the files take more than {self._most >> 20} MiB",
                remedy="leave some out by .dockerignore, or have ATOLL_MAX_UPLOAD_MB raised",
            )
        if shutil.disk_usage(self._path.parent).free < self._min_free + len(chunk):
            raise NoSpace("the server's disk is nearly full")
        self._digest.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise NoSpace(f"the files can't be taken: {error.strerror}") from error

    def settle(self, path: Path) -> None:
        """Let it be the archive at this path from now on."""
        self._file.close()
        digest = path.with_suffix(".sha256")
        # Between the two there is no digest: then the archive counts as not sent.
        digest.unlink(missing_ok=True)
        self._path.replace(path)
        note = self._path.with_suffix(".sha256")
        note.write_text(self._digest.hexdigest())
        note.replace(digest)

    def discard(self) -> None:
        """Leave nothing of it, unless it was settled."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def prune_uploads(directory: Path, *, grace: timedelta) -> None:
    """Remove the archives that nobody has used within the grace. Blocking."""
    limit = time.time() - grace.total_seconds()
    if not directory.is_dir():
        return
    for path in (*directory.glob("*/*.tar"), *directory.glob(f"*/{_COMING}*")):
        try:
            if path.stat().st_mtime < limit:
                path.with_suffix(".sha256").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        except OSError:
            continue
    for team in directory.iterdir():
        if team.is_dir() and not any(team.iterdir()):
            shutil.rmtree(team, ignore_errors=True)
