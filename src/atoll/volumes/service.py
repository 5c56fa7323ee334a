"""Volumes and what is in them, for every door."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import string
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog

from atoll.errors import InvalidInput, NotFound, Overloaded, Unauthenticated
from atoll.isolation.driver import Driver, VolumeMount
from atoll.store.volumes import Volume, VolumeStore
from atoll.threads import finish, run_to_end
from atoll.volumes.draft import Draft
from atoll.volumes.model import Attributes, Entry, NamedMount
from atoll.volumes.tokens import VolumeTokens
from atoll.volumes.tree import Tree

log = structlog.get_logger(__name__)

T = TypeVar("T")

_NAME = re.compile("[a-zA-Z0-9_-]{1,128}")
_ID_ALPHABET = string.ascii_lowercase + string.digits
_THREADS = 8
_CHUNK = 256 * 1024


class VolumeService:
    """The volumes of all teams."""

    def __init__(
        self,
        *,
        driver: Driver,
        store: VolumeStore,
        tokens: VolumeTokens,
        data_dir: Path,
        size_mb: int,
        max_volumes: int,
        min_free_disk_mb: int,
    ) -> None:
        """`size_mb` is the size of each volume, `max_volumes` the most that a team has."""
        self.tokens = tokens
        self._driver = driver
        self._store = store
        self._data_dir = data_dir
        self._size_mb = size_mb
        self._max_volumes = max_volumes
        self._min_free_disk = min_free_disk_mb << 20
        # Of their own: a slow disk under volumes keeps nothing else waiting.
        self._threads = ThreadPoolExecutor(_THREADS, "atoll-volumes")
        self._users: set[asyncio.Task[Any]] = set()

    async def stop(self) -> None:
        """Break off what is under way, and let go of all volumes."""
        for task in self._users:
            task.cancel()
        if self._users:
            await asyncio.wait(self._users)
        await asyncio.to_thread(self._threads.shutdown)

    # -- volumes -----------------------------------------------------------------------------

    async def create(self, team_id: str, name: str) -> Volume:
        """Make an empty volume. Raises `InvalidInput`, `Exhausted`, `Overloaded`, `HostError`."""
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name[:200]!r} is no name for a volume",
                remedy="use up to 128 letters, digits, `_` and `-`",
            )
        if shutil.disk_usage(self._data_dir).free < self._min_free_disk:
            raise Overloaded(
                "the server's disk is nearly full",
                remedy="free some, or have ATOLL_MIN_FREE_DISK_MB lowered",
            )
        volume_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(20))
        # The row first: whatever happens now, its owner sees the volume and can destroy it.
        volume = await self._store.add(volume_id, team_id, name, most=self._max_volumes)
        try:
            await self._driver.create_volume(volume_id, self._size_mb)
        except BaseException:
            # Cancelled, it may be made all the same.
            await finish(self._discard(volume_id))
            raise
        log.info("volume.created", volume_id=volume_id)
        return volume

    async def _discard(self, volume_id: str) -> None:
        await self._driver.remove_volume(volume_id)
        await self._store.remove(volume_id)

    async def list(self, team_id: str) -> list[Volume]:
        """All volumes of the team, the oldest first."""
        return await self._store.list(team_id)

    async def get(self, team_id: str, volume_id: str) -> Volume:
        """One volume. Raises `NotFound`, for another team's just as for one that never was."""
        volume = await self._store.get(volume_id)
        if volume is None or volume.team_id != team_id:
            raise _not_found(volume_id)
        return volume

    async def remove(self, team_id: str, volume_id: str) -> None:
        """Remove a volume for good. Raises `NotFound`, and `Conflict` when it is in use."""
        volume = await self.get(team_id, volume_id)
        await finish(self._discard(volume.volume_id))
        log.info("volume.removed", volume_id=volume.volume_id)

    async def find_mounts(
        self, team_id: str, wanted: Sequence[NamedMount]
    ) -> tuple[VolumeMount, ...]:
        """Look up the volumes that a sandbox of the team shall have.

        Raises `InvalidInput` that names every volume that the team does not have.
        """
        if not wanted:
            return ()
        known = {each.name: each.volume_id for each in await self._store.list(team_id)}
        unknown = [
            f"volume mount #{index}: volume {each.name!r} not found"
            for index, each in enumerate(wanted)
            if each.name not in known
        ]
        if unknown:
            raise InvalidInput("; ".join(unknown), remedy="make the volume first")
        return tuple(VolumeMount(known[each.name], each.path) for each in wanted)

    # -- content -----------------------------------------------------------------------------

    async def authorize(self, volume_id: str, token: str) -> None:
        """Check the token of a volume. Raises `Unauthenticated`, `NotFound` for one that is gone.

        Whether there is such a volume is told to nobody who has no token of it.
        """
        if not self.tokens.opens(token, volume_id):
            raise Unauthenticated("the token does not open this volume")
        if await self._store.get(volume_id) is None:
            raise _not_found(volume_id)

    async def describe(self, volume_id: str, path: str) -> Entry:
        """Describe what is at a path. Raises `PathNotFound`, `InvalidInput`."""
        async with self._open(volume_id) as tree:
            return await self._run(lambda: tree.describe(path))

    async def list_directory(self, volume_id: str, path: str, depth: int) -> Sequence[Entry]:
        """List a directory. See `Tree.list_directory`."""
        async with self._open(volume_id) as tree:
            return await self._run(lambda: tree.list_directory(path, depth))

    async def make_directory(
        self, volume_id: str, path: str, wanted: Attributes, *, parents: bool
    ) -> Entry:
        """Make a directory. See `Tree.make_directory`."""
        async with self._open(volume_id) as tree:
            return await self._run(lambda: tree.make_directory(path, wanted, parents=parents))

    async def change(self, volume_id: str, path: str, wanted: Attributes) -> Entry:
        """Change owner and mode. Raises `PathNotFound`, `InvalidInput`."""
        async with self._open(volume_id) as tree:
            return await self._run(lambda: tree.change(path, wanted))

    async def remove_path(self, volume_id: str, path: str) -> None:
        """Remove a path with all that is in it. Raises `PathNotFound`, `InvalidInput`."""
        async with self._open(volume_id) as tree:
            await self._run(lambda: tree.remove(path))

    @contextlib.asynccontextmanager
    async def read_file(
        self, volume_id: str, path: str
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Open a file: its size, and its content in pieces up to that size.

        Fewer bytes come when the file was made shorter meanwhile. Raises `PathNotFound`,
        `InvalidInput`.
        """
        async with self._open(volume_id) as tree:
            opened: list[int] = []
            try:
                await self._run(lambda: opened.append(tree.open_file(path)))
                size = os.fstat(opened[0]).st_size
                yield size, self._pieces(opened[0], size)
            finally:
                for descriptor in opened:
                    os.close(descriptor)

    async def _pieces(self, descriptor: int, size: int) -> AsyncIterator[bytes]:
        position = 0
        while position < size:
            count = min(_CHUNK, size - position)
            piece = await self._run(lambda: os.pread(descriptor, count, position))  # noqa: B023
            if not piece:
                return
            position += len(piece)
            yield piece

    async def write_file(
        self,
        volume_id: str,
        path: str,
        chunks: AsyncIterator[bytes],
        wanted: Attributes,
        *,
        overwrite: bool,
        parents: bool,
    ) -> Entry:
        """Write a file, which has its name once it is whole. See `Draft`."""
        async with self._open(volume_id) as tree:
            opened: list[Draft] = []
            try:
                await self._run(
                    lambda: opened.append(
                        Draft(tree, path, wanted, overwrite=overwrite, parents=parents)
                    )
                )
                async for chunk in chunks:
                    await self._run(lambda: opened[0].write(chunk))  # noqa: B023
                return await self._run(opened[0].finish)
            finally:
                for draft in opened:
                    await self._run(draft.close)

    @contextlib.asynccontextmanager
    async def _open(self, volume_id: str) -> AsyncIterator[Tree]:
        task = asyncio.current_task()
        assert task is not None
        self._users.add(task)
        try:
            root = await self._driver.open_volume(volume_id)
            try:
                yield Tree(root)
            finally:
                await self._run(lambda: os.close(root.descriptor))
        finally:
            self._users.discard(task)

    async def _run(self, work: Callable[[], T]) -> T:
        return await run_to_end(self._threads, work)


def _not_found(volume_id: str) -> NotFound:
    return NotFound(f"volume {volume_id!r} was not found")
