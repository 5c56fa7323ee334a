"""Cross-origin requests from browsers.

What E2B's own agent answers is open to every origin, as on E2B: it is guarded by a token that no
browser sends by itself. So are the gateway's own answers, and requests that name their sandbox by
header: their preflight names none, so no service in a sandbox could answer it. Services reached by
host name or path decide for themselves.
"""

from __future__ import annotations

from starlette.types import Message, Scope, Send

from atoll.doors.answers import answer_empty, header

_ALLOW_ORIGIN = (b"access-control-allow-origin", b"*")
_EXPOSE = (b"access-control-expose-headers", b"*")
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_MAX_AGE = b"7200"


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks what it may send."""
    return (
        scope["type"] == "http"
        and scope["method"] == "OPTIONS"
        and header(scope, b"access-control-request-method") is not None
    )


def is_header_preflight(scope: Scope) -> bool:
    """Whether a browser asks to send a request that names its sandbox by header."""
    wanted = header(scope, b"access-control-request-headers")
    return is_preflight(scope) and wanted is not None and b"e2b-sandbox-id" in wanted.lower()


async def answer_preflight(scope: Scope, send: Send) -> None:
    """Allow whatever is asked for."""
    headers = [
        _ALLOW_ORIGIN,
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _MAX_AGE),
        (b"vary", b"Access-Control-Request-Headers"),
    ]
    wanted = header(scope, b"access-control-request-headers")
    if wanted is not None:
        headers.append((b"access-control-allow-headers", wanted))
    await answer_empty(scope, send, 204, headers)


def open_to_all(scope: Scope, send: Send) -> Send:
    """Let scripts of any origin read the answer, unless the answer itself says who may."""
    if scope["type"] != "http" or header(scope, b"origin") is None:
        return send

    async def open_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            if not any(name.lower() == _ALLOW_ORIGIN[0] for name, _ in headers):
                message["headers"] = [*headers, _ALLOW_ORIGIN, _EXPOSE]
        await send(message)

    return open_send
