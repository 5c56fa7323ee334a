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


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def chroot_command(*command: str) -> list[str]:
    """A command in a chroot of the base template: no isolation at all."""
    return ["chroot", str(base_root()), *command]


@contextlib.contextmanager
def _bundle() -> Iterator[Path]:
    """A bundle as `runc spec` makes it, over the base template, read-only."""
    with tempfile.TemporaryDirectory(prefix="atoll-bundle-") as scratch:
        bundle = Path(scratch)
        _run("runc", "spec", "--bundle", scratch)
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
            lambda: _run("runc", "run", "--bundle", str(bundle), f"bench-{uuid.uuid4().hex}"), count
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
            _run("runc", "delete", "--force", name)


@cache
def has_docker() -> bool:
    """Whether a Docker engine answers and has, or gets, the image."""
    if shutil.which("docker") is None:
        return False
    checks = (["docker", "info"], ["docker", "pull", "--quiet", _DOCKER_IMAGE])
    return all(subprocess.run(each, capture_output=True).returncode == 0 for each in checks)


@contextlib.contextmanager
def _docker_container() -> Iterator[str]:
    name = f"bench-{uuid.uuid4().hex}"
    _run("docker", "run", "--detach", "--name", name, _DOCKER_IMAGE, "sleep", "600")
    try:
        yield name
    finally:
        _run("docker", "rm", "--force", name)


def _docker_session(*command: str) -> None:
    with _docker_container() as name:
        if command:
            _run("docker", "exec", name, *command)


def docker_run() -> Samples | None:
    """`docker run -d` (its removal is in it too), or None without Docker."""
    return sample(_docker_session, 20) if has_docker() else None


def docker_time_to_interactive() -> Samples | None:
    """`docker run -d` and `node -v`, or None without Docker."""
    return sample(lambda: _docker_session("node", "-v"), 20) if has_docker() else None


def docker_exec() -> Samples | None:
    """`docker exec bash -l -c true`, or None without Docker."""
    if not has_docker():
        return None
    with _docker_container() as name:
        return sample(lambda: _run("docker", "exec", name, "bash", "-l", "-c", "true"), 50)


def docker_burst(count: int) -> float | None:
    """Seconds for so many `docker run -d` at once, or None without Docker."""
    if not has_docker():
        return None
    with ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        list(threads.map(lambda _: _docker_session("node", "-v"), range(count)))
        return time.perf_counter() - began
