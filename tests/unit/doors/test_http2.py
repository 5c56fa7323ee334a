"""HTTP/2 over TLS keeps the promises of the plain port."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived, RemoteSettingsChanged, StreamEnded

from atoll.http2 import CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW
from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors, Wire
from tests.unit.doors.frames import Frames, open_frames
from tests.unit.doors.service import Service, run_app, run_raw
from tests.unit.doors.test_proxy import memory


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with run_app() as service:
        yield service


@pytest.fixture
def client(doors: Doors, sandbox: Sandbox, service: Service) -> Iterator[httpx.Client]:
    service.events.clear()
    with doors.client(sandbox, service.port, "h2") as client:
        yield client


@pytest.fixture
def frames(doors: Doors, service: Service) -> Iterator[Frames]:
    service.events.clear()
    with open_frames(doors.tls_port, doors.tls) as frames:
        yield frames


@pytest.mark.parametrize("wire", ["tls http/1.1", "h2"])
def test_protocol_is_negotiated(
    doors: Doors, sandbox: Sandbox, service: Service, wire: Wire
) -> None:
    with doors.client(sandbox, service.port, wire) as client:
        answer = client.get("/echo/a%2Fb?x=1", headers={"Cookie": "a=1; b=2"})
    assert answer.http_version == ("HTTP/2" if wire == "h2" else "HTTP/1.1")
    assert answer.status_code == 200
    seen = answer.json()
    assert seen["target"] == "/echo/a%2Fb?x=1"
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["host"] == f"127.0.0.1:{doors.tls_port}"
    assert headers["cookie"] == "a=1; b=2"
    assert headers["x-forwarded-proto"] == "https"


@pytest.mark.parametrize("code", [200, 204, 304, 404, 500])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_status(client: httpx.Client, code: int, method: str) -> None:
    answer = client.request(method, f"/status/{code}")
    assert answer.status_code == code
    if method == "HEAD" or code in (204, 304):
        assert answer.content == b""


@pytest.mark.parametrize("announced", [True, False])
def test_large_bodies_in_little_memory(
    client: httpx.Client, service: Service, announced: bool
) -> None:
    before = memory()
    total = 100 << 20

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1 << 20)

    headers = {"Content-Length": str(total)} if announced else {}
    answer = client.post("/count", content=pieces(), headers=headers)
    assert answer.json()["size"] == total
    with client.stream("GET", "/pour?mb=50") as answer:
        assert sum(len(chunk) for chunk in answer.iter_raw()) == 50 << 20
    assert memory() - before < 60 << 20


def test_a_slow_reader_holds_up_nobody_else(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames
) -> None:
    headers = doors.headers(sandbox, service.port)
    # Room on the connection, none on the stream.
    frames.h2.increment_flow_control_window(16 << 20)
    before = memory()
    slow = frames.request("GET", "/pour?mb=300", headers)
    assert frames.status(slow) == 200
    for _ in range(20):
        other = frames.request("GET", "/status/200", headers)
        assert frames.status(other) == 200
        frames.wait(StreamEnded, other)
    assert memory() - before < 40 << 20
    assert ("poured", 300) not in service.events
    frames.h2.reset_stream(slow, ErrorCodes.CANCEL)
    frames.send()


def test_a_slow_writer_holds_up_nobody_else(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames
) -> None:
    """A service that doesn't read stops its client, by the window of that stream."""
    headers = doors.headers(sandbox, service.port)
    release = threading.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(release.wait, 20)
        writer.close()

    with run_raw(talk) as deaf:
        stuck = frames.request("POST", "/", doors.headers(sandbox, deaf.port), end=False)
        sent = 0
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            room = min(frames.h2.local_flow_control_window(stuck), 16384)
            if room:
                frames.h2.send_data(stuck, bytes(room))
                frames.send()
                sent += room
            else:  # wait for whatever the server says next
                other = frames.request("GET", "/status/200", headers)
                assert frames.status(other) == 200
        assert STREAM_WINDOW <= sent < 64 << 20
        release.set()


