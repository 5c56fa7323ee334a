"""Unpacking the archive of a layer: the program that runs in the fence.

    python -m atoll.templates.images.unpacker DIRECTORY BYTES ENTRIES  <archive

`DIRECTORY` becomes its root, and the layer is unpacked there. It says on standard output, as one
line of JSON, what the layer does besides, or why it was refused. What it says is checked by
whoever reads it: it has handled the bytes of a stranger.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tarfile
import zlib
from pathlib import Path

import zstandard

from atoll.templates.images.archive import Bomb, LayerArchive
from atoll.templates.images.fence import run_fenced

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_ATTRIBUTE = "SCHILY.xattr."
_CAPABILITY = "security.capability"
_USER_ATTRIBUTES = "user."
_DEEPEST = 200
_LONGEST_PATH = 4000
_LONGEST_NAME = 255
_HIGHEST_ID = 65535
_LATEST = 1 << 33
_CHUNK = 1 << 20
_BLOCK = 64 << 10
"""What tarfile reads at a time; it copies what is left of it at each entry."""
_OVERHEAD = 4096
"""Bytes of headers that an entry may have on average, beside its content."""
_SLACK = 1 << 20
"""What an archive may be padded with."""


class Refused(Exception):
    """The archive does what no layer may do."""


class Unpacker:
    """Writes the entries of one archive below `/`."""

    def __init__(self, stream: LayerArchive, *, most_bytes: int, most_entries: int) -> None:
        self._stream = stream
        self._bytes_left = most_bytes
        self._entries_left = most_entries
        self._known = {""}
        """Directories that are really there."""
        self._times: list[tuple[str, float]] = []
        self.implied: list[str] = []
        """Directories that the archive counts on and does not have."""
        self.whiteouts: list[str] = []
        self.opaque: list[str] = []

    def unpack(self, archive: tarfile.TarFile) -> None:
        """Unpack all of it. Raises `Refused`, `OSError` and what reading a tar file raises."""
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            self._entries_left -= 1
            if self._entries_left < 0:
                raise Refused("it has too many entries")
            self._stream.allow(_OVERHEAD)
            self._put(archive, member)
        # What was put into a directory has changed its time.
        for path, moment in reversed(self._times):
            os.utime(f"/{path}", (moment, moment), follow_symlinks=False)

    def _put(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _clean(member.name)
        parent, _, name = path.rpartition("/")
        if name.startswith(_WHITEOUT):
            self._remember_whiteout(parent, name)
            return
        self._need(parent)
        target = f"/{path}"
        if member.isdir():
            self._make_directory(path, target)
        elif not path:
            raise Refused("its root is no directory")
        else:
            if member.ischr() or member.isblk():
                if path.startswith("dev/"):
                    return  # every sandbox has a /dev of its own
                raise Refused(f"{path!r} is a device file")
            self._clear(path, target)
            if self._make(archive, member, target):
                return
        self._dress(member, path, target)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> bool:
        """Make what is no directory; True when nothing is left to be done."""
        if member.isreg():
            self._write(archive, member, target)
        elif member.issym():
            os.symlink(member.linkname, target)
        elif member.islnk():
            self._link(member, target)
            return True  # its attributes are those of the file
        elif member.isfifo():
            os.mkfifo(target)
        else:
            raise Refused(f"{member.name!r} is of the unknown kind {member.type!r}")
        return False

    def _need(self, path: str) -> None:
        """Make sure that a directory and all above it are real ones, and in this layer."""
        if path in self._known:
            return
        above = path.rpartition("/")[0]
        self._need(above)
        try:
            mode = os.lstat(f"/{path}").st_mode
        except FileNotFoundError:
            os.mkdir(f"/{path}", 0o755)
            self.implied.append(path)
        else:
            if not stat.S_ISDIR(mode):
                raise Refused(f"{path!r} is used as a directory and is none")
        self._known.add(path)

    def _make_directory(self, path: str, target: str) -> None:
        if path in self._known:
            if path in self.implied[-1:]:
                self.implied.pop()
            return
        try:
            is_directory = stat.S_ISDIR(os.lstat(target).st_mode)
        except FileNotFoundError:
            os.mkdir(target, 0o755)
        else:
            if not is_directory:
                os.unlink(target)
                os.mkdir(target, 0o755)
        self._known.add(path)

    def _clear(self, path: str, target: str) -> None:
        """A later entry of the same name takes the place of an earlier one."""
        if path in self._known:
            raise Refused(f"{path!r} is a directory and something else as well")
        try:
            os.unlink(target)
        except FileNotFoundError:
            return

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
        self._bytes_left -= member.size
        if self._bytes_left < 0:
            raise Bomb
        source = archive.extractfile(member)
        assert source is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(target, flags, 0o600)
        try:
            left = member.size
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise Refused(f"it ends within {member.name!r}")
                left -= len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)

    def _link(self, member: tarfile.TarInfo, target: str) -> None:
        source = _clean(member.linkname)
        self._need(source.rpartition("/")[0])
        try:
            mode = os.lstat(f"/{source}").st_mode
        except FileNotFoundError:
            raise Refused(
                f"{member.name!r} is a link to {source!r}, which is not in the layer"
            ) from None
        if stat.S_ISDIR(mode):
            raise Refused(f"{member.name!r} is a hard link to a directory")
        os.link(f"/{source}", target, follow_symlinks=False)

    def _dress(self, member: tarfile.TarInfo, path: str, target: str) -> None:
        """Give it its owner, then what the kernel takes away at a change of owner, and its time."""
        if not (0 <= member.uid <= _HIGHEST_ID and 0 <= member.gid <= _HIGHEST_ID):
            raise Refused(
                f"{path!r} belongs to {member.uid}:{member.gid}, beyond the {_HIGHEST_ID} that"
                " sandboxes have"
            )
        os.chown(target, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(target, member.mode & 0o7777)
        for key, value in member.pax_headers.items():
            name = key.removeprefix(_ATTRIBUTE)
            wanted = name == _CAPABILITY or (name.startswith(_USER_ATTRIBUTES))
            if name != key and wanted and member.isreg():
                content = value.encode("utf-8", "surrogateescape")
                os.setxattr(target, name, content, follow_symlinks=False)
        moment = min(max(0.0, member.mtime), _LATEST) if member.mtime == member.mtime else 0.0
        if member.isdir():
            self._times.append((path, moment))
        else:
            os.utime(target, (moment, moment), follow_symlinks=False)

    def _remember_whiteout(self, parent: str, name: str) -> None:
        if name == _OPAQUE:
            self._need(parent)
            self.opaque.append(parent)
            return
        if name.startswith(_WHITEOUT * 2):
            return  # notes that aufs once made for itself
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            raise Refused(f"{name!r} hides nothing")
        self._need(parent)
        self.whiteouts.append(f"{parent}/{hidden}" if parent else hidden)


def _clean(name: str) -> str:
    """A path as its parts joined by single slashes; empty for the root. Raises `Refused`."""
    if name.startswith("/"):
        raise Refused(f"{name!r} is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"{name!r} leads out of the archive")
    path = "/".join(parts)
    if len(os.fsencode(path)) > _LONGEST_PATH or len(parts) > _DEEPEST:
        raise Refused("a path in it is too long")
    if "\0" in path or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
        raise Refused("a name in it is impossible")
    return path


def unpack(most_bytes: int, most_entries: int) -> dict[str, object]:
    """Unpack standard input below `/`; returns what is to be said of it."""
    try:
        stream = LayerArchive(sys.stdin.buffer, most=most_bytes + _SLACK)
        unpacker = Unpacker(stream, most_bytes=most_bytes, most_entries=most_entries)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as archive:
                unpacker.unpack(archive)
        except tarfile.ReadError:
            if os.fstat(0).st_size:
                raise  # else there is no entry at all: also a layer
        digest = stream.drain()
    except Refused as refusal:
        return {"refused": str(refusal)}
    except Bomb:
        return {"refused": f"there is more in it than {most_bytes >> 20} MiB"}
    except MemoryError:
        return {"refused": "reading it takes too much memory"}
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, EOFError, ValueError) as error:
        return {"refused": f"it is no archive: {error}"}
    except OSError as error:
        return {"failed": error.errno or 0, "refused": f"it can't be unpacked: {error}"}
    return {
        "digest": digest,
        "implied": unpacker.implied,
        "whiteouts": unpacker.whiteouts,
        "opaque": unpacker.opaque,
    }


def main() -> None:
    """Run the program."""
    directory, most_bytes, most_entries = sys.argv[1:]
    # What Python would otherwise import, or look up, when it is needed for the first time.
    for encoding in ("ascii", "latin-1", "utf-8"):
        b"".decode(encoding, "surrogateescape")

    def work() -> None:
        print(json.dumps(unpack(int(most_bytes), int(most_entries))))

    sys.exit(run_fenced(Path(directory), work))


if __name__ == "__main__":
    main()
