"""The images that templates stand on: fetched, checked, unpacked into layers, each once.

    <store>/images/<digest>/image.json   what the image is, and the keys of its layers
    <store>/images/loaded-<digest>/      the same of one that the machine's owner has brought here
    <store>/images/<digest>/.lock        held by whoever fetches it
    <store>/images/<digest>/.building-…/ a fetch under way, or what a killed one left

The layers are in the store of layers, one for each of the image, named by what they and all below
them hold. So images that begin alike share them, and a digest that the registry names again costs
no more than the question.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atoll.errors import InvalidInput, NoSpace
from atoll.isolation.driver import Driver
from atoll.templates import builds
from atoll.templates.images import skopeo
from atoll.templates.images.config import ImageConfig, load_config, read_config
from atoll.templates.images.fitting import fit
from atoll.templates.images.layout import Layout
from atoll.templates.images.packing import pack_template, read_label
from atoll.templates.images.reference import LocalReference, RegistryReference
from atoll.templates.images.skopeo import NOBODY, Access
from atoll.templates.images.unpacking import unpack_layer
from atoll.templates.layers import Ground, Layer, LayerStore, derive_key
from atoll.templates.model import Template

IMAGES = "images"
MAX_LAYERS = 200

_RECORD = "image.json"
_INBOX, _OUTBOX = "inbox", "outbox"
_LOADED = "loaded-"
_FORMAT = 1

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose layers are in the store."""

    digest: str
    config: ImageConfig
    key: str
    """Of its topmost layer."""
    layers: tuple[Path, ...]
    """Root file system directories, the topmost first."""


