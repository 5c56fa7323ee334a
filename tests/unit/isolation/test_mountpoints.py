from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import InvalidInput
from atoll.isolation.mountpoints import resolve_mount_points


def test_links_are_followed_within_the_root(tmp_path: Path) -> None:
    (tmp_path / "opt/deep").mkdir(parents=True)
    (tmp_path / "absolute").symlink_to("/opt")
    (tmp_path / "up").symlink_to("../../../opt/deep")
    paths = ["/data", "/absolute/a/b", "/up/c", "/opt/other/"]
    found = resolve_mount_points(tmp_path, paths)
    assert found == ["/data", "/opt/a/b", "/opt/deep/c", "/opt/other"]
    assert resolve_mount_points(tmp_path, []) == []


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("all", "/", "/all"),
        ("proc", "/proc", "/proc-not/../proc"),
        ("way", "/run", "/way"),
        ("way", "/run", "/way/e2b/x"),
        ("way", "/nowhere", "/way"),
        ("way", "way", "/way/x"),
        ("way", "/file", "/way"),
        ("way", "/file", "/way/x"),
    ],
)
def test_where_a_link_must_not_lead(tmp_path: Path, link: str, target: str, path: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / link).symlink_to(target)
    with pytest.raises(InvalidInput):
        resolve_mount_points(tmp_path, [path])


def test_what_the_sandbox_needs_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    needed = "/usr /bin /bin/x /sbin /lib /lib64 /usr/lib/x /etc /etc/x /run /run/x /proc /sys /dev"
    for path in needed.split():
        with pytest.raises(InvalidInput, match="the sandbox needs it"):
            resolve_mount_points(tmp_path, [path])
    free = ["/home/user/x", "/mnt/x", "/data", "/usr/local/share/x", "/usr/src/app", "/library"]
    assert resolve_mount_points(tmp_path, free) == free


def test_two_ways_to_one_place(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    for paths in (["/data", "/link"], ["/link/inner", "/data"], ["/data", "/data/inner"]):
        with pytest.raises(InvalidInput):
            resolve_mount_points(tmp_path, paths)
    assert resolve_mount_points(tmp_path, ["/data", "/data2"]) == ["/data", "/data2"]
