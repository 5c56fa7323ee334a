"""Templates that stand on another: built in a sandbox of it, kept as one more layer.

    <store>/<name>/<digest>/template.json   what it is; written last
    <store>/<name>/<digest>/rootfs/         the layer: only what differs from the template below

What a build runs is isolated from the host by the same means as any other sandbox.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.agent.client import AgentClient
from atoll.agent.model import ProcessConfig, ProcessEnd
from atoll.isolation.driver import Driver, Instance, Resources, SandboxSpec
from atoll.templates import builds
from atoll.templates.model import Template, dump_template, load_template

_FORMAT = 1
_LAST_LINES = 30


class StepFailed(Exception):
    """A command of a build failed; the message holds the end of what it printed."""


@dataclass(frozen=True, slots=True)
class LayeredBuild:
    """A finished build of such a template."""

    directory: Path
    recipe: str
    """Digest of all that decided what it became, the template below included."""
    template: Template


def read_layered(directory: Path, recipe: str | None = None) -> LayeredBuild | None:
    """The newest finished build in a template's directory; with this recipe, when one is given."""
    found = (each for each in read_all_layered(directory) if recipe in (None, each.recipe))
    return next(found, None)


def read_all_layered(directory: Path) -> list[LayeredBuild]:
    """All finished builds in a template's directory, the newest first."""
    if not directory.is_dir():
        return []
    found = [
        build
        for path in directory.iterdir()
        if not path.name.startswith(".") and (build := _read(path)) is not None
    ]
    return sorted(found, key=lambda build: build.template.created_at, reverse=True)


def _read(directory: Path) -> LayeredBuild | None:
    try:
        manifest = json.loads((directory / builds.MANIFEST).read_bytes())
        if manifest["format"] != _FORMAT:
            return None
        template = load_template(manifest["template"])
        recipe = str(manifest["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all(layer.is_dir() for layer in template.layers):
        return None  # the build below it was removed
    return LayeredBuild(directory, recipe, template)


class Workshop:
    """A sandbox in which a layer is made."""

    def __init__(self, driver: Driver, instance: Instance, template: Template) -> None:
        self._driver = driver
        self._instance = instance
        self._envs = template.envs
        self.agent = AgentClient(lambda: driver.dial_agent(instance))

    async def run(
        self,
        command: str,
        *,
        user: str = "root",
        on_line: Callable[[str], None] = lambda line: None,
        envs: Mapping[str, str] | None = None,
    ) -> None:
        """Run a command to its end, by a login shell. Raises `StepFailed`."""
        config = ProcessConfig(
            "/bin/bash", ("-l", "-c", command), {**self._envs, **(envs or {})}, "/"
        )
        lines: list[str] = []
        rest = b""
        async with await self.agent.start_process(config, user=user) as stream:
            async for event in stream:
                if isinstance(event, ProcessEnd):
                    if event.exit_code:
                        last = "\n".join([*lines, rest.decode(errors="replace")])
                        raise StepFailed(f"{event.status}\n{last.strip()}")
                    return
                *whole, rest = (rest + event.data).split(b"\n")
                for line in whole:
                    lines = [*lines[-_LAST_LINES:], line.decode(errors="replace")]
                    on_line(lines[-1])
        raise StepFailed("the command's end was not seen")

    async def put(self, path: str, content: bytes) -> None:
        """Write a file as root."""

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        await self.agent.write_file(path, user="root", chunks=chunks())

    async def save(self, directory: Path) -> None:
        """Write what has been made as a layer."""
        await self.agent.close()
        await self._driver.save_layer(self._instance, directory)


@asynccontextmanager
async def open_workshop(
    driver: Driver, template: Template, *, resources: Resources
) -> AsyncIterator[Workshop]:
    """A sandbox of the template below; it is gone afterwards. The driver has been started."""
    sandbox_id = f"build{template.template_id[:12]}"
    await driver.destroy(sandbox_id)
    instance = await driver.create(SandboxSpec(sandbox_id, template.layers, resources))
    workshop = Workshop(driver, instance, template)
    try:
        yield workshop
    finally:
        await workshop.agent.close()
        await driver.destroy(sandbox_id)


async def publish(
    directory: Path,
    recipe: str,
    *,
    make: Callable[[Path], Any],
    describe: Callable[[Path], Template],
) -> LayeredBuild:
    """Make a layer aside (`make` gets the path) and let it become the build of that recipe."""
    final = directory / recipe[:20]
    async with builds.building(directory) as aside:
        await make(aside / builds.ROOTFS)
        template = describe(final / builds.ROOTFS)
        manifest = {"format": _FORMAT, "recipe": recipe, "template": dump_template(template)}
        (aside / builds.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        await builds.settle(aside, final)
    return LayeredBuild(final, recipe, template)
