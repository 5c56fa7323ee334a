"""A server for the official clients that are not this interpreter's Python SDK.

`scripts/setup-tests` installs them; each runs as a program of its own, told by its environment
alone where the server is, as its users would do it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.certificates import LocalAuthority
from tests.server import RunningServer, link_templates, run_server

IMAGES = ",".join(
    f"{image}=base"
    for image in (
        *("debian:stable", "ubuntu:latest", "fedora:44", "alpine:3.24", "archlinux:latest"),
        *("python:3", "node:lts", "oven/bun:latest", "registry.example/team/image"),
    )
)
"""The registries that the SDKs' defaults are in may be out of reach."""
HERE = Path(__file__).parent
BIN = HERE.parents[1] / ".venv-clients" / "bin"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of templates for both servers: what is built here is not for others."""
    directory = tmp_path_factory.mktemp("store") / "templates"
    return str(link_templates(directory, "base", "code-interpreter-v1"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[RunningServer]:
    """A server with a small pool; when it has stopped, nothing of it may be left."""
    assert (BIN / "node").exists(), "the clients are missing: run scripts/setup-tests"
    data_dir = tmp_path_factory.mktemp("atoll")
    with run_server(data_dir, pool_size=2, template_dir=store, image_names=IMAGES) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture(scope="session")
def secure_server(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[RunningServer]:
    """A server that speaks TLS, with a certificate of a local authority."""
    data_dir: Path = tmp_path_factory.mktemp("atoll-tls")
    authority = LocalAuthority(data_dir)
    authority.issue("sandbox.localhost")
    cert, key = str(authority.server_cert), str(authority.server_key)
    with run_server(
        data_dir,
        pool_size=2,
        template_dir=store,
        image_names=IMAGES,
        tls_cert=cert,
        tls_key=key,
    ) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture
def environ(server: RunningServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a client: where the server is, a key, and an empty home directory."""
    return {
        **_clean_environ(tmp_path),
        "E2B_API_URL": server.url,
        "E2B_SANDBOX_URL": server.url,
        "E2B_VOLUME_API_URL": server.url,
        "E2B_API_KEY": server.api_key,
    }


@pytest.fixture
def secure_environ(secure_server: RunningServer, tmp_path: Path) -> dict[str, str]:
    """The same for a client that knows a domain and an authority alone, and dials its names."""
    trust = str(LocalAuthority(secure_server.data_dir).trust)
    return {
        **_clean_environ(tmp_path),
        "E2B_DOMAIN": f"sandbox.localhost:{secure_server.port}",
        "E2B_API_KEY": secure_server.api_key,
        "NODE_EXTRA_CA_CERTS": trust,
        "SSL_CERT_FILE": trust,
    }


@pytest.fixture(params=["url", "domain"])
def either_environ(request: pytest.FixtureRequest) -> dict[str, str]:
    """Both of them, one after the other: addresses given by URL, and names with TLS."""
    name = "environ" if request.param == "url" else "secure_environ"
    environ: dict[str, str] = request.getfixturevalue(name)
    return environ


def _clean_environ(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    return {**kept, "HOME": str(home), "NO_UPDATE_NOTIFIER": "1"}