def test_events_flow_at_once(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames
) -> None:
    began = time.monotonic()
    stream = frames.request("GET", "/ticks", doors.headers(sandbox, service.port))
    assert frames.data(stream) == b"data: 0\n\n"
    assert frames.data(stream) == b"data: 1\n\n"
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_stream_taken_back_reaches_the_service_at_once(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames, method: str
) -> None:
    stream = frames.request(
        method, "/hang", doors.headers(sandbox, service.port), end=method == "GET"
    )
    if method == "POST":
        frames.h2.send_data(stream, b"body", end_stream=True)
        frames.send()
    service.wait_for("hanging")
    frames.h2.reset_stream(stream, ErrorCodes.CANCEL)
    frames.send()
    service.wait_for("hang cancelled")


def test_a_lost_connection_reaches_the_service_at_once(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames
) -> None:
    frames.request("GET", "/hang", doors.headers(sandbox, service.port))
    service.wait_for("hanging")
    frames.sock.close()
    service.wait_for("hang cancelled")


def test_a_body_broken_off_is_no_shorter_body(doors: Doors, sandbox: Sandbox) -> None:
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            seen.append(data)
            listening.events.append("first" if b"first" in b"".join(seen) else "head")
        listening.events.append("end")
        writer.close()

    with run_raw(talk) as listening, open_frames(doors.tls_port, doors.tls) as frames:
        stream = frames.request("POST", "/", doors.headers(sandbox, listening.port), end=False)
        frames.h2.send_data(stream, b"first")
        frames.send()
        listening.wait_for("first")
        frames.h2.reset_stream(stream, ErrorCodes.CANCEL)
        frames.send()
        listening.wait_for("end")
    assert b"0\r\n\r\n" not in b"".join(seen)


def test_the_end_of_a_sandbox_cuts_its_streams_alone(
    doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service, frames: Frames
) -> None:
    ending, staying = add_sandbox(), add_sandbox()
    cut = frames.request("GET", "/ticks", doors.headers(ending, service.port))
    kept = frames.request("GET", "/ticks", doors.headers(staying, service.port))
    assert frames.data(cut) == frames.data(kept) == b"data: 0\n\n"
    doors.end(ending)
    assert frames.reset_code(cut) == ErrorCodes.INTERNAL_ERROR
    assert frames.data(kept)


def test_a_stream_that_the_service_breaks_off_is_cut(doors: Doors, sandbox: Sandbox) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        writer.close()

    with run_raw(talk) as service, open_frames(doors.tls_port, doors.tls) as frames:
        stream = frames.request("GET", "/", doors.headers(sandbox, service.port))
        assert frames.status(stream) == 200
        assert frames.data(stream) == b"hello"
        assert frames.reset_code(stream) == ErrorCodes.INTERNAL_ERROR


def test_a_bug_is_answered(frames: Frames) -> None:
    stream = frames.request("GET", "/bug", {})
    assert frames.status(stream) == 500
    frames.wait(StreamEnded, stream)


def test_an_answer_has_one_beginning(frames: Frames) -> None:
    stream = frames.request("GET", "/twice", {})
    assert frames.status(stream) == 200
    assert frames.reset_code(stream) == ErrorCodes.INTERNAL_ERROR


def test_an_early_answer_arrives(doors: Doors, sandbox: Sandbox, service: Service) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield bytes(1 << 16)

    with doors.client(sandbox, service.port, "h2") as client:
        assert client.post("/early", content=pieces()).status_code == 413
        assert client.get("/status/200").status_code == 200


def test_http_1_over_tls_is_cut_and_left_alike(
    doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service
) -> None:
    service.events.clear()
    sandbox = add_sandbox()
    with doors.client(sandbox, service.port, "tls http/1.1") as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/hang", timeout=0.3)
        service.wait_for("hang cancelled")
        with client.stream("GET", "/ticks") as answer:
            chunks = answer.iter_raw()
            next(chunks)
            doors.end(sandbox)
            with pytest.raises(httpx.RemoteProtocolError):
                list(chunks)
        service.wait_for("ticks cancelled")


# -- enemies -----------------------------------------------------------------------------------


def test_headers_without_end(frames: Frames) -> None:
    frames.request("GET", "/", {f"x-{i}": "y" * 4000 for i in range(20)})
    assert frames.goodbye_code() == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/a b"), ("GET", "nowhere"), ("GET", "/\x7f"), ("G T", "/"), ("CONNECT", "/")],
)
def test_what_http_1_could_not_say(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames, method: str, path: str
) -> None:
    frames.h2.config.validate_outbound_headers = False
    stream = frames.request(method, path, doors.headers(sandbox, service.port))
    # Where h2 itself takes offence, it is at the whole connection.
    with contextlib.suppress(EOFError):
        assert frames.reset_code(stream) == ErrorCodes.PROTOCOL_ERROR
    assert not service.events


