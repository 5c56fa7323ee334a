"""Runs inside a sandbox: how long jupyter_client alone takes to run a statement in the same kernel.

`python3 kernel.py TRANSPORT COUNT` prints the durations in milliseconds as a JSON list.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

from jupyter_client import KernelManager


def main(transport: str, count: int) -> None:
    """Start a kernel, run the statement `count` times after some that don't count."""
    manager = KernelManager(kernel_name="python3", transport=transport)
    if transport == "ipc":
        manager.ip = f"{tempfile.mkdtemp()}/socket"
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready()
    times = []
    for _ in range(count + 10):
        began = time.perf_counter()
        client.execute_interactive("1+1", output_hook=lambda message: None)
        times.append((time.perf_counter() - began) * 1000)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    print(json.dumps(times[10:]))


main(sys.argv[1], int(sys.argv[2]))
