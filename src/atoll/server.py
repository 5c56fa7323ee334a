"""The server: builds every part, in one place, and runs them in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette

from atoll.certificates import LocalAuthority
from atoll.doors.e2b.courier import Courier
from atoll.doors.e2b.destinations import Destinations
from atoll.doors.gateway import build_gateway
from atoll.errors import ConfigurationError, HostError
from atoll.http import BoundedProtocol, BoundedWebSocket, HttpServer
from atoll.parts import (
    build_builds,
    build_control,
    build_driver,
    build_history,
    build_limits,
    build_volumes,
    open_build_driver,
    write_secret,
)
from atoll.running import LOCAL_KEY_FILE, SERVER_FILE, RunningServer, read_start_time
from atoll.sandboxes.service import SandboxService
from atoll.settings import Settings
from atoll.store.accounts import Accounts
from atoll.store.database import Database
from atoll.store.sandboxes import SandboxStore
from atoll.store.teams import DEFAULT_TEAM
from atoll.store.templates import TemplateStore
from atoll.templates.catalog import TemplateCatalog
from atoll.templates.service import TemplateService
from atoll.tls import Certificate, NegotiatedProtocol

log = structlog.get_logger(__name__)

LOCAL_KEY_NAME = "local"
_LOCK_FILE = "server.lock"
_GRACE_SECONDS = 2
_BACKLOG = 2048


@contextlib.contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process alone.

    Raises `HostError` when another process holds it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / _LOCK_FILE).open("a")
    except OSError as error:
        raise HostError(
            f"the data directory can't be used: {error}", remedy="choose another with --data-dir"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"another server uses {data_dir}",
                remedy="stop it, or choose another directory with --data-dir",
            ) from None
        yield


async def ensure_local_key(accounts: Accounts, data_dir: Path) -> str:
    """Return the key for the owner of this machine, making it on the first start.

    It is kept in the data directory, readable for the owner alone, so that `atoll env` can print
    it; keys made by `atoll keys create` are kept nowhere but as a hash.
    """
    path = data_dir / LOCAL_KEY_FILE
    if path.exists():
        key = path.read_text().strip()
        if await accounts.keys.is_valid(key):
            return key
        path.unlink()
    team_id = await accounts.teams.ensure(DEFAULT_TEAM)
    for old in await accounts.keys.list(team_id):
        if old.name == LOCAL_KEY_NAME:
            await accounts.keys.revoke(old.key_id)
    _, key = await accounts.keys.create(team_id, LOCAL_KEY_NAME)
    write_secret(path, key)
    return key


def _raise_file_limit() -> None:
    """Take as many open files as we are allowed: every sandbox and every stream costs some."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Server:
    """One server over one data directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._up = False

    async def run(
        self,
        *,
        stop_sandboxes: bool,
        progress: Callable[[str], None],
        ready: Callable[[RunningServer], None],
    ) -> None:
        """Serve until `stop` or a signal.

        Raises `HostError` or `ConfigurationError` when it can't start.
        """
        _raise_file_limit()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        serving = asyncio.create_task(self._run(stop_sandboxes, progress, ready))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not self._up:
            serving.cancel()  # what was begun is undone on the way out
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    async def _run(
        self,
        stop_sandboxes: bool,
        progress: Callable[[str], None],
        ready: Callable[[RunningServer], None],
    ) -> None:
        settings = self._settings
        async with contextlib.AsyncExitStack() as parts:
            certificate = self._read_certificate()
            if certificate is not None:
                following = asyncio.create_task(certificate.follow())
                parts.callback(following.cancel)
            listener = parts.enter_context(self._bind())
            database = Database(settings.database)
            parts.callback(database.close)
            accounts = Accounts(database)
            api_key = await ensure_local_key(accounts, settings.data_dir)
            catalog = TemplateCatalog(settings.templates)
            authorities = [Path(each) for each in settings.authorities]
            await catalog.ensure_base(progress=progress, authorities=authorities)
            await catalog.tidy(functools.partial(open_build_driver, settings))
            history = build_history(settings, database)
            parts.push_async_callback(history.stop)
            driver = build_driver(settings)
            parts.push_async_callback(driver.purge if stop_sandboxes else driver.stop)
            await driver.start()
            volumes = build_volumes(settings, driver, database)
            parts.push_async_callback(volumes.stop)
            templates = TemplateService(catalog, TemplateStore(database), accounts.teams)
            parts.push_async_callback(templates.stop)
            service = SandboxService(
                driver=driver,
                volumes=volumes,
                store=SandboxStore(database),
                lifecycle=history.lifecycle,
                templates=templates,
                data_dir=settings.data_dir,
                pool_size=settings.pool_size,
                warm=settings.warm,
                max_sandboxes=settings.max_sandboxes,
                max_team_sandboxes=settings.max_team_sandboxes,
                max_timeout=settings.max_timeout,
                min_free_disk_mb=settings.min_free_disk_mb,
                ready_seconds=settings.ready_seconds,
            )
            parts.push_async_callback(service.stop, end_sandboxes=stop_sandboxes)
            await service.start()
            history.start(service.all_live)
            destinations = Destinations(settings.webhook_allow)
            retry_seconds = settings.webhook_retry_seconds
            courier = Courier(history, destinations, retry_seconds=retry_seconds)
            parts.push_async_callback(courier.stop)
            courier.start()
            builds = build_builds(settings, driver, database, templates, service)
            parts.push_async_callback(builds.stop)
            await builds.start()
            self._up = True
            control = build_control(
                service,
                accounts,
                history,
                destinations,
                templates=templates,
                builds=builds,
                volumes=volumes,
                limits=build_limits(settings),
                domain=settings.domain,
            )
            await self._serve(listener, certificate, service, control, api_key, ready)

    def stop(self) -> None:
        """Ask the server to end."""
        self._stopping.set()

    async def _serve(
        self,
        listener: socket.socket,
        certificate: Certificate | None,
        service: SandboxService,
        control: Starlette,
        api_key: str,
        ready: Callable[[RunningServer], None],
    ) -> None:
        settings = self._settings
        gateway = build_gateway(service, control=control, domain=settings.domain)
        http = HttpServer(
            uvicorn.Config(
                gateway,
                http=BoundedProtocol if certificate is None else NegotiatedProtocol,
                ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
                ws=BoundedWebSocket,
                ws_max_size=64 << 20,
                lifespan="off",
                interface="asgi3",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,  # who the client is, is for nobody to claim
                timeout_keep_alive=305,  # longer than the SDKs keep theirs: they close first
                timeout_graceful_shutdown=_GRACE_SECONDS,
                backlog=_BACKLOG,
            )
        )
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        trust = LocalAuthority(settings.data_dir).find_trust(settings.tls_cert)
        said = RunningServer(os.getpid(), settings.url, settings.domain, api_key, trust)
        path = settings.data_dir / SERVER_FILE
        try:
            await http.accepting.wait()
            public = dataclasses.asdict(said)
            del public["api_key"]
            aside = path.with_suffix(".new")
            aside.write_text(json.dumps({**public, "started": read_start_time(said.pid)}))
            aside.rename(path)
            ready(said)
            waiting = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        finally:
            path.unlink(missing_ok=True)
            http.should_exit = True
            await serving
            await gateway.close()

    def _read_certificate(self) -> Certificate | None:
        cert, key = self._settings.tls_cert, self._settings.tls_key
        if cert is None and key is not None:
            raise ConfigurationError(
                "a key for TLS without its certificate",
                remedy="name the certificate with --tls-cert (ATOLL_TLS_CERT), too",
            )
        return Certificate(cert, key) if cert is not None else None

    def _bind(self) -> socket.socket:
        settings = self._settings
        try:
            family, _, _, _, address = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigurationError(
                f"can't listen on {settings.host}:{settings.port}: {error.strerror or error}",
                remedy="stop what uses the port, or choose another with --port",
            ) from None
        listener.setblocking(False)
        return listener
