"""Packing a layer into the archive that an image has of it: the program that does it.

    python -m atoll.templates.images.packer OUTPUT SCRATCH LAYER [BELOW]...

Writes the archive (tar, compressed with zstd) to `OUTPUT` and says digests and size on standard
output, as JSON. Runs in a mount namespace of its own: where the layer says that a directory was
moved, in the overlay's way, which images do not know, the overlay is mounted to look at it.

The same layer gives the same bytes, so a registry keeps it once.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from atoll.isolation import namespaces
from atoll.isolation.bundle import ID_BASE, ID_COUNT

_LEVEL = 3
_BLOCK = 64 << 10
_OVERLAY = "trusted.overlay."
_CAPABILITY = "security.capability"
_ATTRIBUTE = "SCHILY.xattr."
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


class Unpackable(Exception):
    """Something in the layer has no form in an image."""


class _Digesting:
    """A file that knows the SHA-256 of what was written to it."""

    def __init__(self, file: BinaryIO | zstandard.ZstdCompressionWriter) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)


class Packer:
    """Writes a layer, entry by entry."""

    def __init__(self, archive: tarfile.TarFile, layers: list[Path], scratch: Path) -> None:
        """`layers` are the one to be packed, and those that it stands on."""
        self._archive = archive
        self._layers = layers
        self._scratch = scratch
        self._merged: Path | None = None
        self._names: dict[tuple[int, int], str] = {}
        """Of files that have several, by device and inode."""

    def pack(self) -> None:
        """Pack all of it. Raises `Unpackable`, `OSError`."""
        root = self._layers[0]
        self._add(root, "./", root.lstat())
        self._mark_if_opaque(root, "")
        for path, name in _walk(root, ""):
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                parent, _, last = name.rpartition("/")
                self._mark(f"{parent}/{_WHITEOUT}{last}" if parent else f"{_WHITEOUT}{last}")
                continue
            attributes = _overlay_attributes(path)
            if "metacopy" in attributes:
                path = self._look_at() / name
            self._add(path, name, status)
            if not stat.S_ISDIR(status.st_mode):
                continue
            if "redirect" in attributes:
                self._mark(f"{name}/{_OPAQUE}")
                self._add_whole(name)
            else:
                self._mark_if_opaque(path, name)

    def _add_whole(self, name: str) -> None:
        """All that is in a directory, as the overlay shows it."""
        for path, inner in _walk(self._look_at() / name, name):
            self._add(path, inner, path.lstat())

    def _look_at(self) -> Path:
        """The overlay of the layer and what it stands on, mounted."""
        if self._merged is None:
            for number, layer in enumerate(self._layers):
                (self._scratch / str(number)).symlink_to(layer)
            merged = self._scratch / "merged"
            merged.mkdir()
            before = Path.cwd()
            os.chdir(self._scratch)
            lower = ":".join(str(number) for number in range(len(self._layers)))
            options = f"lowerdir={lower},redirect_dir=on"
            namespaces.mount("overlay", "merged", "overlay", namespaces.MS_RDONLY, options)
            os.chdir(before)
            self._merged = merged
        return self._merged

    def _mark_if_opaque(self, path: Path, name: str) -> None:
        if "opaque" in _overlay_attributes(path):
            self._mark(f"{name}/{_OPAQUE}" if name else _OPAQUE)

    def _mark(self, name: str) -> None:
        self._archive.addfile(tarfile.TarInfo(name))

    def _add(self, path: Path, name: str, status: os.stat_result) -> None:
        if os.path.basename(name).startswith(_WHITEOUT):
            raise Unpackable(f"/{name} has a name that means something else in an image")
        info = tarfile.TarInfo(name)
        info.mode = stat.S_IMODE(status.st_mode)
        info.mtime = int(status.st_mtime)
        info.uid, info.gid = _inner(status.st_uid), _inner(status.st_gid)
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif stat.S_ISFIFO(status.st_mode):
            info.type = tarfile.FIFOTYPE
        elif stat.S_ISREG(status.st_mode):
            self._add_file(path, info, status)
            return
        else:
            return  # a socket without its server, or a device: sandboxes have their own
        self._archive.addfile(info)

    def _add_file(self, path: Path, info: tarfile.TarInfo, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            identity = (status.st_dev, status.st_ino)
            first = self._names.setdefault(identity, info.name)
            if first != info.name:
                info.type, info.linkname = tarfile.LNKTYPE, first
                self._archive.addfile(info)
                return
        headers = {}
        for attribute in os.listxattr(path, follow_symlinks=False):
            if attribute == _CAPABILITY or attribute.startswith("user."):
                value = os.getxattr(path, attribute, follow_symlinks=False)
                if attribute == _CAPABILITY:
                    value = _release(value)
                headers[f"{_ATTRIBUTE}{attribute}"] = value.decode("utf-8", "surrogateescape")
        info.pax_headers = headers
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            info.size = status.st_size
            self._archive.addfile(info, file)


def _walk(directory: Path, name: str) -> Iterator[tuple[Path, str]]:
    """All below a directory, in an order that is always the same, links not followed."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        inner = f"{name}/{entry.name}" if name else entry.name
        yield Path(entry.path), inner
        if entry.is_dir(follow_symlinks=False) and not _moved(entry.path):
            yield from _walk(Path(entry.path), inner)


def _moved(path: str) -> bool:
    return "redirect" in _overlay_attributes(Path(path))


def _overlay_attributes(path: Path) -> set[str]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name.removeprefix(_OVERLAY) for name in names if name.startswith(_OVERLAY)}


def _inner(number: int) -> int:
    """What sandboxes call a user or group; what is not theirs is root's."""
    return number - ID_BASE if ID_BASE <= number < ID_BASE + ID_COUNT else 0


def _release(capability: bytes) -> bytes:
    """The same capabilities, for the root of whoever unpacks them: without whose root it was."""
    (magic,) = struct.unpack_from("<I", capability)
    return struct.pack("<I", 0x02000000 | magic & 0x00FFFFFF) + capability[4:20]


def main() -> None:
    """Run the program."""
    output, scratch, *layers = (Path(argument) for argument in sys.argv[1:])
    with output.open("xb") as file:
        packed = _Digesting(file)
        compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=-1)
        with compressor.stream_writer(packed, closefd=False) as writer:  # type: ignore[arg-type]
            plain = _Digesting(writer)
            with tarfile.open(
                fileobj=plain,  # type: ignore[call-overload]
                mode="w|",
                format=tarfile.PAX_FORMAT,
                bufsize=_BLOCK,
            ) as archive:
                try:
                    Packer(archive, layers, scratch).pack()
                except RecursionError:
                    sys.exit("its directories are nested too deep")
                except (Unpackable, OSError) as error:
                    sys.exit(str(error))
        file.flush()
        os.fsync(file.fileno())
    said = {
        "diff_id": f"sha256:{plain.digest.hexdigest()}",
        "digest": f"sha256:{packed.digest.hexdigest()}",
        "size": packed.size,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
