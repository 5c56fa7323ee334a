"""What we are measured against: the OCI runtime alone, a chroot, and Docker where it runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from atoll.templates.catalog import TemplateCatalog
from bench.samples import Samples, sample

_DOCKER_IMAGE = "node:22-bookworm-slim"


def base_root() -> Path:
    """The root file system of the base template."""
    import asyncio
    import os

    catalog = TemplateCatalog(
        Path(os.environ.get("ATOLL_TEMPLATE_DIR", "/var/lib/atoll/templates"))
    )
    asyncio.run(catalog.ensure_base(progress=print))
    return catalog.get("base").layers[0]


def run_quietly(*command: str) -> None:
    """Run a program to its end. Raises `CalledProcessError` when it fails."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


@contextlib.contextmanager
def chroot_command(*command: str) -> Iterator[list[str]]:
    """A command in a chroot of the base template, which is mounted read-only: no isolation."""
    with tempfile.TemporaryDirectory(prefix="atoll-chroot-") as directory:
        run_quietly("mount", "--bind", str(base_root()), directory)
        try:
            run_quietly("mount", "-o", "remount,bind,ro", directory)
            run_quietly("mount", "--bind", "/dev", f"{directory}/dev")
            yield ["chroot", directory, *command]
        finally:
            run_quietly("umount", "--recursive", directory)


@contextlib.contextmanager
def _bundle() -> Iterator[Path]:
    """A bundle as `runc spec` makes it, over the base template, read-only."""
    with tempfile.TemporaryDirectory(prefix="atoll-bundle-") as scratch:
        bundle = Path(scratch)
        run_quietly("runc", "spec", "--bundle", scratch)
        spec = json.loads((bundle / "config.json").read_text())
        spec["root"] = {"path": str(base_root()), "readonly": True}
        spec["process"]["terminal"] = False
        # The stock spec asks for more open files than a machine may allow.
        spec["process"]["rlimits"] = []
        (bundle / "config.json").write_text(json.dumps(spec))
        yield bundle


def _set_command(bundle: Path, command: list[str]) -> None:
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"]["args"] = command
    (bundle / "config.json").write_text(json.dumps(spec))


def runc_create_to_exit(count: int) -> Samples:
    """The runtime's own time from create to the exit of /bin/true, with its default bundle."""
    with _bundle() as bundle:
        _set_command(bundle, ["/bin/true"])
        return sample(
            lambda: run_quietly(
                "runc", "run", "--bundle", str(bundle), f"bench-{uuid.uuid4().hex}"
            ),
            count,
        )


@contextlib.contextmanager
def runc_container() -> Iterator[str]:
    """A container that sleeps; yields its id."""
    name = f"bench-{uuid.uuid4().hex}"
    with _bundle() as bundle:
        _set_command(bundle, ["/bin/sleep", "600"])
        subprocess.run(
            ["runc", "run", "--detach", "--bundle", str(bundle), name],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield name
        finally:
            run_quietly("runc", "delete", "--force", name)


@cache
def has_docker() -> bool:
    """Whether a Docker engine answers and has, or gets, the image."""
    if shutil.which("docker") is None:
        return False
    checks = (["docker", "info"], ["docker", "pull", "--quiet", _DOCKER_IMAGE])
    return all(subprocess.run(each, capture_output=True).returncode == 0 for each in checks)


@contextlib.contextmanager
def _docker_container(*command: str) -> Iterator[tuple[str, float]]:
    """A container in which a command was run, and how many milliseconds that took.

    Its removal is outside the time, as the end of our sandboxes is.
    """
    name = f"bench-{uuid.uuid4().hex}"
    began = time.perf_counter()
    run_quietly("docker", "run", "--detach", "--name", name, _DOCKER_IMAGE, "sleep", "600")
    if command:
        run_quietly("docker", "exec", name, *command)
    took = (time.perf_counter() - began) * 1000
    try:
        yield name, took
    finally:
        run_quietly("docker", "rm", "--force", name)


def _time_docker(count: int, *command: str) -> Samples | None:
    if not has_docker():
        return None
    values = []
    for _ in range(count):
        with _docker_container(*command) as (_, took):
            values.append(took)
    return Samples(values)


def docker_run() -> Samples | None:
    """`docker run -d`, or None without Docker."""
    return _time_docker(20)


def docker_time_to_interactive() -> Samples | None:
    """`docker run -d` and `node -v`, or None without Docker."""
    return _time_docker(20, "node", "-v")


def docker_exec() -> Samples | None:
    """`docker exec bash -l -c true`, or None without Docker."""
    if not has_docker():
        return None
    with _docker_container() as (name, _):
        return sample(lambda: run_quietly("docker", "exec", name, "bash", "-l", "-c", "true"), 50)


def docker_burst(count: int) -> float | None:
    """Seconds for so many `docker run -d` at once, or None without Docker."""
    if not has_docker():
        return None
    with contextlib.ExitStack() as containers, ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        made = threads.map(lambda _: _docker_container("node", "-v"), range(count))
        list(threads.map(containers.enter_context, made))
        return time.perf_counter() - began
