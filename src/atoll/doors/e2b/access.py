"""Who may use the envd API of a sandbox: access tokens, signatures, and the user to act as.

A signature stands in for the token in the URL of one file: it is
`v1_` + base64(SHA-256(`path:operation:username:token[:expiration]`)) without padding, with the path
and the user name just as they stand in the query (as the released SDKs compute it).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from typing import Literal

from starlette.types import Scope

from atoll.doors.answers import header
from atoll.errors import Forbidden, InvalidInput, Unauthenticated
from atoll.sandboxes.model import Sandbox

Operation = Literal["read", "write"]

_NO_TOKEN = (
    "unauthorized access, please provide a valid access token or method signing if supported"  # noqa: S105
)


def sign(
    token: str, path: str, operation: Operation, username: str, expiration: str | None = None
) -> str:
    """Sign a file URL. `expiration` is in seconds since the epoch, as the query has it."""
    parts = [path, operation, username, token]
    if expiration is not None:
        parts.append(expiration)
    digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogatepass")).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def check_token(sandbox: Sandbox, scope: Scope) -> None:
    """Let a request pass whose token is right, or whose sandbox wants none.

    Raises `Unauthenticated`.
    """
    if sandbox.access_token is None:
        return
    given = header(scope, b"x-access-token")
    if given is None or not hmac.compare_digest(given, sandbox.access_token.encode()):
        raise Unauthenticated(_NO_TOKEN)


def check_traffic_token(sandbox: Sandbox, scope: Scope) -> None:
    """Let a request to a service in the sandbox pass: any, unless public traffic is shut off.

    Raises `Forbidden`.
    """
    if sandbox.traffic_token is None:
        return
    given = header(scope, b"e2b-traffic-access-token")
    if given is None or not hmac.compare_digest(given, sandbox.traffic_token.encode()):
        raise Forbidden(
            "this sandbox takes no public traffic: the header E2B-Traffic-Access-Token is "
            "missing or wrong"
        )


def check_file_access(
    sandbox: Sandbox, scope: Scope, query: Mapping[str, str], operation: Operation
) -> None:
    """Let a request for a file pass, by token or by signature. Raises `Unauthenticated`."""
    token = sandbox.access_token
    if token is None or "signature" not in query or header(scope, b"x-access-token") is not None:
        check_token(sandbox, scope)
        return
    expiration = query.get("signature_expiration")
    expected = sign(token, query.get("path", ""), operation, query.get("username", ""), expiration)
    if not hmac.compare_digest(
        query["signature"].encode("utf-8", "surrogateescape"), expected.encode()
    ):
        raise Unauthenticated("invalid signature")
    if expiration is not None:
        if not re.fullmatch(r"[0-9]{1,15}", expiration):
            raise InvalidInput("signature_expiration is not a number of seconds")
        if int(expiration) < time.time():
            raise Unauthenticated("signature is already expired")


def find_user(sandbox: Sandbox, scope: Scope) -> str:
    """Find the user to act as: the one of `Authorization: Basic`, or the template's.

    Raises `Unauthenticated` when the header can't be read.
    """
    given = header(scope, b"authorization")
    if given is None or given[:6].lower() != b"basic ":
        return sandbox.template.user
    try:
        decoded = base64.b64decode(given[6:].strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthenticated("the Authorization header is malformed") from None
    return decoded.partition(":")[0] or sandbox.template.user
