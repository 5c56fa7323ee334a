"""Shifting a tree into the sandboxes' range of ids. Needs root, as all of Atoll."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from atoll.isolation.bundle import ID_BASE
from atoll.templates.ownership import shift

NET_RAW = 1 << 13
CAPABILITY = "security.capability"


def ids(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_everything_moves_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    root = tmp_path / "root"
    (root / "home/user").mkdir(parents=True)
    os.chown(root / "home/user", 1000, 1001)
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe")
    assert shift(root) == 6
    assert ids(root) == ids(root / "link") == ids(root / "pipe") == (ID_BASE, ID_BASE)
    assert ids(root / "home/user") == (ID_BASE + 1000, ID_BASE + 1001)
    assert ids(outside) == (0, 0)


def test_a_file_with_two_names_moves_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("")
    os.link(tmp_path / "one", tmp_path / "two")
    shift(tmp_path, by=5)
    assert ids(tmp_path / "one") == ids(tmp_path / "two") == (5, 5)
    assert (tmp_path / "one").stat().st_nlink == 2


def test_set_id_and_sticky_bits_stay(tmp_path: Path) -> None:
    modes = {"suid": 0o4755, "sgid": 0o2755, "both": 0o6711, "plain": 0o640}
    for name, mode in modes.items():
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    shift(tmp_path)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {**modes, "tmp": 0o1777, "shared": 0o2775}


def test_file_capabilities_hold_in_the_namespace(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"")
    program.chmod(0o755)
    # linux/capability.h: revision 2 with the effective flag; permitted and inheritable, low, high
    os.setxattr(program, CAPABILITY, struct.pack("<5I", 0x02000001, NET_RAW, 0, 0, 0))
    shift(tmp_path)
    value = struct.pack("<6I", 0x03000001, NET_RAW, 0, 0, 0, ID_BASE)
    assert os.getxattr(program, CAPABILITY) == value


def test_an_id_beyond_the_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "far").write_text("")
    os.chown(tmp_path / "far", 70_000, 0)
    with pytest.raises(ValueError, match="70000"):
        shift(tmp_path)
