from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.isolation.driver import Egress
from atoll.isolation.handle import Grip
from atoll.isolation.records import Record, Records, boot_id, is_id, start_time


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = Records(tmp_path)
    egress = Egress(internet=False, allow=("1.2.3.4",), deny=("0.0.0.0/0",))
    record = Record("box", "100.64.0.2", "boot", 7, 8, "loop3", ready=True, egress=egress)
    records.write(record)
    assert records.read("box") == record
    assert records.names() == {"box"}
    assert records.has("box")
    records.remove("box")
    records.remove("box")
    assert not records.has("box")
    assert records.read("box") is None
    assert records.names() == set()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"egress": 1}', '{"egress": {}, "x": 1}'])
def test_a_damaged_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "record.json").write_text(text)
    assert Records(tmp_path).read("box") is None


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "A", "a.b", "a\n", "x" * 33])
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)


def test_a_grip_is_only_had_on_the_very_process() -> None:
    own = Record("box", "100.64.0.2", boot_id(), os.getpid(), start_time(os.getpid()))
    grip = Grip(own)
    assert grip.alive
    grip.close()
    other_boot = Record("box", own.address, "other", own.pid, own.started)
    other_start = Record("box", own.address, own.boot, own.pid, own.started + 1)
    for wrong in (other_boot, other_start):
        with pytest.raises(ProcessLookupError):
            Grip(wrong)
