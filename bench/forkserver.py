"""Runs inside an interpreter: what a fork server would bring to a second Python context.

Prints a JSON object: milliseconds until a process has the libraries of a warm kernel, and bytes
that are its own, once for a new process and once for the fork of one that has them.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time

WARM = ("ipykernel.kernelapp", "numpy", "pandas", "matplotlib.pyplot", "PIL.Image", "e2b_charts")


def read_own(pid: int | str) -> int:
    """Bytes of memory that a process shares with nobody."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        lines = [line.split() for line in rollup]
    return sum(int(line[1]) << 10 for line in lines if line[0].startswith("Private_"))


def be_ready() -> None:
    """Have the libraries, use them a little, say so, and wait."""
    for name in WARM:
        importlib.import_module(name)
    print(read_own("self"), flush=True)
    sys.stdin.read()


def measure_new() -> dict[str, float]:
    """A process that begins from nothing."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "ready"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        own = int(process.stdout.readline())
        took = (time.perf_counter() - began) * 1000
        process.communicate()
    return {"milliseconds": took, "bytes": own}


def measure_fork() -> dict[str, float]:
    """The fork of a process that has them."""
    for name in WARM:
        importlib.import_module(name)
    reader, writer = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        import pandas

        pandas.DataFrame({"a": range(1000)}).describe()
        os.write(writer, str(read_own("self")).encode())
        os._exit(0)
    own = int(os.read(reader, 100))
    took = (time.perf_counter() - began) * 1000
    os.waitpid(child, 0)
    return {"milliseconds": took, "bytes": own}


if sys.argv[1:] == ["ready"]:
    be_ready()
else:
    print(json.dumps({"new": measure_new(), "fork": measure_fork()}))
