"""Files that ADD names by their address, fetched by the machine that the Dockerfile is on."""

from __future__ import annotations

import hashlib
import http.client
import posixpath
import re
import urllib.error
import urllib.request
from urllib.parse import unquote, urlsplit

from atoll.templates.dockerfile.syntax import Line

MAX_BYTES = 1 << 30
_TIMEOUT = 60
_GIT = re.compile(r"git@|ssh://|git://|.*\.git(#.*)?$", re.IGNORECASE)


def is_remote(source: str) -> bool:
    """Whether a source of ADD is an address."""
    return bool(_GIT.match(source)) or urlsplit(source).scheme in ("http", "https", "ftp")


def fetch(line: Line, address: str, checksum: str | None) -> tuple[str, bytes]:
    """The file's name and content. Raises `DockerfileError`."""
    parts = urlsplit(address)
    if _GIT.match(address) or parts.scheme not in ("http", "https"):
        raise line.error(
            f"ADD of {address} is not supported: only files by http and https are",
            remedy="fetch it with a program, in a RUN",
        )
    name = posixpath.basename(unquote(parts.path))
    if name in ("", ".", ".."):
        raise line.error(f"{address} does not end with a file's name")
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:  # noqa: S310
            content: bytes = answer.read(MAX_BYTES + 1)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise line.error(f"{address} can't be fetched: {error}") from None
    if len(content) > MAX_BYTES:
        raise line.error(f"{address} is bigger than {MAX_BYTES >> 20} MiB")
    if checksum is not None:
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if checksum.lower() != found:
            raise line.error(f"{address} has the checksum {found}, not {checksum}")
    return name, content
