"""What sandboxes use: at the moment, over time, and how many of them there are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.queries import take_interval
from atoll.errors import Forbidden, InvalidInput
from atoll.sandboxes.events import format_moment
from atoll.sandboxes.history import History
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.sampler import processor_percent
from atoll.store.metrics import SandboxSample

_WINDOW = 0.1
"""Seconds over which the use of the processor at the moment is measured."""
_MOST_IDS = 100


async def measure(sandbox: Sandbox) -> dict[str, int | float]:
    """Measure now, in the fields that E2B's agent reports. Raises `SandboxGone`."""
    first = await sandbox.measure()
    began = time.monotonic()
    await asyncio.sleep(_WINDOW)
    usage = await sandbox.measure()
    seconds = time.monotonic() - began
    cpu_count = sandbox.template.resources.cpu_count
    return {
        "ts": int(time.time()),
        "cpu_count": cpu_count,
        "cpu_used_pct": processor_percent(first, usage, seconds, cpu_count),
        "mem_total": usage.memory_limit_bytes,
        "mem_used": usage.memory_bytes,
        "mem_cache": usage.cache_bytes,
        "mem_total_mib": usage.memory_limit_bytes >> 20,
        "mem_used_mib": usage.memory_bytes >> 20,
        "disk_used": usage.disk_used_bytes,
        "disk_total": usage.disk_total_bytes,
    }


class MetricRoutes:
    """The routes of metrics."""

    def __init__(self, history: History, credentials: Credentials) -> None:
        self._history = history
        self._credentials = credentials

    def routes(self) -> list[Route]:
        """The routes, for the control plane: before `/sandboxes/{sandbox_id}`."""
        return [
            Route("/sandboxes/metrics", self._show_newest, methods=["GET"]),
            Route("/sandboxes/{sandbox_id}/metrics", self._show, methods=["GET"]),
            Route("/teams/{team_id}/metrics", self._show_team, methods=["GET"]),
            Route("/teams/{team_id}/metrics/max", self._show_most, methods=["GET"]),
        ]

    async def _show(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        start, end = take_interval(request.query_params)
        sandbox_id = request.path_params["sandbox_id"]
        samples = await self._history.metrics(team, sandbox_id, start, end)
        return JSONResponse([_describe(sample) for sample in samples])

    async def _show_newest(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        given = request.query_params.getlist("sandbox_ids")
        ids = {each for text in given for each in text.split(",") if each}
        if not given or len(ids) > _MOST_IDS:
            raise InvalidInput(f"sandbox_ids must name sandboxes, at most {_MOST_IDS}")
        samples = await self._history.newest_metrics(team, ids)
        found = {sample.sandbox_id: _describe(sample) for sample in samples}
        return JSONResponse({"sandboxes": found})

    async def _show_team(self, request: Request) -> Response:
        team = await self._find_team(request)
        start, end = take_interval(request.query_params)
        samples = await self._history.team_metrics(team, start, end)
        return JSONResponse(
            [
                {
                    "timestamp": format_moment(sample.at),
                    "timestampUnix": sample.at,
                    "concurrentSandboxes": sample.concurrent,
                    "sandboxStartRate": sample.start_rate,
                }
                for sample in samples
            ]
        )

    async def _show_most(self, request: Request) -> Response:
        team = await self._find_team(request)
        start, end = take_interval(request.query_params)
        metric = request.query_params.get("metric")
        samples = await self._history.team_metrics(team, start, end)
        values: list[tuple[float, int]]
        if metric == "concurrent_sandboxes":
            values = [(sample.concurrent, sample.at) for sample in samples]
        elif metric == "sandbox_start_rate":
            values = [(sample.start_rate, sample.at) for sample in samples]
        else:
            raise InvalidInput("metric must be concurrent_sandboxes or sandbox_start_rate")
        now = int(time.time())
        nothing = (0, now if end is None else min(end, now))
        value, at = max(values, key=lambda each: each[0], default=nothing)  # the first of equals
        return JSONResponse({"timestamp": format_moment(at), "timestampUnix": at, "value": value})

    async def _find_team(self, request: Request) -> str:
        team = await self._credentials.find_team(request)
        if request.path_params["team_id"] != team:
            raise Forbidden("the key is not for this team", remedy="name the key's own team")
        return team


def _describe(sample: SandboxSample) -> dict[str, Any]:
    return {
        "timestamp": format_moment(sample.at),
        "timestampUnix": sample.at,
        "cpuCount": sample.cpu_count,
        "cpuUsedPct": sample.cpu_percent,
        "memUsed": sample.memory_used,
        "memTotal": sample.memory_total,
        "memCache": sample.memory_cache,
        "diskUsed": sample.disk_used,
        "diskTotal": sample.disk_total,
    }
