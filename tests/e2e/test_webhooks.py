"""Webhooks: a real receiver, and what the server brings to it."""

from __future__ import annotations

import base64
import hashlib
import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox

from tests.server import RunningServer, free_port, run_server

SECRET = "ein Geheimnis"
ALL = [f"sandbox.lifecycle.{kind}" for kind in ("created", "updated", "killed")]


@dataclass
class Delivery:
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


@dataclass
class Receiver:
    """An HTTP server that answers with these statuses, then with 200."""

    port: int = field(default_factory=free_port)
    statuses: list[int] = field(default_factory=list)
    received: queue.Queue[Delivery] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.put(Delivery(headers, body))
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    def next(self) -> Delivery:
        return self.received.get(timeout=60)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that may deliver to this machine, and tries again soon."""
    settings = {"webhook_allow": "127.0.0.1/32", "webhook_retry_seconds": 1, "pool_size": 1}
    with run_server(tmp_path_factory.mktemp("hooked"), **settings) as running:  # type: ignore[arg-type]
        yield running
    running.assert_nothing_left()


@pytest.fixture
def api(hooked: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hooked.url, headers=hooked.headers) as client:
        yield client
        for hook in client.get("/events/webhooks").json():
            client.delete(f"/events/webhooks/{hook['id']}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def register(api: httpx.Client, url: str, **fields: Any) -> dict[str, Any]:
    body = {"name": "mine", "url": url, "enabled": True, "events": ALL, "signatureSecret": SECRET}
    answer = api.post("/events/webhooks", json={**body, **fields})
    assert answer.status_code == 201, answer.text
    hook: dict[str, Any] = answer.json()
    return hook


def test_deliveries_are_signed(
    hooked: RunningServer, api: httpx.Client, receiver: Receiver
) -> None:
    hook = register(api, receiver.url)
    sandbox = Sandbox.create(timeout=60, metadata={"who": "mé"}, **hooked.options)
    sandbox.set_timeout(90)
    sandbox.kill()
    deliveries = [receiver.next() for _ in range(3)]
    for delivery in deliveries:
        # The check of E2B's documentation.
        digest = hashlib.sha256((SECRET + delivery.body.decode()).encode()).digest()
        assert delivery.headers["e2b-signature"] == base64.b64encode(digest).decode().rstrip("=")
        assert delivery.headers["e2b-signature-version"] == "v1"
        assert delivery.headers["e2b-webhook-id"] == hook["id"]
        assert delivery.headers["content-type"] == "application/json"
    assert len({each.headers["e2b-delivery-id"] for each in deliveries}) == 3
    assert [each.event["type"] for each in deliveries] == ALL
    assert deliveries[0].event["eventData"] == {"sandbox_metadata": {"who": "mé"}}
    assert deliveries[2].event["eventData"]["execution"]["vcpu_count"] == 2
    # The same as the events API tells.
    listed = api.get(f"/events/sandboxes/{sandbox.sandbox_id}", params={"orderAsc": "true"}).json()
    assert [each.event for each in deliveries] == listed


def test_webhooks_are_managed(hooked: RunningServer, api: httpx.Client, receiver: Receiver) -> None:
    hook = register(api, receiver.url, events=ALL[:1])
    assert set(hook) == {"id", "teamId", "name", "createdAt", "enabled", "url", "events"}
    assert api.get("/events/webhooks").json() == [hook]
    one = f"/events/webhooks/{hook['id']}"
    assert api.get(one).json() == hook
    changed = api.patch(one, json={"events": ALL[2:], "name": "other"})
    assert changed.status_code == 200
    assert changed.json() == {**hook, "events": ALL[2:], "name": "other"}
    Sandbox.create(timeout=60, **hooked.options).kill()
    assert receiver.next().event["type"] == ALL[2]  # and not the one before it
    made = hooked.atoll("keys", "create", "other", "--team", "webhook-others")
    key = next(word for word in made.stdout.split() if word.startswith("e2b_"))
    with httpx.Client(base_url=hooked.url, headers={"X-API-Key": key}) as stranger:
        assert stranger.get("/events/webhooks").json() == []
        for method in ("GET", "PATCH", "DELETE"):
            assert stranger.request(method, one, json={}).status_code == 404
    api.patch(one, json={"enabled": False})
    Sandbox.create(timeout=60, **hooked.options).kill()
    assert api.delete(one).status_code == 200
    assert api.get(one).status_code == 404
    assert receiver.received.empty()


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://example.com/"},
        {"url": "http://user:secret@example.com/"},
        {"url": "http://10.0.0.1/"},
        {"url": "http://169.254.169.254/latest/meta-data/"},
        {"url": "http://[::1]/"},
        {"url": "http://[::ffff:10.0.0.1]/"},
        {"events": []},
        {"events": ["sandbox.lifecycle.exploded"]},
        {"signatureSecret": ""},
        {"name": ""},
    ],
)
def test_webhooks_that_are_refused(api: httpx.Client, fields: dict[str, Any]) -> None:
    body = {"name": "mine", "url": "https://example.com/", "events": ALL, "signatureSecret": "x"}
    answer = api.post("/events/webhooks", json={**body, **fields})
    assert answer.status_code == 400, answer.text
    assert api.get("/events/webhooks").json() == []


def test_no_way_to_the_hosts_own_services(server: RunningServer, receiver: Receiver) -> None:
    # This server was not told to allow 127.0.0.1; names that lead there are found out later.
    with httpx.Client(base_url=server.url, headers=server.headers) as api:
        body = {"name": "mine", "events": ALL, "signatureSecret": "x"}
        literal = api.post("/events/webhooks", json={**body, "url": receiver.url})
        assert literal.status_code == 400
        assert "ATOLL_WEBHOOK_ALLOW" in literal.json()["message"]
        names = [f"http://{host}:{receiver.port}/" for host in ("localhost", "127.1", "2130706433")]
        hooks = [register(api, url)["id"] for url in names]
        Sandbox.create(timeout=60, **server.options).kill()
        for hook in hooks:
            failed = f"webhook_id={hook}"
            while failed not in server.log():
                assert receiver.received.empty()
                time.sleep(0.05)
            api.delete(f"/events/webhooks/{hook}")
        assert receiver.received.empty()


def test_failures_are_tried_again(
    hooked: RunningServer, api: httpx.Client, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302, 404]  # a redirection is not followed: it counts as a failure
    register(api, receiver.url, events=ALL[:1])
    Sandbox.create(timeout=60, **hooked.options).kill()
    tries = [receiver.next() for _ in range(4)]
    assert len({each.body for each in tries}) == 1
    assert len({each.headers["e2b-delivery-id"] for each in tries}) == 4
    # After four the event is given up, and the next one has its turn.
    receiver.statuses = [500] * 4
    first = Sandbox.create(timeout=60, **hooked.options)
    assert {receiver.next().event["sandboxId"] for _ in range(4)} == {first.sandbox_id}
    second = Sandbox.create(timeout=60, **hooked.options)
    assert receiver.next().event["sandboxId"] == second.sandbox_id
    first.kill()
    second.kill()


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    port = free_port()  # nobody listens there yet
    settings = {"webhook_allow": "127.0.0.0/8", "webhook_retry_seconds": 5, "pool_size": 0}
    with run_server(tmp_path, **settings) as server:  # type: ignore[arg-type]
        with httpx.Client(base_url=server.url, headers=server.headers) as api:
            hook = register(api, f"http://127.0.0.1:{port}/", events=ALL[:1])
        sandbox = Sandbox.create(timeout=60, **server.options)
        while f"webhook_id={hook['id']}" not in server.log():
            assert server.process.poll() is None
            time.sleep(0.05)
        server.kill()
        receiver = Receiver(port)
        try:
            server.start(stop_sandboxes=True)
            assert receiver.next().event["sandboxId"] == sandbox.sandbox_id
        finally:
            receiver.close()
