"""Reaching services in a sandbox from the host, and only then when they are there."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time

import pytest

from atoll.errors import InvalidInput, PortClosed, SandboxGone
from tests.conformance.box import Box
from tests.conformance.conftest import MakeBox


async def _fetch(box: Box, port: int) -> bytes:
    for _ in range(200):
        try:
            sock = await box.driver.dial(box.instance, port)
            break
        except PortClosed:
            await asyncio.sleep(0.02)
    else:
        raise AssertionError("the port did not open")
    assert not sock.getblocking()
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "address"])
async def test_a_service_is_reached_wherever_it_listens(box: Box, host: str) -> None:
    host = box.instance.address if host == "address" else host
    async with box.background(f"python3 -m http.server 8000 --bind {host} --directory /etc"):
        assert b"200 OK" in await _fetch(box, 8000)


async def test_a_port_is_closed_where_nothing_listens(box: Box) -> None:
    with pytest.raises(PortClosed):
        await box.driver.dial(box.instance, 8001)


@pytest.mark.parametrize("port", [-1, 0, 65536, 1 << 40])
async def test_what_is_no_port_is_refused(box: Box, port: int) -> None:
    with pytest.raises(InvalidInput):
        await box.driver.dial(box.instance, port)


async def test_a_dead_sandbox_is_gone(box: Box) -> None:
    await box.driver.destroy(box.instance.sandbox_id)
    with pytest.raises(SandboxGone):
        await box.driver.dial(box.instance, 8000)
    with pytest.raises(SandboxGone):
        await box.driver.dial_agent(box.instance)
    with pytest.raises(SandboxGone):
        await box.driver.usage(box.instance)


async def test_each_sandbox_has_its_own_ports(make_box: MakeBox) -> None:
    one, other = await asyncio.gather(make_box(), make_box())
    async with one.background("python3 -m http.server 8000 --directory /etc"):
        assert b"200 OK" in await _fetch(one, 8000)
        with pytest.raises(PortClosed):
            await other.driver.dial(other.instance, 8000)


async def test_dialling_is_quick(box: Box) -> None:
    times = []
    for _ in range(200):
        began = time.perf_counter()
        (await box.driver.dial_agent(box.instance)).close()
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.005


async def test_many_dial_at_once(box: Box) -> None:
    async with box.background("python3 -m http.server 8000 --directory /etc"):
        await _fetch(box, 8000)
        answers = await asyncio.gather(*(_fetch(box, 8000) for _ in range(50)))
    assert all(b"200 OK" in answer for answer in answers)


async def test_cancelled_dials_leave_nothing_open(box: Box) -> None:
    for delay in (0, 0, 0.0001, 0.0002, 0.0005):
        task = asyncio.create_task(box.driver.dial_agent(box.instance))
        await asyncio.sleep(delay)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await task).close()
    assert await box.check("echo fine") == "fine"
