"""Servers that the measurements talk to, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.templates.interpreter import NAME

TEMPLATES = os.environ.get("ATOLL_TEMPLATE_DIR", "/var/lib/atoll/templates")
"""Where built templates are shared."""


@dataclass(frozen=True)
class Target:
    """A running server, and how to reach it."""

    url: str
    api_key: str
    pid: int
    data_dir: Path

    @property
    def options(self) -> dict[str, Any]:
        """What the official SDK's methods take."""
        return {"api_url": self.url, "sandbox_url": self.url, "api_key": self.api_key}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ensure_interpreter() -> None:
    """Build the template of the code interpreter if it has to be."""
    environ = {"ATOLL_TEMPLATE_DIR": TEMPLATES, **os.environ}
    command = [sys.executable, "-m", "atoll", "template", "build", NAME]
    subprocess.run(command, check=True, env=environ)


@contextlib.contextmanager
def run_atoll(**settings: str | int) -> Iterator[Target]:
    """Run an Atoll server with these settings (`pool_size=8`); it leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as scratch:
        data_dir = Path(scratch)
        port = free_port()
        environ = {name: value for name, value in os.environ.items() if "ATOLL" not in name}
        environ["ATOLL_TEMPLATE_DIR"] = TEMPLATES
        environ |= {f"ATOLL_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "atoll", "serve", "--stop-sandboxes"]
        command += ["--port", str(port), "--data-dir", scratch]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            said = data_dir / "server.json"
            while not said.exists():
                if process.poll() is not None:
                    raise SystemExit("the server did not start: see above")
                time.sleep(0.05)
            api_key = (data_dir / "local.key").read_text().strip()
            url = json.loads(said.read_text())["url"]
            yield Target(url, api_key, process.pid, data_dir)
        finally:
            process.terminate()
            process.wait()


def wait_for_pool(target: Target, size: int) -> None:
    """Wait until so many sandboxes are ready, as the server has written down."""
    deadline = time.monotonic() + 120
    with contextlib.closing(sqlite3.connect(target.data_dir / "atoll.db")) as database:
        while time.monotonic() < deadline:
            query = "select count(*) from sandboxes where state = 'pooled'"
            if database.execute(query).fetchone()[0] >= size:
                time.sleep(1.0)
                return
            time.sleep(0.1)
    raise SystemExit("the pool did not fill")


@contextlib.contextmanager
def run_stub() -> Iterator[Target]:
    """Run the bare server of `bench.stub`."""
    with tempfile.TemporaryDirectory(prefix="atoll-stub-") as scratch:
        port = free_port()
        file = Path(scratch) / "file"
        process = subprocess.Popen([sys.executable, "-m", "bench.stub", str(port), str(file)])
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield Target(f"http://127.0.0.1:{port}", "e2b_" + "0" * 40, process.pid, Path(scratch))
        finally:
            process.terminate()
            process.wait()
