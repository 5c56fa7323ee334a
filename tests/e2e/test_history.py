"""Metrics, logs and events of sandboxes, as the SDK and plain clients read them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from e2b import AsyncSandbox, Sandbox
from e2b.exceptions import SandboxNotFoundException

from tests.server import RunningServer, find_init, run_server

T = TypeVar("T")


def wait_for(probe: Callable[[], T], seconds: float = 30) -> T:
    """Ask until the answer is something."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers) as client:
        yield client


def read_logs(api: httpx.Client, sandbox_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = api.get(f"/v2/sandboxes/{sandbox_id}/logs", params=query)
    assert answer.status_code == 200, answer.text
    logs: list[dict[str, Any]] = answer.json()["logs"]
    return logs


def test_metrics_through_the_sdk(server: RunningServer, sandbox: Sandbox) -> None:
    sandbox.files.write("big", b"x" * (8 << 20), user="user")
    began = datetime.now(UTC)
    wait_for(sandbox.get_metrics)
    # Until what was written shows: the file system allots blocks late.
    newest = wait_for(lambda: [each for each in sandbox.get_metrics() if each.disk_used > 8 << 20])
    metric = newest[-1]
    assert metric.cpu_count == 2
    assert 0 <= metric.cpu_used_pct <= 100
    assert 0 < metric.mem_used < metric.mem_total == 1 << 30
    assert metric.mem_cache >= 0
    assert metric.disk_used < metric.disk_total
    assert sandbox.get_metrics(end=began - timedelta(days=1)) == []
    assert sandbox.get_metrics(start=datetime.now(UTC) + timedelta(minutes=1)) == []
    exactly = sandbox.get_metrics(start=metric.timestamp, end=metric.timestamp)
    assert [each.timestamp for each in exactly] == [metric.timestamp]


async def test_metrics_through_the_async_sdk_outlive_the_sandbox(server: RunningServer) -> None:
    sandbox = await AsyncSandbox.create(timeout=120, **server.options)
    while not (found := await sandbox.get_metrics()):
        await asyncio.sleep(0.1)
    await sandbox.kill()
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as api:
        answer = await api.get(f"/sandboxes/{sandbox.sandbox_id}/metrics")
        assert answer.json()[0]["timestampUnix"] == int(found[0].timestamp.timestamp())
        # Only live ones are in the list of many.
        many = await api.get("/sandboxes/metrics", params={"sandbox_ids": sandbox.sandbox_id})
        assert many.json() == {"sandboxes": {}}


def test_metrics_of_many(api: httpx.Client, sandbox: Sandbox) -> None:
    wait_for(sandbox.get_metrics)
    ids = f"{sandbox.sandbox_id},unknown"
    found = api.get("/sandboxes/metrics", params={"sandbox_ids": ids}).json()["sandboxes"]
    assert set(found) == {sandbox.sandbox_id}
    assert found[sandbox.sandbox_id]["memTotal"] == 1 << 30
    assert api.get("/sandboxes/metrics").status_code == 400


def test_metrics_of_a_sandbox_that_is_unknown(server: RunningServer) -> None:
    with pytest.raises(SandboxNotFoundException):
        Sandbox.get_metrics("nothing0000000000000", **server.options)


@pytest.mark.parametrize("query", ["start=x", "start=-1", "end=1e9", "start=20&end=10"])
def test_intervals_that_make_no_sense(api: httpx.Client, sandbox: Sandbox, query: str) -> None:
    answer = api.get(f"/sandboxes/{sandbox.sandbox_id}/metrics?{query}")
    assert answer.status_code == 400


def test_a_busy_processor_shows(sandbox: Sandbox) -> None:
    sandbox.commands.run("while :; do :; done", background=True)
    busy = wait_for(lambda: [m for m in sandbox.get_metrics() if m.cpu_used_pct > 5])
    assert busy[-1].cpu_used_pct <= 100


def test_a_frozen_agent_delays_no_metrics(server: RunningServer, sandbox: Sandbox) -> None:
    pid = find_init(server.data_dir, sandbox.sandbox_id)
    os.kill(pid, signal.SIGSTOP)
    try:
        seen = len(sandbox.get_metrics())
        wait_for(lambda: len(sandbox.get_metrics()) > seen)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_processes_are_logged(api: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.commands.run("true # first", envs={"TOKEN": "geheim"})
    left = sandbox.commands.run("sleep 0.2; exit 3", background=True)
    left.disconnect()  # nobody listens any more: the end is logged all the same
    ends = wait_for(lambda: read_logs(api, sandbox.sandbox_id, search=f"{left.pid} ended"))
    assert ends[0]["fields"]["exit_code"] == "3"
    assert ends[0]["fields"]["status"] == "exit status 3"
    logs = read_logs(api, sandbox.sandbox_id)
    messages = [each["message"] for each in logs]
    assert messages[0] == "Sandbox created"
    assert messages[1].endswith("started")
    assert logs[1]["fields"]["command"] == "/bin/bash -l -c true # first"
    assert logs[1]["fields"]["event_type"] == "process_start"
    assert "geheim" not in json.dumps(logs)
    times = [each["timestamp"] for each in logs]
    assert times == sorted(times)


def test_an_end_is_logged_whenever_its_client_leaves(api: httpx.Client, sandbox: Sandbox) -> None:
    for number in range(150):  # just when it ends, some of them
        command = "true" if number % 2 else f"sleep 0.0{number % 9}"
        sandbox.commands.run(command, background=True).disconnect()
    wait_for(lambda: not sandbox.commands.list())
    wait_for(lambda: len(read_logs(api, sandbox.sandbox_id, search=" ended")) == 150)
    assert len(read_logs(api, sandbox.sandbox_id, search=" started")) == 150


def test_pages_of_logs(api: httpx.Client, sandbox: Sandbox) -> None:
    for number in range(3):
        sandbox.commands.run(f"true {number}")
    all_of_them = read_logs(api, sandbox.sandbox_id)
    assert read_logs(api, sandbox.sandbox_id, direction="backward") == all_of_them[::-1]
    assert read_logs(api, sandbox.sandbox_id, limit=2) == all_of_them[:2]
    assert read_logs(api, sandbox.sandbox_id, limit=0) == []
    assert read_logs(api, sandbox.sandbox_id, level="warn") == []
    assert read_logs(api, sandbox.sandbox_id, search="sandbox created") == []
    cursor = int(datetime.fromisoformat(all_of_them[3]["timestamp"]).timestamp() * 1000)
    later = read_logs(api, sandbox.sandbox_id, cursor=cursor)
    assert later == all_of_them[-len(later) :]
    assert all_of_them[3] in later
    earlier = read_logs(api, sandbox.sandbox_id, cursor=cursor, direction="backward")
    assert all_of_them[3] in earlier
    assert all_of_them[0] == earlier[-1]
    one = f"/v2/sandboxes/{sandbox.sandbox_id}/logs"
    for query in ("limit=1001", "level=loud", "direction=up", f"search={'x' * 257}", "cursor=x"):
        assert api.get(f"{one}?{query}").status_code == 400, query


def test_the_older_form_of_logs(api: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.commands.run("true")
    body = api.get(f"/sandboxes/{sandbox.sandbox_id}/logs").json()
    assert len(body["logs"]) == len(body["logEntries"]) == 3
    line = json.loads(body["logs"][1]["line"])
    # What the official command line reads of it.
    assert line["level"] == "info"
    assert line["logger"] == "process"
    start = int(datetime.fromisoformat(body["logs"][-1]["timestamp"]).timestamp() * 1000) + 1
    again = api.get(f"/sandboxes/{sandbox.sandbox_id}/logs", params={"start": start})
    assert again.json() == {"logs": [], "logEntries": []}


def test_events_of_a_life(server: RunningServer, api: httpx.Client) -> None:
    sandbox = Sandbox.create(timeout=60, metadata={"who": "me"}, **server.options)
    sandbox.set_timeout(90)
    sandbox.kill()
    path = f"/events/sandboxes/{sandbox.sandbox_id}"
    created, updated, killed = api.get(path, params={"orderAsc": "true"}).json()
    prefix = "sandbox.lifecycle."
    types = [each["type"].removeprefix(prefix) for each in (created, updated, killed)]
    assert types == ["created", "updated", "killed"]
    assert created["eventData"] == {"sandbox_metadata": {"who": "me"}}
    assert created["sandboxId"] == sandbox.sandbox_id
    assert set(created) == {
        *("version", "id", "type", "eventData", "timestamp"),
        *("sandboxBuildId", "sandboxExecutionId", "sandboxId", "sandboxTeamId"),
        "sandboxTemplateId",
    }
    assert len({each["sandboxExecutionId"] for each in (created, updated, killed)}) == 1
    set_to = datetime.fromisoformat(updated["eventData"]["set_timeout"])
    assert timedelta(seconds=60) < set_to - datetime.now(UTC) < timedelta(seconds=91)
    execution = killed["eventData"]["execution"]
    assert (execution["vcpu_count"], execution["memory_mb"]) == (2, 1024)
    assert execution["execution_time"] > 0
    assert datetime.fromisoformat(execution["started_at"])
    # Newest first unless asked otherwise, and pages.
    assert api.get(path).json() == [killed, updated, created]
    assert api.get(path, params={"offset": 1, "limit": 1}).json() == [updated]
    assert api.get(path, params={"types": [f"{prefix}killed", f"{prefix}created"]}).json() == [
        killed,
        created,
    ]
    assert api.get("/events/sandboxes", params={"limit": 1}).json() == [killed]
    for query in ("limit=0", "limit=101", "types=killed", "orderAsc=perhaps", "offset=-1"):
        assert api.get(f"{path}?{query}").status_code == 400, query
    # What it did is still told, and nothing of it that was secret is kept.
    assert read_logs(api, sandbox.sandbox_id)[-1]["fields"]["reason"] == "killed"


def test_another_teams_history(server: RunningServer, sandbox: Sandbox) -> None:
    made = server.atoll("keys", "create", "other", "--team", "history-others")
    key = next(word for word in made.stdout.split() if word.startswith("e2b_"))
    with httpx.Client(base_url=server.url, headers={"X-API-Key": key}) as stranger:
        for path in ("metrics", "logs"):
            theirs = stranger.get(f"/sandboxes/{sandbox.sandbox_id}/{path}")
            nobodys = stranger.get(f"/sandboxes/00000000000000000000/{path}")
            assert theirs.status_code == nobodys.status_code == 404
            assert theirs.text.replace(sandbox.sandbox_id, "") == nobodys.text.replace("0" * 20, "")
        assert stranger.get(f"/events/sandboxes/{sandbox.sandbox_id}").json() == []
        ids = {"sandbox_ids": sandbox.sandbox_id}
        assert stranger.get("/sandboxes/metrics", params=ids).json() == {"sandboxes": {}}


def test_team_metrics(api: httpx.Client, sandbox: Sandbox) -> None:
    event = api.get(f"/events/sandboxes/{sandbox.sandbox_id}").json()[0]
    team = event["sandboxTeamId"]
    since = int(datetime.fromisoformat(event["timestamp"]).timestamp())
    path = f"/teams/{team}/metrics"
    samples = wait_for(lambda: api.get(path, params={"start": since}).json(), 60)
    assert samples[0]["concurrentSandboxes"] >= 1
    assert samples[0]["sandboxStartRate"] > 0
    most = api.get(f"{path}/max", params={"start": since, "metric": "concurrent_sandboxes"}).json()
    assert most["value"] >= samples[0]["concurrentSandboxes"]
    assert api.get(path, params={"end": since - 86400}).json() == []
    nothing = f"start={1 << 40}&end={1 << 41}&metric=sandbox_start_rate"
    none = api.get(f"{path}/max?{nothing}").json()
    assert (none["value"], datetime.fromisoformat(none["timestamp"]).timestamp()) == (
        0,
        none["timestampUnix"],
    )
    assert api.get(f"{path}/max", params={"metric": "beauty"}).status_code == 400
    assert api.get("/teams/another/metrics").status_code == 403


def test_history_survives_a_crash(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=0, stop_sandboxes=False) as server:
        sandbox = Sandbox.create(timeout=120, **server.options)
        left = sandbox.commands.run("while [ ! -e /tmp/go ]; do sleep 0.1; done", background=True)
        left.disconnect()
        metrics = wait_for(sandbox.get_metrics)
        with httpx.Client(base_url=server.url, headers=server.headers) as api:
            logs = read_logs(api, sandbox.sandbox_id)
        server.kill()
        server.start(stop_sandboxes=True)
        with httpx.Client(base_url=server.url, headers=server.headers) as api:
            assert sandbox.get_metrics()[: len(metrics)] == metrics
            assert read_logs(api, sandbox.sandbox_id)[: len(logs)] == logs
            # What was running is followed on.
            sandbox.commands.run("touch /tmp/go")
            wait_for(lambda: read_logs(api, sandbox.sandbox_id, search=f"{left.pid} ended"))
            (event,) = api.get(f"/events/sandboxes/{sandbox.sandbox_id}").json()
            assert event["type"] == "sandbox.lifecycle.created"
