"""A certificate authority of this machine's own, and certificates from it, for `atoll certs`."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import ssl
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from atoll.errors import ConfigurationError, HostError

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 397
"""The longest that browsers accept."""
_SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_DOMAIN = re.compile(
    r"(?=.{1,251}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.I
)
"""Labels as in RFC 1123, the last one no number: `*.` before an address would mean nothing."""
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class LocalAuthority:
    """The authority of one data directory, with all of its files in `tls/` there.

    Its key, readable for the owner alone, stays for good: clients that trust it once trust every
    later certificate.
    """

    def __init__(self, data_dir: Path) -> None:
        directory = data_dir / "tls"
        self.cert = directory / "authority.pem"
        self.key = directory / "authority.key"
        self.trust = directory / "trust.pem"
        """The authorities that this machine trusts and this one: for programs that take one file
        in place of the machine's own, as SSL_CERT_FILE does."""
        self.server_cert = directory / "server.pem"
        self.server_key = directory / "server.key"

    def find_trust(self, server_cert: Path | None) -> str:
        """The file that clients of a server with this certificate need, or "" for none of ours."""
        if server_cert is None or not self.trust.exists():
            return ""
        return str(self.trust) if server_cert.resolve() == self.server_cert.resolve() else ""

    def issue(self, domain: str) -> None:
        """Write a certificate for the domain, all names right below it, and this machine.

        Makes the authority when there is none. Raises `ConfigurationError` for what is no domain,
        `HostError` when the files can't be read or written.
        """
        if not _DOMAIN.fullmatch(domain):
            raise ConfigurationError(
                f"{domain!r} is not a domain",
                remedy="give one in ASCII, without a port, such as sandbox.example.com",
            )
        if "." not in domain:
            raise ConfigurationError(
                f"no client takes a wildcard right below {domain!r}: sandboxes' names would match "
                "no certificate",
                remedy=f"give a domain of two parts or more, such as sandbox.{domain}",
            )
        names = _alternative_names((domain, f"*.{domain}", *_LOCAL_NAMES))
        try:
            self.cert.parent.mkdir(parents=True, exist_ok=True)
            authority, authority_key = self._open()
            key = ec.generate_private_key(ec.SECP256R1())
            cert = (
                _begin(domain, key, authority.subject, _SERVER_DAYS)
                .add_extension(x509.SubjectAlternativeName(names), critical=False)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(
                    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
                )
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                    critical=False,
                )
                .sign(authority_key, hashes.SHA256())
            )
            _write(self.server_key, _dump_key(key), mode=0o600)
            _write(self.server_cert, cert.public_bytes(serialization.Encoding.PEM))
            self._write_trust(authority)
        except OSError as error:
            raise HostError(
                f"can't write certificates: {error}", remedy="choose another --data-dir"
            ) from None

    def _open(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if not self.cert.exists() and not self.key.exists():
            return self._make()
        try:
            cert = x509.load_pem_x509_certificate(self.cert.read_bytes())
            key = serialization.load_pem_private_key(self.key.read_bytes(), password=None)
        except (FileNotFoundError, ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise HostError(
                f"the authority in {self.cert.parent} is damaged",
                remedy=f"remove {self.cert} and {self.key}; the next run makes another, which "
                "clients have to be told to trust",
            )
        return cert, key

    def _make(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = f"Atoll on {os.uname().nodename}"[:64]
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        cert = (
            _begin(name, key, None, _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(self.key, _dump_key(key), mode=0o600)
        _write(self.cert, cert.public_bytes(serialization.Encoding.PEM))
        return cert, key

    def _write_trust(self, authority: x509.Certificate) -> None:
        default = ssl.get_default_verify_paths().cafile
        system = Path(default) if default else _SYSTEM_BUNDLE
        if system.resolve() == self.trust.resolve() or not system.exists():
            system = _SYSTEM_BUNDLE  # SSL_CERT_FILE names this very file already
        public = system.read_bytes() if system.exists() else b""
        own = authority.public_bytes(serialization.Encoding.PEM)
        _write(self.trust, public.rstrip(b"\n") + b"\n" + own)


def _begin(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name | None, days: int
) -> x509.CertificateBuilder:
    # OpenSSL takes 64 characters at most for a common name; nobody reads it where names are
    # listed.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _alternative_names(names: Iterable[str]) -> list[x509.GeneralName]:
    found: dict[str, x509.GeneralName] = {}
    for name in names:
        try:
            found[name] = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            found[name] = x509.DNSName(name)
    return list(found.values())


def _dump_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file at once, so that nobody reads half of it."""
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
    aside.rename(path)
