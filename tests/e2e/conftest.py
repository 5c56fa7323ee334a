"""A real server of its own for these tests, driven by the official SDK as a user would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from tests.server import RunningServer, run_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a small pool; when it has stopped, nothing of it may be left."""
    data_dir: Path = tmp_path_factory.mktemp("atoll")
    with run_server(data_dir, pool_size=2, max_timeout=86400) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture
def sandbox(server: RunningServer) -> Iterator[Sandbox]:
    """A sandbox, made and killed by the SDK."""
    made = Sandbox.create(timeout=120, **server.options)
    yield made
    made.kill()
