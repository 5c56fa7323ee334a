"""A server that is killed while it builds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from atoll.templates import builds


def test_a_killed_build_leaves_no_process_and_nothing_that_counts(tmp_path: Path) -> None:
    code = f"""
import asyncio
from pathlib import Path
from atoll.templates.base import ensure_base
asyncio.run(ensure_base(Path({str(tmp_path)!r}), progress=lambda line: print(line, flush=True)))
"""
    base = tmp_path / "base"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if b"extracting" in line:
                break
        else:
            pytest.fail("the build ended by itself")
        assert any(base.glob(".building-*/rootfs"))
        server.kill()
    until = time.monotonic() + 10
    while any(base.glob(".building-*")):
        assert time.monotonic() < until
        builds.try_tidy(base)
        time.sleep(0.05)
    assert builds.read_builds(base) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
