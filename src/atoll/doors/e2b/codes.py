"""How Atoll's errors look on E2B's wires: one table for REST and for Connect-RPC."""

from __future__ import annotations

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from atoll.doors.e2b.encodings import NotAcceptable
from atoll.errors import (
    AgentFailed,
    AtollError,
    Conflict,
    EventsLost,
    Exhausted,
    Forbidden,
    HostError,
    InvalidInput,
    NoSpace,
    NotFound,
    Overloaded,
    PathExists,
    PortClosed,
    RequestMismatch,
    SandboxGone,
    TooLarge,
    Unauthenticated,
)

_CODES: dict[type[AtollError], tuple[int, Code]] = {
    AtollError: (500, Code.INTERNAL),
    InvalidInput: (400, Code.INVALID_ARGUMENT),
    TooLarge: (413, Code.RESOURCE_EXHAUSTED),
    RequestMismatch: (422, Code.INVALID_ARGUMENT),
    Unauthenticated: (401, Code.UNAUTHENTICATED),
    Forbidden: (403, Code.PERMISSION_DENIED),
    NotFound: (404, Code.NOT_FOUND),
    Conflict: (409, Code.FAILED_PRECONDITION),
    PathExists: (409, Code.ALREADY_EXISTS),
    Exhausted: (429, Code.RESOURCE_EXHAUSTED),
    NoSpace: (507, Code.RESOURCE_EXHAUSTED),
    Overloaded: (503, Code.RESOURCE_EXHAUSTED),
    EventsLost: (500, Code.INTERNAL),
    SandboxGone: (502, Code.UNAVAILABLE),
    PortClosed: (502, Code.UNAVAILABLE),
    AgentFailed: (500, Code.INTERNAL),
    HostError: (500, Code.INTERNAL),
    NotAcceptable: (406, Code.INVALID_ARGUMENT),
}


def _find(error: AtollError) -> tuple[int, Code]:
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return _CODES[AtollError]


def http_status(error: AtollError) -> int:
    """The HTTP status that E2B's REST routes answer an error with."""
    return _find(error)[0]


def http_body(error: AtollError) -> dict[str, int | str]:
    """The JSON body that goes with `http_status`."""
    body: dict[str, int | str] = {"code": http_status(error), "message": str(error)}
    if isinstance(error, RequestMismatch):
        body["error_code"] = "idempotency_request_mismatch"  # as E2B's SDK documents it
    return body


def connect_error(error: AtollError) -> ConnectError:
    """The error as a Connect-RPC client receives it."""
    return ConnectError(_find(error)[1], str(error))
