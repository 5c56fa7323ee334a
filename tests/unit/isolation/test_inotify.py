from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import HostError
from atoll.isolation.inotify import low_limits, raise_limits


def test_only_what_is_too_low_is_raised(tmp_path: Path) -> None:
    instances, watches = tmp_path / "max_user_instances", tmp_path / "max_user_watches"
    instances.write_text("128\n")
    watches.write_text("2147483647\n")
    assert list(low_limits(tmp_path)) == [instances]
    raise_limits(tmp_path)
    assert int(instances.read_text()) >= 1 << 20
    assert watches.read_text() == "2147483647\n"
    assert low_limits(tmp_path) == {}


def test_a_kernel_without_it_needs_nothing(tmp_path: Path) -> None:
    raise_limits(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_raised_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "max_user_instances").write_text("128\n")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(HostError) as caught:
        raise_limits(tmp_path)
    assert caught.value.remedy is not None
    assert "sysctl -w fs.inotify.max_user_instances" in caught.value.remedy
