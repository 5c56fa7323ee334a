"""One suite for every driver: each test runs on each of `KINDS`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from atoll.isolation.driver import Driver, Resources, SandboxSpec
from atoll.templates.base import ensure_base
from atoll.templates.model import Template
from tests.conformance.box import Box, new_id
from tests.conformance.kinds import KINDS, RUNTIMES, Kind

TEMPLATES = Path(os.environ.get("ATOLL_TEMPLATE_DIR", "/var/lib/atoll/templates"))

MakeBox = Callable[..., Awaitable[Box]]


@pytest.fixture(scope="session")
async def template() -> Template:
    """The base template."""
    return await ensure_base(TEMPLATES, progress=print)


@pytest.fixture(scope="session")
def layers(template: Template) -> tuple[Path, ...]:
    """The root file system of the base template."""
    return template.layers


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """The driver under test."""
    os.environ.setdefault(RUNTIMES, str(tmp_path_factory.mktemp("runtimes")))
    found = request.param
    assert isinstance(found, Kind)
    return found


@pytest.fixture(scope="session")
async def driver(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Driver]:
    """A started driver; in the end it may leave nothing."""
    state = tmp_path_factory.mktemp(f"driver-{kind.name}")
    made = kind.make(state)
    await made.start()
    yield made
    await made.purge()
    assert kind.find_traces(state) == []


@pytest.fixture
async def make_box(driver: Driver, template: Template) -> AsyncIterator[MakeBox]:
    """Makes sandboxes, which are destroyed after the test."""
    made: list[Box] = []

    async def make(on: Driver = driver, **options: Any) -> Box:
        spec = SandboxSpec(new_id(), **{"layers": template.layers, **options})
        box = Box(on, await on.create(spec), template.envs)
        made.append(box)
        return box

    yield make
    for box in made:
        await box.agent.close()
        await box.driver.destroy(box.instance.sandbox_id)


@pytest.fixture
async def box(make_box: MakeBox) -> Box:
    """A sandbox with small limits."""
    return await make_box(
        resources=Resources(cpu_count=1, memory_mb=512, disk_mb=2048, max_processes=256)
    )
