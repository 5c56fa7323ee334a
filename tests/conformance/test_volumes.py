"""Volumes: they stay, they are shared, they are limited, and nothing leads out of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from atoll.errors import Conflict, InvalidInput, NotFound
from atoll.isolation.driver import Driver, SandboxSpec, VolumeMount
from atoll.templates.model import Template
from tests.conformance.box import Box, new_id
from tests.conformance.conftest import MakeBox
from tests.conformance.kinds import Kind

SIZE_MB = 64


@pytest.fixture
async def volume(driver: Driver) -> str:
    """A small volume; it goes with the driver's state directory."""
    volume_id = f"v{new_id()}"
    await driver.create_volume(volume_id, SIZE_MB)
    return volume_id


def at(path: str, volume_id: str) -> dict[str, tuple[VolumeMount, ...]]:
    """An option of `make_box`."""
    return {"volumes": (VolumeMount(volume_id, path),)}


async def test_files_outlive_the_sandbox(make_box: MakeBox, driver: Driver, volume: str) -> None:
    first = await make_box(**at("/data/deep", volume))
    await first.check("echo kept > /data/deep/file && ln -s file /data/deep/link")
    await driver.destroy(first.instance.sandbox_id)
    second = await make_box(**at("/home/user/elsewhere", volume))
    assert await second.check("cat /home/user/elsewhere/link") == "kept"
    assert await second.check("stat -c '%U %a' /home/user/elsewhere") == "user 777"
    assert await second.check("ls -A /home/user/elsewhere") == "file\nlink"


async def test_two_sandboxes_see_the_same_files(make_box: MakeBox, volume: str) -> None:
    one = await make_box(**at("/data", volume))
    two = await make_box(**at("/mnt/data", volume))
    await one.check("echo a > /data/file; sudo chown root:root /data/file")
    assert await two.check("stat -c %U /mnt/data/file; cat /mnt/data/file") == "root\na"
    # Locks too are those of one file system.
    async with one.background("flock /data/lock sleep 1000"):
        assert (
            await two.check(
                "for i in $(seq 500); do flock -n /mnt/data/lock true || { echo held; break; };"
                " sleep 0.02; done"
            )
            == "held"
        )


async def test_the_size_is_the_kernels_business(make_box: MakeBox, volume: str) -> None:
    box = await make_box(**at("/data", volume))
    outcome = await box.run("head -c 100M /dev/zero > /data/big", user="root")
    assert outcome.exit_code != 0
    assert "No space left" in outcome.output
    size = int(await box.check("stat -c %s /data/big"))
    assert SIZE_MB / 2 < size >> 20 < SIZE_MB
    await box.check("head -c 100M /dev/zero > /tmp/elsewhere; rm /data/big; echo > /data/small")


async def test_neither_devices_nor_foreign_ids_count(make_box: MakeBox, volume: str) -> None:
    box = await make_box(**at("/data", volume))
    options = await box.check("findmnt -no OPTIONS /data || grep ' /data ' /proc/self/mountinfo")
    assert "nosuid" in options
    assert "nodev" in options
    assert (await box.run("mknod /data/disk b 8 0", user="root")).exit_code != 0
    await box.check("cp /usr/bin/id /data; chown root /data/id; chmod 4755 /data/id", user="root")
    assert await box.check("/data/id -u") == "1000"
    assert (await box.run("mount -o remount,dev /data", user="root")).exit_code != 0


