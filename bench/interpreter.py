"""The code interpreter: from create to the first result, and from code to result."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from e2b_code_interpreter import Sandbox

from atoll.templates.interpreter import NAME
from bench.memory import find_sandbox_processes, read_available, read_pss, read_rss
from bench.samples import Samples, sample, time_once
from bench.servers import Target, ensure_interpreter, run_atoll, wait_for_pool
from bench.table import Row

_POOL = 3
_CREATES = 30
_RUNS = 200
_AT_ONCE = 20

_FLOOR = Path(__file__).with_name("kernel.py").read_text()
_FORK_SERVER = Path(__file__).with_name("forkserver.py").read_text()
_FRESH_IMPORT = "python3 -c 'import numpy, pandas'"


def measure_interpreter() -> list[Row]:
    """All rows; the template is built first if it has to be."""
    ensure_interpreter()
    with run_atoll(pool_size=_POOL, warm=NAME) as target:
        rows = [*_measure_creates(target), *_measure_runs(target)]
    with run_atoll(pool_size=0) as target:
        return [*rows, *_measure_many(target)]


def _measure_creates(target: Target) -> list[Row]:
    creates, firsts, imports, fresh = [], [], [], []
    for _ in range(_CREATES):
        wait_for_pool(target, _POOL)
        began = time.perf_counter()
        sandbox = Sandbox.create(timeout=120, **target.options)
        creates.append((time.perf_counter() - began) * 1000)
        assert sandbox.run_code("1+1").text == "2"
        firsts.append((time.perf_counter() - began) * 1000)
        imports.append(time_once(partial(sandbox.run_code, "import numpy, pandas")))
        fresh.append(time_once(partial(sandbox.commands.run, _FRESH_IMPORT)))
        sandbox.kill()
    create, first = Samples(creates), Samples(firsts)
    known, cold = Samples(imports), Samples(fresh)
    return [
        Row(
            "create an interpreter, pooled", str(create), "", None, "p50 ≤ 30 ms", create.p50 <= 30
        ),
        Row('the same and run_code("1+1")', str(first), "", None, "p50 ≤ 60 ms", first.p50 <= 60),
        Row(
            "import numpy, pandas in a fresh sandbox",
            str(known),
            f"a new python3 that does it {cold}",
            known.p50 / cold.p50,
            "p50 ≤ 50 ms",
            known.p50 <= 50,
        ),
    ]


def _measure_runs(target: Target) -> list[Row]:
    with Sandbox.create(timeout=600, **target.options) as sandbox:
        runs = sample(lambda: sandbox.run_code("1+1"), _RUNS)
        # The floor runs where the interpreter runs, with its libraries and its kernel.
        sandbox.files.write("/tmp/kernel.py", _FLOOR)
        rows = [_measure_fork_server(sandbox)]
        for transport, bar in (("tcp", "p50 ≤ 10 ms, ratio ≤ 2"), ("ipc", "")):
            said = sandbox.commands.run(
                f"cd && PYTHONPATH=/opt/interpreter/lib python3 /tmp/kernel.py {transport} {_RUNS}",
                timeout=120,
            )
            floor = Samples(json.loads(said.stdout.splitlines()[-1]))
            ratio = runs.p50 / floor.p50
            rows.append(
                Row(
                    'run_code("1+1") in a live context',
                    str(runs),
                    f"jupyter_client alone, {transport} {floor}",
                    ratio,
                    bar,
                    runs.p50 <= 10 and ratio <= 2 if bar else None,
                )
            )
    return rows


def _measure_fork_server(sandbox: Sandbox) -> Row:
    sandbox.files.write("/tmp/forkserver.py", _FORK_SERVER)
    said = json.loads(sandbox.commands.run("python3 /tmp/forkserver.py").stdout)
    new, fork = said["new"], said["fork"]
    mb = 1 << 20
    return Row(
        "a second Python process with the libraries (time; memory of its own)",
        f"new: {new['milliseconds']:.0f} ms, {new['bytes'] / mb:.0f} MB",
        f"forked from the first: {fork['milliseconds']:.0f} ms, {fork['bytes'] / mb:.0f} MB",
        new["milliseconds"] / fork["milliseconds"],
    )


def _measure_many(target: Target) -> list[Row]:
    before = set(find_sandbox_processes())
    free = read_available()
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as threads:
        sandboxes = list(
            threads.map(lambda _: Sandbox.create(timeout=600, **target.options), range(_AT_ONCE))
        )
    wall = time.perf_counter() - began
    code = "import numpy; int(numpy.arange(10_000_000).sum())"
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        texts = list(threads.map(lambda each: each.run_code(code).text, sandboxes))
    time.sleep(3)
    mine = set(find_sandbox_processes()) - before
    pss = sum(read_pss(pid) for pid in mine) / _AT_ONCE
    rss = sum(read_rss(pid) for pid in mine) / _AT_ONCE
    drop = (free - read_available()) / _AT_ONCE
    for sandbox in sandboxes:
        sandbox.kill()
    good = texts == ["49999995000000"] * _AT_ONCE
    mb = 1 << 20
    return [
        Row(
            f"{_AT_ONCE} interpreters at once, each running code",
            f"created in {wall:.1f} s without a pool, all right: {'yes' if good else 'NO'}",
            "",
            None,
            "all",
            good,
        ),
        Row(
            "memory per interpreter (PSS of all its processes)",
            f"{pss / mb:.0f} MB",
            f"RSS {rss / mb:.0f} MB: the rest is shared; drop of MemAvailable {drop / mb:.0f} MB",
            None,
        ),
    ]
