"""The private runtime directory: an interpreter for the agent that needs nothing of any image.

It holds the interpreter this process runs on, its loader and shared libraries, the few modules that
the guest program imports, and the guest program; about 10 MB. The isolation driver mounts it
read-only at `MOUNT_POINT` in every sandbox, so that one copy in the page cache serves all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from atoll.errors import HostError

MOUNT_POINT = "/.atoll"
"""Where the directory is mounted in a sandbox."""

_FORMAT = 1
"""Raised when this module lays the directory out differently."""
_HERE = Path(__file__).parent
_START = "import sys\nfrom guest.main import main\nmain(sys.argv[1:])\n"
_PRELOAD = b"/etc/ld.so.preload\0"
_NO_PRELOAD = b"/.atoll/ld.preload\0"
_INTERPRETER_SEGMENT = 3
_LIBRARY_LINE = re.compile(r"^\s*(?P<name>\S+) => (?P<path>/.+) \(0x[0-9a-f]+\)$")


def agent_command(at: str = MOUNT_POINT) -> tuple[str, ...]:
    """The command that starts the agent, for a runtime directory mounted at `at`.

    Further arguments: `--name NAME` of the abstract socket.
    """
    return (
        f"{at}/lib/ld.so",
        "--library-path",
        f"{at}/lib",
        f"{at}/bin/python3",
        *("-S", "-E", "-I", "-B"),
        *("-X", "utf8"),
        f"{at}/agent.py",
    )


def build_runtime(directory: Path) -> Path:
    """Return the runtime directory below `directory`, made if it is not there yet.

    Its name is a digest of all it is made from: a new agent or interpreter gets a new one, and
    those that running sandboxes use stay as they are. Several processes may call this at once.
    Raises `HostError` when the interpreter cannot be packed.
    """
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    loader = _find_loader(python)
    libraries = _list_libraries(loader, python)
    target = directory / _digest([python, loader, *libraries])
    if target.is_dir():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=directory))
    try:
        _fill(building, python, loader, libraries)
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():  # Else another process was faster.
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _fill(target: Path, python: Path, loader: Path, libraries: set[Path]) -> None:
    library = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    library.mkdir(parents=True)
    (target / "bin").mkdir()
    shutil.copyfile(python, target / "bin" / "python3")
    try:
        collected = subprocess.run(
            [
                *(python, "-I", "-S", "-B", "-X", "no_debug_ranges"),
                *(_HERE / "collect.py", _HERE, library),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (subprocess.SubprocessError, OSError) as error:
        details = getattr(error, "stderr", None) or error
        raise HostError(f"cannot pack the interpreter {python}: {details}") from error
    for extension in collected.stdout.split("\n"):
        if extension:
            libraries = libraries | _list_libraries(loader, Path(extension))
    for path in libraries:
        shutil.copyfile(path, target / "lib" / path.name)
    # An image's preload list names the image's libraries, which do not fit this interpreter. The
    # loader has no option to pass it over, so its copy looks in the (read-only) runtime directory.
    (target / "lib" / "ld.so").write_bytes(loader.read_bytes().replace(_PRELOAD, _NO_PRELOAD))
    (target / "agent.py").write_text(_START)
    _settle(target)


def _settle(target: Path) -> None:
    """Give everybody the rights to use it, and the disk the content, before it gets its name."""
    runnable = {target / "bin" / "python3", target / "lib" / "ld.so"}
    for folder, _, files in os.walk(target):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if path in runnable else 0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _digest(parts: list[Path]) -> str:
    digest = hashlib.sha256(f"{_FORMAT}\0{sys.version}\0{_START}".encode())
    for path in sorted(parts):
        info = path.stat()
        digest.update(f"{path}\0{info.st_size}\0{info.st_mtime_ns}\0".encode())
    for path in sorted([_HERE / "collect.py", *(_HERE / "guest").glob("*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _find_loader(binary: Path) -> Path:
    """Read which program loader an ELF binary asks for."""
    with binary.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            raise HostError(f"{binary} is not a 64-bit ELF program")
        order = "<" if head[5] == 1 else ">"
        (offset,) = struct.unpack_from(f"{order}Q", head, 32)
        size, count = struct.unpack_from(f"{order}HH", head, 54)
        file.seek(offset)
        table = file.read(size * count)
        for start in range(0, len(table), size):
            (kind,) = struct.unpack_from(f"{order}I", table, start)
            if kind == _INTERPRETER_SEGMENT:
                (where,) = struct.unpack_from(f"{order}Q", table, start + 8)
                (length,) = struct.unpack_from(f"{order}Q", table, start + 32)
                file.seek(where)
                return Path(os.fsdecode(file.read(length).rstrip(b"\0"))).resolve()
    raise HostError(f"{binary} is statically linked: it cannot be packed for sandboxes")


def _list_libraries(loader: Path, binary: Path) -> set[Path]:
    """Ask the loader which shared libraries a binary takes, the indirect ones included.

    The paths keep the names that the binaries ask for (`libc.so.6`).
    """
    try:
        listing = subprocess.run(
            [loader, "--list", binary], check=True, capture_output=True, text=True, timeout=30
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise HostError(f"cannot list the libraries of {binary}: {error}") from error
    found = set()
    for line in listing.stdout.splitlines():
        match = _LIBRARY_LINE.match(line)
        if match and Path(match["path"]).resolve() != loader:
            found.add(Path(match["path"]))
    return found
