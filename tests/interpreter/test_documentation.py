"""What the page says is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import atoll.templates.interpreter as template
from tests.server import RunningServer

PAGE = (Path(__file__).parents[2] / "docs/interpreter.md").read_text()
_KERNELS = {"bash-kernel", "deno", "ipykernel", "jjava"}


def test_the_example(server: RunningServer, tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert example is not None
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("E2B_")},
        "E2B_API_URL": server.url,
        "E2B_SANDBOX_URL": server.url,
        "E2B_API_KEY": server.api_key,
    }
    command = [sys.executable, "-c", example[1]]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert f"`{line}`" in PAGE
    assert (tmp_path / "rain.png").read_bytes().startswith(b"\x89PNG")


def test_every_package_is_listed() -> None:
    wanted = (Path(template.__file__).parent / "packages.in").read_text()
    names = set(re.findall(r"^[a-z][a-z0-9-]+", wanted, re.M)) - _KERNELS
    listed = PAGE.split("packages.lock`):")[1].split("R has")[0]
    assert set(re.findall(r"`([a-z][a-z0-9-]+)`[,.]", listed)) == names
