"""What stands between a sandbox and the host, tried from inside by the sandbox's own root."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from tests.conformance.box import Box
from tests.conformance.conftest import MakeBox

PROBE = Path(__file__).with_name("probe.c").read_text()

# What a refused attempt meets: the filter's answer, or, where something else refuses as well and
# comes first, that one's.
REFUSALS = {errno.EPERM, errno.EACCES}


def _owners_of(words: bytes) -> set[int]:
    """The host's ids of those who run a command with these words."""
    owners = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words in (entry / "cmdline").read_bytes():
                owners.add(entry.stat().st_uid)
    return owners


@pytest.fixture
async def attempts(box: Box) -> dict[str, int]:
    """The results of `probe.c`, run as root of the sandbox."""
    await box.write({"/tmp/probe.c": PROBE})
    await box.check("gcc -O1 -o /tmp/probe /tmp/probe.c", user="root")
    lines = (await box.check("/tmp/probe", user="root")).splitlines()
    return {name: int(number) for name, number in (line.split() for line in lines)}


async def test_forbidden_calls_fail(attempts: dict[str, int]) -> None:
    assert len(attempts) > 50
    for name in ("clone3", "io_setup", "io_submit"):
        assert attempts.pop(name) == errno.ENOSYS
    allowed = {name: result for name, result in attempts.items() if name.startswith("ok_")}
    assert allowed == dict.fromkeys(allowed, 0)
    wrong = {
        name: errno.errorcode.get(result, result)
        for name, result in attempts.items()
        if name not in allowed and result not in REFUSALS
    }
    assert wrong == {}


async def test_newer_calls_look_like_an_older_kernel(box: Box) -> None:
    number = await box.python(
        "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.syscall(9999);"
        "print(ctypes.get_errno())"
    )
    assert int(number) == errno.ENOSYS


@pytest.mark.parametrize("namespace", ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"])
async def test_every_namespace_is_its_own(make_box: MakeBox, namespace: str) -> None:
    one, other = await make_box(), await make_box()
    seen = {await each.check(f"readlink /proc/self/ns/{namespace}") for each in (one, other)}
    assert len(seen | {os.readlink(f"/proc/self/ns/{namespace}")}) == 3


async def test_root_inside_is_nobody_outside(box: Box) -> None:
    assert (await box.check("cat /proc/self/uid_map", user="root")).split()[0] == "0"
    async with box.background("sleep 987654", user="root"):
        owners = _owners_of(b"987654")
    assert owners
    assert min(owners) >= 100_000


async def test_capabilities_are_the_few_that_are_needed(box: Box) -> None:
    status = await box.check("grep ^Cap /proc/self/status", user="root")
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in status.splitlines()}
    harmless = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31))
    assert sets["CapBnd"] == sets["CapEff"] == sets["CapPrm"] == harmless
    assert sets["CapAmb"] == sets["CapInh"] == 0
    status = await box.check("grep ^Cap /proc/self/status")
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in status.splitlines()}
    assert sets["CapEff"] == sets["CapPrm"] == sets["CapAmb"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/proc/bus/pci/00/00.0",
        "/proc/1/oom_score_adj",
        "/proc/self/uid_map",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
        "/sys/power/state",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/devices/devices.allow",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory.max",
        "/sys/class/net/eth0/mtu",
        "/.atoll/agent.py",
    ],
)
async def test_what_steers_the_host_cannot_be_written(box: Box, path: str) -> None:
    program = f"""
        import os
        try:
            descriptor = os.open("{path}", os.O_WRONLY)
        except OSError:
            print("refused")
            raise SystemExit
        try:
            os.write(descriptor, b"1000")
            print("written")
        except OSError:
            print("refused")
        """
    if path == "/proc/1/oom_score_adj":  # raising one's own share of the blame is allowed
        program = program.replace("1000", "-1000")
    assert await box.python(program, user="root") == "refused"


async def test_the_agents_files_cannot_be_changed(box: Box) -> None:
    for command in ("touch /.atoll/new", "rm -r /.atoll/agent.py", "chmod 777 /.atoll/bin/python3"):
        outcome = await box.run(command, user="root")
        assert "Read-only file system" in outcome.output


@pytest.mark.parametrize(
    "path",
    [
        *("/proc/diskstats", "/proc/kcore", "/proc/keys", "/proc/partitions", "/proc/sched_debug"),
        *("/proc/timer_list", "/dev/kmsg"),
    ],
)
async def test_what_tells_about_the_host_reads_empty(box: Box, path: str) -> None:
    outcome = await box.run(f"head -c 100 {path} | wc -c", user="root")
    assert outcome.output.strip().endswith("0")


