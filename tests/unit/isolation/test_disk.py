from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from atoll.errors import HostError
from atoll.isolation.disk import Disks, LoopDevice, lock_disk


def _attached(path: Path) -> bool:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().strip() == str(path):
                return True
        except OSError:
            continue
    return False


def test_a_disk_takes_up_little_until_it_is_written(tmp_path: Path) -> None:
    disks = Disks(tmp_path / "blank")
    disks.create(tmp_path / "one", 1024)
    disks.create(tmp_path / "two", 1024)
    for name in ("one", "two"):
        status = (tmp_path / name).stat()
        assert status.st_size == 1 << 30
        assert status.st_blocks * 512 < 2 << 20
    with (tmp_path / "one").open("rb") as one, (tmp_path / "two").open("rb") as two:
        assert one.read(1 << 20) == two.read(1 << 20)
    with pytest.raises(FileExistsError):
        disks.create(tmp_path / "one", 1024)


def test_an_impossible_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        Disks(tmp_path / "blank").create(tmp_path / "one", 0)
    assert list((tmp_path / "blank").iterdir()) == []


def test_a_loop_device_goes_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    Disks(tmp_path / "blank").create(path, 64)
    with LoopDevice(path) as one, LoopDevice(path) as other:
        assert one.name != other.name
        assert _attached(path)
        assert os.stat(one.name).st_rdev != 0
    deadline = time.monotonic() + 5
    while _attached(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shared_disk_has_one_device(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    Disks(tmp_path / "blank").create(path, 64)
    with LoopDevice(path, shared=True) as one:
        with LoopDevice(path, shared=True) as other:
            assert one.name == other.name
        assert lock_disk(path, 0) is None
        assert _attached(path)
    held = lock_disk(path, 5)  # the kernel lets go of it a little later
    assert held is not None
    path.unlink()
    path.write_bytes(b"")
    os.close(held)


def test_a_disk_that_was_removed_gets_no_device(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    Disks(tmp_path / "blank").create(path, 64)
    held = lock_disk(path, 0)
    assert held is not None
    failures: list[OSError] = []

    def attach() -> None:
        try:
            with LoopDevice(path, shared=True):
                pass
        except OSError as error:
            failures.append(error)

    attaching = threading.Thread(target=attach)
    attaching.start()
    time.sleep(0.05)
    path.unlink()
    os.close(held)
    attaching.join()
    assert [type(each) for each in failures] == [FileNotFoundError]
