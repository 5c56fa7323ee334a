"""The official package for JavaScript."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.server import RunningServer

CLIENTS = Path(__file__).parents[1] / "clients"
NODE = Path(__file__).parents[2] / ".venv-clients/bin/node"


def test_the_package_for_javascript(server: RunningServer, tmp_path: Path) -> None:
    assert NODE.exists(), "the clients are missing: run scripts/setup-tests"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("E2B_")},
        "HOME": str(tmp_path),
        "E2B_API_URL": server.url,
        "E2B_SANDBOX_URL": server.url,
        "E2B_API_KEY": server.api_key,
    }
    file = CLIENTS / "js/interpreter/interpreter.test.js"
    command: list[str | Path] = [
        NODE,
        "--test",
        "--test-reporter=tap",
        "--test-timeout=60000",
        "--test-force-exit",  # the package leaves a timer behind when a call times out
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^# (\w+) (\d+)$", done.stdout, re.M))
    assert counts["pass"] == counts["tests"] != "0", done.stdout
