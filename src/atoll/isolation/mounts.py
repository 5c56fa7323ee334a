"""Mounts that nobody else on the host sees.

A few threads share one private mount namespace. Everything a sandbox needs mounted while it is put
together is mounted there, and the runtime is started from there: the sandbox's own mount namespace
is a copy that keeps what it uses, and the originals are detached as soon as it runs. So the host's
mount table never changes, and when the server dies, by `kill -9` too, no mount is left behind that
a living sandbox does not hold.

The namespace belongs to threads, not to the process: no other part of the server notices, and
several drivers in one process do not meet.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from atoll.errors import HostError
from atoll.isolation import namespaces
from atoll.threads import run_to_end

STAGE = Path("/run/atoll")
"""Where sandboxes are put together. On the host this is an empty directory; in the private
namespace a small tmpfs lies over it, so that the path to it can be walked by the sandboxes' user
ids wherever the state directory is."""

_SHARED_RUNTIME = "runtime"

T = TypeVar("T")


class MountNamespace:
    """A private mount namespace with the threads that live in it."""

    def __init__(self, threads: int, runtime_dir: Path) -> None:
        """Nothing happens before `open`. `runtime_dir` is the agent's."""
        self._runtime_dir = runtime_dir
        self._lock = threading.Lock()
        self._namespace: int | None = None
        self._failure: OSError | None = None
        self._threads = ThreadPoolExecutor(threads, "atoll-mounts", initializer=self._enter)
        self._apart = ThreadPoolExecutor(threads, "atoll-mounts-apart", initializer=self._enter)

    async def open(self) -> None:
        """Make the namespace. Raises `HostError`."""
        try:
            await self.run(lambda: None)
        except BrokenExecutor:
            raise HostError(
                f"cannot mount: {self._failure}",
                remedy="Atoll needs CAP_SYS_ADMIN and overlay mounts; in a container, run it"
                " privileged",
            ) from self._failure

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function on one of the threads, to its end even when the caller is cancelled."""
        return await run_to_end(self._threads, work)

    async def run_apart(self, work: Callable[[], T]) -> T:
        """The same for what may wait for seconds until the kernel is done with a disk: on threads
        that nothing else waits for."""
        return await run_to_end(self._apart, work)

    def close(self) -> None:
        """End the threads and with them the namespace and all that is still mounted in it."""
        self._threads.shutdown(wait=True)
        self._apart.shutdown(wait=True)
        if self._namespace is not None:
            os.close(self._namespace)
            self._namespace = None

    def _enter(self) -> None:
        """Bring a new thread into the namespace; the first one makes it."""
        try:
            self._enter_or_make()
        except OSError as error:
            self._failure = error
            raise

    def _enter_or_make(self) -> None:
        with self._lock:
            # A thread may change its namespace only when it shares its working directory with none.
            namespaces.unshare(namespaces.CLONE_FS)
            if self._namespace is not None:
                namespaces.setns(self._namespace, namespaces.CLONE_NEWNS)
                return
            STAGE.mkdir(mode=0o711, exist_ok=True)
            namespaces.unshare(namespaces.CLONE_NEWNS)
            # Slave, not private: what the operator unmounts must not stay busy because of us.
            namespaces.mount("none", "/", "none", namespaces.MS_REC | namespaces.MS_SLAVE)
            namespaces.mount("tmpfs", str(STAGE), "tmpfs", 0, "mode=711,size=16m,nr_inodes=100k")
            self._mount_runtime()
            self._namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def _mount_runtime(self) -> None:
        """Give the agent's runtime a file system of its own.

        A plain bind mount would tell every sandbox the path on the host, in
        `/proc/self/mountinfo`. An overlay names only the options it was mounted with; its files
        are those of the directory, in memory once for all sandboxes.
        """
        target = STAGE / _SHARED_RUNTIME
        (STAGE / "r").symlink_to(self._runtime_dir)
        (STAGE / "e").mkdir()
        target.mkdir()
        os.chdir(STAGE)
        flags = namespaces.MS_RDONLY | namespaces.MS_NOSUID | namespaces.MS_NODEV
        namespaces.mount("runtime", _SHARED_RUNTIME, "overlay", flags, "lowerdir=r:e")

    @property
    def runtime(self) -> Path:
        """The agent's runtime as the threads see it."""
        return STAGE / _SHARED_RUNTIME


class Stage:
    """The place, inside a `MountNamespace`, where one sandbox's root file system is put together.

    To be used on a thread of the namespace. What was mounted is detached on exit; a sandbox that
    was started meanwhile keeps it.
    """

    def __init__(self, name: str) -> None:
        self._directory = STAGE / name
        self._mounted: list[str] = []

    def __enter__(self) -> Stage:
        self._directory.mkdir(mode=0o711)
        self._directory.chmod(0o711)
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self._mounted):
            namespaces.detach(str(self._directory / name))
        for entry in self._directory.iterdir():
            if entry.is_symlink():
                entry.unlink()
            else:
                entry.rmdir()
        self._directory.rmdir()

    def mount_disk(self, device: str) -> Path:
        """Mount the sandbox's own disk."""
        target = self._directory / "disk"
        target.mkdir(mode=0o700)
        flags = namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOATIME
        # Without `noinit_itable` the kernel would write out all inode tables in the background;
        # without `noauto_da_alloc` closing an overwritten file starts to write it out, which is
        # meant for power failures, that no sandbox survives.
        options = "discard,noinit_itable,noauto_da_alloc"
        namespaces.mount(device, str(target), "ext4", flags, options)
        self._mounted.append("disk")
        return target

    def mount_beside(self, mount: Callable[[str], None]) -> Path:
        """Have something mounted beside the root file system, by a function that takes the path."""
        name = f"beside{len(self._mounted)}"
        target = self._directory / name
        target.mkdir(mode=0o700)
        mount(str(target))
        self._mounted.append(name)
        return target

    def mount_root(self, layers: Sequence[Path], disk: Path) -> Path:
        """Lay the disk over the template's layers.

        `redirect_dir` and `xino` make directories renameable and inode numbers steady, as on a
        plain file system. All paths are given relative to the stage, through links, as the options
        are readable inside the sandbox.
        """
        upper, work, target = disk / "u", disk / "w", self._directory / "root"
        top = layers[0].stat()
        for path in (upper, work):
            path.mkdir(mode=0o755, exist_ok=True)
            os.chown(path, top.st_uid, top.st_gid)
        upper.chmod(top.st_mode & 0o7777)
        target.mkdir()
        names = [str(number) for number in range(len(layers))]
        for name, layer in zip(names, layers, strict=True):
            (self._directory / name).symlink_to(layer)
        os.chdir(self._directory)
        try:
            options = f"lowerdir={':'.join(names)},upperdir=disk/u,workdir=disk/w"
            options += ",redirect_dir=on,xino=auto"
            namespaces.mount("overlay", "root", "overlay", namespaces.MS_NODEV, options)
        finally:
            os.chdir("/")
        self._mounted.append("root")
        return target
