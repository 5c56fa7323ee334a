"""WebSockets to services in sandboxes through the gateway."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors
from tests.unit.doors.service import Service, run_app, run_raw
from tests.unit.doors.test_proxy import closed_port, memory


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with run_app() as service:
        yield service


@pytest.fixture
def dial(doors: Doors, sandbox: Sandbox, service: Service) -> Callable[..., ClientConnection]:
    service.events.clear()

    def dial(path: str = "/talk", port: int | None = None, **options: Any) -> ClientConnection:
        headers = doors.headers(sandbox, port or service.port)
        url = f"ws://127.0.0.1:{doors.port}{path}"
        options = {"additional_headers": headers, "max_size": None, "proxy": None, **options}
        return cast(ClientConnection, connect(url, **options))

    return dial


def test_both_kinds_of_messages(dial: Callable[..., ClientConnection], service: Service) -> None:
    with dial("/talk?x=%20") as ws:
        for message in ("text", "ümläut", b"\x00\xff", "", b"", "x" * 200_000, bytes(5 << 20)):
            ws.send(message)
            assert ws.recv() == message
        ws.send(iter(["frag", "ment", "ed"]))
        assert ws.recv() == "fragmented"
    assert service.events[0] == ("open", "/talk?x=%20", None)
    service.wait_for(("closed", 1000))


def test_subprotocol(dial: Callable[..., ClientConnection]) -> None:
    with dial(subprotocols=[Subprotocol("first"), Subprotocol("second")]) as ws:
        assert ws.subprotocol == "second"


def test_close_codes(dial: Callable[..., ClientConnection], service: Service) -> None:
    with dial() as ws:
        ws.send("close me")
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4123, "as you wish")
    with dial() as ws:
        ws.close(4321, "bye")
    service.wait_for(("closed", 4321))


def test_a_client_that_vanishes_over_tls(doors: Doors, sandbox: Sandbox, service: Service) -> None:
    service.events.clear()
    headers = doors.headers(sandbox, service.port)
    doors.tls.set_alpn_protocols(["http/1.1"])
    url = f"wss://127.0.0.1:{doors.tls_port}/talk"
    with connect(url, additional_headers=headers, ssl=doors.tls, proxy=None) as ws:
        ws.send("x")
        assert ws.recv() == "x"
        ws.socket.shutdown(socket.SHUT_RDWR)
    service.wait_for(("closed", 1001))


def test_abrupt_ends(dial: Callable[..., ClientConnection], service: Service) -> None:
    with dial() as ws:
        ws.send("vanish")
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv(5)
        assert caught.value.rcvd is None
    ws = dial()
    ws.socket.shutdown(socket.SHUT_RDWR)
    service.wait_for(("closed", 1001), 2)


def test_sandbox_ends(
    doors: Doors, sandbox: Sandbox, dial: Callable[..., ClientConnection], service: Service
) -> None:
    with dial() as ws:
        ws.send("x")
        ws.recv()
        doors.end(sandbox)
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv(5)
        assert caught.value.rcvd is None
    service.wait_for("talk over", 2)
    with pytest.raises(InvalidStatus) as refused:
        dial()
    assert refused.value.response.status_code == 502
    assert b"was not found" in (refused.value.response.body or b"")


def test_refusals(dial: Callable[..., ClientConnection]) -> None:
    with pytest.raises(InvalidStatus) as caught:
        dial("/talk?refuse")
    response = caught.value.response
    assert (response.status_code, response.body) == (403, b"not you")
    assert response.headers["X-Why"] == "because"
    with pytest.raises(InvalidStatus) as caught:
        dial(port=closed_port())
    assert caught.value.response.status_code == 502
    assert b"port is not open" in (caught.value.response.body or b"")
    with pytest.raises(InvalidURI, match="elsewhere"):  # the client's own try to follow
        dial("/status/302")
    with pytest.raises(InvalidStatus) as caught:
        dial(port=49983)
    assert caught.value.response.status_code == 404


def test_private_traffic_and_masked_host(
    doors: Doors, add_sandbox: Callable[..., Sandbox], service: Service
) -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    private = add_sandbox(traffic_token="t0ken", mask_request_host="inside:${PORT}")
    with run_raw(talk) as raw:
        headers = doors.headers(private, raw.port)
        for token, status in ((None, 403), ("wrong", 403), ("t0ken", 502)):
            if token is not None:
                headers["E2B-Traffic-Access-Token"] = token
            with pytest.raises(InvalidStatus) as caught:
                connect(f"ws://127.0.0.1:{doors.port}/", additional_headers=headers, proxy=None)
            assert caught.value.response.status_code == status
    (head,) = heads
    assert f"\r\nhost: inside:{raw.port}\r\n".encode() in head.lower()
    assert b"t0ken" not in head


def test_back_pressure(dial: Callable[..., ClientConnection], service: Service) -> None:
    before = memory()
    with dial(max_queue=1) as ws:
        ws.send("flood")
        ws.recv()
        time.sleep(0.7)
        assert service.events.count("flooded") < 150
        assert memory() - before < 200 << 20  # of the 400 that the service has to say
        for _ in range(399):
            assert len(ws.recv()) == 1 << 20
