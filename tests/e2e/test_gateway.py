"""Any port of any sandbox: by headers, by host name, by path."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import websockets
from e2b import Sandbox
from e2b.exceptions import TimeoutException

from tests.server import RunningServer

_ECHO = r"""
import asyncio, base64, hashlib, sys
async def serve(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    key = [l for l in head.split(b"\r\n") if l.lower().startswith(b"sec-websocket-key:")][0]
    key = key.split(b":", 1)[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                 b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while True:
        first, second = await reader.readexactly(2)
        size = second & 127
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size)))
        if first & 15 == 8:
            return writer.close()
        length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
        writer.write(bytes([first]) + length + data)
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", 9001) as server:
        await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def serving(server: RunningServer) -> Iterator[Sandbox]:
    """A sandbox with a web server on 8000 (loopback only) and a WebSocket echo on 9001."""
    sandbox = Sandbox.create(timeout=300, **server.options)
    sandbox.files.write("www/index.html", "it works")
    sandbox.files.write("www/page.txt", "a page")
    sandbox.files.write("echo.py", _ECHO)
    serve = "cd www && exec python3 -m http.server 8000 --bind 127.0.0.1"
    sandbox.commands.run(serve, background=True)
    sandbox.commands.run("exec python3 echo.py", background=True)
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
    await asyncio.to_thread(sandbox.files.write, "echo.py", _ECHO)
    await asyncio.to_thread(lambda: sandbox.commands.run("python3 echo.py", background=True))
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
    serving.commands.run("python3 stream.py", background=True)
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
