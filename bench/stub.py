"""A bare server that speaks just enough of E2B's protocol to give the official SDK's own floor.

Run as `python -m bench.stub PORT FILE`. It makes no sandbox: create answers at once, a command
answers with a canned end, and `/files` reads and writes FILE with nothing in between.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import uvicorn

_CREATED = json.dumps(
    {
        "templateID": "stub",
        "sandboxID": "stub",
        "clientID": "stub",
        "envdVersion": "0.6.7",
        "envdAccessToken": "stub",
        "domain": "localhost",
    }
).encode()


def _frame(flags: int, message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


_COMMAND = (
    _frame(0, {"event": {"start": {"pid": 1}}})
    + _frame(0, {"event": {"end": {"exitCode": 0, "exited": True, "status": "exit status 0"}}})
    + _frame(2, {})
)
_WRITTEN = json.dumps([{"name": "file", "type": "file", "path": "/file"}]).encode()
_CHUNK = 256 << 10


class Stub:
    """The ASGI application."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        path, method = scope["path"], scope["method"]
        if path == "/files" and method == "POST":
            with open(self._path, "wb") as file:
                more = True
                while more:
                    message = await receive()
                    file.write(message.get("body", b""))
                    more = message.get("more_body", False)
            await self._answer(send, 200, b"application/json", _WRITTEN)
            return
        while (await receive()).get("more_body", False):
            pass
        if path == "/files":
            await self._send_file(send)
        elif path == "/v2/sandboxes":
            await self._answer(send, 201, b"application/json", _CREATED)
        elif path == "/process.Process/Start":
            await self._answer(send, 200, b"application/connect+json", _COMMAND)
        else:
            await self._answer(send, 204, b"text/plain", b"")

    async def _send_file(self, send: Any) -> None:
        with open(self._path, "rb") as file:
            size = str(file.seek(0, 2)).encode()
            file.seek(0)
            headers = [(b"content-length", size), (b"content-type", b"application/octet-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while chunk := file.read(_CHUNK):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    @staticmethod
    async def _answer(send: Any, status: int, content_type: bytes, body: bytes) -> None:
        headers = [(b"content-type", content_type)]
        if status != 204:
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        Stub(sys.argv[2]),
        port=int(sys.argv[1]),
        log_level="warning",
        loop="uvloop",
        http="httptools",
        lifespan="off",
    )
