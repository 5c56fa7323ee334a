"""The control plane's REST interface, as far as the command line needs it.

Not through the official SDK: that takes a second or two to import, which is too long for a list,
and for a completion all the more.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from atoll.cli.target import Target
from atoll.errors import (
    AtollError,
    Conflict,
    Exhausted,
    Forbidden,
    HostError,
    InvalidInput,
    NotFound,
    Overloaded,
    Unauthenticated,
)

_ERRORS: dict[int, tuple[type[AtollError], str]] = {
    400: (InvalidInput, "change what it names; `--help` shows the options"),
    401: (Unauthenticated, "give a good key: E2B_API_KEY or --api-key"),
    403: (Forbidden, "give a key that may: E2B_API_KEY or --api-key"),
    404: (NotFound, "`atoll sandbox list` shows the sandboxes there are; the template is `base`"),
    409: (Conflict, "try again when that is over"),
    429: (Exhausted, "end sandboxes that are not needed, or try again later"),
    503: (Overloaded, "try again later"),
}
_FAILED = (HostError, "the server's log says more")
_PAGE = 100
CONNECTED_SECONDS = 300
"""How long a sandbox is kept at least that somebody connects to; E2B's own default."""


class ControlPlane:
    """One server's control plane."""

    def __init__(self, target: Target, *, timeout: float = 60) -> None:
        self.url = target.api_url
        self._target = target
        self._timeout = timeout

    def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Any:
        """Do one request; the parts of the path are quoted here. Returns the answer's JSON.

        Raises the `AtollError` that fits the answer, and `HostError` when there is none.
        """
        return self._call(method, path, query or {}, body)[0]

    def list(self, **query: str | int | None) -> Iterator[dict[str, Any]]:
        """The sandboxes that fit, page by page. A `limit` is that of a page."""
        token = None
        while True:
            asked = {"limit": _PAGE, **query, "nextToken": token}
            page, headers = self._call("GET", ("v2", "sandboxes"), asked, None)
            yield from page
            token = headers.get("x-next-token")
            if not token:
                return

    def connect(self, sandbox_id: str, *, timeout: int = CONNECTED_SECONDS) -> dict[str, Any]:
        """The tokens of a sandbox, which lives for at least `timeout` seconds from now."""
        body = {"timeout": timeout}
        found: dict[str, Any] = self.call(
            "POST", "v2", "sandboxes", sandbox_id, "connect", body=body
        )
        return found

    def upload(self, url: str, file: BinaryIO, size: int, headers: Mapping[str, str]) -> None:
        """Send a file to an address that the server gave. Raises as `call` does."""
        place = urlsplit(url)
        target = place.path + (f"?{place.query}" if place.query else "")
        given = {name: value for name, value in headers.items() if name.lower() != "content-length"}
        with self._reaching(place.netloc):
            connection = self._open(place.scheme, place.netloc)
            try:
                sized = {**given, "Content-Length": str(size)}
                connection.request("PUT", target, body=file, headers=sized)
                response = connection.getresponse()
                answer = response.read()
            finally:
                connection.close()
        _parse(response.status, answer)

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, str | int | None],
        body: Mapping[str, object] | None,
    ) -> tuple[Any, HTTPMessage]:
        base = urlsplit(self._target.api_url)
        given = {name: value for name, value in query.items() if value is not None}
        url = "/".join([base.path, *(quote(part, safe="") for part in path)])
        if given:
            url += "?" + urlencode(given)
        headers = {"X-API-Key": self._target.api_key, "Content-Type": "application/json"}
        with self._reaching(self._target.api_url):
            connection = self._open(base.scheme, base.netloc)
            try:
                content = None if body is None else json.dumps(body)
                connection.request(method, url, body=content, headers=headers)
                response = connection.getresponse()
                answer = response.read()
            finally:
                connection.close()
        return _parse(response.status, answer), response.headers

    @contextmanager
    def _reaching(self, address: str) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException, ValueError) as error:
            raise HostError(
                f"{address} does not answer: {error}",
                remedy="is the server running, and is E2B_API_URL (or --api-url) its address?",
            ) from None

    def _open(self, scheme: str, netloc: str) -> HTTPConnection:
        if scheme == "http":
            return HTTPConnection(netloc, timeout=self._timeout)
        context = ssl.create_default_context()
        if self._target.trust:
            context.load_verify_locations(self._target.trust)
        return HTTPSConnection(netloc, timeout=self._timeout, context=context)


def _parse(status: int, answer: bytes) -> Any:
    try:
        data = json.loads(answer) if answer else None
    except ValueError:
        data = None
    if status >= 300:
        raise _read_error(status, data)
    return data


def _read_error(status: int, data: Any) -> AtollError:
    said = data.get("message") if isinstance(data, dict) else None
    message = str(said or f"the server answered with status {status}")
    kind, remedy = _ERRORS.get(status, _FAILED)
    return kind(message, remedy=remedy)
