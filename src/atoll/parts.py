"""The parts of a server, each built from the settings and from those before it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette

from atoll.agent.runtime import build_runtime
from atoll.doors.e2b.builds import BuildRoutes
from atoll.doors.e2b.control import build_control_plane
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.destinations import Destinations
from atoll.doors.e2b.events import EventRoutes
from atoll.doors.e2b.keys import KeyRoutes
from atoll.doors.e2b.logs import LogRoutes
from atoll.doors.e2b.metrics import MetricRoutes
from atoll.doors.e2b.sandboxes import SandboxRoutes
from atoll.doors.e2b.tags import TagRoutes
from atoll.doors.e2b.templates import TemplateRoutes
from atoll.doors.e2b.tokens import TokenRoutes
from atoll.doors.e2b.volumecontent import VolumeContentRoutes
from atoll.doors.e2b.volumes import VolumeRoutes
from atoll.doors.e2b.webhooks import WebhookRoutes
from atoll.doors.limits import Limits
from atoll.isolation.driver import Driver
from atoll.isolation.oci import OciDriver
from atoll.sandboxes.history import History
from atoll.sandboxes.service import SandboxService
from atoll.settings import Settings
from atoll.store.accounts import Accounts
from atoll.store.builds import BuildStore
from atoll.store.database import Database
from atoll.store.volumes import VolumeStore
from atoll.templates.images.library import ImageLibrary
from atoll.templates.importing import Importer
from atoll.templates.jobs import BuildService
from atoll.templates.jobs import Limits as BuildLimits
from atoll.templates.layers import LayerStore
from atoll.templates.service import TemplateService
from atoll.volumes.service import VolumeService
from atoll.volumes.tokens import VolumeTokens, is_key, new_key

VOLUME_KEY_FILE = "volumes.key"


def write_secret(path: Path, secret: str) -> None:
    """Write a new file that its owner alone may read. Raises `FileExistsError`."""
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secret + "\n")


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


@contextlib.asynccontextmanager
async def open_build_driver(settings: Settings, directory: Path) -> AsyncIterator[Driver]:
    """A started driver with state of its own, so that no server is disturbed; then it is gone.

    What an earlier one left in the directory when it was killed is ended first.
    """
    aside = settings.model_copy(update={"data_dir": directory, "network": ""})
    await build_driver(aside).purge()
    driver = build_driver(aside)
    try:
        await driver.start()
        yield driver
    finally:
        await driver.purge()
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def build_limits(settings: Settings) -> Limits:
    """Build the limits that the settings ask for."""
    return Limits.per_minute(
        requests=settings.max_requests_per_minute,
        creates=settings.max_creates_per_minute,
        failures=settings.max_failed_keys_per_minute,
    )


def build_history(settings: Settings, database: Database) -> History:
    """Build what remembers, for as long as the settings ask."""
    return History(
        database,
        interval=settings.metrics_interval,
        hours=settings.history_hours,
        event_days=settings.event_days,
        ended_days=settings.ended_days,
    )


def build_volumes(settings: Settings, driver: Driver, database: Database) -> VolumeService:
    """Build what keeps volumes. The key of their tokens is made on the first start."""
    path = settings.data_dir / VOLUME_KEY_FILE
    key = path.read_text().strip() if path.exists() else ""
    if not is_key(key):  # A server died while it wrote it.
        path.unlink(missing_ok=True)
        key = new_key()
        write_secret(path, key)
    return VolumeService(
        driver=driver,
        store=VolumeStore(database),
        tokens=VolumeTokens(key),
        data_dir=settings.data_dir,
        size_mb=settings.volume_size_mb,
        max_volumes=settings.max_volumes,
        min_free_disk_mb=settings.min_free_disk_mb,
    )


def build_builds(
    settings: Settings,
    driver: Driver,
    database: Database,
    templates: TemplateService,
    service: SandboxService,
) -> BuildService:
    """Build what builds templates."""
    layers = LayerStore(settings.templates)
    library = ImageLibrary(
        settings.templates,
        layers,
        max_image_mb=settings.max_image_mb,
        min_free_disk_mb=settings.min_free_disk_mb,
    )
    return BuildService(
        templates=templates,
        store=BuildStore(database),
        layers=layers,
        driver=driver,
        uploads=settings.data_dir / "uploads",
        importer=Importer(
            library,
            driver,
            layers,
            image_names=settings.image_names,
            registries=settings.registries,
            authfile=settings.registry_auth,
        ),
        rehearse=service.rehearse,
        forget_template=service.forget_template,
        layers_in_use=service.layers_in_use,
        limits=BuildLimits(
            concurrent=settings.max_concurrent_builds,
            memory_mb=settings.build_memory_mb,
            step_seconds=settings.build_step_seconds,
            upload_mb=settings.max_upload_mb,
            layer_days=settings.layer_days,
            min_free_mb=settings.min_free_disk_mb,
        ),
        # What other servers stand on in a directory that is shared, we can't know.
        prunes=settings.template_dir is None,
    )


def build_control(
    service: SandboxService,
    accounts: Accounts,
    history: History,
    destinations: Destinations,
    *,
    templates: TemplateService,
    builds: BuildService,
    volumes: VolumeService,
    limits: Limits,
    domain: str,
) -> Starlette:
    """Build the control plane of all the nouns there are."""
    credentials = Credentials(accounts, limits)
    return build_control_plane(
        MetricRoutes(history, credentials),
        LogRoutes(history, credentials),
        EventRoutes(history, credentials),
        WebhookRoutes(history, credentials, destinations),
        SandboxRoutes(service, credentials, domain=domain),
        KeyRoutes(accounts, credentials),
        TokenRoutes(accounts, credentials),
        TagRoutes(templates, credentials),
        BuildRoutes(templates, builds, credentials),
        TemplateRoutes(templates, builds, credentials),
        VolumeRoutes(volumes, credentials, domain=domain),
        VolumeContentRoutes(volumes, limits),
    )
