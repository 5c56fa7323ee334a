"""Reading the archive of a layer, with a bound on what comes out of it."""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import BinaryIO

import zstandard

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_WINDOW = 128 << 20
"""As much as a decompressor may look back: what `zstd` itself grants."""
_PEEK = 4
_CHUNK = 1 << 20


class Bomb(Exception):
    """There is more in the archive than it may hold."""


class LayerArchive(io.RawIOBase):
    """The unpacked bytes of an archive, whatever it is compressed with, counted and digested."""

    def __init__(self, file: BinaryIO, *, most: int) -> None:
        """`most` is how many bytes may come out, until `allow` says more."""
        buffered = io.BufferedReader(io.FileIO(file.fileno(), closefd=False), _CHUNK)
        head = buffered.peek(_PEEK)[:_PEEK]
        self._source: io.BufferedIOBase | zstandard.ZstdDecompressionReader
        if head.startswith(_GZIP):
            self._source = gzip.GzipFile(fileobj=buffered)
        elif head == _ZSTD:
            unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
            self._source = unpacker.stream_reader(buffered, read_across_frames=True)
        else:
            self._source = buffered
        self._digest = hashlib.sha256()
        self._most = most
        self._count = 0

    def allow(self, more: int) -> None:
        """Let so many more bytes come out."""
        self._most += more

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read the next bytes. Raises `Bomb`."""
        chunk = self._source.read(len(buffer))
        self._count += len(chunk)
        if self._count > self._most:
            raise Bomb
        self._digest.update(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def drain(self) -> str:
        """Read what is left; returns the SHA-256 of all of it. Raises `Bomb`."""
        scrap = bytearray(_CHUNK)
        while self.readinto(scrap):
            pass
        return self._digest.hexdigest()
