"""How fast a sandbox is there, and how fast it is of use."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from e2b import Sandbox

from bench.peers import (
    chroot_command,
    docker_burst,
    docker_run,
    docker_time_to_interactive,
    run_quietly,
    runc_create_to_exit,
)
from bench.samples import Samples, sample, time_once
from bench.servers import Target, run_atoll, run_stub, wait_for_pool
from bench.table import Row

_SEQUENCE = 100
_BURST = 100


def _create(target: Target) -> Sandbox:
    return Sandbox.create(timeout=300, **target.options)


def _time_creates(target: Target, count: int) -> Samples:
    made: list[Sandbox] = []
    values = [time_once(lambda: made.append(_create(target))) for _ in range(count)]
    for sandbox in made:
        sandbox.kill()
    return Samples(values)


def _interact(target: Target) -> tuple[float, Sandbox]:
    began = time.perf_counter()
    sandbox = _create(target)
    result = sandbox.commands.run("node -v")
    took = (time.perf_counter() - began) * 1000
    assert result.stdout.startswith("v")
    return took, sandbox


def _interact_in_turn(target: Target, count: int) -> Samples:
    """The ComputeSDK benchmark's sequential mode: create, `node -v`, destroy, again."""
    values = []
    for _ in range(count):
        took, sandbox = _interact(target)
        values.append(took)
        sandbox.kill()
    return Samples(values)


def _interact_at_once(target: Target, count: int) -> tuple[float, Samples, int]:
    def attempt(_: int) -> tuple[float, Any]:
        try:
            return _interact(target)
        except Exception as error:  # counted: the success rate is part of the result
            return 0.0, error

    with ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        results = list(threads.map(attempt, range(count)))
        wall = time.perf_counter() - began
        good = [(took, made) for took, made in results if isinstance(made, Sandbox)]
        list(threads.map(lambda each: each[1].kill(), good))
    return wall, Samples([took for took, _ in good] or [0.0]), len(good)


def measure_creates() -> list[Row]:
    """Create from the pool and cold, time to interactive one by one and all at once."""
    rows = []
    with run_stub() as stub:
        floor = sample(lambda: _create(stub), 200)
    with run_atoll(pool_size=_SEQUENCE + 10) as target:
        wait_for_pool(target, _SEQUENCE + 10)
        pooled = _time_creates(target, _SEQUENCE)
    rows.append(
        Row(
            "create from the pool (SDK)",
            str(pooled),
            f"SDK against a bare server {floor}",
            pooled.p50 / floor.p50,
            "p50 ≤ 10 ms",
            pooled.p50 <= 10,
        )
    )
    with run_atoll(pool_size=0) as target:
        cold = _time_creates(target, 30)
        runtime = runc_create_to_exit(30)
    rows.append(
        Row(
            "create, cold (SDK)",
            str(cold),
            f"runc create to exit of /bin/true {runtime}",
            cold.p50 / runtime.p50,
            "p50 ≤ 300 ms",
            cold.p50 <= 300,
        )
    )
    if (docker := docker_run()) is not None:
        rows.append(Row("the same", str(cold), f"docker run -d {docker}", cold.p50 / docker.p50))
    with run_atoll(pool_size=_SEQUENCE + 10) as target:
        wait_for_pool(target, _SEQUENCE + 10)
        turns = _interact_in_turn(target, _SEQUENCE)
        wait_for_pool(target, _SEQUENCE + 10)
        wall, burst, good = _interact_at_once(target, _BURST)
    with chroot_command("node", "-v") as chroot:
        node = sample(lambda: run_quietly(*chroot), 50)
    rows.append(
        Row(
            "time to interactive, 100 in turn (pool 110)",
            str(turns),
            f"node -v in a chroot {node}",
            turns.p50 / node.p50,
            "p50 ≤ 25, p99 ≤ 100 ms",
            turns.p50 <= 25 and turns.p99 <= 100,
        )
    )
    if (peer := docker_time_to_interactive()) is not None:
        rows.append(Row("the same", str(turns), f"docker {peer}", turns.p50 / peer.p50))
    rows.append(_burst_row("100 at once (pool 110)", wall, burst, good))
    with run_atoll() as target:
        wait_for_pool(target, 4)
        wall, burst, good = _interact_at_once(target, _BURST)
    rows.append(_burst_row("100 at once (default pool)", wall, burst, good))
    return rows


def _burst_row(what: str, wall: float, burst: Samples, good: int) -> Row:
    peer = docker_burst(_BURST)
    return Row(
        f"time to interactive, {what}",
        f"{good} of {_BURST} in {wall:.2f} s, {burst}",
        f"docker {peer:.1f} s" if peer else "docker: no engine on this machine",
        wall / peer if peer else None,
        "100 %, ≤ 8 s",
        good == _BURST and wall <= 8,
    )
