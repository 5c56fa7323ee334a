"""A server that stops with requests in flight."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import httpx
from e2b import Sandbox

from tests.server import RunningServer, run_server


def open_stalled(server: RunningServer) -> socket.socket:
    """A create whose body never comes to its end."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        + f"X-API-Key: {server.api_key}\r\n\r\n{{".encode()
    )
    return connection


def test_requests_in_flight_are_told_to_try_again(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=0) as server:
        sandbox = Sandbox.create(**server.options)
        sandbox.commands.run("sleep 600", background=True)  # a stream that has no end of its own
        stalled = [open_stalled(server) for _ in range(3)]
        answers: list[httpx.Response] = []

        def create() -> None:
            body = {"templateID": "base"}
            url = f"{server.url}/v2/sandboxes"
            answers.append(httpx.post(url, json=body, headers=server.headers, timeout=60))

        threads = [threading.Thread(target=create) for _ in range(20)]
        for thread in threads:
            thread.start()
        while len(httpx.get(f"{server.url}/v2/sandboxes", headers=server.headers).json()) < 3:
            pass  # the others are under way then
        assert server.stop() == 0
        for thread in threads:
            thread.join()

        assert len(answers) == 20
        for answer in answers:
            assert answer.status_code in (201, 503)
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
        for connection in stalled:
            raw = b"".join(iter(lambda c=connection: c.recv(65536), b""))  # type: ignore[misc]
            head, _, body = raw.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in head.lower()
            assert json.loads(body)["code"] == 503
            connection.close()
        log = server.log()
        assert "Traceback" not in log
        assert log.count("running task(s)") == 1
    server.assert_nothing_left()
