"""Create, find, prolong and end, through the official SDK; and the rules that E2B's tests pin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from e2b import Sandbox, SandboxQuery, SandboxState
from e2b.exceptions import (
    AuthenticationException,
    SandboxException,
    SandboxNotFoundException,
    TimeoutException,
)

from tests.server import RunningServer, find_init, kill_process


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers) as client:
        yield client


def test_create_gives_what_the_sdk_needs(server: RunningServer, sandbox: Sandbox) -> None:
    assert sandbox.is_running()
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.name == "base"
    assert info.state == SandboxState.RUNNING
    assert info.envd_version == "0.6.7"
    assert (info.cpu_count, info.memory_mb) == (2, 1024)
    assert timedelta(seconds=110) < info.end_at - datetime.now(UTC) <= timedelta(seconds=120)
    assert sandbox.get_host(8000) == f"8000-{sandbox.sandbox_id}.localhost:{server.port}"


def test_metadata_and_envs(server: RunningServer) -> None:
    with Sandbox.create(
        metadata={"user": "ann b", "k=1": "v&2"}, envs={"GREETING": "hi there"}, **server.options
    ) as sandbox:
        assert sandbox.get_info().metadata == {"user": "ann b", "k=1": "v&2"}
        assert sandbox.commands.run("echo $GREETING $E2B_SANDBOX").stdout == "hi there true\n"
        assert sandbox.commands.run("echo $E2B_SANDBOX_ID").stdout.strip() == sandbox.sandbox_id
        written = sandbox.files.read("/run/e2b/.E2B_SANDBOX_ID")
        assert written.strip() == sandbox.sandbox_id
        # Per-command variables win, and do not stay.
        assert sandbox.commands.run("echo $GREETING", envs={"GREETING": "yo"}).stdout == "yo\n"
        assert sandbox.commands.run("echo $GREETING").stdout == "hi there\n"


def test_the_most_metadata_and_the_longest_variable(server: RunningServer) -> None:
    metadata = {"ä" * 100: "é" * ((65536 - 200) // 2)}
    envs = {"LONG": "x" * (131070 - 4)}
    with Sandbox.create(metadata=metadata, envs=envs, **server.options) as sandbox:
        assert sandbox.get_info().metadata == metadata
        # One byte more would be refused, as no program could be started with it.
        assert sandbox.commands.run("echo ${#LONG}").stdout == "131066\n"


def test_old_sdks_create_through_v1(server: RunningServer, api: httpx.Client) -> None:
    made = api.post("/sandboxes", json={"templateID": "base", "timeout": 60})
    assert made.status_code == 201
    body = made.json()
    assert "envdAccessToken" not in body  # `secure` was not asked for
    routed = {"E2b-Sandbox-Id": body["sandboxID"], "E2b-Sandbox-Port": "49983"}
    assert httpx.get(f"{server.url}/files?path=/etc/hostname", headers=routed).status_code == 200
    connected = api.post(f"/sandboxes/{body['sandboxID']}/connect", json={"timeout": 60})
    assert connected.status_code == 200
    assert api.delete(f"/sandboxes/{body['sandboxID']}").status_code == 204

    secured = api.post("/sandboxes", json={"templateID": "base", "secure": True}).json()
    assert secured["envdAccessToken"]
    api.delete(f"/sandboxes/{secured['sandboxID']}")


def test_connect_by_id(server: RunningServer, sandbox: Sandbox) -> None:
    sandbox.files.write("note", "from the first client")
    other = Sandbox.connect(sandbox.sandbox_id, **server.options)
    assert other.files.read("note") == "from the first client"


def test_connect_never_shortens(server: RunningServer, sandbox: Sandbox) -> None:
    before = sandbox.get_info().end_at
    Sandbox.connect(sandbox.sandbox_id, timeout=5, **server.options)
    assert sandbox.get_info().end_at == before
    Sandbox.connect(sandbox.sandbox_id, timeout=600, **server.options)
    assert sandbox.get_info().end_at > before + timedelta(seconds=400)


def test_refreshes_prolong(api: httpx.Client, sandbox: Sandbox) -> None:
    before = sandbox.get_info().end_at
    path = f"/sandboxes/{sandbox.sandbox_id}/refreshes"
    assert api.post(path, json={"duration": 10}).status_code == 204
    assert sandbox.get_info().end_at == before
    assert api.post(path, json={"duration": 900}).status_code == 204
    assert sandbox.get_info().end_at > before
    assert api.post(path, json={"duration": 3601}).status_code == 400


@pytest.mark.parametrize("timeout", [1, 2])
def test_the_deadline_is_kept_to_half_a_second(server: RunningServer, timeout: int) -> None:
    sandbox = Sandbox.create(timeout=300, **server.options)
    sandbox.set_timeout(timeout)
    began = time.monotonic()
    time.sleep(timeout - 0.3)
    assert sandbox.is_running()
    while sandbox.is_running():
        assert time.monotonic() - began < timeout + 0.5
        time.sleep(0.02)
    with pytest.raises(TimeoutException, match=r"was not found|reached its end of life"):
        sandbox.commands.run("true")


def test_timeout_zero_is_now(server: RunningServer) -> None:
    sandbox = Sandbox.create(**server.options)
    sandbox.set_timeout(0)
    deadline = time.monotonic() + 0.5
    while sandbox.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_is_final(server: RunningServer) -> None:
    sandbox = Sandbox.create(**server.options)
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert sandbox.is_running() is False
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()
    with pytest.raises(SandboxNotFoundException):
        sandbox.set_timeout(10)
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(sandbox.sandbox_id, **server.options)


def test_list_filters_order_and_pages(server: RunningServer, api: httpx.Client) -> None:
    mark = f"list-{time.time_ns()}"
    started = [
        Sandbox.create(metadata={"mark": mark, "n": str(number)}, **server.options)
        for number in range(5)
    ]
    ids = [each.sandbox_id for each in started]
    try:
        query = SandboxQuery(metadata={"mark": mark})
        pages = Sandbox.list(query=query, limit=2, **server.options)
        seen = []
        while pages.has_next:
            items = pages.next_items()
            assert len(items) <= 2
            seen += [item.sandbox_id for item in items]
        assert seen == ids[::-1]  # newest first

        rising = Sandbox.list(query=query, order="asc", **server.options).next_items()
        assert [item.sandbox_id for item in rising] == ids

        one = SandboxQuery(metadata={"mark": mark, "n": "3"})
        found = Sandbox.list(query=one, **server.options).next_items()
        assert [item.sandbox_id for item in found] == [ids[3]]

        since = started[2].get_info().started_at
        later = SandboxQuery(metadata={"mark": mark}, started_after=since)
        found = Sandbox.list(query=later, order="asc", **server.options).next_items()
        assert [item.sandbox_id for item in found] == ids[2:]

        paused = SandboxQuery(metadata={"mark": mark}, state=[SandboxState.PAUSED])
        assert Sandbox.list(query=paused, **server.options).next_items() == []
        for template, expected in (("base", 5), ("no-such-template", 0)):
            by_template = SandboxQuery(metadata={"mark": mark}, template=template)
            found = Sandbox.list(query=by_template, **server.options).next_items()
            assert len(found) == expected

        listed = api.get("/v2/sandboxes", params={"metadata": f"mark={mark}", "limit": 5})
        assert listed.headers["x-total-running"] == "5"
        assert "x-next-token" not in listed.headers
        old = api.get("/sandboxes", params={"metadata": f"mark={mark}"})
        assert [item["sandboxID"] for item in old.json()] == ids[::-1]
    finally:
        for each in started:
            each.kill()


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "-1"},
        {"limit": "1_0"},
        {"limit": ""},
        {"limit": "x"},
        {"order": "up"},
        {"state": "gone"},
        {"nextToken": "%%"},
        {"startedAfter": "yesterday"},
    ],
)
def test_list_refuses_nonsense(api: httpx.Client, params: dict[str, str]) -> None:
    answer = api.get("/v2/sandboxes", params=params)
    assert answer.status_code == 400
    assert answer.json()["code"] == 400
    assert next(iter(params)) in answer.json()["message"]


def test_keys(server: RunningServer) -> None:
    wrong = {**server.options, "api_key": "e2b_" + "0" * 40}
    with pytest.raises(AuthenticationException):
        Sandbox.create(**wrong)
    assert httpx.get(f"{server.url}/v2/sandboxes").status_code == 401
    made = server.atoll("keys", "create", "made-by-a-test")
    key = made.stdout.strip()
    assert made.returncode == 0
    assert len(key) == 44
    assert key.startswith("e2b_")
    with Sandbox.create(**{**server.options, "api_key": key}) as sandbox:
        assert sandbox.is_running()
    # Only the hash is kept.
    for file in server.data_dir.glob("atoll.db*"):
        assert key.encode() not in file.read_bytes()


def test_another_teams_sandbox_does_not_exist(server: RunningServer, sandbox: Sandbox) -> None:
    key = server.atoll("keys", "create", "foreign", "--team", "others").stdout.strip()
    foreign = {**server.options, "api_key": key}
    missing = "a" * 20
    for sandbox_id in (sandbox.sandbox_id, missing):
        path = f"{server.url}/sandboxes/{sandbox_id}"
        headers = {"X-API-Key": key}
        answers = [
            httpx.get(path, headers=headers),
            httpx.delete(path, headers=headers),
            httpx.post(f"{path}/timeout", headers=headers, json={"timeout": 1}),
            httpx.post(f"{path}/connect", headers=headers, json={"timeout": 1}),
            httpx.post(f"{path}/refreshes", headers=headers, json={}),
        ]
        for answer in answers:
            assert answer.status_code == 404
            assert answer.json()["message"] == f"sandbox {sandbox_id!r} was not found"
    assert Sandbox.list(**foreign).next_items() == []
    assert sandbox.is_running()


def test_unknown_template(server: RunningServer) -> None:
    with pytest.raises(SandboxException, match="no-such-template"):
        Sandbox.create("no-such-template", **server.options)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "templateID"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b'{"templateID": 5}', "templateID"),
        (b'{"templateID": "base", "timeout": -1}', "timeout"),
        (b'{"templateID": "base", "timeout": 999999}', "timeout"),
        (b'{"templateID": "base", "timeout": "soon"}', "timeout"),
        (b'{"templateID": "base", "metadata": {"a": 1}}', "metadata"),
        (b'{"templateID": "base", "metadata": {"a": "%s"}}' % (b"x" * 65536), "65536"),
        (b'{"templateID": "base", "envVars": {"A=B": "c"}}', "envVars"),
        (b'{"templateID": "base", "envVars": {"A": "%s"}}' % (b"x" * 131070), "131070"),
        (b'{"templateID": "base", "network": {"allowOut": ["nowhere"]}}', "nowhere"),
        (b'{"templateID": "base", "autoPause": true}', "autoPause"),
        (b'{"templateID": "base", "frobnicate": 1}', "frobnicate"),
        (b'{"templateID": "base", "allow_internet_acces": false}', "allow_internet_acces"),
        (b'{"templateID": "base", "network": {"denyOutt": ["0.0.0.0/0"]}}', "network.denyOutt"),
        (b'{"templateID": "base", "network": {"dnsServers": ["1.1.1.1"]}}', "dnsServers"),
        (b'{"templateID": "base", "network": {"httpsPorts": [8443]}}', "httpsPorts"),
        (b'{"templateID": "base", "autoResume": {"enable": true}}', "autoResume.enable"),
    ],
)
def test_a_bad_create_names_the_cause(api: httpx.Client, body: bytes, word: str) -> None:
    for path in ("/sandboxes", "/v2/sandboxes"):
        answer = api.post(path, content=body)
        assert answer.status_code == 400
        assert word in answer.json()["message"]


def test_every_end_is_recorded_with_its_reason(server: RunningServer) -> None:
    killed = Sandbox.create(**server.options)
    killed.kill()
    timed_out = Sandbox.create(**server.options)
    timed_out.set_timeout(0)
    crashed = Sandbox.create(**server.options)
    kill_process(find_init(server.data_dir, crashed.sandbox_id))
    expected = {
        killed.sandbox_id: "killed",
        timed_out.sandbox_id: "timeout",
        crashed.sandbox_id: "exited",
    }
    deadline = time.monotonic() + 10
    while (found := read_ends(server, list(expected))) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert crashed.kill() is False


def read_ends(server: RunningServer, ids: list[str]) -> dict[str, str | None]:
    """The reasons that the store has for these sandboxes."""
    import sqlite3

    with sqlite3.connect(server.data_dir / "atoll.db") as connection:
        rows = connection.execute(
            f"select sandbox_id, end_reason from sandboxes "
            f"where sandbox_id in ({','.join('?' * len(ids))})",
            ids,
        ).fetchall()
    connection.close()
    return dict(rows)
