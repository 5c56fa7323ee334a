"""Certificates for tests, made by OpenSSL."""

from __future__ import annotations

import subprocess
from pathlib import Path

from atoll.templates.authorities import Authority, read_bundle


def make_authority(directory: Path, name: str) -> Authority:
    """A self-signed authority; leaves its certificate in `directory/name.pem`."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", f"/CN={name}", "-days", "30"),
            *("-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.pem")),
        ],
        check=True,
        capture_output=True,
    )
    (authority,) = read_bundle(directory / f"{name}.pem")
    return authority
