"""The JS SDK: its tests are programs for Node.js's own test runner, one file per topic."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import BIN, HERE

FILES = sorted((HERE / "js").glob("*.test.js"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".test.js"))
def test_javascript(either_environ: dict[str, str], file: Path) -> None:
    command: list[str | Path] = [
        BIN / "node",
        "--test",
        "--test-reporter=tap",
        "--test-timeout=60000",
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=either_environ, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^# (\w+) (\d+)$", done.stdout, re.M))
    assert int(counts["pass"]) > 0
    assert counts["pass"] == counts["tests"], done.stdout
