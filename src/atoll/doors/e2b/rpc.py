"""Connect-RPC: what both services of envd need around the `connectrpc` library."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import structlog
from connectrpc.code import Code
from connectrpc.codec import Codec, proto_binary_codec, proto_json_codec
from connectrpc.errors import ConnectError
from connectrpc.server import ConnectASGIApplication
from starlette.types import Message, Receive, Scope

from atoll.doors.answers import answer_bytes, header
from atoll.doors.e2b.codes import connect_error
from atoll.doors.lines import Line
from atoll.errors import AtollError, SandboxGone

log = structlog.get_logger(__name__)

MAX_MESSAGE = 16 << 20
"""Bytes of one request message, at most, before and after decompression."""

_HEADERS = frozenset(
    (
        b"accept-encoding",
        b"connect-accept-encoding",
        b"connect-content-encoding",
        b"connect-protocol-version",
        b"connect-timeout-ms",
        b"content-encoding",
        b"content-type",
    )
)


# Strings, the last one possibly without its end.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_MAX_OPENINGS = 256
"""Objects and arrays in one message, at most; the protocol's own messages have a dozen."""
_MAX_COMPLEX = 4 << 20
"""Bytes of a message with more brackets than that, in its strings. Only input for a process can be
larger, which has none: it is in base64."""


class _StrictCodec:
    """A codec whose decoder blames the client for a message that can't be decoded."""

    def __init__(self, codec: Codec[Any, Any]) -> None:
        self._codec = codec
        self.name = codec.name
        self.encode = codec.encode

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        if self.name() == "json" and not _is_shallow(data):
            raise ConnectError(Code.INVALID_ARGUMENT, "the message is nested too deeply")
        try:
            return self._codec.decode(data, message_class)
        except Exception as error:
            message = f"the message is not valid {self.name()}: {error}"
            raise ConnectError(Code.INVALID_ARGUMENT, message) from error


def _is_shallow(data: bytes | bytearray) -> bool:
    """Whether the decoder can stand the message.

    It is native code that recurses without a bound: at some 50 000 open brackets the stack ends and
    the process with it.
    """
    if data.count(b"[") + data.count(b"{") <= _MAX_OPENINGS:
        return True
    if len(data) > _MAX_COMPLEX:
        return False
    rest = _STRINGS.sub(b"", data)
    return rest.count(b"[") + rest.count(b"{") <= _MAX_OPENINGS


CODECS: tuple[Codec[Any, Any], ...] = (
    _StrictCodec(proto_json_codec()),
    _StrictCodec(proto_binary_codec()),
)


@contextlib.contextmanager
def wired_errors(line: Line) -> Iterator[None]:
    """Turn what a method raises into what its client shall receive.

    A sandbox that is gone is not an error to report: the line is cut.
    """
    try:
        yield
    except SandboxGone:
        line.sever()
        raise ConnectError(Code.UNAVAILABLE, "the sandbox ended") from None
    except AtollError as error:
        raise connect_error(error) from None
    except ConnectError:
        raise
    except Exception:
        log.exception("rpc.failed")
        raise ConnectError(Code.INTERNAL, "the server failed; its log says where") from None


async def serve(
    app: ConnectASGIApplication[Any], scope: Scope, receive: Receive, line: Line
) -> None:
    """Let the library answer one request over a line.

    By itself the library notices that a client has left only when it has something to send.
    """
    if (header(scope, b"content-type") or b"").startswith(b"application/grpc"):
        types = b"application/json, application/proto, application/connect+json"
        await answer_bytes(scope, line.send, 415, b"", [(b"accept-post", types)])
        return

    async def watching_receive() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            line.sever()
        return message

    inner = dict(scope)
    # The library decodes every header; only these mean something to it.
    inner["headers"] = [
        pair for pair in scope["headers"] if pair[0] in _HEADERS and pair[1].isascii()
    ]
    await app(inner, watching_receive, line.send)
