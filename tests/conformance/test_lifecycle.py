"""Beginnings and ends: nothing half-made, nothing left, nothing lost."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from atoll.errors import AtollError, Conflict, HostError, InvalidInput
from atoll.isolation.driver import Driver, Resources, SandboxSpec
from tests.conformance.box import Box, new_id
from tests.conformance.conftest import MakeBox
from tests.conformance.kinds import Kind
from tests.conformance.world import OTHER_PUBLIC, PORT, PUBLIC, open_world

Layers = tuple[Path, ...]


@asynccontextmanager
async def _started(kind: Kind, state: Path) -> AsyncIterator[Driver]:
    driver = kind.make(state)
    await driver.start()
    try:
        yield driver
    finally:
        await driver.purge()
    assert kind.find_traces(state) == []


@asynccontextmanager
async def _server(
    kind: Kind, state: Path, sandbox_id: str, layers: Layers
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.conformance.crash"),
        *(kind.name, str(state), sandbox_id, *map(str, layers)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_what_is_created_is_ready(make_box: MakeBox) -> None:
    box = await make_box(hostname="box.test", files={"/run/e2b/x": "1\n", "/etc/motd": "hello\n"})
    assert box.instance.pid > 1
    assert not box.instance.exited.done()
    assert await box.check("cat /run/e2b/x /etc/motd; hostname") == "1\nhello\nbox.test"
    assert await box.check("stat -c '%U %a' /etc/motd") == "root 644"
    assert await box.check("getent hosts box.test localhost | wc -l") == "2"
    assert box.instance.sandbox_id in await box.driver.list()


async def test_two_sandboxes_share_no_file(make_box: MakeBox) -> None:
    one, other = await make_box(), await make_box()
    await one.check("echo mine > /etc/hostname; rm -rf /usr/share/doc", user="root")
    assert await other.check("grep -c mine /etc/hostname; ls -d /usr/share/doc; true") == (
        "0\n/usr/share/doc"
    )


async def test_an_id_is_used_once(box: Box, layers: Layers) -> None:
    with pytest.raises(Conflict):
        await box.driver.create(SandboxSpec(box.instance.sandbox_id, layers))
    assert await box.check("echo alive") == "alive"


@pytest.mark.parametrize("text", ["", "..", "a/b", "A", "x" * 33, "a\n", "a b", "-x\x00"])
async def test_what_cannot_be_an_id_is_refused(driver: Driver, layers: Layers, text: str) -> None:
    with pytest.raises(InvalidInput):
        await driver.create(SandboxSpec(text, layers))
    await driver.destroy(text)


async def test_destroying_is_idempotent(kind: Kind, box: Box) -> None:
    name = box.instance.sandbox_id
    await asyncio.gather(*(box.driver.destroy(name) for _ in range(3)))
    assert box.instance.exited.result() == "destroyed"
    assert name not in await box.driver.list()
    await box.driver.destroy(name)
    await box.driver.destroy("neverthere")


async def test_an_end_from_outside_is_noticed(box: Box) -> None:
    os.kill(box.instance.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        assert await box.instance.exited == "exited"
    assert box.instance.sandbox_id in await box.driver.list()
    assert await box.driver.adopt(box.instance.sandbox_id) is None


async def test_an_end_by_lack_of_memory_says_so(make_box: MakeBox) -> None:
    box = await make_box(resources=Resources(memory_mb=64))
    await box.run("python3 -c 'x = bytearray(1 << 28)'")
    os.kill(box.instance.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        assert await box.instance.exited == "oom"


async def test_an_old_lack_of_memory_is_no_reason_for_a_later_end(make_box: MakeBox) -> None:
    box = await make_box(resources=Resources(memory_mb=64))
    await box.run("python3 -c 'x = bytearray(1 << 28)'")
    await box.driver.usage(box.instance)
    os.kill(box.instance.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        assert await box.instance.exited == "exited"


async def test_all_are_killed_before_any_is_removed(make_box: MakeBox) -> None:
    boxes = [await make_box() for _ in range(12)]
    watched = [os.pidfd_open(box.instance.pid) for box in boxes]
    tasks = [asyncio.create_task(box.driver.destroy(box.instance.sandbox_id)) for box in boxes]
    while not all(box.instance.exited.done() for box in boxes):
        await asyncio.sleep(0)
    poll = select.poll()
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + 1
    while len(poll.poll(0)) < len(boxes):  # without a turn of the loop: no removal ends meanwhile
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    for descriptor in watched:
        os.close(descriptor)


def _freeze(name: str) -> None:
    for file, value in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
        for path in Path("/sys/fs/cgroup").glob(f"**/{name}/{file}"):
            path.write_text(value)


async def test_a_frozen_sandbox_can_be_destroyed(kind: Kind, box: Box) -> None:
    os.kill(box.instance.pid, signal.SIGSTOP)
    name = box.instance.sandbox_id
    _freeze(name)
    async with asyncio.timeout(5):
        await box.driver.destroy(name)
    assert name not in await box.driver.list()


async def test_a_busy_sandbox_can_be_destroyed(box: Box) -> None:
    busy = "exec > /dev/null 2>&1; dd if=/dev/zero of=/home/user/x &"
    await box.run(f"{busy} for i in 1 2 3 4; do (while :; do :; done) & done; sleep 0.3")
    async with asyncio.timeout(20):
        await box.driver.destroy(box.instance.sandbox_id)


Break = Callable[[SandboxSpec, pytest.MonkeyPatch, Path], SandboxSpec]


def _missing_layer(spec: SandboxSpec, _: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    return SandboxSpec(spec.sandbox_id, (tmp / "missing",))


def _no_layer(spec: SandboxSpec, _: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    return SandboxSpec(spec.sandbox_id, ())


def _file_for_a_layer(spec: SandboxSpec, _: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    (tmp / "file").touch()
    return SandboxSpec(spec.sandbox_id, (tmp / "file",))


def _file_in_the_way(spec: SandboxSpec, _: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    top = tmp / "top"
    top.mkdir()
    os.chown(top, 1_000_000, 1_000_000)
    (top / ".atoll").touch()
    return SandboxSpec(spec.sandbox_id, (top, *spec.layers))


def _no_programs(spec: SandboxSpec, patch: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    patch.setenv("PATH", str(tmp))
    return spec


def _bad_file(spec: SandboxSpec, _: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    return SandboxSpec(spec.sandbox_id, spec.layers, files={"/proc/sys/x": "1"})


def _tiny_disk(spec: SandboxSpec, _: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    return SandboxSpec(spec.sandbox_id, spec.layers, Resources(disk_mb=0))


def _tiny_memory(spec: SandboxSpec, _: pytest.MonkeyPatch, tmp: Path) -> SandboxSpec:
    return SandboxSpec(spec.sandbox_id, spec.layers, Resources(memory_mb=1))


@pytest.mark.parametrize(
    "how",
    [
        _missing_layer,
        _no_layer,
        _file_for_a_layer,
        _file_in_the_way,
        _no_programs,
        _bad_file,
        _tiny_disk,
        _tiny_memory,
    ],
)
async def test_what_cannot_be_created_leaves_nothing(
    kind: Kind,
    tmp_path_factory: pytest.TempPathFactory,
    layers: Layers,
    monkeypatch: pytest.MonkeyPatch,
    how: Break,
) -> None:
    state = tmp_path_factory.mktemp("state")
    async with _started(kind, state) as driver:
        spec = how(SandboxSpec(new_id(), layers), monkeypatch, tmp_path_factory.mktemp("layers"))
        with pytest.raises(AtollError):
            await driver.create(spec)
        monkeypatch.undo()
        assert kind.find_traces(state) == []
        assert list(await driver.list()) == []
        box = Box(driver, await driver.create(SandboxSpec(new_id(), layers)))
        assert await box.check("echo fine") == "fine"
        await box.agent.close()


async def test_a_cancelled_create_leaves_nothing(
    kind: Kind, tmp_path: Path, layers: Layers
) -> None:
    async with _started(kind, tmp_path) as driver:
        for _ in range(12):
            task = asyncio.create_task(driver.create(SandboxSpec(new_id(), layers)))
            await asyncio.sleep(random.uniform(0, 0.1))
            task.cancel()
            await asyncio.wait([task])
        for name in await driver.list():
            await driver.destroy(name)
        assert kind.find_traces(tmp_path) == []


async def test_many_at_once(kind: Kind, tmp_path: Path, layers: Layers) -> None:
    async with _started(kind, tmp_path) as driver:
        names = [new_id() for _ in range(20)]
        made = await asyncio.gather(*(driver.create(SandboxSpec(each, layers)) for each in names))
        assert len({each.address for each in made}) == 20
        assert set(await driver.list()) == set(names)
        boxes = [Box(driver, each) for each in made]
        said = await asyncio.gather(*(box.check("hostname; echo $$") for box in boxes))
        assert all(each.startswith("e2b.local") for each in said)
        await asyncio.gather(*(box.agent.close() for box in boxes))
        await asyncio.gather(*(driver.destroy(each) for each in names))
        assert kind.find_traces(tmp_path) == []


async def test_a_sandbox_outlives_its_server(kind: Kind, tmp_path: Path, layers: Layers) -> None:
    name = new_id()
    async with open_world(), _server(kind, tmp_path, name, layers) as (process, told):
        assert (await told.readline()).split() == [b"started"]
        _, pid, address = (await told.readline()).split()
        process.kill()
        await process.wait()
        async with _started(kind, tmp_path) as driver:
            assert list(await driver.list()) == [name]
            instance = await driver.adopt(name)
            assert instance is not None
            assert (instance.pid, instance.address) == (int(pid), address.decode())
            box = Box(driver, instance)
            assert await box.check("cat /tmp/kept; pgrep -c sleep") == "kept\n1"
            assert await box.connect(PUBLIC, PORT) != "open"
            assert await box.connect(OTHER_PUBLIC, PORT) == "open"
            assert (await driver.usage(instance)).processes >= 2
            assert await driver.adopt(name) is instance
            fresh = await driver.create(SandboxSpec(new_id(), layers))
            assert fresh.address != instance.address
            await box.agent.close()
            await driver.destroy(name)
            assert await instance.exited == "destroyed"


async def test_a_server_that_dies_while_it_creates_leaves_what_can_be_found(
    kind: Kind, tmp_path: Path, layers: Layers
) -> None:
    for delay in (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1):
        name = new_id()
        async with _server(kind, tmp_path, name, layers) as (process, told):
            assert (await told.readline()).split() == [b"started"]
            await asyncio.sleep(delay)
            process.kill()
            await process.wait()
        driver = kind.make(tmp_path)
        await driver.start()
        for each in await driver.list():
            await driver.adopt(each)
            await driver.destroy(each)
        assert list(await driver.list()) == []
        assert kind.find_traces(tmp_path) == []
        await driver.stop()
    await kind.make(tmp_path).purge()


async def test_a_stopped_driver_leaves_its_sandboxes_running(
    kind: Kind, tmp_path: Path, layers: Layers
) -> None:
    first = kind.make(tmp_path)
    await first.start()
    instance = await first.create(SandboxSpec(new_id(), layers))
    await first.stop()
    async with _started(kind, tmp_path) as second:
        adopted = await second.adopt(instance.sandbox_id)
        assert adopted is not None
        box = Box(second, adopted)
        assert await box.check("echo alive") == "alive"
        assert await box.check("getent hosts deb.debian.org")
        await box.agent.close()


async def test_two_drivers_cannot_have_one_state_directory(kind: Kind, tmp_path: Path) -> None:
    async with _started(kind, tmp_path):
        with pytest.raises(HostError):
            await kind.make(tmp_path).start()


async def test_purging_needs_no_start(kind: Kind, tmp_path: Path, layers: Layers) -> None:
    first = kind.make(tmp_path)
    await first.start()
    await first.create(SandboxSpec(new_id(), layers))
    await first.stop()
    await kind.make(tmp_path).purge()
    assert kind.find_traces(tmp_path) == []


async def test_one_stuck_sandbox_does_not_stop_a_purge(
    kind: Kind, tmp_path: Path, layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = kind.make(tmp_path)
    await driver.start()
    names = [new_id() for _ in range(3)]
    made = [await driver.create(SandboxSpec(each, layers)) for each in names]
    destroy = driver.destroy

    async def fail_once(sandbox_id: str) -> None:
        if sandbox_id == names[0]:
            raise HostError("stuck")
        await destroy(sandbox_id)

    monkeypatch.setattr(driver, "destroy", fail_once)
    with pytest.raises(HostError, match="stuck"):
        await driver.purge()
    assert [each.exited.done() for each in made[1:]] == [True, True]
    second = kind.make(tmp_path)
    assert list(await second.list()) == [names[0]]
    await second.purge()
    assert kind.find_traces(tmp_path) == []


async def test_what_is_unknown_is_not_adopted(driver: Driver) -> None:
    assert await driver.adopt("neverthere") is None
    assert await driver.adopt("../../etc") is None
