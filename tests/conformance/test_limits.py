"""Limits hold, hit only the sandbox that has them, and leave it usable."""

from __future__ import annotations

import asyncio
import time

from atoll.isolation.driver import Resources
from tests.conformance.box import Box
from tests.conformance.conftest import MakeBox


async def test_memory_bomb_is_killed_and_nothing_else(make_box: MakeBox) -> None:
    resources = Resources(memory_mb=128)
    bombed, other = await asyncio.gather(make_box(resources=resources), make_box())
    outcome = await bombed.run("python3 -c 'x = bytearray(1 << 30)'")
    assert outcome.exit_code != 0
    assert await bombed.check("echo alive") == "alive"
    assert await other.check("echo alive") == "alive"
    usage = await bombed.driver.usage(bombed.instance)
    assert usage.memory_limit_bytes == 128 << 20
    assert usage.memory_bytes < 64 << 20


async def test_files_in_memory_count_as_memory(make_box: MakeBox) -> None:
    box = await make_box(resources=Resources(memory_mb=128))
    await box.run("head -c 1G /dev/zero > /dev/shm/x; rm -f /dev/shm/x")
    size = await box.check("df --output=size -B1M /dev/shm | tail -1")
    assert int(size) <= 128
    assert await box.check("echo alive") == "alive"


async def test_fork_bomb_stays_inside(make_box: MakeBox) -> None:
    bombed, other = await asyncio.gather(
        make_box(resources=Resources(cpu_count=1, max_processes=64)), make_box()
    )
    bomb = "for i in $(seq 500); do sleep 30 & done 2>&1 | grep -c -i 'fork'; pkill sleep; true"
    task = asyncio.create_task(bombed.run(bomb, timeout=100))
    await asyncio.sleep(0.5)
    assert (await bombed.driver.usage(bombed.instance)).processes <= 64
    began = time.monotonic()
    assert await other.check("seq 200 | xargs -n1 -P20 true && echo fine") == "fine"
    assert time.monotonic() - began < 20
    await bombed.driver.destroy(bombed.instance.sandbox_id)
    await asyncio.wait([task])
    task.exception()


async def test_full_disk_is_an_error_inside(make_box: MakeBox) -> None:
    box = await make_box(resources=Resources(disk_mb=64))
    outcome = await box.run("head -c 200M /dev/zero > /home/user/big")
    assert outcome.exit_code != 0
    assert "No space left" in outcome.output
    size = int(await box.check("stat -c %s /home/user/big"))
    assert 48 << 20 < size <= 64 << 20
    assert (
        await box.check("rm /home/user/big && echo x > /home/user/small && cat /home/user/small")
        == "x"
    )
    total = int(await box.check("df --output=size -B1M / | tail -1"))
    assert 48 <= total <= 64


async def test_processor_time_is_limited(make_box: MakeBox) -> None:
    box = await make_box(resources=Resources(cpu_count=1))
    before = await box.driver.usage(box.instance)
    await box.run("for i in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait")
    after = await box.driver.usage(box.instance)
    assert 0.5 < after.cpu_seconds - before.cpu_seconds < 2.6


async def test_open_files_are_limited_and_core_dumps_off(box: Box) -> None:
    assert int(await box.check("ulimit -Hn")) <= 1 << 16
    assert await box.check("ulimit -Hc") == "0"


async def test_usage_follows_what_happens(box: Box) -> None:
    before = await box.driver.usage(box.instance)
    assert before.processes >= 1
    async with box.background("python3 -c 'x = bytearray(50 << 20); import time; time.sleep(60)'"):
        await asyncio.sleep(1)
        during = await box.driver.usage(box.instance)
    assert during.memory_bytes - before.memory_bytes > 45 << 20
    assert during.processes > before.processes
    assert during.cpu_seconds > before.cpu_seconds
    await box.check("head -c 40M /dev/zero > /home/user/cached")
    assert (await box.driver.usage(box.instance)).cache_bytes > before.cache_bytes + (30 << 20)