class ImageLibrary:
    """Brings images into a store of layers. Processes may share it."""

    def __init__(
        self,
        store: Path,
        layers: LayerStore,
        *,
        max_image_mb: int,
        min_free_disk_mb: int = 0,
    ) -> None:
        """`max_image_mb` bounds an image, packed and unpacked; a disk keeps `min_free_disk_mb`."""
        self._directory = store / IMAGES
        self._layers = layers
        self._max_bytes = max_image_mb << 20
        self._min_free = min_free_disk_mb << 20

    async def pull(
        self, reference: RegistryReference, *, access: Access = NOBODY, progress: Progress
    ) -> Image:
        """The image that the registry has under this name now, with all its layers.

        Raises `InvalidInput` when the registry has none, or when it is none; `HostError`.
        """
        digest = await skopeo.resolve(reference, access)
        directory = await self._open(digest)
        if (found := await asyncio.to_thread(self._find, directory)) is not None:
            return found
        pinned = RegistryReference(reference.registry, reference.path, reference.tag, digest)

        def on_wait() -> None:
            progress(f"waiting for another build that fetches {reference}")

        async with builds.locked(directory, on_wait=on_wait):
            if (found := await asyncio.to_thread(self._find, directory)) is not None:
                return found
            await asyncio.to_thread(builds.tidy, directory)
            progress(f"fetching {reference}")
            async with builds.building(directory) as aside:
                await skopeo.fetch(pinned, aside / "layout", access, most_bytes=self._room())
                image = await self._take(aside / "layout", digest, progress)
            await asyncio.to_thread(self._record, directory, image)
        return image

    async def load(
        self,
        reference: RegistryReference | LocalReference,
        *,
        access: Access = NOBODY,
        progress: Progress,
    ) -> Image:
        """Bring an image here for good and for everybody, by its digest: `find` finds it then.

        It may be on this machine's disk, as an archive or an OCI layout. Only for the machine's
        owner. Raises as `pull` does.
        """
        inbox = await self._open(_INBOX)
        async with builds.locked(inbox, on_wait=lambda: None):
            await asyncio.to_thread(builds.tidy, inbox)
            progress(f"reading {reference}")
            async with builds.building(inbox) as aside:
                layout = aside / "layout"
                await skopeo.fetch(reference, layout, access, most_bytes=self._room())
                image = await self._take(layout, None, progress)
        directory = await self._open(f"{_LOADED}{image.digest.removeprefix('sha256:')}")
        await asyncio.to_thread(self._record, directory, image)
        return image

    async def find(self, digest: str) -> Image:
        """The image that was loaded. Raises `InvalidInput`."""
        if not is_digest(digest):
            raise InvalidInput(f"{digest!r} is no digest")
        directory = self._directory / f"{_LOADED}{digest.removeprefix('sha256:')}"
        image = await asyncio.to_thread(self._find, directory)
        if image is None:
            raise InvalidInput(
                f"no image {digest} was loaded here", remedy="run `atoll template pull`"
            )
        return image

    async def push(
        self,
        template: Template,
        target: RegistryReference | LocalReference,
        *,
        access: Access = NOBODY,
        progress: Progress,
    ) -> None:
        """Write a template as an image. Raises `InvalidInput`, `HostError`; leaves no half file."""
        outbox = await self._open(_OUTBOX)
        async with builds.locked(outbox, on_wait=lambda: progress("waiting for another push")):
            await asyncio.to_thread(builds.tidy, outbox)
            async with builds.building(outbox) as aside:
                await pack_template(template, aside / "layout", progress=progress)
                progress(f"writing {target}")
                try:
                    await skopeo.send(aside / "layout", target, access)
                except BaseException:
                    if isinstance(target, LocalReference):
                        target.path.unlink(missing_ok=True)
                    raise

    async def prune(self) -> None:
        """Forget images whose layers are gone, and what killed fetches have left."""
        await asyncio.to_thread(self._prune)

    def _prune(self) -> None:
        if not self._directory.is_dir():
            return
        for directory in self._directory.iterdir():
            with builds.try_locked(directory) as held:
                if not held:
                    continue  # someone is fetching it
                builds.tidy(directory)
                record = _read_record(directory)
                keys = derive_keys(record[1].diff_ids) if record else []
                if not keys or not all(self._layers.has(key) for key in keys):
                    (directory / _RECORD).unlink(missing_ok=True)

    async def _open(self, name: str) -> Path:
        directory = self._directory / name.removeprefix("sha256:")
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        return directory

    def _room(self) -> int:
        """Bytes that an image may take now."""
        free = shutil.disk_usage(self._directory).free - self._min_free
        if free <= 0:
            raise NoSpace("there is no room for images", remedy="make room on the disk")
        return min(self._max_bytes, free)

    async def _take(self, path: Path, digest: str | None, progress: Progress) -> Image:
        """Unpack the layers of a layout that the store lacks."""
        layout = await asyncio.to_thread(Layout.read, path)
        config = read_config(layout.config, machine=os.uname().machine)
        if len(config.diff_ids) != len(layout.layers):
            raise InvalidInput("the image has other layers than its configuration says")
        if not config.diff_ids or len(config.diff_ids) > MAX_LAYERS:
            raise InvalidInput(f"an image has from 1 to {MAX_LAYERS} layers")
        layers: tuple[Path, ...] = ()
        keys = derive_keys(config.diff_ids)
        room = self._room()
        for number, (key, diff_id, blob) in enumerate(
            zip(keys, config.diff_ids, layout.layers, strict=True), start=1
        ):
            made = self._layers.find(key)
            if made is None:
                progress(f"unpacking layer {number} of {len(keys)}")
                made = await self._unpack(key, diff_id, blob, layers, room)
            layers = (made.rootfs, *layers)
        return Image(digest or layout.digest, config, keys[-1], layers)

    async def _unpack(
        self, key: str, diff_id: str, blob: Path, below: tuple[Path, ...], room: int
    ) -> Layer:
        async def make(root: Path) -> None:
            found = await unpack_layer(blob, root, below=below, most_bytes=room)
            if f"sha256:{found}" != diff_id:
                # Else an image could put other files under the name of one that is well known.
                raise InvalidInput(f"a layer of the image is not {diff_id}, as the image says")

        return await self._layers.ensure(key, below, make)

    def _find(self, directory: Path) -> Image | None:
        """The image that was fetched before, if all its layers are still there."""
        record = _read_record(directory)
        if record is None:
            return None
        digest, config = record
        keys = derive_keys(config.diff_ids)
        found = [self._layers.find(key) for key in keys]
        layers = [layer.rootfs for layer in found if layer is not None]
        if not keys or len(layers) != len(keys):
            return None
        return Image(digest, config, keys[-1], tuple(reversed(layers)))

    def _record(self, directory: Path, image: Image) -> None:
        record = {"format": _FORMAT, "digest": image.digest, "config": asdict(image.config)}
        draft = directory / f"{_RECORD}.new"
        draft.write_text(json.dumps(record))
        draft.rename(directory / _RECORD)


def _read_record(directory: Path) -> tuple[str, ImageConfig] | None:
    """Digest and configuration of the image that was fetched into a directory."""
    try:
        record: dict[str, Any] = json.loads((directory / _RECORD).read_bytes())
        if record["format"] != _FORMAT:
            return None
        return str(record["digest"]), load_config(record["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_digest(text: str) -> bool:
    """Whether it is what images are named by here."""
    return re.fullmatch(r"sha256:[0-9a-f]{64}", text) is not None


def derive_keys(diff_ids: tuple[str, ...]) -> list[str]:
    """The keys of an image's layers, the lowest first: each with all that is below it."""
    keys: list[str] = []
    for diff_id in diff_ids:
        keys.append(derive_key("image", keys[-1] if keys else None, diff_id))
    return keys


async def as_ground(image: Image, driver: Driver, layers: LayerStore) -> Ground:
    """What a build stands on that begins with an image: with the user of sandboxes in it."""
    fitted = await fit(driver, layers, image.key, image.layers)
    label = read_label(image.config)
    return Ground(
        key=fitted.key,
        layers=(fitted.rootfs, *image.layers),
        envs=image.config.envs,
        user=image.config.user.partition(":")[0] or "root",
        workdir=image.config.workdir or None,
        start_command=label.start_command if label else None,
        ready_command=label.ready_command if label else None,
    )