def test_requests_taken_back_without_end(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames
) -> None:
    headers = doors.headers(sandbox, service.port)
    for _ in range(500):
        stream = frames.request("GET", "/hang", headers)
        frames.h2.reset_stream(stream, ErrorCodes.CANCEL)
        with contextlib.suppress(OSError):
            frames.send()
    assert frames.goodbye_code() == ErrorCodes.ENHANCE_YOUR_CALM


def test_too_many_streams(doors: Doors, sandbox: Sandbox, service: Service, frames: Frames) -> None:
    headers = doors.headers(sandbox, service.port)
    stream = frames.request("GET", "/status/200", headers)
    frames.wait(StreamEnded, stream)  # the server's settings are known by now
    assert frames.h2.remote_settings.max_concurrent_streams == MAX_STREAMS
    for _ in range(MAX_STREAMS):
        frames.request("GET", "/hang", headers)
    frames.h2.remote_settings.max_concurrent_streams = MAX_STREAMS + 1
    frames.h2.remote_settings.acknowledge()
    frames.request("GET", "/hang", headers)
    assert frames.goodbye_code() is not None
    assert service.events.count("hanging") <= MAX_STREAMS


def test_a_length_said_twice(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames
) -> None:
    stream = frames.h2.get_next_available_stream_id()
    lines = [(":method", "POST"), (":path", "/count"), (":scheme", "https"), (":authority", "a")]
    lines += [(name.lower(), value) for name, value in doors.headers(sandbox, service.port).items()]
    frames.h2.send_headers(stream, [*lines, ("content-length", "4"), ("content-length", "4")])
    frames.h2.send_data(stream, b"body", end_stream=True)
    frames.send()
    assert frames.reset_code(stream) == ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize("cut_by", ["client", "server"])
def test_bodies_that_nobody_read_leave_the_connection_its_window(
    doors: Doors, add_sandbox: Callable[..., Sandbox], frames: Frames, cut_by: str
) -> None:
    """Otherwise a few dozen broken uploads would stop all further ones of the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            deaf.events.append(("head", len(deaf.events)))
            if cut_by == "server":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            await asyncio.sleep(60)
        finally:
            writer.transport.abort()

    frames.wait(RemoteSettingsChanged)
    with run_raw(talk) as deaf:
        for _ in range(2):
            sandbox = add_sandbox()
            streams = []
            for _ in range(24):
                headers = doors.headers(sandbox, deaf.port)
                begun = len(deaf.events)
                streams.append(frames.request("POST", "/", headers, end=False))
                deaf.wait_for(("head", begun))
                if cut_by == "server":
                    assert frames.status(streams[-1]) == 200
                while room := min(frames.h2.local_flow_control_window(streams[-1]), 16384):
                    frames.h2.send_data(streams[-1], bytes(room))
                    frames.send()
            if cut_by == "server":
                doors.end(sandbox)
            for stream in streams:
                if cut_by == "server":
                    frames.reset_code(stream)
                else:
                    frames.h2.reset_stream(stream, ErrorCodes.CANCEL)
                    frames.send()
        deadline = time.monotonic() + 10
        while frames.h2.outbound_flow_control_window < CONNECTION_WINDOW // 2:
            assert time.monotonic() < deadline
            assert frames.status(frames.request("GET", "/", {})) == 200


def test_a_flood_of_pings_is_not_kept_in_memory(frames: Frames) -> None:
    before = memory()
    frames.sock.settimeout(1)
    flood = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    with pytest.raises(TimeoutError):  # when the server has stopped reading
        frames.sock.sendall(flood * 2_000_000)
    assert memory() - before < 40 << 20


def test_nothing_is_lost_of_an_answer_in_pieces(
    doors: Doors, sandbox: Sandbox, service: Service, frames: Frames
) -> None:
    stream = frames.request("GET", "/pour?mb=2", doors.headers(sandbox, service.port))
    size = 0
    while size < 2 << 20:
        event = frames.wait(DataReceived, stream)
        size += len(event.data)
        frames.h2.acknowledge_received_data(event.flow_controlled_length, stream)
        frames.send()
    frames.wait(StreamEnded, stream)
    assert size == 2 << 20
