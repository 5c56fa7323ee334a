"""Building a recipe: what the store lacks is made, layer by layer, in sandboxes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from atoll.errors import AtollError, InvalidInput
from atoll.isolation.driver import Driver, Resources
from atoll.templates import steps
from atoll.templates.layered import Workshop, open_workshop
from atoll.templates.layers import Ground, Layer, LayerStore
from atoll.templates.plan import Command, Placement, PlannedStage, Planner, StepInvalid, Task
from atoll.templates.recipe import (
    Copy,
    FromImage,
    FromStage,
    FromTemplate,
    Recipe,
    StageFiles,
    UploadedFiles,
)
from atoll.templates.uploads import Uploads

BASE_STEP = "base"
"""What E2B's SDKs call the step that finds what a build stands on."""
_UNPACKED_FACTOR = 8
"""How many times as much as may be sent may come out of an archive."""
_MOST_LAYERS = 400
"""Linux stacks 500 at most."""


class BuildFailed(Exception):
    """A build can't go on; the message says why, for whoever asked for it."""

    def __init__(self, message: str, *, step: str) -> None:
        super().__init__(message)
        self.step = step


class BuildLog(Protocol):
    """Where a build says what it does."""

    def write(self, message: str, *, step: str, level: str = "info") -> None:
        """Add a line."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a build finds what it stands on and copies from; they decide who may use what."""

    uploads: Uploads
    find_template: Callable[[str], Awaitable[Ground]]
    import_image: Callable[[FromImage, Callable[[str], None]], Awaitable[Ground]]
    make_empty: Callable[[], Awaitable[Ground]]


