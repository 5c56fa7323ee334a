"""Services in sandboxes through the gateway, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from atoll.doors import proxy
from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors
from tests.unit.doors.service import Service, run_app, run_raw


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with run_app() as service:
        yield service


@pytest.fixture
def client(doors: Doors, sandbox: Sandbox, service: Service) -> Iterator[httpx.Client]:
    service.events.clear()
    with doors.client(sandbox, service.port) as client:
        yield client


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- what arrives ----------------------------------------------------------------------------


def test_request_arrives_as_it_was_sent(client: httpx.Client, sandbox: Sandbox) -> None:
    response = client.put(
        "/a%2Fb//c;p/d?x=%20&y=1&&z",
        content=b"body",
        headers=[
            ("X-Many", "1"),
            ("X-Many", "2"),
            ("Cookie", "mine=1"),
            ("Authorization", "Bearer mine"),
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "secret"),
            ("TE", "trailers"),
            ("Proxy-Authorization", "secret"),
            ("E2B-Traffic-Access-Token", "secret"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Host", "forged"),
            ("User-Agent", "mine"),
        ],
    )
    seen = response.json()
    assert seen["method"] == "PUT"
    assert seen["target"] == "/a%2Fb//c;p/d?x=%20&y=1&&z"
    assert seen["body"] == "body"
    headers: dict[str, list[str]] = {}
    for name, value in seen["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    assert headers["x-many"] == ["1", "2"]
    assert headers["cookie"] == ["mine=1"]
    assert headers["authorization"] == ["Bearer mine"]
    assert headers["x-forwarded-for"] == ["1.2.3.4"]
    assert headers["x-forwarded-host"] == headers["host"] == [client.base_url.netloc.decode()]
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers["user-agent"] == ["mine"]
    assert headers["content-length"] == ["4"]
    # Code in a sandbox may ask for the sandbox's variables with it.
    assert headers["x-access-token"] == [sandbox.access_token]
    hidden = {"x-hop", "te", "proxy-authorization", "e2b-traffic-access-token", "e2b-sandbox-id"}
    assert not hidden & set(headers)


def test_nothing_is_added(doors: Doors, sandbox: Sandbox, service: Service) -> None:
    lines = ["GET /bare HTTP/1.1", f"Host: {service.port}-{sandbox.sandbox_id}.localhost", "", ""]
    with socket.create_connection(("127.0.0.1", doors.port)) as sock:
        sock.sendall("\r\n".join(lines).encode())
        raw = b""
        while b"}" not in raw:
            raw += sock.recv(65536)
    for name in (b"User-Agent", b"Accept", b"Accept-Encoding", b"Content-Type"):
        assert b'["%s"' % name not in raw.partition(b"\r\n\r\n")[2]


def test_answer_arrives_as_it_was_sent(client: httpx.Client) -> None:
    response = client.get("/x")
    assert response.headers["x-twice"] == "a"
    assert response.headers["set-cookie"] == "session=1"
    assert "transfer-encoding" not in response.headers


@pytest.mark.parametrize("code", [200, 204, 301, 304, 307, 404, 418, 500, 502])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_status(client: httpx.Client, code: int, method: str) -> None:
    response = client.request(method, f"/status/{code}", follow_redirects=False)
    assert response.status_code == code
    if 300 <= code < 400:
        assert response.headers["location"] == "http://127.0.0.1:1/elsewhere"
    assert client.get("/still/fine").status_code == 200


def test_host_and_path_routes(
    doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service
) -> None:
    sandbox = add_sandbox()
    for domain in ("atoll.test", f"atoll.test:{doors.port}", "localhost"):
        host = f"{service.port}-{sandbox.sandbox_id}.{domain}"
        seen = httpx.get(f"{doors.url}/files?x=1", headers={"Host": host})
        assert seen.json()["target"] == "/files?x=1"
        assert ["Host", host] in seen.json()["headers"]
        assert seen.headers["set-cookie"] == "session=1"
        assert "content-security-policy" not in seen.headers
    prefix = f"/sandboxes/{sandbox.sandbox_id}/ports/{service.port}"
    seen = httpx.get(f"{doors.url}{prefix}/a/b?x=1", headers={"Cookie": "servers=1"})
    assert seen.json()["target"] == "/a/b?x=1"
    assert ["X-Forwarded-Prefix", prefix] in seen.json()["headers"]
    # It shares its origin with the server: no cookies, no scripts with the origin's rights.
    assert "Cookie" not in [name for name, _ in seen.json()["headers"]]
    assert "set-cookie" not in seen.headers
    assert seen.headers["content-security-policy"].startswith("sandbox ")
    bare = httpx.get(f"{doors.url}{prefix}?x=1")
    assert (bare.status_code, bare.headers["location"]) == (307, f"{prefix}/?x=1")
    agent = httpx.get(f"{doors.url}/sandboxes/{sandbox.sandbox_id}/ports/49983/health")
    assert agent.status_code == 204
    agent = httpx.get(
        f"{doors.url}/health", headers={"Host": f"49983-{sandbox.sandbox_id}.localhost"}
    )
    assert agent.status_code == 204


def test_everything_else_is_the_control_planes(doors: Doors) -> None:
    assert httpx.get(f"{doors.url}/sandboxes/x").json() == {"control": "/sandboxes/x"}
    bad = httpx.get(f"{doors.url}/", headers={"E2b-Sandbox-Id": "../x", "E2b-Sandbox-Port": "1"})
    assert bad.status_code == 400
    assert bad.json()["code"] == 400


def test_mask_host(doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service) -> None:
    sandbox = add_sandbox(mask_request_host="localhost:${PORT}")
    with doors.client(sandbox, service.port) as client:
        assert ["Host", f"localhost:{service.port}"] in client.get("/").json()["headers"]


def test_traffic_token(doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service) -> None:
    sandbox = add_sandbox(traffic_token="t0ken")
    with doors.client(sandbox, service.port) as client:
        for headers in ({}, {"e2b-traffic-access-token": "wrong"}):
            refused = client.get("/", headers=headers)
            assert refused.status_code == 403
            assert refused.json()["code"] == 403
        assert client.get("/", headers={"e2b-traffic-access-token": "t0ken"}).status_code == 200
    with doors.client(sandbox) as client:
        assert client.get("/envs").status_code == 200


def test_closed_port_and_unknown_sandbox(doors: Doors, sandbox: Sandbox) -> None:
    port = closed_port()
    with doors.client(sandbox, port) as client:
        response = client.get("/")
    assert response.status_code == 502
    assert response.json() == {
        "sandboxId": sandbox.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": port,
        "code": 502,
    }
    response = httpx.get(doors.url, headers={"Host": "80-nosuchsandbox.localhost"})
    assert response.status_code == 502
    assert response.json()["message"] == "The sandbox was not found"


# -- streams ---------------------------------------------------------------------------------


def memory() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


@pytest.mark.parametrize("chunked", [False, True])
def test_large_upload_in_little_memory(client: httpx.Client, chunked: bool) -> None:
    total = 300 << 20

    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield bytes(1 << 20)

    before = memory()
    headers = {} if chunked else {"Content-Length": str(total)}
    response = client.post("/count", content=pieces(), headers=headers)
    assert response.json() == {"size": total, "length": None if chunked else str(total)}
    assert memory() - before < 40 << 20


def test_large_download_in_little_memory(client: httpx.Client, service: Service) -> None:
    before = memory()
    with client.stream("GET", "/pour?mb=300") as response:
        chunks = response.iter_raw()
        next(chunks)
        time.sleep(0.5)
        assert memory() - before < 40 << 20
        assert sum(len(chunk) for chunk in chunks) > 299 << 20
    service.wait_for(("poured", 300))


def test_back_pressure_reaches_the_service(client: httpx.Client, service: Service) -> None:
    with client.stream("GET", "/pour?mb=300") as response:
        chunks = response.iter_raw()
        next(chunks)
        time.sleep(0.5)
        assert not service.events
    deadline = time.monotonic() + 3
    while not service.events:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert service.events[0][1] < 100


def test_events_flow_at_once(client: httpx.Client, service: Service) -> None:
    began = time.monotonic()
    with client.stream("GET", "/ticks") as response:
        assert response.headers["content-type"] == "text/event-stream"
        chunks = response.iter_raw()
        assert next(chunks) == b"data: 0\n\n"
        assert next(chunks) == b"data: 1\n\n"
        assert time.monotonic() - began < 1
    service.wait_for("ticks cancelled", 1)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_leaving_reaches_the_service_at_once(
    client: httpx.Client, service: Service, method: str
) -> None:
    content = b"some body" if method == "POST" else None
    with pytest.raises(httpx.ReadTimeout):
        client.request(method, "/hang", content=content, timeout=0.3)
    service.wait_for("hang cancelled", 1)


def test_leaving_in_the_middle_of_a_body(client: httpx.Client, doors: Doors) -> None:
    """The service must see a broken body, not a complete shorter one."""
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            seen.append(data)
        seen.append(b"<end>")
        writer.close()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        time.sleep(0.3)
        raise InterruptedError

    with run_raw(talk) as service:
        client.headers["E2b-Sandbox-Port"] = str(service.port)
        with pytest.raises(InterruptedError):
            client.post("/", content=pieces())
        deadline = time.monotonic() + 2
        while b"<end>" not in seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    raw = b"".join(seen)
    assert b"first" in raw
    assert b"0\r\n\r\n" not in raw


def test_an_answer_may_begin_before_the_body_does(client: httpx.Client) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nready\r\n")
        while b"0\r\n\r\n" not in (data := await reader.read(65536)):
            assert data
        writer.write(b"4\r\ndone\r\n0\r\n\r\n")
        writer.close()

    with (
        run_raw(talk) as service,
        socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as sock,
    ):
        client.headers["E2b-Sandbox-Port"] = str(service.port)
        lines = [f"{name}: {value}" for name, value in client.headers.items()]
        lines += ["Host: a", "Transfer-Encoding: chunked", "", ""]
        sock.settimeout(5)
        sock.sendall("\r\n".join(["POST / HTTP/1.1", *lines]).encode())
        said = b""
        while b"ready" not in said:
            said += sock.recv(65536)
        sock.sendall(b"4\r\nbody\r\n0\r\n\r\n")
        while b"done" not in said:
            said += sock.recv(65536)


def test_a_service_that_does_not_read(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is not kept for ever, least of all for a client that has left."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        while await reader.read(1 << 20):
            pass
        stuck.events.append("end")
        writer.close()

    monkeypatch.setattr(proxy, "_STALL_SECONDS", 0.5)
    body = bytes(64 << 20)
    with run_raw(talk) as stuck:
        client.headers["E2b-Sandbox-Port"] = str(stuck.port)
        with contextlib.suppress(httpx.NetworkError):  # it may still be sending
            assert client.post("/", content=body).status_code == 502
        stuck.wait_for("end")


def test_early_answer(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1 << 16)

    assert client.post("/early", content=pieces()).status_code == 413


def test_sandbox_ends_in_a_stream(
    doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service
) -> None:
    sandbox = add_sandbox()
    with doors.client(sandbox, service.port) as client:
        with client.stream("GET", "/ticks") as response:
            chunks = response.iter_raw()
            next(chunks)
            doors.end(sandbox)
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in chunks:
                    pass
        service.wait_for("ticks cancelled", 1)


def test_sandbox_ends_before_the_answer(
    doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service
) -> None:
    import threading

    sandbox = add_sandbox()
    threading.Timer(0.3, lambda: doors.end(sandbox)).start()
    with doors.client(sandbox, service.port) as client:
        response = client.get("/hang")
    assert response.status_code == 502
    assert response.json()["message"] == "The sandbox was not found"


# -- hostile services ------------------------------------------------------------------------


def answer(client: httpx.Client, *pieces: bytes) -> httpx.Response:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            pass  # the gateway has had enough
        finally:
            writer.close()

    with run_raw(talk) as service:
        client.headers["E2b-Sandbox-Port"] = str(service.port)
        return client.get("/", timeout=5)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(100_000)) + b"\r\n",
    ],
)
def test_no_proper_answer(client: httpx.Client, raw: bytes) -> None:
    response = answer(client, raw)
    assert response.status_code == 502, response.headers
    assert response.json()["code"] == 502
    assert "did not answer in HTTP" in response.json()["message"]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"zz\r\n"),
    ],
)
def test_broken_off_answer_is_broken_off(client: httpx.Client, pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        answer(client, *pieces)


def test_informational_answers_are_passed_over(client: httpx.Client) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert answer(client, hints, final).text == "ok"


def test_surplus_is_no_second_answer(client: httpx.Client) -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    assert answer(client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + smuggled).text == "ok"
    assert client.get("/", headers={"E2b-Sandbox-Port": "49983"}).status_code == 404


def test_old_http_without_length(client: httpx.Client) -> None:
    assert answer(client, b"HTTP/1.0 200 OK\r\n\r\n", b"until ", b"the end").text == "until the end"


def test_hop_headers_of_answers_are_dropped(client: httpx.Client) -> None:
    response = answer(
        client,
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\n"
        b"Proxy-Authenticate: x\r\nContent-Length: 2\r\n\r\nok",
    )
    assert response.text == "ok"
    assert not {"x-hop", "keep-alive", "proxy-authenticate"} & set(response.headers)


def test_an_answer_has_one_date(client: httpx.Client) -> None:
    old = b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    response = answer(client, b"HTTP/1.1 200 OK\r\n" + old + b"Content-Length: 2\r\n\r\nok")
    assert len(response.headers.get_list("date")) == 1


def test_connections_are_kept_for_what_may_be_repeated(client: httpx.Client) -> None:
    connections: list[list[bytes]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[bytes] = []
        connections.append(requests)
        # After the second request the connection is closed: the gateway has to see that.
        while len(requests) < 2 and (line := await reader.readline()):
            requests.append(line.split()[0])
            while await reader.readline() != b"\r\n":
                pass
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    with run_raw(talk) as service:
        client.headers["E2b-Sandbox-Port"] = str(service.port)
        for method in ("GET", "HEAD", "GET", "POST", "DELETE", "OPTIONS"):
            assert client.request(method, "/").status_code == 200
    assert connections == [[b"GET", b"HEAD"], [b"GET", b"OPTIONS"], [b"POST"], [b"DELETE"]]


def test_cookies_are_not_kept_between_clients(
    doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service, tmp_path: Path
) -> None:
    sandbox = add_sandbox()
    for _ in range(2):
        seen: Any = httpx.get(doors.url, headers=doors.headers(sandbox, service.port)).json()
        assert "Cookie" not in [name for name, _ in seen["headers"]]
