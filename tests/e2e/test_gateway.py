"""Any port of any sandbox: by headers, by host name, by path."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets
from e2b import Sandbox
from e2b.exceptions import SandboxException, TimeoutException

from tests.server import RunningServer

ECHO = (Path(__file__).parent / "echo.py").read_text()


@pytest.fixture(scope="module")
def serving(server: RunningServer) -> Iterator[Sandbox]:
    """A sandbox with a web server on 8000 (loopback only) and a WebSocket echo on 9001."""
    sandbox = Sandbox.create(timeout=300, **server.options)
    sandbox.files.write("www/index.html", "it works")
    sandbox.files.write("www/page.txt", "a page")
    sandbox.files.write("echo.py", ECHO)
    serve = "cd www && exec python3 -m http.server 8000 --bind 127.0.0.1"
    sandbox.commands.run(serve, background=True, timeout=0)
    sandbox.commands.run("exec python3 echo.py 9001", background=True, timeout=0)
    wait = "until ss -Hltn 'sport = :8000' | grep -q . && ss -Hltn 'sport = :9001' | grep -q .; "
    sandbox.commands.run(wait + "do sleep 0.1; done", timeout=20)
    yield sandbox
    sandbox.kill()


def by_headers(sandbox: Sandbox, port: int) -> dict[str, str]:
    return {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}


def test_by_headers(server: RunningServer, serving: Sandbox) -> None:
    answer = httpx.get(f"{server.url}/page.txt", headers=by_headers(serving, 8000))
    assert answer.text == "a page"


def test_by_host_name(server: RunningServer, serving: Sandbox) -> None:
    # `localhost` and what is below it resolve to this machine.
    answer = httpx.get(f"http://{serving.get_host(8000)}/")
    assert answer.text == "it works"


def test_by_path(server: RunningServer, serving: Sandbox) -> None:
    url = f"{server.url}/sandboxes/{serving.sandbox_id}/ports/8000/page.txt"
    assert httpx.get(url).text == "a page"


def test_a_closed_port(server: RunningServer, serving: Sandbox) -> None:
    answer = httpx.get(server.url, headers=by_headers(serving, 7777))
    assert answer.status_code == 502
    assert answer.json() == {
        "sandboxId": serving.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 7777,
        "code": 502,
    }


def test_a_dead_sandbox(server: RunningServer) -> None:
    sandbox = Sandbox.create(**server.options)
    sandbox.kill()
    for headers, url in (
        (by_headers(sandbox, 8000), server.url),
        ({}, f"http://{sandbox.get_host(8000)}/"),
        ({}, f"{server.url}/sandboxes/{sandbox.sandbox_id}/ports/8000/"),
    ):
        answer = httpx.get(url, headers=headers)
        assert answer.status_code == 502
        expected = {"sandboxId": sandbox.sandbox_id, "code": 502}
        assert answer.json() == {**expected, "message": "The sandbox was not found"}


async def test_websocket(server: RunningServer, serving: Sandbox) -> None:
    url = f"ws://{serving.get_host(9001)}/"
    async with websockets.connect(url) as socket:
        for message in ("text", b"\x00\xff binary", "x" * 5000):
            await socket.send(message)
            assert await socket.recv() == message


async def test_a_killed_sandbox_drops_its_websocket(server: RunningServer) -> None:
    sandbox = await asyncio.to_thread(lambda: Sandbox.create(**server.options))
    await asyncio.to_thread(sandbox.files.write, "echo.py", ECHO)
    await asyncio.to_thread(lambda: sandbox.commands.run("python3 echo.py 9001", background=True))
    url = f"ws://{sandbox.get_host(9001)}/"
    for _ in range(100):
        try:
            socket = await websockets.connect(url)
            break
        except websockets.InvalidStatus:
            await asyncio.sleep(0.1)
    else:
        pytest.fail("the echo server did not come up")
    await socket.send("hello")
    assert await socket.recv() == "hello"
    await asyncio.to_thread(sandbox.kill)
    with pytest.raises(websockets.ConnectionClosed) as caught:
        await asyncio.wait_for(socket.recv(), 5)
    assert caught.value.rcvd is None or caught.value.rcvd.code != 1000
    await socket.close()


def test_a_leaving_client_reaches_the_service_at_once(
    server: RunningServer, serving: Sandbox
) -> None:
    program = (
        "import http.server, time\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        try:\n"
        "            while True:\n"
        "                self.wfile.write(b'x'); self.wfile.flush(); time.sleep(0.05)\n"
        "        except OSError:\n"
        "            open('/tmp/left', 'w').write('gone')\n"
        "http.server.HTTPServer(('', 8100), H).serve_forever()\n"
    )
    serving.files.write("stream.py", program)
    serving.commands.run("python3 stream.py", background=True, timeout=0)
    serving.commands.run("until ss -Hltn 'sport = :8100' | grep -q .; do sleep 0.1; done")
    with httpx.stream("GET", server.url, headers=by_headers(serving, 8100)) as answer:
        assert next(answer.iter_raw()) == b"x"
    deadline = time.monotonic() + 3
    while not serving.files.exists("/tmp/left"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_sandbox_drops_open_streams(server: RunningServer) -> None:
    sandbox = Sandbox.create(**server.options)
    handle = sandbox.commands.run("while true; do echo x; sleep 0.05; done", background=True)
    threading.Timer(0.5, sandbox.kill).start()
    with pytest.raises(TimeoutException, match="killed or reached its end of life"):
        handle.wait()


@pytest.mark.parametrize(
    "headers",
    [
        {"E2b-Sandbox-Id": "../../etc", "E2b-Sandbox-Port": "80"},
        {"E2b-Sandbox-Id": "a" * 20, "E2b-Sandbox-Port": "0"},
        {"E2b-Sandbox-Id": "a" * 20, "E2b-Sandbox-Port": "65536"},
        {"E2b-Sandbox-Id": "a" * 20, "E2b-Sandbox-Port": "http"},
        {"Host": "99999-aaaaaaaaaaaaaaaaaaaa.localhost"},
    ],
)
def test_malformed_addresses(server: RunningServer, headers: dict[str, str]) -> None:
    answer = httpx.get(server.url, headers=headers)
    assert answer.status_code in (400, 404, 502)
    assert "message" in answer.json()


def test_private_traffic_wants_its_token(server: RunningServer) -> None:
    with Sandbox.create(network={"allow_public_traffic": False}, **server.options) as sandbox:
        serve = "python3 -m http.server 8000"
        sandbox.commands.run(serve, background=True)
        sandbox.commands.run("until ss -Hltn 'sport = :8000' | grep -q .; do sleep 0.1; done")
        headers = by_headers(sandbox, 8000)
        assert httpx.get(server.url, headers=headers).status_code == 403
        token = {"E2B-Traffic-Access-Token": str(sandbox.traffic_access_token)}
        assert httpx.get(server.url, headers={**headers, **token}).status_code == 200


def test_private_traffic_leaves_the_agents_api_alone(server: RunningServer) -> None:
    with Sandbox.create(network={"allow_public_traffic": False}, **server.options) as sandbox:
        assert sandbox.commands.run("echo yes").stdout == "yes\n"
        url = f"http://{sandbox.get_host(49983)}/health"
        assert httpx.get(url).status_code == 204
        assert httpx.get(f"http://{sandbox.get_host(8000)}/").status_code == 403


def test_masked_host(server: RunningServer) -> None:
    host = "inside.example:${PORT}"
    with Sandbox.create(network={"mask_request_host": host}, **server.options) as sandbox:
        program = (
            "import http.server\n"
            "class H(http.server.BaseHTTPRequestHandler):\n"
            "    def do_GET(self):\n"
            "        self.send_response(200); self.end_headers()\n"
            "        self.wfile.write(self.headers['Host'].encode())\n"
            "http.server.HTTPServer(('127.0.0.1', 8000), H).serve_forever()\n"
        )
        sandbox.files.write("host.py", program)
        sandbox.commands.run("python3 host.py", background=True)
        sandbox.commands.run("until ss -Hltn 'sport = :8000' | grep -q .; do sleep 0.1; done")
        assert httpx.get(f"http://{sandbox.get_host(8000)}/").text == "inside.example:8000"


@pytest.mark.parametrize("host", ["a b", "a\r\nX-Forged: 1", "", "é"])
def test_what_can_mask_no_host(server: RunningServer, host: str) -> None:
    with pytest.raises(SandboxException, match="maskRequestHost"):
        Sandbox.create(network={"mask_request_host": host}, **server.options)


def test_a_host_name_without_port(server: RunningServer, sandbox: Sandbox) -> None:
    for label in (f"http-{sandbox.sandbox_id}", sandbox.sandbox_id):
        answer = httpx.get(f"http://{label}.localhost:{server.port}/")
        assert answer.status_code == 400
        assert "write {port}-{id}.localhost" in answer.json()["message"]


# -- signed URLs -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["signature", "host name", "headers", "path"])
@pytest.mark.parametrize("seconds", [None, 60])
def test_signed_urls(
    server: RunningServer, sandbox: Sandbox, way: str, seconds: int | None
) -> None:
    def locate(url: str) -> tuple[str, dict[str, str]]:
        query = url.partition("?")[2]
        if way == "host name":
            return f"http://{sandbox.get_host(49983)}/files?{query}", {}
        if way == "path":
            base = f"{server.url}/sandboxes/{sandbox.sandbox_id}/ports/49983"
            return f"{base}/files?{query}", {}
        if way == "headers":
            return url, by_headers(sandbox, 49983)
        assert url.startswith(f"{server.url}/files?")
        return url, {}

    url, headers = locate(sandbox.upload_url("a b", use_signature_expiration=seconds))
    posted = httpx.post(url, files={"file": b"content"}, headers=headers)
    assert posted.json() == [{"name": "a b", "type": "file", "path": "/home/user/a b"}]
    url, headers = locate(sandbox.download_url("a b", use_signature_expiration=seconds))
    assert httpx.get(url, headers=headers).text == "content"
    tampered = httpx.get(url.replace("a+b", "other").replace("a%20b", "other"), headers=headers)
    assert (tampered.status_code, tampered.json()["message"]) == (401, "invalid signature")


def test_an_expired_signature(server: RunningServer, sandbox: Sandbox) -> None:
    url = sandbox.download_url("/etc/hostname", use_signature_expiration=-10)
    for headers in ({}, by_headers(sandbox, 49983)):
        answer = httpx.get(url, headers=headers)
        assert answer.status_code == 401
        assert answer.content == b'{"code":401,"message":"signature is already expired"}'


def test_a_signature_ends_with_its_sandbox(server: RunningServer) -> None:
    with Sandbox.create(**server.options) as sandbox:
        url = sandbox.download_url("/etc/hostname")
        assert httpx.get(url).status_code == 200
    answer = httpx.get(url)
    assert (answer.status_code, answer.json()["message"]) == (401, "invalid signature")