class Builder:
    """Builds one recipe."""

    def __init__(
        self,
        recipe: Recipe,
        log: BuildLog,
        sources: Sources,
        driver: Driver,
        layers: LayerStore,
        *,
        resources: Resources,
        step_seconds: float,
    ) -> None:
        """`resources` are those of the sandboxes in which layers are made."""
        self._recipe = recipe
        self._log = log
        self._sources = sources
        self._driver = driver
        self._layers = layers
        self._resources = resources
        self._step_seconds = step_seconds
        self._stages: list[PlannedStage] = []
        self._made: dict[int, Ground] = {}
        self._digests: dict[str, str] = {}

    async def build(self) -> Ground:
        """Make what the store lacks, and return what the last stage has become.

        Raises `BuildFailed`.
        """
        planner = Planner(
            self._find_digests(), latest=self._layers.latest, force=self._recipe.force
        )
        needed = _find_needed(self._recipe)
        for number, stage in enumerate(self._recipe.stages):
            if number not in needed:
                self._stages.append(_SKIPPED)
                continue
            try:
                ground = await self._find_ground(number)
                # On a thread: what somebody else has written may take a while to think through.
                planned = await asyncio.to_thread(planner.plan, stage, ground, self._stages)
                self._stages.append(planned)
            except StepInvalid as error:
                raise BuildFailed(str(error), step=error.label) from error
            except AtollError as error:
                raise BuildFailed(str(error), step=BASE_STEP) from error
        ground = await self._make_stage(len(self._stages) - 1)
        return replace(
            ground,
            start_command=self._recipe.start_command or ground.start_command,
            ready_command=self._recipe.ready_command or ground.ready_command,
        )

    def _find_digests(self) -> dict[str, str]:
        found = {}
        for stage in self._recipe.stages:
            for step in stage.steps:
                if isinstance(step, Copy) and isinstance(step.files, UploadedFiles):
                    name = step.files.hash
                    try:
                        digest = self._sources.uploads.digest(name)
                    except InvalidInput as error:
                        raise BuildFailed(str(error), step=BASE_STEP) from error
                    if digest is not None:
                        found[name] = digest
        self._digests = found
        return found

    async def _find_ground(self, number: int) -> Ground:
        """What a stage stands on; of another stage, all but its layers."""
        source = self._recipe.stages[number].source
        if isinstance(source, FromStage):
            return self._stages[source.index].result
        if isinstance(source, FromTemplate):
            self._log.write(f"FROM template {source.ref}", step=BASE_STEP)
            return await self._sources.find_template(source.ref)
        if isinstance(source, FromImage):
            self._log.write(f"FROM {source.reference}", step=BASE_STEP)
            return await self._sources.import_image(
                source, lambda line: self._log.write(line, step=BASE_STEP)
            )
        return await self._sources.make_empty()

    async def _make_stage(self, number: int) -> Ground:
        """Have all layers of a stage, and return what it has become. Raises `BuildFailed`."""
        if number in self._made:
            return self._made[number]
        source, planned = self._recipe.stages[number].source, self._stages[number]
        below = planned.ground.layers
        if isinstance(source, FromStage):
            below = (await self._make_stage(source.index)).layers
        for task in planned.tasks:
            layer = self._layers.find(task.key)
            said = f"[{task.label}] {task.title}"
            if layer is not None:
                self._log.write(f"{said} (cached)", step=task.label)
            else:
                self._log.write(said, step=task.label)
                if len(below) >= _MOST_LAYERS:
                    raise BuildFailed(
                        f"a template has at most {_MOST_LAYERS} layers", step=task.label
                    )
                layer = await self._make_layer(task, below)
                if task.replaces is not None:
                    self._layers.redirect(task.replaces, task.key)
            below = (layer.rootfs, *below)
        self._made[number] = replace(planned.result, layers=below)
        return self._made[number]

    async def _make_layer(self, task: Task, below: tuple[Path, ...]) -> Layer:
        origin: tuple[Path, ...] | None = None
        if isinstance(task.work, Placement) and isinstance(task.work.files, StageFiles):
            origin = (await self._make_stage(task.work.files.index)).layers

        def on_wait() -> None:
            self._log.write("waiting for another build of the same layer", step=task.label)

        try:
            return await self._layers.ensure(
                task.key, below, lambda root: self._make(task, below, origin, root), on_wait=on_wait
            )
        except TimeoutError:
            raise BuildFailed(
                f"the step took longer than {self._step_seconds:g} s: {task.title}", step=task.label
            ) from None
        except steps.TaskFailed as error:
            raise BuildFailed(str(error), step=task.label) from error
        except AtollError as error:
            raise BuildFailed(f"the step failed: {error}", step=task.label) from error

    async def _make(
        self, task: Task, below: tuple[Path, ...], origin: tuple[Path, ...] | None, root: Path
    ) -> None:
        async with asyncio.timeout(self._step_seconds), self._open(below, task) as workshop:
            await steps.make_directories(workshop, task.directories)
            if isinstance(task.work, Command):
                await steps.run_command(
                    workshop, task.work, lambda line: self._log.write(line, step=task.label)
                )
            elif isinstance(task.work, Placement):
                await self._place(workshop, task, task.work, origin)
            await workshop.save(root)

    async def _place(
        self, workshop: Workshop, task: Task, work: Placement, origin: tuple[Path, ...] | None
    ) -> None:
        if isinstance(work.files, UploadedFiles):
            digest = self._digests[work.files.hash]
            archive = self._sources.uploads.read(work.files.hash, digest)
            most = _UNPACKED_FACTOR * self._sources.uploads.max_bytes
            await steps.place_files(workshop, work, archive, most_bytes=most)
            return
        assert origin is not None
        async with self._open(origin, task) as source:
            most = self._resources.disk_mb << 20
            packed = steps.pack_files(source, work)
            await steps.place_files(workshop, work, packed, most_bytes=most)

    def _open(self, layers: tuple[Path, ...], task: Task) -> AbstractAsyncContextManager[Workshop]:
        envs = task.work.envs if isinstance(task.work, Command) else {}
        name = f"build{secrets.token_hex(8)}"
        return open_workshop(self._driver, layers, name=name, resources=self._resources, envs=envs)


def _find_needed(recipe: Recipe) -> set[int]:
    """The stages that the last one is made from, itself included."""
    needed: set[int] = set()
    pending = [len(recipe.stages) - 1]
    while pending:
        number = pending.pop()
        if number in needed:
            continue
        needed.add(number)
        stage = recipe.stages[number]
        if isinstance(stage.source, FromStage):
            pending.append(stage.source.index)
        pending += [
            step.files.index
            for step in stage.steps
            if isinstance(step, Copy) and isinstance(step.files, StageFiles)
        ]
    return needed


_SKIPPED = PlannedStage(Ground("", ()), (), Ground("", ()))
