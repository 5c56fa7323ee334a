"""`GET /metrics`: what a sandbox uses at the moment."""

from __future__ import annotations

import asyncio
import time

from atoll.sandboxes.model import Sandbox

_WINDOW = 0.1
"""Seconds over which the use of the processor is measured."""


async def measure(sandbox: Sandbox) -> dict[str, int | float]:
    """Measure, in the fields that E2B's agent reports. Raises `SandboxGone`."""
    first = await sandbox.measure()
    began = time.monotonic()
    await asyncio.sleep(_WINDOW)
    usage = await sandbox.measure()
    seconds = time.monotonic() - began
    disk = await sandbox.agent.disk_usage()
    cpu_count = sandbox.template.resources.cpu_count
    busy = max(0.0, usage.cpu_seconds - first.cpu_seconds) / seconds
    return {
        "ts": int(time.time()),
        "cpu_count": cpu_count,
        "cpu_used_pct": round(100 * busy / cpu_count, 2),
        "mem_total": usage.memory_limit_bytes,
        "mem_used": usage.memory_bytes,
        "mem_cache": usage.cache_bytes,
        "mem_total_mib": usage.memory_limit_bytes >> 20,
        "mem_used_mib": usage.memory_bytes >> 20,
        "disk_used": disk.used_bytes,
        "disk_total": disk.total_bytes,
    }
