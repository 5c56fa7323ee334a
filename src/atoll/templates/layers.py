"""Layers on disk, named by what decided their content.

    <store>/layers/<key>/built/layer.json   what it stands on; written last
    <store>/layers/<key>/built/rootfs/      what differs from what is below
    <store>/layers/<key>/.building-…/       one that is being made, or what a killed build left
    <store>/layers/<key>/.lock              held by whoever makes it
    <store>/layers/<key>/latest             the key of one that was made anew in its place

A key is a digest of the key below, of the step, and of the files that it copies: whatever has the
same key would become the same, so it is made once, for all templates and all builds at a time.
Nothing of a layer is changed after the rename that makes it visible.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from atoll.templates import builds

LAYERS = "layers"
_BUILT = "built"
_LATEST = "latest"
_KEY = re.compile(r"[0-9a-f]{32}")
_MANIFEST = "layer.json"
_FORMAT = 1
_KEY_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Layer:
    """A finished layer."""

    key: str
    directory: Path
    below: tuple[Path, ...]
    """The root file systems that it stands on, the topmost first."""

    @property
    def rootfs(self) -> Path:
        """What differs from the layers below, owned in the sandboxes' range of ids."""
        return self.directory / builds.ROOTFS


@dataclass(frozen=True, slots=True)
class Ground:
    """What the next step of a build stands on."""

    key: str
    layers: tuple[Path, ...]
    """Root file system directories, the topmost first."""
    envs: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    workdir: str | None = None
    """None is the user's home."""
    start_command: str | None = None
    ready_command: str | None = None


def derive_key(*parts: object) -> str:
    """The name of what is decided by these parts (anything that JSON can hold)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]


class LayerStore:
    """The layers of a directory of templates. Processes may share it."""

    def __init__(self, store: Path) -> None:
        self.directory = store / LAYERS

    def find(self, key: str) -> Layer | None:
        """The finished layer of this key; it counts as used now."""
        layer = self._read(self.directory / key)
        if layer is not None:
            os.utime(layer.directory)
        return layer

    def latest(self, key: str) -> str:
        """The key under which what has this one was made anew; else the same."""
        try:
            newer = (self.directory / key / _LATEST).read_text()
        except OSError:
            return key
        return newer if _KEY.fullmatch(newer) else key

    def redirect(self, key: str, newer: str) -> None:
        """Let another layer be found in place of one, which itself stays for who stands on it."""
        directory = self.directory / key
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = directory / f"{_LATEST}.{newer}"
        draft.write_text(newer)
        draft.replace(directory / _LATEST)

    def has(self, key: str) -> bool:
        """Whether there is a finished layer of this key; to ask does not count as use."""
        return self._read(self.directory / key) is not None

    async def ensure(
        self,
        key: str,
        below: tuple[Path, ...],
        make: Callable[[Path], Awaitable[None]],
        *,
        on_wait: Callable[[], None] = lambda: None,
        lasting: bool = True,
    ) -> Layer:
        """The layer of this key, made now if there is none.

        `make` gets a path that does not exist yet and leaves the layer's root there. Of several
        that want the same layer one makes it and the others wait. What `make` raises passes
        through, and nothing stays. One that is not `lasting` may be gone after a power cut.
        """
        directory = self.directory / key
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        os.utime(directory)  # an empty place that nobody has come to for long is removed
        async with builds.locked(directory, on_wait=on_wait):
            if (found := self.find(key)) is not None:
                return found
            await asyncio.to_thread(builds.tidy, directory)
            async with builds.building(directory) as aside:
                await make(aside / builds.ROOTFS)
                manifest = {"format": _FORMAT, "below": [str(each) for each in below]}
                (aside / _MANIFEST).write_text(json.dumps(manifest) + "\n")
                await builds.settle(aside, directory / _BUILT, lasting=lasting)
        return Layer(key, directory / _BUILT, below)

    async def prune(self, *, in_use: Collection[Path], grace: timedelta) -> list[Path]:
        """Remove the layers that nothing in use stands on and nobody has used within the grace."""
        return await asyncio.to_thread(
            self._prune, set(in_use), time.time() - grace.total_seconds()
        )

    def parents(self) -> set[Path]:
        """All that layers of this store stand on, themselves and what is outside of it."""
        return {below for layer in self._read_all() for below in layer.below}

    def _prune(self, in_use: set[Path], limit: float) -> list[Path]:
        found = self._read_all()
        kept = {layer.key for layer in found if layer.directory.stat().st_mtime >= limit}
        wanted = in_use | {
            path for layer in found if layer.key in kept for path in (layer.rootfs, *layer.below)
        }
        for layer in found:  # what is in use keeps what it stands on
            if layer.rootfs in in_use:
                wanted.update(layer.below)
        removed = []
        for layer in found:
            if layer.rootfs in wanted:
                continue
            place = layer.directory.parent
            with builds.try_locked(place) as held:
                # Somebody may have begun to use it meanwhile.
                if held and layer.directory.stat().st_mtime < limit:
                    builds.discard(layer.directory)
                    removed.append(layer.directory)
        self._tidy(limit)
        return removed

    def _tidy(self, limit: float) -> None:
        """Remove what killed builds left, and places where nothing is (any more)."""
        if not self.directory.is_dir():
            return
        for directory in self.directory.iterdir():
            builds.try_tidy(directory)
            newer = self.latest(directory.name)
            if (directory / _BUILT).exists() or (self.directory / newer / _BUILT).exists():
                continue
            if directory.stat().st_mtime < limit:
                with builds.try_locked(directory) as held:
                    if held:
                        builds.discard(directory)

    def _read_all(self) -> list[Layer]:
        if not self.directory.is_dir():
            return []
        found = (self._read(directory) for directory in self.directory.iterdir())
        return [layer for layer in found if layer is not None]

    def _read(self, directory: Path) -> Layer | None:
        built = directory / _BUILT
        try:
            manifest = json.loads((built / _MANIFEST).read_bytes())
            if manifest["format"] != _FORMAT:
                return None
            below = tuple(Path(each) for each in manifest["below"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Layer(directory.name, built, below)
