"""Small complete answers, for HTTP requests and for WebSocket handshakes alike."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from starlette.types import Scope, Send

Headers = Iterable[tuple[bytes, bytes]]


def header(scope: Scope, name: bytes) -> bytes | None:
    """Find the first value of a request header; `name` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def answer_json(
    scope: Scope, send: Send, status: int, body: Any, headers: Headers = ()
) -> None:
    """Answer with a JSON document."""
    content = json.dumps(body, separators=(",", ":")).encode()
    await answer_bytes(
        scope, send, status, content, [(b"content-type", b"application/json"), *headers]
    )


async def answer_empty(scope: Scope, send: Send, status: int, headers: Headers = ()) -> None:
    """Answer without a body."""
    await answer_bytes(scope, send, status, b"", headers)


async def answer_bytes(
    scope: Scope, send: Send, status: int, content: bytes, headers: Headers = ()
) -> None:
    """Answer with a body that is at hand whole."""
    # A WebSocket that is refused during its handshake is answered like a plain request.
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    lines = list(headers)
    if status not in (204, 304):
        lines.append((b"content-length", str(len(content)).encode()))
    await send({"type": f"{kind}.start", "status": status, "headers": lines})
    await send({"type": f"{kind}.body", "body": content})


async def answer_gone(scope: Scope, send: Send, sandbox_id: str) -> None:
    """Say that there is no such sandbox (any more).

    The SDKs tell it from other failures by the words "was not found".
    """
    body = {"sandboxId": sandbox_id, "message": "The sandbox was not found", "code": 502}
    await answer_json(scope, send, 502, body)


async def answer_closed_port(scope: Scope, send: Send, sandbox_id: str, port: int) -> None:
    """Say that nothing listens on the port. The SDKs know it by "port is not open"."""
    message = "The sandbox is running but port is not open"
    body = {"sandboxId": sandbox_id, "message": message, "port": port, "code": 502}
    await answer_json(scope, send, 502, body)


async def answer_bad_service(scope: Scope, send: Send, sandbox_id: str, port: int) -> None:
    """Say that the service on the port did not answer as its protocol demands."""
    message = "The service on the port did not answer in HTTP"
    body = {"sandboxId": sandbox_id, "message": message, "port": port, "code": 502}
    await answer_json(scope, send, 502, body)
