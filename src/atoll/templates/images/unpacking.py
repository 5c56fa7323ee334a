"""From the archive of an image's layer to a directory that an overlay can stand on.

A fenced process writes the files (`unpacker`). What only the host may do is done here afterwards,
when nothing changes any more: marking in the overlay's way what the layer hides of those below.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import atoll
from atoll.errors import HostError, InvalidInput, NoSpace
from atoll.isolation.bundle import ID_BASE
from atoll.isolation.namespaces import open_beneath

MAX_ENTRIES = 1_000_000
"""Files, directories and links of one layer."""
MAX_SECONDS = 1800.0

_SAYS_BYTES = 256 << 20
_ERROR_BYTES = 4000
_OPAQUE = "trusted.overlay.opaque"
_SOURCES = Path(atoll.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Report:
    """What the fenced process says of a layer."""

    digest: str
    implied: tuple[str, ...]
    whiteouts: tuple[str, ...]
    opaque: tuple[str, ...]


async def unpack_layer(
    archive: Path, directory: Path, *, below: Sequence[Path], most_bytes: int
) -> str:
    """Unpack an archive (tar, as it is or compressed) into `directory`, which must not exist.

    `below` are the layers that it comes upon, the topmost first. Returns the SHA-256 of the
    unpacked archive. Raises `InvalidInput` for an archive that does what it may not, `NoSpace`,
    `HostError`; what is in the directory then is for the caller to remove.
    """
    await asyncio.to_thread(_make_root, directory)
    report = _read_report(await _run(archive, directory, most_bytes))
    await asyncio.to_thread(_finish, directory, report, below)
    return report.digest


def _make_root(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    os.chown(directory, ID_BASE, ID_BASE)


async def _run(archive: Path, directory: Path, most_bytes: int) -> dict[str, Any]:
    with archive.open("rb") as source:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-B", "-X", "utf8", "-m", "atoll.templates.images.unpacker"),
            *(str(directory), str(most_bytes), str(MAX_ENTRIES)),
            stdin=source,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(_SOURCES), "PATH": os.defpath},
            limit=_SAYS_BYTES,
        )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(MAX_SECONDS):
            said, errors = await asyncio.gather(
                process.stdout.readline(), process.stderr.read(_ERROR_BYTES)
            )
            status = await process.wait()
        if status != 0:
            reason = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise HostError(f"the program that unpacks layers ended with {status}: {reason}")
        answer = json.loads(said)
    except TimeoutError:
        raise InvalidInput(f"unpacking a layer took more than {MAX_SECONDS:g} s") from None
    except ValueError:  # more than it may say, or no JSON
        raise InvalidInput("the archive of the layer can't be unpacked") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not isinstance(answer, dict):
        raise InvalidInput("the archive of the layer can't be unpacked")
    return answer


def _read_report(answer: dict[str, Any]) -> Report:
    if "refused" in answer:
        if answer.get("failed") in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                "the disk is full: the image does not fit",
                remedy="make room, or name another place with ATOLL_TEMPLATE_DIR",
            )
        raise InvalidInput(f"the archive of a layer is refused: {answer['refused']}")
    lists = [answer.get(name) for name in ("implied", "whiteouts", "opaque")]
    if not isinstance(answer.get("digest"), str) or not all(
        isinstance(each, list) and all(isinstance(path, str) for path in each) for each in lists
    ):
        raise InvalidInput("the archive of the layer can't be unpacked")
    return Report(answer["digest"], *(tuple(each or ()) for each in lists))


def _finish(directory: Path, report: Report, below: Sequence[Path]) -> None:
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    lower = [os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for layer in below]
    try:
        for path in report.implied:
            _dress_implied(root, path, lower)
        for path in report.opaque:
            _mark_opaque(root, path)
        for path in report.whiteouts:
            _hide(root, path)
    except OSError as error:
        raise InvalidInput(f"the archive of a layer is refused: {error}") from error
    finally:
        for descriptor in (root, *lower):
            os.close(descriptor)


def _dress_implied(root: int, path: str, lower: Sequence[int]) -> None:
    """A directory that the layer has only for what is in it looks as it does in those below."""
    for layer in lower:
        try:
            found = open_beneath(layer, path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            status = os.fstat(found)
        finally:
            os.close(found)
        break
    else:
        return
    if not stat.S_ISDIR(status.st_mode):
        return
    descriptor = open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    finally:
        os.close(descriptor)


def _mark_opaque(root: int, path: str) -> None:
    descriptor = open_beneath(root, path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.setxattr(descriptor, _OPAQUE, b"y")
    finally:
        os.close(descriptor)


def _hide(root: int, path: str) -> None:
    """Put the overlay's mark for something that is there below and is not here."""
    parent, _, name = path.rpartition("/")
    descriptor = open_beneath(root, parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=descriptor)
    except FileExistsError:
        # The layer has something of that name, which hides what is below unless both are
        # directories.
        with contextlib.suppress(NotADirectoryError):
            _mark_opaque(root, path)
    finally:
        os.close(descriptor)
