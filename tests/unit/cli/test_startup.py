"""The command line starts fast: what only some commands need, only those import."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {
    *("aiohttp", "connectrpc", "cryptography", "e2b", "pydantic_settings", "rich", "sqlalchemy"),
    *("starlette", "structlog", "uvicorn", "uvloop"),
}


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    program = "import sys, atoll.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    found = HEAVY & set(told.stdout.split())
    assert not found, f"import {sorted(found)} inside the functions that need them"
