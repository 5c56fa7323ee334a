"""What is written down holds no secret, and nothing that a database would choke on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.agent.model import ProcessConfig, ProcessEnd
from atoll.isolation.driver import Usage
from atoll.sandboxes.logbook import Logbook
from atoll.sandboxes.sampler import processor_percent
from atoll.store.database import Database
from atoll.store.logs import LogQuery, LogStore


@pytest.fixture
async def logbook(tmp_path: Path) -> AsyncIterator[Logbook]:
    database = Database(f"sqlite:///{tmp_path}/atoll.db")
    logbook = Logbook(LogStore(database, retention=60))
    yield logbook
    await logbook.close()
    database.close()


async def test_a_process(logbook: Logbook) -> None:
    config = ProcessConfig("/bin/bash", ("-c", "echo $A"), envs={"A": "geheim"}, cwd="/tmp")
    logbook.process_started("one", 7, config)
    logbook.process_ended("one", 7, ProcessEnd(-1, False, "signal: killed", "signal: killed"))
    started, ended = await logbook.find("one", LogQuery())
    assert started.message == "Process with pid 7 started"
    assert started.fields == {
        "logger": "process",
        "event_type": "process_start",
        "pid": "7",
        "command": "/bin/bash -c echo $A",
    }
    assert ended.fields["exit_code"] == "-1"
    assert ended.fields["status"] == "signal: killed"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\0b", "a␀b"),
        ("a\ud800b", "a?b"),
        ("ü" * 2048, "ü" * 2048),
        ("x" * 5000, "x" * 2047 + "…"),
    ],
    ids=["zero", "surrogate", "longest", "too long"],
)
async def test_odd_texts(logbook: Logbook, given: str, kept: str) -> None:
    logbook.record("one", given, command=given)
    (entry,) = await logbook.find("one", LogQuery())
    assert entry.message == entry.fields["command"] == kept


def test_how_busy_processors_were() -> None:
    def used(seconds: float) -> Usage:
        return Usage(seconds, 0, 0, 0, 0)

    assert processor_percent(used(1), used(3), 2, 2) == 50
    assert processor_percent(used(3), used(1), 2, 2) == 0  # the account began anew
    assert processor_percent(used(1), used(3), 0, 2) == 0
