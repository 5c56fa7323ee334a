"""A real server, the real template, the official package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox

from atoll.templates.interpreter import NAME
from tests.server import TEMPLATES, RunningServer, run_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The time of a test is its own: the template may have to be built for the first."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(120, func_only=True))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that keeps interpreters ready. The template is built now if it has to be."""
    data_dir = tmp_path_factory.mktemp("interpreter")
    command = [sys.executable, "-m", "atoll", "template", "build", NAME]
    subprocess.run([*command, "--data-dir", str(data_dir)], check=True, env=_environ())
    with run_server(data_dir, pool_size=2, warm=NAME) as running:
        yield running
    running.assert_nothing_left()


def _environ() -> dict[str, str]:
    return {**os.environ, "ATOLL_TEMPLATE_DIR": TEMPLATES}


@pytest.fixture(scope="module")
def sandbox(server: RunningServer) -> Iterator[Sandbox]:
    """One interpreter for the tests of a module."""
    made = Sandbox.create(timeout=900, **server.options)
    yield made
    made.kill()


@pytest.fixture
async def async_sandbox(server: RunningServer) -> AsyncIterator[AsyncSandbox]:
    """The same through the asynchronous client."""
    made = await AsyncSandbox.create(timeout=300, **server.options)
    yield made
    await made.kill()
