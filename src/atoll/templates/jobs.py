"""Builds that run in the server: asked for, triggered, followed, and what is left of them."""

from __future__ import annotations

import asyncio
import functools
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from atoll.errors import AtollError, Conflict, Exhausted, InvalidInput, NotFound
from atoll.isolation.driver import Driver, Resources
from atoll.store.batches import BatchWriter
from atoll.store.builds import BuildLine, BuildRow, BuildStore
from atoll.store.logs import LogLevel
from atoll.store.templates import TemplateRow
from atoll.templates.builder import BASE_STEP, Builder, BuildFailed, Sources
from atoll.templates.importing import Importer
from atoll.templates.journal import MOST_LINES, Journal
from atoll.templates.layers import Ground, LayerStore, derive_key
from atoll.templates.model import Template, dump_template
from atoll.templates.names import DEFAULT_TAG, check_tags, parse_reference
from atoll.templates.recipe import FromImage, Recipe
from atoll.templates.service import TemplateService
from atoll.templates.uploads import Uploads, prune_uploads

log = structlog.get_logger(__name__)

FINAL_STEP = "finalize"
"""What E2B's SDKs call the step that tries the start command."""
_MOST_PENDING = 20
"""Builds of one team that run or wait for others."""
_LINGER_SECONDS = 0.1
_MOST_CPUS = 64
_MOST_MEMORY_MB = 1 << 20
_MOST_DISK_MB = 1 << 20
_PRUNE_SECONDS = 6 * 3600.0

