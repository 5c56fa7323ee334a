"""The routes of the control plane, without a server."""

from __future__ import annotations

import inspect
from typing import Any

from starlette.routing import Route

from atoll.parts import build_control


def control_routes() -> list[Route]:
    """All of them, made of parts that are not there: they are only looked at."""
    nothing: dict[str, Any] = dict.fromkeys(inspect.signature(build_control).parameters)
    routes = build_control(**nothing).routes
    assert all(isinstance(route, Route) for route in routes)
    return [route for route in routes if isinstance(route, Route)]
