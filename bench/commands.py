"""How fast a command runs in a live sandbox."""

from __future__ import annotations

from e2b import Sandbox

from bench.peers import chroot_command, docker_exec, run_quietly, runc_container
from bench.samples import interleave
from bench.servers import run_atoll, run_stub
from bench.table import Row

_COUNT = 300


def measure_commands() -> list[Row]:
    """`commands.run("true")` beside a chroot, the runtime's exec, the bare SDK and Docker."""
    with (
        run_stub() as stub,
        run_atoll(pool_size=1) as target,
        runc_container() as container,
        chroot_command("/bin/bash", "-l", "-c", "true") as chroot,
    ):
        ours = Sandbox.create(**target.options)
        bare = Sandbox.create(**stub.options)
        execute = ["runc", "exec", container, "/bin/bash", "-l", "-c", "true"]
        times = interleave(
            {
                "atoll": lambda: ours.commands.run("true"),
                "chroot": lambda: run_quietly(*chroot),
                "runc": lambda: run_quietly(*execute),
                "sdk": lambda: bare.commands.run("true"),
            },
            _COUNT,
        )
        ours.kill()
    atoll = times["atoll"]
    rows = [
        Row(
            'commands.run("true")',
            str(atoll),
            f"bash -l -c true in a chroot {times['chroot']}",
            atoll.p50 / times["chroot"].p50,
            "p50 ≤ 8 ms, ratio ≤ 1.6",
            atoll.p50 <= 8 and atoll.p50 / times["chroot"].p50 <= 1.6,
        ),
        Row("the same", str(atoll), f"runc exec {times['runc']}", atoll.p50 / times["runc"].p50),
        Row(
            "the same",
            str(atoll),
            f"SDK against a bare server {times['sdk']}",
            atoll.p50 / times["sdk"].p50,
        ),
    ]
    if (docker := docker_exec()) is not None:
        rows.append(Row("the same", str(atoll), f"docker exec {docker}", atoll.p50 / docker.p50))
    return rows
