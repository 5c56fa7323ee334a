"""The authority of this machine, and certificates from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from atoll.certificates import LocalAuthority
from atoll.errors import ConfigurationError, HostError


def verify(authority: LocalAuthority, host: str) -> bool:
    """Whether OpenSSL takes the certificate for the host."""
    kind = "-verify_ip" if host.replace(".", "").isdigit() or ":" in host else "-verify_hostname"
    command = ["openssl", "verify", "-CAfile", str(authority.cert), "-x509_strict", kind, host]
    return (
        subprocess.run([*command, str(authority.server_cert)], capture_output=True).returncode == 0
    )


def test_names(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.issue("box.example")
    for host in ("box.example", "8000-abc.box.example", "api.box.example", "localhost"):
        assert verify(authority, host), host
    for host in ("127.0.0.1", "::1"):
        assert verify(authority, host), host
    for host in ("a.b.box.example", "example", "other.example", "10.0.0.1"):
        assert not verify(authority, host), host


def test_authority_is_kept(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.issue("one.example")
    kept = authority.cert.read_bytes(), authority.key.read_bytes()
    authority.issue("two.example")
    assert (authority.cert.read_bytes(), authority.key.read_bytes()) == kept
    assert verify(authority, "x.two.example")
    assert not verify(authority, "x.one.example")


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.issue("box.example")
    for key in (authority.key, authority.server_key):
        assert key.stat().st_mode & 0o777 == 0o600


def test_trust_holds_the_machines_authorities_too(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.issue("box.example")
    trusted = authority.trust.read_bytes()
    assert trusted.endswith(authority.cert.read_bytes())
    assert trusted.count(b"BEGIN CERTIFICATE") > 1
    assert authority.find_trust(authority.server_cert) == str(authority.trust)
    assert authority.find_trust(tmp_path / "elsewhere.pem") == ""
    assert authority.find_trust(None) == ""


@pytest.mark.parametrize("lost", ["cert", "key"])
def test_damaged_authority_is_not_replaced_in_silence(tmp_path: Path, lost: str) -> None:
    authority = LocalAuthority(tmp_path)
    authority.issue("box.example")
    getattr(authority, lost).write_text("")
    with pytest.raises(HostError, match="damaged"):
        authority.issue("box.example")


NOT_DOMAINS = """
müller.example
box.example:8443
https://box.example
*.box.example
10.0.0.1
a b
a..b
.a
-a.b
"""


@pytest.mark.parametrize(
    "domain",
    [
        *NOT_DOMAINS.strip().split("\n"),
        "",
        "x" * 64 + ".example",
        "a." * 130 + "example",
        "box.example\n",
    ],
)
def test_what_is_no_domain(tmp_path: Path, domain: str) -> None:
    with pytest.raises(ConfigurationError, match="not a domain"):
        LocalAuthority(tmp_path).issue(domain)
    assert not list(tmp_path.iterdir())


def test_no_wildcard_right_below_a_top_level_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="wildcard") as refused:
        LocalAuthority(tmp_path).issue("localhost")
    assert "sandbox.localhost" in (refused.value.remedy or "")
    assert not list(tmp_path.iterdir())
