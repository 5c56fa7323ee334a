"""TLS on the server's port: the certificate, the choice of protocol, and renewed files."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState

from atoll.errors import ConfigurationError
from atoll.http import BoundedProtocol
from atoll.http2 import Http2Protocol

log = structlog.get_logger(__name__)

_PROTOCOLS = ["h2", "http/1.1"]
_LOOK_SECONDS = 2.0
"""How often the files are looked at, for a renewed certificate."""


class Certificate:
    """A certificate in its files, and the TLS context that serves it."""

    def __init__(self, cert: Path, key: Path | None) -> None:
        """Read the files; without `key`, the private key is in the certificate's file.

        Raises `ConfigurationError`.
        """
        self._cert = cert
        self._key = key
        self._seen = self._look()
        try:
            self.context = self._open()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"can't use the certificate {cert} with the key {key or cert}: {_explain(error)}",
                remedy="name PEM files that belong together with --tls-cert and --tls-key; "
                "`atoll certs` makes some for this machine",
            ) from None

    async def follow(self) -> None:
        """Serve a renewed certificate to new connections, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            found = self._look()
            if found == self._seen:
                continue
            try:
                self._open()  # for trial: half a change must not spoil the context in use
                self.context.load_cert_chain(self._cert, self._key, _no_password)
            except (OSError, ValueError) as error:
                # The other of the two files may be about to come.
                log.warning("tls.not_renewed", certificate=str(self._cert), error=_explain(error))
            else:
                log.info("tls.renewed", certificate=str(self._cert))
            self._seen = found

    def _open(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(_PROTOCOLS)
        context.load_cert_chain(self._cert, self._key, _no_password)
        return context

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What changes with the files' content."""
        found: list[tuple[int, int, int] | None] = []
        for path in (self._cert, self._key or self._cert):
            try:
                state = path.stat()
                found.append((state.st_ino, state.st_size, state.st_mtime_ns))
            except OSError:
                found.append(None)
        return found


def _no_password() -> str:
    # Otherwise OpenSSL asks at the terminal, and the server hangs.
    raise ValueError("the key is protected by a password; store it without one")


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").replace("_", " ").lower()
        return reason or "a file is not in PEM format, or lacks the certificate or the key"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


class NegotiatedProtocol(asyncio.Protocol):
    """HTTP/2 or HTTP/1.1, as client and server have agreed in the TLS handshake."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        protocol: asyncio.Protocol
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            protocol = Http2Protocol(self._config, self._server_state)
        else:
            protocol = BoundedProtocol(self._config, self._server_state, self._app_state)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
