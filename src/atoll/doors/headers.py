"""What becomes of headers on the way into a sandbox and out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from multidict import CIMultiDict
from starlette.types import Scope

from atoll.doors.address import Address, Via
from atoll.doors.answers import header
from atoll.sandboxes.model import Sandbox

RawHeaders = list[tuple[bytes, bytes]]

# They concern one connection, not the message (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# They are for the gateway: the service need not know its own address or its visitors' pass.
_GATEWAY = frozenset((b"e2b-sandbox-id", b"e2b-sandbox-port", b"e2b-traffic-access-token"))
_REPLACED = frozenset(
    (b"expect", b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")
)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class BadAnswer(Exception):
    """The service's answer can't be passed on."""


def inward(scope: Scope, sandbox: Sandbox, address: Address) -> CIMultiDict[str]:
    """The headers of a request as the service in the sandbox shall see them."""
    dropped = _HOP_BY_HOP | _GATEWAY | _REPLACED | _named_by_connection(scope["headers"])
    headers: CIMultiDict[str] = CIMultiDict()
    forwarded_for = []
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            forwarded_for.append(_text(value))
        if name in dropped or name.startswith(b"x-forwarded-prefix"):
            continue
        if name == b"cookie" and address.via is Via.PATH:
            continue  # it belongs to the server's own origin, see `outward`
        headers.add(_text(name), _text(value))
    host = _text(header(scope, b"host") or b"")
    if sandbox.mask_request_host is not None:
        headers["Host"] = sandbox.mask_request_host.replace("${PORT}", str(address.port))
    elif host:
        headers["Host"] = host
    chain = ", ".join(forwarded_for).split(", ") if forwarded_for else []
    # Behind a proxy that it trusts, uvicorn has taken the client from the chain itself.
    if scope.get("client") and scope["client"][0] not in chain:
        chain.append(scope["client"][0])
    if chain:
        headers["X-Forwarded-For"] = ", ".join(chain)
    if host:
        headers["X-Forwarded-Host"] = host
    headers["X-Forwarded-Proto"] = "https" if scope["scheme"] in ("https", "wss") else "http"
    if address.prefix:
        headers["X-Forwarded-Prefix"] = address.prefix
    return headers


def outward(raw: Iterable[tuple[bytes, bytes]], address: Address, status: int) -> RawHeaders:
    """The headers of a service's answer as the client shall see them. Raises `BadAnswer`.

    What is reached by path shares its origin with the server's own pages: it may neither run there
    as one of them nor plant cookies.
    """
    raw = list(raw)
    dropped = _HOP_BY_HOP | _named_by_connection(raw)
    bodiless = status in (204, 304)
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in raw)
    lengths = {value for name, value in raw if name.lower() == b"content-length"}
    if len(lengths) > 1:
        raise BadAnswer("two values of Content-Length")
    headers: RawHeaders = []
    for original, value in raw:
        name = original.lower()
        if not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise BadAnswer("a header with forbidden characters")
        # The server says the date of every answer itself, and a second one has no meaning.
        if name in dropped or name in (b"content-length", b"date"):
            continue
        if name == b"set-cookie" and address.via is Via.PATH:
            continue
        headers.append((name, value))
    if lengths and not chunked and not bodiless:
        headers.append((b"content-length", lengths.pop()))
    if address.via is Via.PATH:
        policy = b"sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"
        headers.append((b"content-security-policy", policy))
    return headers


def _named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    return {
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }


def _text(value: bytes) -> str:
    """Decode for a library that encodes to UTF-8 again."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
