"""A server with templates of its own, and directories that templates are built from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox

from tests.images.registry import Registry, run_registry
from tests.server import RunningServer, link_templates, run_server


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A public one, on loopback."""
    with run_registry(tmp_path_factory.mktemp("registry") / "public") as running:
        yield running


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One that asks for an account."""
    with run_registry(tmp_path_factory.mktemp("registry") / "private", private=True) as running:
        yield running


@pytest.fixture(scope="session")
def server(
    registry: Registry, private_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Its layers are its own; `base` is that of all tests."""
    directory = tmp_path_factory.mktemp("dockerfiles")
    store = str(link_templates(directory / "templates"))
    registries = f"{registry.address},{private_registry.address}"
    with run_server(directory, pool_size=0, template_dir=store, registries=registries) as running:
        yield running
    running.assert_nothing_left()


@dataclass
class Project:
    """A directory with a Dockerfile."""

    server: RunningServer
    root: Path

    def write(self, **files: str) -> Project:
        """Write files: `e2b__Dockerfile` is `e2b.Dockerfile`, `a___b` is `a/b`."""
        for name, text in files.items():
            self.put(name.replace("___", "/").replace("__", "."), text)
        return self

    def put(self, name: str, text: str) -> Path:
        """Write one file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def build(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Try to build it."""
        return self.server.atoll("template", "build", "--path", str(self.root), *options)

    def built(self, *options: str) -> tuple[dict[str, Any], str]:
        """Build it: what the command says of the template, and the log."""
        done = self.build("--json", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    def refused(self, *options: str) -> str:
        """What a command that fails says."""
        done = self.build(*options)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def sandbox(self, name: str, **options: Any) -> Sandbox:
        """A sandbox of what was built."""
        return Sandbox.create(name, timeout=120, **options, **self.server.options)


@pytest.fixture
def project(server: RunningServer, tmp_path: Path) -> Project:
    return Project(server, tmp_path)
