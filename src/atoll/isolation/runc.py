"""The OCI runtime, runc.

One command per sandbox: `runc run --detach`. Ending a sandbox needs none: killing its processes and
removing its control groups and runc's note of it is all that `runc delete` does, which takes 0.1 s
over it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
from pathlib import Path

from atoll.errors import HostError

_PROGRAM = "runc"
_SECONDS = 60.0
# More than two threads of Go only get in each other's way for a program this short.
_ENVIRONMENT = {"GOMAXPROCS": "2"}
# A user namespace takes over these limits of whoever makes it. What all sandboxes use together
# counts as used by root of the host, and no namespace may add to it above its own limit: so half of
# what root may have stays root's, however many user ids a sandbox spreads its use over.
_SHARED = {"sigpending": resource.RLIMIT_SIGPENDING, "msgqueue": resource.RLIMIT_MSGQUEUE}
_UNLIMITED_SHARE = 1 << 16


class Runc:
    """The runtime with a directory of its own for its notes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, sandbox_id: str, bundle: Path) -> int:
        """Run a bundle and return the pid of its first process. Blocks; raises `HostError`."""
        pid_file, log = bundle / "pid", bundle / "runc.log"
        command = [
            *("prlimit", *_halves(), _PROGRAM),
            *("--root", str(self._directory)),
            *("--log", str(log), "--log-format", "json"),
            *("run", "--detach", "--no-new-keyring"),
            *("--pid-file", str(pid_file), "--bundle", str(bundle), sandbox_id),
        ]
        try:
            # The first process gets these very descriptors as its own.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT},
            )
        except FileNotFoundError:
            remedy = "apt-get install util-linux"
            raise HostError("prlimit is not installed", remedy=remedy) from None
        if not _wait(process):
            raise HostError(f"runc did not finish within {_SECONDS:.0f} s")
        if process.returncode:
            raise HostError(f"runc failed: {_last_error(log) or process.returncode}")
        return int(pid_file.read_text())

    def names(self) -> set[str]:
        """The ids of all sandboxes that runc has notes of."""
        with contextlib.suppress(FileNotFoundError):
            return {path.name for path in self._directory.iterdir()}
        return set()

    def has(self, sandbox_id: str) -> bool:
        """Whether runc has notes of a sandbox."""
        return (self._directory / sandbox_id).exists()

    def forget(self, sandbox_id: str) -> None:
        """Remove runc's notes of a sandbox whose processes are dead."""
        shutil.rmtree(self._directory / sandbox_id, ignore_errors=True)

    def kill_strays(self) -> None:
        """Kill the commands of a server that died while they ran.

        They would go on to start sandboxes that nobody knows of.
        """
        ours = os.fsencode(self._directory)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                # Not the first word only: it may not have got past `prlimit` yet.
                if ours in words and any(
                    Path(os.fsdecode(each)).name == _PROGRAM for each in words
                ):
                    os.kill(int(entry.name), signal.SIGKILL)


def _halves() -> list[str]:
    """Options of `prlimit`: half of what this process, which is root's, may have."""
    found = []
    for name, number in _SHARED.items():
        soft, _ = resource.getrlimit(number)
        share = _UNLIMITED_SHARE if soft == resource.RLIM_INFINITY else soft // 2
        found.append(f"--{name}={share}:{share}")
    return found


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Wait for a command; kill it and return False when it takes too long.

    `Popen.wait` with a timeout sleeps and looks, in steps that grow to 50 ms: as long as the whole
    command takes.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        in_time = bool(poll.poll(_SECONDS * 1000))
    finally:
        os.close(descriptor)
    if not in_time:
        process.kill()
    process.wait()
    return in_time


def _last_error(log: Path) -> str:
    """What runc complained about last."""
    message = ""
    with contextlib.suppress(OSError):
        for line in log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                message = json.loads(line).get("msg", message)
    return message