async def test_no_device_of_the_host_is_there(box: Box) -> None:
    devices = await box.check("find /dev -type b -o -type c | sort", user="root")
    expected = ["full", "null", "ptmx", "random", "tty", "urandom", "zero"]
    names = [Path(line).name for line in devices.splitlines() if "/pts/" not in line]
    assert sorted(names) == [name for name in expected if name in names]
    assert await box.check("ls /sys/devices/virtual/block /sys/firmware | wc -l") in ("3", "4")


async def test_no_path_of_the_host_shows(box: Box) -> None:
    seen = await box.run(
        "cat /proc/self/mountinfo /proc/self/mounts /proc/1/cgroup /proc/self/cgroup;"
        "cat /sys/block/*/loop/backing_file; cat /proc/1/environ /proc/1/cmdline",
        user="root",
    )
    for text in ("/tmp/pytest", "/var/lib/atoll", "/run/atoll", box.instance.sandbox_id):
        assert text not in seen.output


async def test_the_root_of_the_first_process_is_the_sandbox(box: Box) -> None:
    marker = "/etc/atoll-test-marker"
    await box.write({marker: "inside"})
    for prefix in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd"):
        assert await box.check(f"cat {prefix}{marker}", user="root") == "inside"
        escape = f"{prefix}/../../../../../..{marker}"
        assert await box.check(f"cat {escape}", user="root") == "inside"
    assert not os.path.exists(marker)


async def test_a_chroot_does_not_lead_out(box: Box) -> None:
    program = """
        import os
        os.makedirs("/tmp/c", exist_ok=True)
        here = os.open("/", os.O_RDONLY)
        os.chroot("/tmp/c")
        os.fchdir(here)
        for _ in range(100):
            os.chdir("..")
        os.chroot(".")
        print(os.path.exists("/.atoll/agent.py"), sorted(os.listdir("/"))[:1])
        """
    assert (await box.python(program, user="root")).startswith("True")


async def test_no_process_of_the_host_shows(box: Box) -> None:
    command = await box.check("cat /proc/*/cmdline | tr '\\0' ' '", user="root")
    assert "pytest" not in command
    pids = await box.check("ls -d /proc/[0-9]* | wc -l")
    assert int(pids) < 10


async def test_the_first_process_cannot_be_killed_or_read(box: Box) -> None:
    await box.run("kill -9 1; kill -TERM 1", user="root")
    await box.run("sudo kill -9 1")
    assert await box.check("echo alive") == "alive"
    outcome = await box.run("cat /proc/1/environ > /dev/null && head -c1 /proc/1/mem")
    assert outcome.exit_code != 0


async def test_programs_with_a_set_user_bit_work_and_stay_inside(box: Box) -> None:
    assert await box.check("sudo -n id -u") == "0"
    await box.check(
        "cp /usr/bin/id /tmp/id && chown root /tmp/id && chmod u+s /tmp/id", user="root"
    )
    assert await box.check("/tmp/id -u") == "0"


async def test_extended_attributes_are_kept(box: Box) -> None:
    program = """
        import os
        open("/home/user/x", "w").close()
        os.setxattr("/home/user/x", "user.test", b"1")
        print(os.getxattr("/home/user/x", "user.test"))
        try:
            os.setxattr("/home/user/x", "trusted.overlay.opaque", b"y")
        except OSError:
            print("refused")
        """
    assert await box.python(program) == "b'1'\nrefused"


async def test_directories_of_the_template_can_be_renamed(box: Box) -> None:
    await box.python("import os; os.rename('/usr/share', '/usr/shared')", user="root")
    assert await box.check("test -d /usr/shared && test ! -e /usr/share && echo moved") == "moved"


async def test_sandboxes_share_no_ipc(make_box: MakeBox) -> None:
    one, other = await make_box(), await make_box()
    await one.check("ipcmk -M 4096 && touch /dev/shm/mine /tmp/mine", user="root")
    assert await other.check("ipcs -m | grep -c 4096; ls /dev/shm /tmp | grep -c mine; true") == (
        "0\n0"
    )


async def test_the_memory_limit_can_be_read_inside(box: Box) -> None:
    files = "memory.max memory/memory.limit_in_bytes"
    text = await box.check(f"cd /sys/fs/cgroup && cat {files} 2>/dev/null; true")
    assert int(text) == 512 << 20
