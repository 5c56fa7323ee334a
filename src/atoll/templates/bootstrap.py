"""Installing a distribution's packages into an empty directory, with `mmdebstrap`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from atoll.errors import HostError
from atoll.templates.program import ProgramFailed, run
from atoll.templates.root import ENVIRONMENT, SKELETON

_ROOM_NEEDED = 3 << 30
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_UNREACHABLE = (
    *("could not resolve", "could not connect", "unable to connect", "failed to fetch"),
    *("temporary failure", "timed out", "network is unreachable", "connection refused"),
    *("newconnectionerror", "no matching distribution found"),
)
_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
_FULL = ("no space left on device", "disk quota exceeded")

_EVERY = 50
_STAGES = {"Get:": "fetched", "Unpacking ": "unpacked", "Setting up ": "set up"}


async def bootstrap(
    root: Path,
    *,
    codename: str,
    packages: Sequence[str],
    sources: str,
    progress: Callable[[str], None],
    held: Sequence[int] = (),
) -> None:
    """Make `root` (must not exist) a minimal Debian with `packages`.

    `sources` is the text of a `.sources` file; empty stands for Debian's default archive.
    `progress` gets the steps' lines and, while packages are installed, how many are.

    Raises `ProgramFailed`; nothing is left mounted and no process runs after that.
    """
    command = ["mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", "--verbose"]
    command += [f"--include={','.join(packages)}"]
    command += ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"']
    command += [f"--dpkgopt={SKELETON / 'etc/dpkg/dpkg.cfg.d/90sandbox'}"]
    command += [codename, str(root)]
    archive = root.parent / "debian.sources"
    if sources:
        archive.write_text(sources)
        command.append(str(archive))
    # Where it would leave things when killed, they go with the rest of the half-made build.
    temporary = root.parent / "tmp"
    temporary.mkdir()
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    await run(
        command,
        env={**ENVIRONMENT, **proxies, "TMPDIR": str(temporary)},
        on_line=_Narrator(progress).hear,
        alone=True,
        held=held,
    )
    shutil.rmtree(temporary)
    if sources:
        # mmdebstrap numbers the file that it makes of the text.
        for numbered in (root / "etc/apt/sources.list.d").glob("*debian.sources"):
            numbered.unlink()
        archive.rename(root / "etc/apt/sources.list.d/debian.sources")


class _Narrator:
    """Turns the thousand lines of an installation into a few that tell how far it is."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._counts = dict.fromkeys(_STAGES, 0)

    def hear(self, line: str) -> None:
        if line.startswith("I: "):
            self._progress(line[3:].rstrip("."))
        elif line.startswith("E: "):
            self._progress(line)
        for start, verb in _STAGES.items():
            if line.startswith(start):
                self._counts[start] += 1
                if self._counts[start] % _EVERY == 0:
                    self._progress(f"{self._counts[start]} packages {verb}")


def check_host(directory: Path) -> None:
    """Raise `HostError` when a build in `directory` has no chance on this machine."""
    if os.geteuid() != 0:
        raise HostError("templates can only be built by root", remedy="run it as root")
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise HostError(
                f"{program} is not installed",
                remedy=f"run scripts/setup, or: apt-get install {package}",
            )
    if shutil.disk_usage(directory).free < _ROOM_NEEDED:
        raise disk_full(directory)


def explain(failure: ProgramFailed, directory: Path) -> HostError:
    """The error, with a remedy, that a failed program of a build in `directory` stands for."""
    output = "\n".join(failure.output).lower()
    if any(sign in output for sign in _FULL):
        return disk_full(directory)
    if any(sign in output for sign in _UNREACHABLE):
        return HostError(
            f"a package archive can't be reached: {failure.last_words}",
            remedy="check that `apt-get update` and `pip download` work on this machine, and the "
            "proxy if it needs one, then try again",
        )
    if failure.last_words.startswith("unshare:"):
        return HostError(
            f"root can't make namespaces here: {failure.last_words}",
            remedy="run it on a whole machine, or in a container with --privileged",
        )
    return HostError(
        f"{failure.name} failed: {failure.last_words}",
        remedy="try again; if it fails again, report it with the lines above",
    )


def disk_full(directory: Path) -> HostError:
    """The error for a disk without room for a template."""
    return HostError(
        f"there is not enough room for a template in {directory}",
        remedy=f"make {_ROOM_NEEDED >> 30} GiB free there, or set ATOLL_TEMPLATE_DIR to a "
        "directory on another disk",
    )
