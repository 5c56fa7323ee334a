"""Creates that are repeated, and creates that nobody waits for any more."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox
from e2b.exceptions import SandboxException

from tests.command import atoll
from tests.server import RunningServer, run_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Without a pool, and one create at a time: so it takes its time, and others wait for it."""
    data_dir = tmp_path_factory.mktemp("repeats")
    with run_server(data_dir, pool_size=0, max_concurrent_creates=1) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of a team of its own."""
    team = f"team-{time.monotonic_ns()}"
    key = atoll(server.data_dir, "keys", "create", "one", "--team", team)
    headers = {"X-API-Key": key}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client
        for each in client.get("/v2/sandboxes").json():
            client.delete(f"/sandboxes/{each['sandboxID']}")


def listed(api: httpx.Client) -> list[str]:
    return [each["sandboxID"] for each in api.get("/v2/sandboxes").json()]


def options(server: RunningServer, api: httpx.Client) -> dict[str, Any]:
    return {**server.options, "api_key": api.headers["X-API-Key"]}


def test_the_sdks_key_makes_one_sandbox(server: RunningServer, api: httpx.Client) -> None:
    def create(_: int) -> Sandbox:
        return Sandbox.create(
            metadata={"job": "42"}, idempotency_key="job-42", **options(server, api)
        )

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(create, range(8)))
    assert {each.sandbox_id for each in made} == set(listed(api))
    assert len(listed(api)) == 1
    assert create(0).sandbox_id == made[0].sandbox_id
    assert made[3].commands.run("echo works").stdout == "works\n"
    with pytest.raises(SandboxException, match=r"422.*job-42"):
        Sandbox.create(metadata={"job": "43"}, idempotency_key="job-42", **options(server, api))
    # After its end the key is free: a repetition makes one that works.
    made[0].kill()
    assert create(0).sandbox_id != made[0].sandbox_id


def test_how_the_key_is_told_apart(server: RunningServer, api: httpx.Client) -> None:
    body = {"templateID": "base", "metadata": {"a": "1", "b": "2"}}
    headers = {"Idempotency-Key": "k" * 255}
    first = api.post("/sandboxes", json=body, headers=headers)
    assert first.status_code == 201
    same = '{"metadata":{"b":"2","a":"1"},  "templateID":"base"}'
    again = api.post("/sandboxes", content=same, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    for path, changed in (
        ("/sandboxes", {**body, "timeout": 30}),
        ("/v2/sandboxes", body),
    ):
        refused = api.post(path, json=changed, headers=headers)
        assert refused.status_code == 422
        assert refused.json()["error_code"] == "idempotency_request_mismatch"
        assert refused.headers["should-retry"] == "false"
    for key in ("", "k" * 256, "K", "a_b", "a b"):
        refused = api.post("/sandboxes", json=body, headers={"Idempotency-Key": key})
        assert refused.status_code == 400
        assert "Idempotency-Key" in refused.json()["message"]
    # Another team's key of the same name is another key.
    other = httpx.post(
        f"{server.url}/sandboxes", json=body, headers={**server.headers, **headers}, timeout=60
    )
    assert other.status_code == 201
    assert other.json()["sandboxID"] != first.json()["sandboxID"]
    httpx.delete(f"{server.url}/sandboxes/{other.json()['sandboxID']}", headers=server.headers)


def test_a_failed_create_is_not_remembered(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": "again"}
    failed = api.post("/v2/sandboxes", json={"templateID": "none"}, headers=headers)
    assert failed.status_code == 404
    made = api.post("/v2/sandboxes", json={"templateID": "base"}, headers=headers)
    assert made.status_code == 201


def test_the_key_outlives_a_restart(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=0) as server:
        made = Sandbox.create(idempotency_key="kept", **server.options)
        server.kill()
        server.start(stop_sandboxes=True)
        again = Sandbox.create(idempotency_key="kept", **server.options)
        assert again.sandbox_id == made.sandbox_id
        assert len(Sandbox.list(**server.options).next_items()) == 1


BODY = {"templateID": "base", "timeout": 600, "metadata": {"by": "hand"}}


def ask(server: RunningServer, api: httpx.Client, **headers: str) -> socket.socket:
    """Ask for a sandbox, and leave the answer for later."""
    body = json.dumps(BODY).encode()
    lines = {"Host": "x", "X-API-Key": api.headers["X-API-Key"], **headers}
    lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(f"POST /v2/sandboxes HTTP/1.1\r\n{head}\r\n".encode() + body)
    return connection


def wait_for(api: httpx.Client, count: int) -> set[str]:
    deadline = time.monotonic() + 30
    while len(found := set(listed(api))) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_nobody_keeps_what_nobody_waits_for(server: RunningServer, api: httpx.Client) -> None:
    first = ask(server, api)
    others = [ask(server, api) for _ in range(6)]
    wait_for(api, 1)  # so the others wait for their turn
    for connection in others:
        connection.close()
    # Served in the order in which they came: when this one is there, the others are through.
    own = api.post("/v2/sandboxes", json={"templateID": "base"}).json()["sandboxID"]
    kept = json.loads(first.recv(65536).partition(b"\r\n\r\n")[2])["sandboxID"]
    first.close()
    deadline = time.monotonic() + 30
    while (found := set(listed(api))) != {kept, own}:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_who_left_with_a_key_comes_again(server: RunningServer, api: httpx.Client) -> None:
    first = ask(server, api)
    brief = ask(server, api, **{"Idempotency-Key": "back-soon"})
    wait_for(api, 1)
    brief.close()
    made = wait_for(api, 2)  # to the end, although nobody waits for it
    own = api.post("/v2/sandboxes", json=BODY, headers={"Idempotency-Key": "back-soon"})
    assert own.status_code == 201
    assert own.json()["sandboxID"] in made
    assert set(listed(api)) == made
    first.close()
