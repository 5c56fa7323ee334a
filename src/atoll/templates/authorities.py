"""Certificate authorities: those that the host trusts and a stock Debian does not.

A company network often puts an authority of its own between its machines and the world. The host
knows it; a sandbox made from the distribution's packages does not, and `pip install` in it fails.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import ConfigurationError

HOST_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine, Arch
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, Red Hat
    Path("/etc/ssl/ca-bundle.pem"),  # SUSE
)
"""Where distributions keep all the certificates that they trust in one file."""

HOST_PACKAGED = Path("/usr/share/ca-certificates/mozilla")
"""What Debian's and Ubuntu's package brings; other distributions keep it only in the bundle."""

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
"""The same, in a Debian root file system."""
EXTRA_BUNDLE = "etc/ssl/host-authorities.pem"
"""Only the added ones, for programs that add a file to the list they carry themselves: Node.js
would spend 3 ms at each start on reading all the others as well."""

_PEM = re.compile(
    rb"-----BEGIN (?:X509 )?CERTIFICATE-----([^-]+)-----END (?:X509 )?CERTIFICATE-----",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that other certificates may be checked against."""

    der: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER form, in hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def pem(self) -> str:
        """The form that `update-ca-certificates` reads."""
        return ssl.DER_cert_to_PEM_cert(self.der)


def read_bundle(path: Path) -> list[Authority]:
    """All certificates of a PEM file, in order, without repetitions.

    What is not a well-formed PEM block is skipped, as OpenSSL does. Raises `OSError`.
    """
    found: dict[str, Authority] = {}
    for block in _PEM.finditer(path.read_bytes()):
        try:
            authority = Authority(base64.b64decode(b"".join(block[1].split()), validate=True))
        except binascii.Error:
            continue
        found[authority.fingerprint] = authority
    return list(found.values())


def read_host(
    bundles: Iterable[Path] = HOST_BUNDLES, packaged: Path = HOST_PACKAGED
) -> list[Authority]:
    """What this machine trusts by somebody's decision, not because its distribution's package does.

    An old package may hold authorities that the distribution has dropped since, for good reason.
    Nothing when the machine has no bundle in a known place.
    """
    for bundle in bundles:
        if bundle.is_file():
            usual = {
                authority.fingerprint
                for file in packaged.glob("*.crt")
                for authority in read_bundle(file)
            }
            return find_extra(read_bundle(bundle), usual)
    return []


def read_named(paths: Sequence[Path]) -> list[Authority]:
    """The authorities that an operator names: files with one or more certificates, PEM or DER.

    Raises `ConfigurationError` that names the first file that is not readable as such.
    """
    found: list[Authority] = []
    for path in paths:
        try:
            certificates = read_bundle(path) or [Authority(path.read_bytes())]
            for certificate in certificates:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                    cadata=certificate.der
                )
        except (OSError, ValueError) as error:
            if isinstance(error, ssl.SSLError | ValueError):
                reason = "it holds no certificate"
            else:
                reason = error.strerror or str(error)
            raise ConfigurationError(
                f"the certificate authority {path} can't be used: {reason}",
                remedy="name PEM files with CA certificates in the setting `authorities`",
            ) from None
        found += certificates
    return found


def find_extra(trusted: Iterable[Authority], known: Iterable[str]) -> list[Authority]:
    """Those of `trusted` whose fingerprint is not in `known`, sorted by fingerprint."""
    known = set(known)
    extra = {authority.fingerprint: authority for authority in trusted}
    return [extra[fingerprint] for fingerprint in sorted(extra) if fingerprint not in known]


def add_to(root: Path, extra: Sequence[Authority]) -> None:
    """Lay them where `update-ca-certificates`, run in that root, takes them from. Blocking."""
    directory = root / "usr/local/share/ca-certificates"
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for authority in extra:
        target = directory / f"host-{authority.fingerprint[:16]}.crt"
        target.write_text(authority.pem)
        target.chmod(0o644)
    if extra:
        together = root / EXTRA_BUNDLE
        together.write_text("".join(authority.pem for authority in extra))
        together.chmod(0o644)
