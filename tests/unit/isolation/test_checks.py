from __future__ import annotations

from pathlib import Path

import pytest

from atoll.isolation.checks import check_host


async def test_this_machine_has_all_that_is_needed(tmp_path: Path) -> None:
    assert await check_host(tmp_path / "not" / "there") == []


async def test_missing_programs_are_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {problem.name: problem.fix for problem in await check_host(tmp_path)}
    assert found == {
        "runc": "apt-get install runc",
        "nft": "apt-get install nftables",
        "mkfs.ext4": "apt-get install e2fsprogs",
        "prlimit": "apt-get install util-linux",
    }
