"""Which sandbox, and which port of it, a request is for.

There are three ways to say it, in this order: the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`,
the host name `{port}-{id}.{domain}`, and the path `/sandboxes/{id}/ports/{port}/…` for people
without wildcard DNS. A client chooses a sandbox and a port by them and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote

from starlette.types import Scope

from atoll.errors import InvalidInput

_ID = re.compile(r"[a-z0-9]{1,32}")
_PORT = re.compile(r"[0-9]{1,5}")
_LABEL = re.compile(r"([0-9]+)-(.*)", re.DOTALL)
_PORTLESS = re.compile(r"(.*-)?[a-z0-9]{20}", re.DOTALL)
"""What can only have been meant for a sandbox. Other names may be the server's own: api, sandbox,
or whatever its owner has chosen."""
_PATH = re.compile(rb"/sandboxes/([^/]+)/ports/([^/]+)(/.*)?", re.DOTALL)


class Via(Enum):
    """How the request named its sandbox."""

    HEADERS = auto()
    HOST = auto()
    PATH = auto()


@dataclass(frozen=True, slots=True)
class Address:
    """A port of a sandbox."""

    sandbox_id: str
    port: int
    via: Via
    prefix: str = ""
    """What stands before the service's own path, when the path named the sandbox."""
    raw_path: bytes | None = None
    """The service's own path, when the path named the sandbox; empty when it ends at the port."""


class Locator:
    """Finds the address in a request."""

    def __init__(self, domain: str) -> None:
        # The port of the domain is for clients; what counts here is the name. *.localhost always
        # leads to the machine itself, so it works whatever the domain is.
        name = _strip_port(domain.lower()).rstrip(".")
        self._suffixes = {name, "localhost"}

    def locate(self, scope: Scope) -> Address | None:
        """Find the address; None when the request is for the server itself.

        Raises `InvalidInput` when it names a sandbox or port that can't be, or two of them.
        """
        sandbox_id = port = host = None
        for name, value in scope["headers"]:
            if name == b"e2b-sandbox-id":
                sandbox_id = _only(sandbox_id, value, "E2b-Sandbox-Id")
            elif name == b"e2b-sandbox-port":
                port = _only(port, value, "E2b-Sandbox-Port")
            elif name == b"host":
                host = _only(host, value, "Host")
        if sandbox_id is not None or port is not None:
            if sandbox_id is None or port is None:
                raise InvalidInput("E2b-Sandbox-Id and E2b-Sandbox-Port go together")
            return _address(sandbox_id, port, Via.HEADERS)
        return (self._from_host(host) if host else None) or _from_path(scope)

    def _from_host(self, host: str) -> Address | None:
        label, dot, suffix = _strip_port(host.lower()).rstrip(".").partition(".")
        if not dot or suffix not in self._suffixes:
            return None
        match = _LABEL.fullmatch(label)
        if match is not None:
            return _address(match[2], match[1], Via.HOST)
        if _PORTLESS.fullmatch(label):
            raise InvalidInput(f"the host name names no port: write {{port}}-{{id}}.{suffix}")
        return None


def _from_path(scope: Scope) -> Address | None:
    raw_path: bytes = scope["raw_path"]
    match = _PATH.fullmatch(raw_path) if raw_path.startswith(b"/sandboxes/") else None
    if match is None:
        return None
    raw_id, raw_port, rest = match.groups()
    sandbox_id, port = unquote(raw_id.decode("latin-1")), unquote(raw_port.decode("latin-1"))
    prefix = f"/sandboxes/{sandbox_id}/ports/{port}"
    return _address(sandbox_id, port, Via.PATH, prefix, rest or b"")


def _address(
    sandbox_id: str, port: str, via: Via, prefix: str = "", raw_path: bytes | None = None
) -> Address:
    if not _ID.fullmatch(sandbox_id):
        raise InvalidInput("the sandbox id is malformed")
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise InvalidInput("the sandbox port is not a number from 1 to 65535")
    return Address(sandbox_id, int(port), via, prefix, raw_path)


def _only(earlier: str | None, value: bytes, name: str) -> str:
    if earlier is not None:
        raise InvalidInput(f"the header {name} was sent twice")
    return value.decode("latin-1")


def _strip_port(host: str) -> str:
    return re.sub(r":[0-9]*$", "", host)
