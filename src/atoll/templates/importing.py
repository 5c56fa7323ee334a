"""What a build stands on that begins with an image, or with nothing."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.agent.client import AgentClient
from atoll.errors import ConfigurationError, InvalidInput
from atoll.isolation.bundle import ID_BASE
from atoll.isolation.driver import Driver, Resources, SandboxSpec
from atoll.templates.images import names
from atoll.templates.images.fitting import fit
from atoll.templates.images.library import ImageLibrary, as_ground, is_digest
from atoll.templates.images.reference import RegistryReference, parse_reference
from atoll.templates.images.skopeo import Access, Outlet
from atoll.templates.layers import Ground, Layer, LayerStore
from atoll.templates.recipe import FromImage

_EMPTY = "scratch"
_RESOLVER = "/etc/resolv.conf"
_RESOURCES = Resources(cpu_count=1, memory_mb=64, disk_mb=64, max_processes=16)


class Importer:
    """Fetches images for builds."""

    def __init__(
        self,
        library: ImageLibrary,
        driver: Driver,
        layers: LayerStore,
        *,
        image_names: Sequence[str] = (),
        registries: Sequence[str] = (),
        authfile: Path | None = None,
    ) -> None:
        """`image_names` are images that are templates here, as `image=template`. `registries` are
        asked from the host's own network, all others from a sandbox's: what clients name may lead
        anywhere. `authfile` has the accounts for whoever brings none.

        Raises `ConfigurationError`.
        """
        self._library = library
        self._driver = driver
        self._layers = layers
        self._names = read_names(image_names)
        self._registries = frozenset(registries)
        self._authfile = authfile

    def find_template(self, image: str) -> str | None:
        """The template that an image of this name is. Raises `InvalidInput` for no image's name."""
        return None if is_digest(image) else names.find_template(image, self._names)

    async def import_image(self, source: FromImage, progress: Callable[[str], None]) -> Ground:
        """The image, ready to be built on. Raises `InvalidInput`, `HostError`.

        A registry is asked each time, with the asker's own credentials: what one team may fetch,
        another finds here only if it may fetch it, too. By a digest alone the images are named
        that the machine's owner has brought here.
        """
        if is_digest(source.reference):
            image = await self._library.find(source.reference)
            return await as_ground(image, self._driver, self._layers)
        reference = parse_reference(source.reference)
        async with self._outlet(reference) as outlet:
            access = Access(source.credentials, self._authfile, outlet)
            image = await self._library.pull(reference, access=access, progress=progress)
        return await as_ground(image, self._driver, self._layers)

    async def prune(self) -> None:
        """Forget images whose layers are gone, and what killed fetches have left."""
        await self._library.prune()

    async def make_empty(self) -> Ground:
        """Nothing but what every sandbox needs."""
        empty = await self._make_nothing()
        fitted = await fit(self._driver, self._layers, empty.key, (empty.rootfs,))
        return Ground(fitted.key, (fitted.rootfs, empty.rootfs))

    async def _make_nothing(self) -> Layer:
        return await self._layers.ensure(_EMPTY, (), _make_root)

    @asynccontextmanager
    async def _outlet(self, reference: RegistryReference) -> AsyncIterator[Outlet | None]:
        """The network that a registry is asked from."""
        if not self._registries.isdisjoint({reference.registry, reference.host}):
            yield None
            return
        empty = await self._make_nothing()
        sandbox_id = f"build{secrets.token_hex(8)}"
        spec = SandboxSpec(sandbox_id, (empty.rootfs,), _RESOURCES)
        try:
            instance = await self._driver.create(spec)
            agent = AgentClient(lambda: self._driver.dial_agent(instance))
            try:
                async with await agent.read_file(_RESOLVER, user="root") as reader:
                    resolver = b"".join([chunk async for chunk in reader])
            finally:
                await agent.close()
            yield Outlet(instance.pid, resolver)
        finally:
            await self._driver.destroy(sandbox_id)


def read_names(pairs: Sequence[str]) -> Mapping[str, str]:
    """The setting `image_names`. Raises `ConfigurationError`."""
    found = {}
    for pair in pairs:
        image, _, template = pair.partition("=")
        if not template or not _is_image(image):
            raise ConfigurationError(
                f"the setting image_names is wrong: {pair!r} is no image and template",
                remedy="set ATOLL_IMAGE_NAMES to pairs such as `ubuntu:22.04=base`, with commas",
            )
        found[image] = template
    return found


def _is_image(text: str) -> bool:
    try:
        parse_reference(text)
    except InvalidInput:
        return False
    return True


async def _make_root(root: Path) -> None:
    def make() -> None:
        root.mkdir(mode=0o755)
        root.chmod(0o755)
        os.chown(root, ID_BASE, ID_BASE)

    await asyncio.to_thread(make)
