"""Limits hold, hit only the sandbox that has them, and leave it usable."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
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
    before, began = await box.driver.usage(box.instance), time.monotonic()
    await box.run("for i in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait")
    after, seconds = await box.driver.usage(box.instance), time.monotonic() - began
    assert 0.5 < after.cpu_seconds - before.cpu_seconds < 1.25 * seconds


async def test_open_files_are_limited_and_core_dumps_off(box: Box) -> None:
    assert int(await box.check("ulimit -Hn")) <= 1 << 16
    assert await box.check("ulimit -Hc") == "0"


EXHAUST = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)

def many(make, most):
    for count in range(most):
        if make(count) < 0:
            return count
    return most

def timer(_):
    event = (ctypes.c_int * 16)()
    event[2], event[3] = 34, 1  # no signal but a count of expiries: SIGEV_NONE
    return libc.timer_create(0, event, ctypes.byref(ctypes.c_void_p()))

def queue(number):
    return libc.mq_open(b"/atoll-test-%d-%d" % (os.getuid(), number), 0o100 | 2, 0o600, None)

def instance(_):
    return libc.inotify_init1(0)

made = [many(timer, {timers}), many(queue, {queues}), many(instance, {instances})]
for number in range(made[1] if {tidy} else 0):
    libc.mq_unlink(b"/atoll-test-%d-%d" % (os.getuid(), number))
print(*made, flush=True)
"""


async def test_what_the_kernel_counts_per_user_is_left_to_others(make_box: MakeBox) -> None:
    greedy, other = await make_box(), await make_box()
    all_of_it = EXHAUST.format(timers=200_000, queues=1000, instances=500, tidy=False)
    few = EXHAUST.format(timers=100, queues=1, instances=100, tidy=True)
    await greedy.write({"/tmp/all": all_of_it + "import time; time.sleep(100)\n"})
    async with (
        greedy.background("sh -c 'python3 /tmp/all > /tmp/user; sleep 99'"),
        greedy.background("sh -c 'python3 /tmp/all > /tmp/root; sleep 99'", user="root"),
    ):
        await greedy.check("until [ -s /tmp/user -a -s /tmp/root ]; do sleep 0.1; done")
        for user in ("user", "root"):
            timers, queues, instances = (await greedy.check(f"cat /tmp/{user}")).split()
            assert 500 <= int(timers) <= 1024
            assert int(queues) <= 1
            assert int(instances) == 500
        assert await other.python(few) == "100 1 100"
        host = subprocess.run([sys.executable, "-c", few], capture_output=True, text=True)
        assert host.stdout.split() == ["100", "1", "100"]


async def test_connections_hold_no_more_than_their_share_of_memory(make_box: MakeBox) -> None:
    box = await make_box(resources=Resources(memory_mb=128))
    program = """
        import socket
        socket.setdefaulttimeout(2)
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        ends, sent = [], 0
        for _ in range(120):
            one = socket.create_connection(listener.getsockname())
            ends += [one, listener.accept()[0]]
            one.setblocking(False)
            try:
                while True:
                    sent += one.send(bytes(65536))
            except BlockingIOError:
                pass
            print(sent >> 20, flush=True)
        """
    # Where they have an account of their own (control groups, version 1) each connection gets a
    # little even when it is used up. Where they count as memory, the program may be killed, or get
    # no more connections.
    await box.write({"/tmp/hold": textwrap.dedent(program)})
    outcome = await box.run("python3 /tmp/hold 2>/tmp/error")
    assert 1 < int(outcome.output.split()[-1]) <= 128
    assert await box.check("echo alive") == "alive"


async def test_terminals_are_limited(box: Box) -> None:
    program = """
        import os
        made = []
        try:
            while len(made) < 500:
                made.append(os.openpty())
        except OSError:
            pass
        print(len(made))
        """
    assert 64 <= int(await box.python(program)) <= 128


async def test_usage_follows_what_happens(box: Box) -> None:
    before = await box.driver.usage(box.instance)
    assert before.processes >= 1
    hold = "import time; x = bytearray(50 << 20); open('/tmp/held', 'w'); time.sleep(60)"
    await box.write({"/tmp/hold": hold})
    async with box.background("python3 /tmp/hold"):
        await box.check("until [ -e /tmp/held ]; do sleep 0.1; done")
        during = await box.driver.usage(box.instance)
    assert during.memory_bytes - before.memory_bytes > 45 << 20
    assert during.processes > before.processes
    assert during.cpu_seconds > before.cpu_seconds
    await box.check("head -c 40M /dev/zero > /home/user/cached")
    after = await box.driver.usage(box.instance)
    assert after.cache_bytes > before.cache_bytes + (30 << 20)
    assert after.disk_used_bytes > before.disk_used_bytes + (39 << 20)
    assert after.disk_total_bytes == int(await box.check("df --output=size -B1 / | tail -1"))
