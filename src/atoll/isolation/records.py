"""What a server notes down about each sandbox, for the server that comes after it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from atoll.isolation.driver import Egress

_NAME = re.compile("[a-z0-9]{1,32}")
_FILE = "record.json"


def boot_id() -> str:
    """Names this run of the kernel: process numbers mean nothing across two of them."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int:
    """When a process was started, in clock ticks since the boot; with the pid, its identity.

    Raises OSError when there is no such process.
    """
    # The second field is the program's name, in parentheses, and may contain anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19])


@dataclass(slots=True)
class Record:
    """One sandbox, as written down."""

    sandbox_id: str
    address: str
    boot: str
    pid: int = 0
    """0 until its first process runs."""
    started: int = 0
    loop: str = ""
    """The name of its block device, such as `loop7`."""
    ready: bool = False
    """Whether it was ever handed out."""
    egress: Egress = field(default_factory=Egress)


class Records:
    """The records in a directory, one subdirectory for each sandbox."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def directory(self, sandbox_id: str) -> Path:
        """Where all files of a sandbox are."""
        return self._directory / sandbox_id

    def names(self) -> set[str]:
        """The ids of all sandboxes of which there are files."""
        with contextlib.suppress(FileNotFoundError):
            return {path.name for path in self._directory.iterdir() if is_id(path.name)}
        return set()

    def has(self, sandbox_id: str) -> bool:
        """Whether there are files of a sandbox."""
        return self.directory(sandbox_id).exists()

    def write(self, record: Record) -> None:
        """Write a record; whoever reads sees all of it or the one before."""
        directory = self.directory(record.sandbox_id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = directory / f"{_FILE}.new"
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(directory / _FILE)

    def read(self, sandbox_id: str) -> Record | None:
        """Read a record; None when there is none that can be read."""
        try:
            fields = json.loads((self.directory(sandbox_id) / _FILE).read_text())
            egress = fields.pop("egress")
            return Record(
                **fields,
                egress=Egress(egress["internet"], tuple(egress["allow"]), tuple(egress["deny"])),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, sandbox_id: str) -> None:
        """Remove all files of a sandbox. Raises OSError when some stay."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory(sandbox_id))


def is_id(text: str) -> bool:
    """Whether a text can be the id of a sandbox: safe as the name of a file and of anything."""
    return _NAME.fullmatch(text) is not None