async def test_no_symlink_leads_a_mount_out(
    make_box: MakeBox, template: Template, volume: str, tmp_path: Path
) -> None:
    """A layer of the enemy's: where its symlinks lead is inside the sandbox, or refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = tmp_path / "layer"
    layer.mkdir()
    tmp_path.chmod(0o755)
    os.chown(layer, template.layers[0].stat().st_uid, template.layers[0].stat().st_gid)
    links = {
        "absolute": str(outside),
        "up": "../../../../../../../.." + str(outside),
        "ours": "/opt",
        "to-proc": "/proc",
        "agent": "/.atoll",
        "nowhere": "/run/e2b",
        "loop": "/loop",
        "self": "/proc/self/root",
        "all": "/",
    }
    for name, target in links.items():
        (layer / name).symlink_to(target)
    (layer / "file").write_text("")
    layers = (layer, *template.layers)

    box = await make_box(layers=layers, **at("/ours/data", volume))
    await box.check("touch /opt/data/here; grep ' /opt/data ' /proc/self/mountinfo")
    for name in links.keys() - {"ours"}:
        with pytest.raises(InvalidInput):
            await make_box(layers=layers, **at(f"/{name}", volume))
    with pytest.raises(InvalidInput):
        await make_box(layers=layers, **at("/file", volume))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "paths",
    [
        ("/",),
        ("relative",),
        ("/a/../b",),
        ("//data",),
        ("/data\0",),
        ("/" + "a" * 2000,),
        ("/proc",),
        ("/proc/sys/data",),
        ("/sys",),
        ("/dev/shm",),
        ("/run",),
        ("/run/e2b/data",),
        ("/.atoll/python",),
        ("/etc",),
        ("/var/run",),
        ("/data", "/data"),
        ("/data", "/data/inner"),
        ("/data/inner", "/data"),
        tuple(f"/data{number}" for number in range(17)),
    ],
)
async def test_what_is_no_place_for_a_volume_is_refused(
    driver: Driver, template: Template, volume: str, paths: tuple[str, ...]
) -> None:
    mounts = tuple(VolumeMount(volume, path) for path in paths)
    spec = SandboxSpec(new_id(), template.layers, volumes=mounts)
    with pytest.raises(InvalidInput):
        await driver.create(spec)
    assert spec.sandbox_id not in await driver.list()


async def test_a_volume_in_use_is_not_removed(make_box: MakeBox, driver: Driver) -> None:
    await driver.create_volume("used", SIZE_MB)
    box = await make_box(**at("/data", "used"))
    await box.check("dd if=/dev/urandom of=/data/file bs=1M count=20 status=none")
    with pytest.raises(Conflict):
        await driver.remove_volume("used")
    with pytest.raises(Conflict):
        await driver.create_volume("used", SIZE_MB)
    await box.check("md5sum /data/file")
    await driver.destroy(box.instance.sandbox_id)
    await driver.remove_volume("used")
    await driver.remove_volume("used")
    with pytest.raises(NotFound):
        await driver.open_volume("used")
    with pytest.raises(NotFound):
        await make_box(**at("/data", "used"))


async def test_the_host_sees_the_same_files(make_box: MakeBox, driver: Driver, volume: str) -> None:
    root = await driver.open_volume(volume)
    descriptor = os.open("from-host", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=root.descriptor)
    os.write(descriptor, b"hello")
    os.fchown(descriptor, root.id_base + 1000, root.id_base + 1000)
    os.close(descriptor)
    box = await make_box(**at("/data", volume))
    assert await box.check("cat /data/from-host; echo inside > /data/from-box") == "hello"
    await asyncio.to_thread(os.close, root.descriptor)
    root = await driver.open_volume(volume)
    assert sorted(os.listdir(root.descriptor)) == ["from-box", "from-host"]
    await asyncio.to_thread(os.close, root.descriptor)


async def test_another_driver_shares_the_file_system(
    kind: Kind, template: Template, tmp_path: Path
) -> None:
    """What an earlier server mounted, its successor does not mount a second time by itself."""
    first = kind.make(tmp_path)
    await first.start()
    await first.create_volume("shared", SIZE_MB)
    spec = SandboxSpec(new_id(), template.layers, volumes=(VolumeMount("shared", "/data"),))
    made = await first.create(spec)
    await first.stop()

    second = kind.make(tmp_path)
    await second.start()
    try:
        adopted = await second.adopt(spec.sandbox_id)
        assert adopted is not None
        assert adopted.pid == made.pid
        box = Box(second, adopted, template.envs)
        await box.check("echo old > /data/file")
        root = await second.open_volume("shared")
        assert os.listdir(root.descriptor) == ["file"]
        os.close(os.open("new", os.O_CREAT, 0o644, dir_fd=root.descriptor))
        await box.check("ls /data/new")
        await asyncio.to_thread(os.close, root.descriptor)
        await box.agent.close()
    finally:
        await second.purge()
    assert kind.find_traces(tmp_path) == []
