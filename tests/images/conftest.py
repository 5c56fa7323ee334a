"""A store of its own, a driver, and registries on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.agent.client import AgentClient
from atoll.agent.model import Output, ProcessConfig, ProcessEnd
from atoll.isolation.driver import Driver, Resources, SandboxSpec
from atoll.parts import open_build_driver
from atoll.settings import load_settings
from atoll.templates.images.library import ImageLibrary, as_ground
from atoll.templates.images.reference import LocalReference, RegistryReference
from atoll.templates.images.skopeo import NOBODY, Access
from atoll.templates.layers import Ground, LayerStore
from tests.images.registry import Registry, run_registry


@dataclass
class Box:
    """A sandbox of an image."""

    agent: AgentClient

    async def run(self, command: str, *, user: str = "user") -> str:
        """What a command of the SDKs prints; it has to succeed."""
        return await self.execute("/bin/bash", "-l", "-c", command, user=user)

    async def execute(self, program: str, *arguments: str, user: str = "user") -> str:
        """What a program prints; it has to succeed."""
        said = b""
        config = ProcessConfig(program, arguments, {}, None)
        async with await self.agent.start_process(config, user=user) as stream:
            async for event in stream:
                if isinstance(event, ProcessEnd):
                    assert event.exit_code == 0, said
                    return said.decode().strip()
                assert isinstance(event, Output)
                said += event.data
        raise AssertionError("no end")


class Workplace:
    """A store of layers with a driver."""

    def __init__(self, store: Path, driver: Driver) -> None:
        self.driver = driver
        self.layers = LayerStore(store)
        self.library = ImageLibrary(store, self.layers, max_image_mb=1024)
        self.said: list[str] = []
        self._number = 0

    async def ground(
        self, reference: RegistryReference | LocalReference, access: Access = NOBODY
    ) -> Ground:
        """What a build that begins with this image stands on."""
        if isinstance(reference, LocalReference):
            image = await self.library.load(reference, progress=self.said.append)
        else:
            image = await self.library.pull(reference, access=access, progress=self.said.append)
        return await as_ground(image, self.driver, self.layers)

    @asynccontextmanager
    async def box(self, ground: Ground) -> AsyncIterator[Box]:
        """A sandbox upon these layers."""
        self._number += 1
        sandbox_id = f"images{self._number}"
        spec = SandboxSpec(sandbox_id, ground.layers, Resources(disk_mb=256))
        instance = await self.driver.create(spec)
        agent = AgentClient(lambda: self.driver.dial_agent(instance))
        try:
            yield Box(agent)
        finally:
            await agent.close()
            await self.driver.destroy(sandbox_id)


@pytest.fixture(scope="session")
async def workplace(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workplace]:
    """One for all tests; in the end its driver has to leave nothing."""
    directory = tmp_path_factory.mktemp("images")
    settings = load_settings(data_dir=directory)
    async with open_build_driver(settings, directory / "driver") as driver:
        yield Workplace(directory / "templates", driver)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A public one."""
    with run_registry(tmp_path_factory.mktemp("registry") / "public") as running:
        yield running


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One that asks for an account."""
    with run_registry(tmp_path_factory.mktemp("registry") / "private", private=True) as running:
        yield running
