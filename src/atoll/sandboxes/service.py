"""The life of sandboxes: create, find, prolong, end; and taking them over after a restart."""

from __future__ import annotations

import asyncio
import functools
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from atoll.agent.client import AgentClient
from atoll.errors import Exhausted, InvalidInput, Overloaded, SandboxNotFound
from atoll.isolation.driver import Driver, Egress, Instance, SandboxSpec, VolumeMount
from atoll.sandboxes.endings import Endings
from atoll.sandboxes.events import EventType, Lifecycle, format_moment
from atoll.sandboxes.model import EndReason, NewSandbox, Sandbox, SandboxState, new_sandbox_id
from atoll.sandboxes.pool import Pool
from atoll.sandboxes.processes import resume_following
from atoll.sandboxes.reaper import Reaper
from atoll.sandboxes.records import dump_sandbox, restore_sandbox
from atoll.sandboxes.repeats import Repeats
from atoll.sandboxes.startup import boot_files, pass_on_envs, run_start_command, standard_envs
from atoll.store.sandboxes import SandboxRow, SandboxStore
from atoll.templates.model import Template, load_template
from atoll.templates.service import TemplateService
from atoll.volumes.service import VolumeService

log = structlog.get_logger(__name__)


class SandboxService:
    """All live sandboxes of this server. Every door works through it."""

    def __init__(
        self,
        *,
        driver: Driver,
        store: SandboxStore,
        lifecycle: Lifecycle,
        volumes: VolumeService,
        templates: TemplateService,
        data_dir: Path,
        pool_size: int,
        warm: Sequence[str],
        max_sandboxes: int,
        max_team_sandboxes: int = 0,
        max_timeout: int,
        min_free_disk_mb: int,
        ready_seconds: float,
    ) -> None:
        self._templates = templates
        self._driver = driver
        self._store = store
        self._lifecycle = lifecycle
        self._volumes = volumes
        self._data_dir = data_dir
        self._max_sandboxes = max_sandboxes
        self._max_team_sandboxes = max_team_sandboxes
        self._max_timeout = max_timeout
        self._warm = warm
        self._ready_seconds = ready_seconds
        self._min_free_disk = min_free_disk_mb << 20
        self._live: dict[str, Sandbox] = {}
        self._creating: Counter[str] = Counter()
        self._repeats = Repeats()
        self._stopping = False
        self._endings = Endings(driver, store)
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._pool = Pool(pool_size, boot=self._boot, discard=self._discard)
        self._reaper = Reaper(self._expire)

    # -- start and stop ----------------------------------------------------------------------

    async def start(self) -> None:
        """Take over the sandboxes of an earlier server, clear away what was half-made, warm up."""
        self._reaper.start()
        for name in self._warm:
            self._pool.warm(self._templates.catalog.get(name))
        await self._recover()
        self._pool.start()

    async def stop(self, *, end_sandboxes: bool) -> None:
        """Let go of the sandboxes, or end them. Pooled ones have no owner and always end."""
        self._stopping = True
        await self._repeats.close()
        await self._pool.close()
        await self._reaper.stop()
        if end_sandboxes:
            await asyncio.gather(
                *(self._end(each, EndReason.SERVER_STOPPED) for each in list(self._live.values()))
            )
        await asyncio.gather(*self._ending.values())
        await self._endings.close()
        for sandbox in self._live.values():
            await sandbox.agent.close()

    async def _recover(self) -> None:
        rows = {row.sandbox_id: row for row in await self._store.live()}
        unknown = set(await self._driver.list()) - set(rows)
        await asyncio.gather(
            *(self._recover_one(row) for row in rows.values()),
            *(self._endings.destroy(sandbox_id) for sandbox_id in unknown),
        )
        if rows or unknown:
            log.info("server.recovered", adopted=len(self._live), removed=len(unknown))

    async def _recover_one(self, row: SandboxRow) -> None:
        try:
            await self._adopt_or_remove(row)
        except Exception:  # one that can't be understood must not keep the others from coming back
            log.exception("sandbox.recovery_failed", sandbox_id=row.sandbox_id)

    async def _adopt_or_remove(self, row: SandboxRow) -> None:
        instance = await self._driver.adopt(row.sandbox_id)
        if instance is not None:
            sandbox = self._wrap(instance, load_template(row.record["template"]), row.created_at)
            restore_sandbox(sandbox, row)
            if row.state == SandboxState.POOLED:
                # Its last owner's policy may have been written before the server died.
                await self._driver.set_egress(instance, Egress())
                if self._pool.put(sandbox):
                    resume_following(sandbox)
                    return
            if row.state == SandboxState.RUNNING and sandbox.end_at is not None:
                sandbox.state = SandboxState.RUNNING
                self._live[sandbox.sandbox_id] = sandbox
                remaining = sandbox.end_at - datetime.now(UTC)
                self._reaper.schedule(sandbox.sandbox_id, remaining.total_seconds())
                resume_following(sandbox)
                return
        await self._endings.destroy(row.sandbox_id)
        pooled = row.state == SandboxState.POOLED
        reason = EndReason.DISCARDED if pooled else EndReason.LOST
        await self._endings.record(row.sandbox_id, reason)
        self._lifecycle.announce(EventType.KILLED, row, reason=reason)

    # -- create ------------------------------------------------------------------------------

    async def create(self, team_id: str, request: NewSandbox) -> Sandbox:
        """Hand out a sandbox: a pooled one when there is one, else one booted now.

        A repeated create gives the sandbox of the first. Raises `TemplateNotFound`,
        `InvalidInput`, `RequestMismatch`, `Exhausted`, `Overloaded`, `HostError`.
        """
        if request.idempotency is None:
            return await self._create(team_id, request)
        return await self._repeats.once(
            team_id,
            request.idempotency,
            made=self.list(team_id),
            make=functools.partial(self._create, team_id, request),
        )

    async def _create(self, team_id: str, request: NewSandbox) -> Sandbox:
        template = await self._templates.find(team_id, request.template)
        self._check_timeout(request.timeout)
        self._check_room(team_id)
        self._creating[team_id] += 1
        try:
            sandbox = await self._find_sandbox(template, team_id, request)
            try:
                await self._hand_out(sandbox, team_id, request)
            except BaseException:
                await asyncio.shield(self._end(sandbox, EndReason.FAILED))
                raise
        finally:
            self._creating[team_id] -= 1
            if not self._creating[team_id]:
                del self._creating[team_id]
        self._templates.count_spawn(template)
        log.info("sandbox.created", sandbox_id=sandbox.sandbox_id, template=template.names[0])
        return sandbox

    async def _find_sandbox(self, template: Template, team_id: str, request: NewSandbox) -> Sandbox:
        if not request.volumes:
            return self._pool.take(template) or await self._boot(template)
        # What is mounted is decided before the first process runs, so none is there ready-made.
        mounts = await self._volumes.find_mounts(team_id, request.volumes)
        return await self._boot(template, mounts)

    async def _hand_out(self, sandbox: Sandbox, team_id: str, request: NewSandbox) -> None:
        now = datetime.now(UTC)
        if sandbox.ended.is_set():
            raise Overloaded("the sandbox ended while it was being made", remedy="try again")
        sandbox.state = SandboxState.RUNNING
        sandbox.team_id = team_id
        sandbox.started_at = now
        sandbox.end_at = now + timedelta(seconds=request.timeout)
        sandbox.metadata = dict(request.metadata)
        sandbox.envs = {**standard_envs(sandbox), **request.envs}
        await pass_on_envs(sandbox, request.envs)
        sandbox.access_token = secrets.token_hex(32) if request.secured else None
        sandbox.traffic_token = None if request.allow_public_traffic else secrets.token_hex(32)
        sandbox.mask_request_host = request.mask_request_host
        sandbox.internet_access = request.internet_access
        sandbox.idempotency = request.idempotency
        sandbox.volumes = request.volumes
        if not request.egress.is_default:
            await self._driver.set_egress(sandbox.instance, request.egress)
            sandbox.egress = request.egress
        row = dump_sandbox(sandbox)
        await self._store.save(row)
        if sandbox.ended.is_set():
            raise Overloaded("the sandbox ended while it was being made", remedy="try again")
        self._live[sandbox.sandbox_id] = sandbox
        self._lifecycle.announce(EventType.CREATED, row)
        self._reaper.schedule(sandbox.sandbox_id, request.timeout)

    async def _boot(self, template: Template, volumes: tuple[VolumeMount, ...] = ()) -> Sandbox:
        """Boot a sandbox that belongs to nobody yet."""
        sandbox_id = new_sandbox_id()
        files = boot_files(template, sandbox_id)
        spec = SandboxSpec(
            sandbox_id, template.layers, template.resources, files=files, volumes=volumes
        )
        instance = await self._driver.create(spec)
        sandbox = self._wrap(instance, template, time.time())
        try:
            await run_start_command(
                sandbox, standard_envs(sandbox), ready_seconds=self._ready_seconds
            )
            await self._store.save(dump_sandbox(sandbox))
        except BaseException:
            await asyncio.shield(self._end(sandbox, EndReason.FAILED))
            raise
        return sandbox

    async def rehearse(self, template: Template) -> None:
        """Find out whether sandboxes of a template start. Raises as `create` does.

        One that had to get ready is kept for whoever asks first.
        """
        sandbox = await self._boot(template)
        starts = template.start_command is not None or template.ready_command is not None
        if not (starts and self._pool.keep(sandbox)):
            self._end(sandbox, EndReason.DISCARDED)  # nobody has to wait for it

    def forget_template(self, template_id: str) -> None:
        """Keep no sandbox of a template ready any more: it was removed."""
        self._pool.forget(template_id)

    def _wrap(self, instance: Instance, template: Template, created_at: float) -> Sandbox:
        sandbox = Sandbox(
            sandbox_id=instance.sandbox_id,
            template=template,
            instance=instance,
            agent=AgentClient(functools.partial(self._driver.dial_agent, instance)),
            driver=self._driver,
            created_at=created_at,
            logbook=self._lifecycle.logbook,
        )
        instance.exited.add_done_callback(functools.partial(self._on_exit, sandbox))
        return sandbox

    def _check_timeout(self, timeout: int) -> None:
        if timeout < 0:
            raise InvalidInput("the timeout must not be negative")
        if timeout > self._max_timeout:
            raise InvalidInput(
                f"the timeout must not be longer than {self._max_timeout} seconds",
                remedy="ask for less, or have ATOLL_MAX_TIMEOUT raised",
            )

    def _check_room(self, team_id: str) -> None:
        if self._stopping:
            raise Overloaded("the server is stopping", remedy="try again when it is back")
        most = self._max_team_sandboxes
        if most and len(self.list(team_id)) + self._creating[team_id] >= most:
            raise Exhausted(
                f"the team has its {most} sandboxes already",
                remedy="end some, or have ATOLL_MAX_TEAM_SANDBOXES raised",
            )
        if len(self._live) + self._creating.total() >= self._max_sandboxes:
            raise Overloaded(
                f"the server has its {self._max_sandboxes} sandboxes already",
                remedy="end some, or have ATOLL_MAX_SANDBOXES raised",
            )
        if shutil.disk_usage(self._data_dir).free < self._min_free_disk:
            raise Overloaded(
                "the server's disk is nearly full",
                remedy="free some, or have ATOLL_MIN_FREE_DISK_MB lowered",
            )

    # -- find --------------------------------------------------------------------------------

    def lookup(self, sandbox_id: str) -> Sandbox | None:
        """Find a live sandbox of whatever team (for the gateway, which has other credentials)."""
        return self._live.get(sandbox_id)

    def all_live(self) -> Iterable[Sandbox]:
        """All live sandboxes of whatever team (for the gateway, like `lookup`)."""
        return self._live.values()

    def get(self, team_id: str, sandbox_id: str) -> Sandbox:
        """Find a live sandbox of the team.

        Raises `SandboxNotFound`, for another team's sandbox just as for one that never was.
        """
        sandbox = self._live.get(sandbox_id)
        if sandbox is None or sandbox.team_id != team_id:
            raise SandboxNotFound(sandbox_id)
        return sandbox

    def list(self, team_id: str) -> list[Sandbox]:
        """All live sandboxes of the team, in no particular order."""
        return [sandbox for sandbox in self._live.values() if sandbox.team_id == team_id]

    def layers_in_use(self) -> set[Path]:
        """The layers that live sandboxes stand on, pooled ones included."""
        sandboxes = [*self._live.values(), *self._pool.sandboxes()]
        return {layer for sandbox in sandboxes for layer in sandbox.template.layers}

    # -- prolong -----------------------------------------------------------------------------

    async def set_timeout(self, team_id: str, sandbox_id: str, timeout: int) -> None:
        """Let the sandbox live so many seconds from now: longer or shorter than before."""
        sandbox = self.get(team_id, sandbox_id)
        self._check_timeout(timeout)
        await self._set_end(sandbox, datetime.now(UTC) + timedelta(seconds=timeout))

    async def prolong(self, team_id: str, sandbox_id: str, timeout: int) -> Sandbox:
        """Let the sandbox live at least so many seconds from now: never shorter than before."""
        sandbox = self.get(team_id, sandbox_id)
        self._check_timeout(timeout)
        end_at = datetime.now(UTC) + timedelta(seconds=timeout)
        if sandbox.end_at is None or end_at > sandbox.end_at:
            await self._set_end(sandbox, end_at)
        return sandbox

    async def _set_end(self, sandbox: Sandbox, end_at: datetime) -> None:
        sandbox.end_at = end_at
        seconds = (end_at - datetime.now(UTC)).total_seconds()
        self._reaper.schedule(sandbox.sandbox_id, seconds)
        await self._store.set_end_at(sandbox.sandbox_id, end_at.timestamp())
        self._announce_update(sandbox, set_timeout=format_moment(end_at.timestamp()))

    async def set_egress(self, team_id: str, sandbox_id: str, egress: Egress) -> None:
        """Replace what the sandbox may reach."""
        sandbox = self.get(team_id, sandbox_id)
        await self._driver.set_egress(sandbox.instance, egress)
        if sandbox.ended.is_set():
            raise SandboxNotFound(sandbox_id)
        sandbox.egress = egress
        sandbox.internet_access = egress.internet
        await self._store.save(dump_sandbox(sandbox))
        self._announce_update(sandbox)

    def _announce_update(self, sandbox: Sandbox, **data: str) -> None:
        if not sandbox.ended.is_set():  # nothing comes after the end
            self._lifecycle.announce(EventType.UPDATED, dump_sandbox(sandbox), **data)

    # -- end ---------------------------------------------------------------------------------

    async def kill(self, team_id: str, sandbox_id: str) -> None:
        """End a sandbox. When this returns, nothing of it is left. Raises `SandboxNotFound`."""
        await asyncio.shield(self._end(self.get(team_id, sandbox_id), EndReason.KILLED))

    async def abandon(self, sandbox: Sandbox) -> None:
        """End a sandbox that was made for a client who has left without it."""
        await asyncio.shield(self._end(sandbox, EndReason.FAILED))

    async def _expire(self, sandbox_id: str) -> None:
        sandbox = self._live.get(sandbox_id)
        if sandbox is None or sandbox.end_at is None:
            return
        # It may have been prolonged in the moment it became due.
        if not self._reaper.is_scheduled(sandbox_id):
            await self._end(sandbox, EndReason.TIMEOUT)

    async def _discard(self, sandbox: Sandbox) -> None:
        await self._end(sandbox, EndReason.DISCARDED)

    def _on_exit(self, sandbox: Sandbox, exited: asyncio.Future[str]) -> None:
        if exited.cancelled() or exited.result() == "destroyed":
            return
        reason = EndReason.OOM if exited.result() == "oom" else EndReason.EXITED
        self._end(sandbox, reason)

    def _end(self, sandbox: Sandbox, reason: EndReason) -> asyncio.Task[None]:
        """End a sandbox, once: whoever comes second waits for the same end."""
        sandbox_id = sandbox.sandbox_id
        if sandbox_id not in self._ending:
            # From this moment on nobody finds it, and all that streams from it drops.
            if self._live.pop(sandbox_id, None) is not None:
                self._lifecycle.announce(EventType.KILLED, dump_sandbox(sandbox), reason=reason)
            self._reaper.cancel(sandbox_id)
            sandbox.end_reason = reason
            sandbox.state = SandboxState.ENDED
            sandbox.ended.set()
            self._pool.remove(sandbox)
            task = asyncio.create_task(self._endings.clear_away(sandbox, reason))
            self._ending[sandbox_id] = task
            task.add_done_callback(lambda _: self._ending.pop(sandbox_id, None))
        return self._ending[sandbox_id]