Rehearse = Callable[[Template], Awaitable[None]]
"""Makes a sandbox of a template as its users will get one. Raises `AtollError`."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants to build."""

    name: str
    """May hold a tag."""
    tags: Sequence[str] = ()
    cpu_count: int | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What builds may take."""

    concurrent: int
    memory_mb: int
    step_seconds: float
    upload_mb: int
    layer_days: int
    min_free_mb: int


class BuildService:
    """All builds of this server."""

    def __init__(
        self,
        *,
        templates: TemplateService,
        store: BuildStore,
        layers: LayerStore,
        driver: Driver,
        uploads: Path,
        importer: Importer,
        rehearse: Rehearse,
        forget_template: Callable[[str], None],
        layers_in_use: Callable[[], set[Path]],
        limits: Limits,
        prunes: bool,
    ) -> None:
        """`uploads` is the directory of what clients send; without `prunes` the layers are left
        alone, as others may stand on them."""
        self._templates = templates
        self._store = store
        self._layers = layers
        self._driver = driver
        self._uploads = uploads
        self._importer = importer
        self._rehearse = rehearse
        self._forget_template = forget_template
        self._layers_in_use = layers_in_use
        self._limits = limits
        self._prunes = prunes
        self._slots = asyncio.Semaphore(limits.concurrent)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pending: Counter[str] = Counter()
        self._writer: BatchWriter[BuildLine] = BatchWriter(
            store.write_lines, linger=_LINGER_SECONDS, bound=4 * MOST_LINES
        )
        self._pruning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Give up the builds of an earlier server, and remove what nothing needs any more."""
        await self._store.fail_unfinished("the server ended while it was building; build again")
        await self.prune()
        self._pruning = asyncio.create_task(self._prune_now_and_then())

    async def stop(self) -> None:
        """End the builds that run."""
        if self._pruning is not None:
            self._pruning.cancel()
        tasks = [*self._running.values(), *([self._pruning] if self._pruning else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._writer.close()

    # -- for clients -------------------------------------------------------------------------

    async def request(self, team_id: str, request: Request) -> tuple[TemplateRow, BuildRow]:
        """Make room for a build. Raises `InvalidInput`, `Forbidden`."""
        wanted = parse_reference(request.name)
        tags = check_tags([*([wanted.tag] if wanted.tag else []), *request.tags]) or [DEFAULT_TAG]
        resources = _choose_resources(request)
        row = await self._templates.claim(team_id, request.name)
        build_id = str(uuid.uuid4())
        await self._store.add(build_id, row.template_id, tags=tags, resources=asdict(resources))
        return row, await self.get(row, build_id)

    async def get(self, row: TemplateRow, build_id: str) -> BuildRow:
        """One build of a template. Raises `NotFound`."""
        build = await self._store.get(row.template_id, build_id)
        if build is None:
            raise NotFound(f"the template {row.name!r} has no build {build_id!r}")
        return build

    async def list(self, row: TemplateRow) -> Sequence[BuildRow]:
        """All builds of a template, the newest first."""
        return await self._store.list(row.template_id)

    def uploads(self, team_id: str) -> Uploads:
        """The files that a team has sent."""
        return Uploads(
            self._uploads,
            team_id,
            max_bytes=self._limits.upload_mb << 20,
            min_free_bytes=self._limits.min_free_mb << 20,
        )

    async def trigger(self, team_id: str, row: TemplateRow, build_id: str, recipe: Recipe) -> None:
        """Build a recipe from now on. Raises `NotFound`, `Conflict` when it runs or ran."""
        build = await self.get(row, build_id)
        if self._pending[team_id] >= _MOST_PENDING:
            raise Exhausted(
                f"{_MOST_PENDING} builds of the team are under way or waiting already",
                remedy="wait for one of them",
            )
        self._pending[team_id] += 1  # before anything is waited for: several may come at a time
        try:
            begun = await self._store.begin(build_id)
        except BaseException:
            self._pending[team_id] -= 1
            raise
        if not begun:
            self._pending[team_id] -= 1
            raise Conflict(
                f"the build {build_id} is {build.status} already", remedy="ask for a new one"
            )
        task = asyncio.create_task(self._run(team_id, row, build, recipe), name=f"build {build_id}")
        self._running[build_id] = task
        task.add_done_callback(functools.partial(self._forget, team_id, build_id))

    def _forget(self, team_id: str, build_id: str, _task: asyncio.Task[None]) -> None:
        del self._running[build_id]
        self._pending[team_id] -= 1

    async def remove(self, row: TemplateRow) -> None:
        """Forget a template, ending its builds that run. Its sandboxes stay."""
        for build in await self._store.list(row.template_id):
            task = self._running.get(build.build_id)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._templates.remove(row)
        self._forget_template(row.template_id)

    async def lines(
        self, build: BuildRow, *, offset: int, limit: int, level: LogLevel
    ) -> Sequence[BuildLine]:
        """A part of a build's log, by number of lines."""
        await self._writer.flush()
        return await self._store.read_lines(build.build_id, offset=offset, limit=limit, level=level)

    async def lines_since(
        self,
        build: BuildRow,
        *,
        moment: float | None,
        limit: int,
        level: LogLevel,
        backward: bool,
    ) -> Sequence[BuildLine]:
        """A part of a build's log, by time."""
        await self._writer.flush()
        return await self._store.read_since(
            build.build_id, moment=moment, limit=limit, level=level, backward=backward
        )

    # -- a build -----------------------------------------------------------------------------

    async def _run(self, team_id: str, row: TemplateRow, build: BuildRow, recipe: Recipe) -> None:
        journal = Journal(build.build_id, self._writer)
        try:
            template = await self._build(team_id, row, build, recipe, journal)
        except BuildFailed as error:
            await self._fail(build, journal, str(error), error.step)
        except asyncio.CancelledError:
            await asyncio.shield(self._fail(build, journal, "the build was ended", ""))
            raise
        except Exception:  # a bug of ours; whoever waits for the build must hear of it
            log.exception("build.failed", build_id=build.build_id)
            await self._fail(build, journal, "the server failed; its log says where", "")
        else:
            journal.write("the template is ready", step=FINAL_STEP)
            # First the log, then the status: a client stops reading when it sees the end.
            await self._writer.flush()
            await self._store.finish(build, dump_template(template))
            log.info("build.ready", build_id=build.build_id, template=row.name)

    async def _fail(self, build: BuildRow, journal: Journal, message: str, step: str) -> None:
        journal.write(message, step=step, level="error")
        await self._writer.flush()
        await self._store.fail(build.build_id, message, step)
        log.info("build.refused", build_id=build.build_id, step=step)

    async def _build(
        self,
        team_id: str,
        row: TemplateRow,
        build: BuildRow,
        recipe: Recipe,
        journal: Journal,
    ) -> Template:
        resources = Resources(**build.resources)

        async def find_known(ref: str) -> Ground:
            return _stand_on(await self._templates.find(team_id, ref))

        async def import_image(source: FromImage, on_line: Callable[[str], None]) -> Ground:
            name = self._importer.find_template(source.reference)
            if name is not None:
                return await find_known(name)
            return await self._importer.import_image(source, on_line)

        if self._slots.locked():
            journal.write("waiting for other builds", step=BASE_STEP)
        async with self._slots:
            await asyncio.to_thread(self._check_room)
            builder = Builder(
                recipe,
                journal,
                Sources(self.uploads(team_id), find_known, import_image, self._importer.make_empty),
                self._driver,
                self._layers,
                resources=replace(
                    resources,
                    cpu_count=max(2, resources.cpu_count),
                    memory_mb=max(self._limits.memory_mb, resources.memory_mb),
                ),
                step_seconds=self._limits.step_seconds,
            )
            ground = await builder.build()
            template = Template(
                template_id=row.template_id,
                names=(row.name,),
                build_id=build.build_id,
                layers=ground.layers,
                created_at=datetime.now(UTC),
                resources=resources,
                user=ground.user,
                workdir=ground.workdir,
                envs=dict(ground.envs),
                start_command=ground.start_command,
                ready_command=ground.ready_command,
            )
            await self._try_out(template, ground, journal, fresh=recipe.force)
        return template

    def _check_room(self) -> None:
        self._layers.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(self._layers.directory).free < self._limits.min_free_mb << 20:
            raise BuildFailed("the server's disk is nearly full", step=BASE_STEP)

    async def _try_out(
        self, template: Template, ground: Ground, journal: Journal, *, fresh: bool
    ) -> None:
        """Find out whether sandboxes of it start, unless that is known."""
        key = derive_key(
            "tried",
            [str(layer) for layer in template.layers],
            [template.start_command, template.ready_command, template.user, template.workdir],
            [dict(template.envs), asdict(template.resources)],
        )
        if not fresh and self._layers.find(key) is not None:
            return
        if template.start_command or template.ready_command:
            journal.write("trying the start command", step=FINAL_STEP)
        try:
            await self._rehearse(template)
        except AtollError as error:
            raise BuildFailed(str(error), step=FINAL_STEP) from error
        await self._layers.ensure(key, template.layers, _make_note, lasting=False)

    # -- what is not needed any more ---------------------------------------------------------

    async def _prune_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_SECONDS)
            try:
                await self.prune()
            except Exception:  # whatever it is, the server goes on
                log.exception("templates.prune_failed")

    async def prune(self) -> None:
        """Remove files, builds and layers that nothing needs and nobody has used for some days."""
        grace = timedelta(days=self._limits.layer_days)
        await self._store.prune(before=time.time() - grace.total_seconds())
        await asyncio.to_thread(prune_uploads, self._uploads, grace=grace)
        if not self._prunes:
            return
        in_use = self._layers_in_use()
        for template in await self._templates.standing():
            in_use.update(template.layers)
        removed = await self._layers.prune(in_use=in_use, grace=grace)
        await self._importer.prune()
        await self._templates.catalog.prune(in_use=in_use | self._layers.parents())
        if removed:
            log.info("templates.pruned", layers=len(removed))


def _stand_on(template: Template) -> Ground:
    return Ground(
        key=derive_key("template", [str(layer) for layer in template.layers]),
        layers=template.layers,
        envs=template.envs,
        user=template.user,
        workdir=template.workdir,
        start_command=template.start_command,
        ready_command=template.ready_command,
    )


def _choose_resources(request: Request) -> Resources:
    default = Resources()
    bounds = (
        ("cpuCount", request.cpu_count, 1, _MOST_CPUS),
        ("memoryMB", request.memory_mb, 128, _MOST_MEMORY_MB),
        ("minFreeDiskMb", request.disk_mb, 0, _MOST_DISK_MB),
    )
    for name, value, low, high in bounds:
        if value is not None and not low <= value <= high:
            raise InvalidInput(f"{name} must be a number from {low} to {high}")
    return replace(
        default,
        cpu_count=request.cpu_count or default.cpu_count,
        memory_mb=request.memory_mb or default.memory_mb,
        disk_mb=max(request.disk_mb or 0, default.disk_mb),
    )


async def _make_note(root: Path) -> None:
    """Nothing but the fact that it is there counts."""
    await asyncio.to_thread(root.mkdir)
