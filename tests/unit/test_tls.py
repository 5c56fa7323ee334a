"""Certificates in files, good, bad and renewed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from atoll import tls
from atoll.certificates import LocalAuthority
from atoll.errors import ConfigurationError
from atoll.tls import Certificate


@pytest.fixture
def authority(tmp_path: Path) -> LocalAuthority:
    authority = LocalAuthority(tmp_path)
    authority.issue("box.example")
    return authority


def test_key_in_the_certificates_file(authority: LocalAuthority, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(authority.server_cert.read_bytes() + authority.server_key.read_bytes())
    Certificate(both, None)


@pytest.mark.parametrize("fault", ["absent", "garbage", "foreign key", "no key", "password"])
def test_bad_files(authority: LocalAuthority, tmp_path: Path, fault: str) -> None:
    cert: Path = authority.server_cert
    key: Path | None = authority.server_key
    if fault == "absent":
        cert = tmp_path / "absent.pem"
    elif fault == "garbage":
        cert.write_text("no PEM")
    elif fault == "foreign key":
        key = authority.key
    elif fault == "no key":
        key = None
    elif fault == "password":
        from cryptography.hazmat.primitives import serialization as pem

        assert key is not None
        plain = pem.load_pem_private_key(key.read_bytes(), None)
        locked = pem.BestAvailableEncryption(b"secret")
        key.write_bytes(
            plain.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.TraditionalOpenSSL, locked)
        )
    with pytest.raises(ConfigurationError, match=str(cert)) as caught:
        Certificate(cert, key)
    assert "--tls-cert" in str(caught.value.remedy)


@asynccontextmanager
async def serving(certificate: Certificate) -> AsyncIterator[int]:
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context
    )
    following = asyncio.create_task(certificate.follow())
    async with server:
        yield server.sockets[0].getsockname()[1]
    following.cancel()


async def served_names(port: int, authority: LocalAuthority) -> set[str]:
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.check_hostname = False
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return set(names.value.get_values_for_type(x509.DNSName))


async def test_renewed_files_are_served(
    authority: LocalAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LOOK_SECONDS", 0.01)
    async with serving(Certificate(authority.server_cert, authority.server_key)) as port:
        assert "box.example" in await served_names(port, authority)
        good = authority.server_cert.read_bytes()
        authority.server_cert.write_text("half a change")
        await asyncio.sleep(0.1)  # time to make the mistake
        assert "box.example" in await served_names(port, authority)
        authority.server_cert.write_bytes(good)
        authority.issue("new.example")
        async with asyncio.timeout(10):
            while "new.example" not in await served_names(port, authority):
                await asyncio.sleep(0.02)
