"""The older Python SDK, whose routes differ: its tests run in an interpreter of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.clients.conftest import BIN, HERE


def test_python_2_45(either_environ: dict[str, str]) -> None:
    command: list[str | Path] = [
        BIN / "python",
        "-m",
        "pytest",
        "--noconftest",
        "-c",
        "/dev/null",
        "-q",
    ]
    command += ["--timeout", "60", "-p", "no:cacheprovider", HERE / "e2b_2_45.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=either_environ, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
