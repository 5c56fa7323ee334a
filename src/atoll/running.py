"""The running server, as other programs on the same machine find it.

Imports next to nothing: the command line starts with it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DATA_DIR = Path("/var/lib/atoll")
LOCAL_KEY_FILE = "local.key"
SERVER_FILE = "server.json"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What a running server says of itself to programs on the same machine."""

    pid: int
    url: str
    domain: str
    api_key: str
    trust: str = ""
    """A file with the authorities that its clients have to trust, unless they do already."""


def locate_data_dir(flag: Path | None) -> Path:
    """The data directory that a flag names, else the environment, else the default."""
    return Path(flag or os.environ.get("ATOLL_DATA_DIR") or DEFAULT_DATA_DIR)


def find_server(data_dir: Path) -> RunningServer | None:
    """Return the server that runs on this data directory and is ready, or None."""
    try:
        said = json.loads((data_dir / SERVER_FILE).read_text())
        if said.pop("started") != read_start_time(said["pid"]):
            return None  # the number is another process's by now
        api_key = (data_dir / LOCAL_KEY_FILE).read_text().strip()
    except (OSError, ValueError):
        return None
    return RunningServer(**said, api_key=api_key)


def read_start_time(pid: int) -> str:
    """When a process started, in ticks since boot. Raises `OSError` when there is none."""
    # Field 22 of stat; the name before it may hold spaces and brackets.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
