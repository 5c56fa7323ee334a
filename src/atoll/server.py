"""The server: builds every part, in one place, and runs them in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette

from atoll.agent.runtime import build_runtime
from atoll.doors.e2b.control import build_control_plane
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.sandboxes import SandboxRoutes
from atoll.doors.gateway import build_gateway
from atoll.errors import ConfigurationError, HostError
from atoll.http import BoundedProtocol, HttpServer
from atoll.isolation.oci import OciDriver
from atoll.sandboxes.service import SandboxService
from atoll.settings import Settings
from atoll.store.database import Database
from atoll.store.keys import DEFAULT_TEAM, KeyStore
from atoll.store.sandboxes import SandboxStore
from atoll.templates.catalog import TemplateCatalog

log = structlog.get_logger(__name__)

LOCAL_KEY_FILE = "local.key"
LOCAL_KEY_NAME = "local"
_LOCK_FILE = "server.lock"
_SERVER_FILE = "server.json"
_GRACE_SECONDS = 2
_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What a running server says of itself to programs on the same machine."""

    pid: int
    url: str
    domain: str
    api_key: str


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


def find_server(data_dir: Path) -> RunningServer | None:
    """Return the server that runs on this data directory and is ready, or None."""
    try:
        said = json.loads((data_dir / _SERVER_FILE).read_text())
        if said.pop("started") != _read_start_time(said["pid"]):
            return None  # the number is another process's by now
        api_key = (data_dir / LOCAL_KEY_FILE).read_text().strip()
    except (OSError, ValueError):
        return None
    return RunningServer(**said, api_key=api_key)


def _read_start_time(pid: int) -> str:
    # Field 22 of stat; the name before it may hold spaces and brackets.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def ensure_local_key(keys: KeyStore, data_dir: Path) -> str:
    """Return the key for the owner of this machine, making it on the first start.

    It is kept in the data directory, readable for the owner alone, so that `atoll env` can print
    it; keys made by `atoll keys create` are kept nowhere but as a hash.
    """
    path = data_dir / LOCAL_KEY_FILE
    if path.exists():
        key = path.read_text().strip()
        if keys.is_valid(key):
            return key
        path.unlink()
    for old in keys.list():
        if old.name == LOCAL_KEY_NAME and old.team == DEFAULT_TEAM:
            keys.revoke(old.key_id)
    key = keys.create(name=LOCAL_KEY_NAME)
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(key + "\n")
    return key


def build_driver(settings: Settings) -> OciDriver:
    """Build the driver that the settings ask for."""
    return OciDriver(
        settings.data_dir / "isolation",
        runtime_dir=build_runtime(settings.data_dir / "agent"),
        network=settings.network or None,
        dns=settings.dns,
        egress_allow=settings.egress_allow,
        egress_deny=settings.egress_deny,
        max_concurrent_creates=settings.max_concurrent_creates,
    )


def build_control(service: SandboxService, keys: KeyStore, *, domain: str) -> Starlette:
    """Build the control plane of all the nouns there are."""
    credentials = Credentials(keys)
    return build_control_plane(SandboxRoutes(service, credentials, domain=domain))


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
            listener = parts.enter_context(self._bind())
            database = Database(settings.database)
            parts.callback(database.close)
            keys = KeyStore(database)
            api_key = ensure_local_key(keys, settings.data_dir)
            templates = TemplateCatalog(settings.templates)
            authorities = [Path(each) for each in settings.authorities]
            await templates.ensure_base(progress=progress, authorities=authorities)
            driver = build_driver(settings)
            parts.push_async_callback(driver.purge if stop_sandboxes else driver.stop)
            await driver.start()
            service = SandboxService(
                driver=driver,
                store=SandboxStore(database),
                templates=templates,
                data_dir=settings.data_dir,
                pool_size=settings.pool_size,
                warm=settings.warm,
                max_sandboxes=settings.max_sandboxes,
                max_timeout=settings.max_timeout,
                min_free_disk_mb=settings.min_free_disk_mb,
            )
            parts.push_async_callback(service.stop, end_sandboxes=stop_sandboxes)
            await service.start()
            if settings.template_dir is None:
                # What other servers stand on in a directory that is shared, we can't know.
                await templates.prune(in_use=service.layers_in_use())
            self._up = True
            await self._serve(listener, service, keys, api_key, ready)

    def stop(self) -> None:
        """Ask the server to end."""
        self._stopping.set()

    async def _serve(
        self,
        listener: socket.socket,
        service: SandboxService,
        keys: KeyStore,
        api_key: str,
        ready: Callable[[RunningServer], None],
    ) -> None:
        settings = self._settings
        control = build_control(service, keys, domain=settings.domain)
        gateway = build_gateway(service, control=control, domain=settings.domain)
        http = HttpServer(
            uvicorn.Config(
                gateway,
                http=BoundedProtocol,
                ws="websockets-sansio",
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
        said = RunningServer(os.getpid(), settings.url, settings.domain, api_key)
        path = settings.data_dir / _SERVER_FILE
        try:
            await http.accepting.wait()
            public = {"pid": said.pid, "url": said.url, "domain": said.domain}
            aside = path.with_suffix(".new")
            aside.write_text(json.dumps({**public, "started": _read_start_time(said.pid)}))
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
