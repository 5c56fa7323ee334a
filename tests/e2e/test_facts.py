"""Exact codes, bodies and phrases that the official clients build on, over plain HTTP.

What is asserted elsewhere (the wire of envd in tests/unit/doors, life cycle and lists beside this
file) is not repeated here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from e2b import FileType, Sandbox, SandboxQuery
from e2b.exceptions import SandboxException, SandboxNotFoundException

from tests.server import RunningServer

MISSING = "a" * 20


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers) as client:
        yield client


def lives_for(api: httpx.Client, sandbox_id: str) -> timedelta:
    """How long it has still to live."""
    end = datetime.fromisoformat(api.get(f"/sandboxes/{sandbox_id}").json()["endAt"])
    return end - datetime.now(UTC)


def test_create_v2(server: RunningServer, api: httpx.Client) -> None:
    answer = api.post("/v2/sandboxes", json={"templateID": "base", "metadata": {}, "envVars": {}})
    assert answer.status_code == 201
    made = answer.json()
    try:
        for name in ("templateID", "sandboxID", "clientID", "envdAccessToken", "domain"):
            assert isinstance(made[name], str), name
            assert made[name], name
        assert made["envdVersion"] == "0.6.7"
        assert made["domain"] == f"localhost:{server.port}"
        # Clients leave out `timeout` and mean five minutes.
        assert timedelta(seconds=290) < lives_for(api, made["sandboxID"]) <= timedelta(seconds=300)
    finally:
        assert api.delete(f"/sandboxes/{made['sandboxID']}").status_code == 204


def test_create_v1_lives_for_15_seconds(api: httpx.Client) -> None:
    made = api.post("/sandboxes", json={"templateID": "base"}).json()
    assert lives_for(api, made["sandboxID"]) <= timedelta(seconds=15)
    api.delete(f"/sandboxes/{made['sandboxID']}")


def test_a_day_may_be_asked_for(server: RunningServer) -> None:
    # Agent frameworks do, of their own accord.
    with Sandbox.create(timeout=86400, **server.options) as sandbox:
        info = sandbox.get_info()
        assert info.end_at - info.started_at >= timedelta(seconds=86399)


@pytest.mark.parametrize("path", ["/sandboxes/{}/connect", "/v2/sandboxes/{}/connect"])
def test_connect_to_a_running_one(api: httpx.Client, sandbox: Sandbox, path: str) -> None:
    answer = api.post(path.format(sandbox.sandbox_id), json={"timeout": 1})
    assert answer.status_code == 200  # 201 would mean that it was resumed
    assert answer.json()["sandboxID"] == sandbox.sandbox_id
    assert answer.json()["envdAccessToken"] == sandbox._envd_access_token
    assert answer.json()["envdVersion"] == "0.6.7"


def test_connect_v2_without_a_timeout_means_five_minutes(
    api: httpx.Client, sandbox: Sandbox
) -> None:
    answer = api.post(f"/v2/sandboxes/{sandbox.sandbox_id}/connect", json={})
    assert answer.status_code == 200
    assert timedelta(seconds=290) < lives_for(api, sandbox.sandbox_id) <= timedelta(seconds=300)


def test_the_version_of_envd_is_the_same_everywhere(api: httpx.Client, sandbox: Sandbox) -> None:
    assert api.get(f"/sandboxes/{sandbox.sandbox_id}").json()["envdVersion"] == "0.6.7"
    for path in ("/sandboxes", "/v2/sandboxes"):
        assert {each["envdVersion"] for each in api.get(path).json()} == {"0.6.7"}


def test_info_tells_the_lifecycle(api: httpx.Client, sandbox: Sandbox) -> None:
    info = api.get(f"/sandboxes/{sandbox.sandbox_id}").json()
    assert info["lifecycle"] == {"onTimeout": "kill", "autoResume": False}
    assert info["state"] == "running"


def test_answers_without_a_body(api: httpx.Client, sandbox: Sandbox) -> None:
    path = f"/sandboxes/{sandbox.sandbox_id}"
    for answer in (
        api.post(f"{path}/timeout", json={"timeout": 60}),
        api.post(f"{path}/refreshes", json={"duration": 60}),
        api.put(f"{path}/network", json={"allow_internet_access": True}),
        api.delete(path),
    ):
        assert answer.status_code == 204
        assert answer.content == b""


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/timeout", {"timeout": 1}),
        ("POST", "/refreshes", {}),
        ("POST", "/connect", {"timeout": 1}),
        ("PUT", "/network", {}),
        ("GET", "/metrics", None),
    ],
)
def test_what_is_not_there(api: httpx.Client, method: str, path: str, body: Any) -> None:
    answer = api.request(method, f"/sandboxes/{MISSING}{path}", json=body)
    assert answer.status_code == 404
    assert answer.json() == {"code": 404, "message": f"sandbox '{MISSING}' was not found"}


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"X-API-Key": "e2b_" + "0" * 40}])
def test_no_key(server: RunningServer, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{server.url}/v2/sandboxes", headers=headers, json={"templateID": "base"})
    assert answer.status_code == 401
    assert answer.json()["code"] == 401
    assert answer.json().keys() == {"code", "message"}


def test_an_unknown_template(server: RunningServer) -> None:
    with pytest.raises(SandboxException, match=r"^404: .*no-such-template") as caught:
        Sandbox.create("no-such-template", **server.options)
    # "Not found" of create is no missing sandbox to the SDK.
    assert not isinstance(caught.value, SandboxNotFoundException)


def test_health_of_a_dead_sandbox(server: RunningServer) -> None:
    sandbox = Sandbox.create(**server.options)
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    assert httpx.get(f"{server.url}/health", headers=headers).status_code == 204
    sandbox.kill()
    answer = httpx.get(f"{server.url}/health", headers=headers)
    assert answer.status_code == 502
    expected = {"sandboxId": sandbox.sandbox_id, "code": 502}
    assert answer.json() == {**expected, "message": "The sandbox was not found"}


def test_an_unknown_user(server: RunningServer, sandbox: Sandbox) -> None:
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": str(sandbox._envd_access_token),
    }
    answer = httpx.post(
        f"{server.url}/filesystem.Filesystem/Stat",
        headers=headers,
        auth=("nobody-here", ""),
        json={"path": "/"},
    )
    assert answer.status_code == 401
    expected = {"code": "unauthenticated", "message": "invalid username: 'nobody-here'"}
    assert answer.json() == expected


def test_a_symlink_is_told_by_its_target(server: RunningServer, sandbox: Sandbox) -> None:
    sandbox.commands.run("echo x > target.txt; ln -s target.txt link")
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": str(sandbox._envd_access_token),
    }
    url = f"{server.url}/filesystem.Filesystem/Stat"
    entry = httpx.post(url, headers=headers, json={"path": "link"}).json()["entry"]
    assert entry["type"] == "FILE_TYPE_FILE"
    assert entry["symlinkTarget"] == "/home/user/target.txt"
    assert entry["size"] == str(len("target.txt"))  # 64 bits: a string in proto3's JSON
    assert sandbox.files.get_info("link").type == FileType.SYMLINK


def test_metrics_have_every_field_and_keep_to_the_range(
    api: httpx.Client, sandbox: Sandbox
) -> None:
    path = f"/sandboxes/{sandbox.sandbox_id}/metrics"
    deadline = time.monotonic() + 20
    while not (samples := api.get(path).json()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert samples[0].keys() >= {
        *("cpuCount", "cpuUsedPct", "memUsed", "memTotal", "memCache"),
        *("diskUsed", "diskTotal", "timestamp", "timestampUnix"),
    }
    stamp = samples[0]["timestampUnix"]
    assert api.get(path, params={"start": stamp, "end": stamp}).json()[0] == samples[0]
    assert api.get(path, params={"start": 0, "end": stamp - 1}).json() == []


def test_upload_by_a_signed_url(sandbox: Sandbox) -> None:
    for expiration in (None, 60):
        url = sandbox.upload_url("up.txt", use_signature_expiration=expiration)
        answer = httpx.post(url, files={"file": b"uploaded"})
        assert answer.status_code == 200
        written = {"name": "up.txt", "type": "file", "path": "/home/user/up.txt"}
        assert answer.json() == [written]
        assert sandbox.files.read("up.txt") == "uploaded"
        sandbox.files.remove("up.txt")
    late = sandbox.upload_url("up.txt", use_signature_expiration=-1)
    answer = httpx.post(late, files={"file": b"late"})
    assert answer.status_code == 401
    assert answer.json() == {"code": 401, "message": "signature is already expired"}
    assert not sandbox.files.exists("up.txt")


def test_metadata_of_any_characters_is_found(server: RunningServer) -> None:
    metadata = {"k=1&x": "a b+c%20/?#é", "plain": ""}
    with Sandbox.create(metadata=metadata, **server.options) as sandbox:
        assert sandbox.get_info().metadata == metadata
        found = Sandbox.list(query=SandboxQuery(metadata=metadata), **server.options).next_items()
        assert [each.sandbox_id for each in found] == [sandbox.sandbox_id]
        other = SandboxQuery(metadata={**metadata, "plain": "x"})
        assert Sandbox.list(query=other, **server.options).next_items() == []


def test_a_volume_made_and_gone(api: httpx.Client) -> None:
    answer = api.post("/volumes", json={"name": f"facts-{time.time_ns()}"})
    assert answer.status_code == 201
    made = answer.json()
    assert made.keys() >= {"volumeID", "name", "token"}
    path = f"/volumes/{made['volumeID']}"
    assert api.get(path).json()["token"] == made["token"]
    assert api.delete(path).status_code == 204
    assert api.delete(path).status_code == 404
    assert api.get(path).json()["code"] == 404
