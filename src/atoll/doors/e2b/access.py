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
from collections.abc import Iterable, Mapping
from typing import Literal

from starlette.types import Scope

from atoll.doors.answers import header
from atoll.errors import Forbidden, InvalidInput, Unauthenticated
from atoll.sandboxes.model import Sandbox

Operation = Literal["read", "write"]

_NO_TOKEN = (
    "unauthorized access, please provide a valid access token or method signing if supported"  # noqa: S105
)

_NO_SANDBOX = "the request names no sandbox"
_BAD_SIGNATURE = "invalid signature"
_EXPIRATION = re.compile(r"[0-9]{1,15}")
_SIGNATURE = re.compile(r"v1_[A-Za-z0-9+/]{43}")


def sign(
    token: str, path: str, operation: Operation, username: str, expiration: str | None = None
) -> str:
    """Sign a file URL. `expiration` is in seconds since the epoch, as the query has it."""
    begin, end = _begin_signed(path, operation, username), _end_signed(expiration)
    digest = hashlib.sha256(begin + token.encode() + end).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def _begin_signed(path: str, operation: Operation, username: str) -> bytes:
    return f"{path}:{operation}:{username}:".encode("utf-8", "surrogatepass")


def _end_signed(expiration: str | None) -> bytes:
    return b"" if expiration is None else f":{expiration}".encode("utf-8", "surrogatepass")


def find_signed(
    sandboxes: Iterable[Sandbox], query: Mapping[str, str], operation: Operation
) -> Sandbox:
    """Find the sandbox whose token made the signature in the query.

    An SDK with one URL for all sandboxes puts none into the URLs that it signs. Each sandbox costs
    the same time whether it is the one or not, and no sandbox is found by no token. Whether the
    signature has expired is for `check_file_access` to see. Raises `Unauthenticated`.
    """
    if "signature" not in query:
        raise Unauthenticated(
            _NO_SANDBOX,
            remedy="send E2b-Sandbox-Id and E2b-Sandbox-Port with the token, or sign the URL",
        )
    signature, expiration = query["signature"], query.get("signature_expiration")
    found = None
    # What can't be is refused before it costs anything: the rest is done once per sandbox.
    if _SIGNATURE.fullmatch(signature) and (
        expiration is None or _EXPIRATION.fullmatch(expiration)
    ):
        given = base64.b64decode(signature[3:] + "=")
        begun = hashlib.sha256(
            _begin_signed(query.get("path", ""), operation, query.get("username", ""))
        )
        end = _end_signed(expiration)
        for sandbox in sandboxes:
            if sandbox.access_token is None:
                continue
            made = begun.copy()
            made.update(sandbox.access_token.encode() + end)
            if hmac.compare_digest(made.digest(), given):
                found = sandbox
    if found is None:
        raise Unauthenticated(_BAD_SIGNATURE)
    return found


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
        raise Unauthenticated(_BAD_SIGNATURE)
    if expiration is not None:
        if not _EXPIRATION.fullmatch(expiration):
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
