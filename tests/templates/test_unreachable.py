"""A machine without network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.errors import HostError
from atoll.templates.base import ensure_base
from atoll.templates.bootstrap import bootstrap, explain
from atoll.templates.program import ProgramFailed

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.setenv("PIP_RETRIES", "0")


async def test_an_unreachable_index_ends_the_build_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(HostError) as raised:
        await ensure_base(tmp_path, progress=print)
    assert "can't be reached" in raised.value.message
    assert "pip download" in (raised.value.remedy or "")
    assert os.listdir(tmp_path / "base") == [".lock"]


async def test_an_unreachable_archive_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed) as raised:
        await bootstrap(
            tmp_path / "root", codename="bookworm", packages=("bash",), sources="", progress=print
        )
    error = explain(raised.value, tmp_path)
    assert "can't be reached: E: Failed to fetch" in error.message
    assert "apt-get update" in (error.remedy or "")
