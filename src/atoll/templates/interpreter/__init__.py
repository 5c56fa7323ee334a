"""The template `code-interpreter-v1`: `base` with Jupyter kernels and the program that serves them.

What the sandbox gets: the languages' own packages from the distribution's archive, the Python
libraries of `packages.lock` for everybody, those of `server.lock` for the interpreter alone, and
the program `atoll.interpreter`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import atoll.interpreter
from atoll.errors import HostError
from atoll.isolation.driver import Driver, Resources
from atoll.templates import builds
from atoll.templates.layered import (
    LayeredBuild,
    StepFailed,
    Workshop,
    open_workshop,
    publish,
    read_all_layered,
    read_layered,
)
from atoll.templates.model import Template, derive_id

NAME = "code-interpreter-v1"
ALIASES = ("code-interpreter",)

_HOME = "/opt/interpreter"
_KERNELS = "/usr/local/share/jupyter/kernels"
_MISSING = f"{_HOME}/missing.json"
_SITE = "/usr/local/lib/python3.11/dist-packages"

_WORKSHOP = ".workshop"
"""Where the driver of a build keeps its state: the next one finds there what a killed one left."""

OpenDriver = Callable[[Path], AbstractAsyncContextManager[Driver]]
"""Gives a started driver that keeps its state in a directory; all of it is gone afterwards, and
what an earlier one left there as well."""

_RESOURCES = Resources(memory_mb=2048)
_BUILD_RESOURCES = Resources(cpu_count=4, memory_mb=4096, disk_mb=10240)

START = f"cd && exec {_HOME}/start"
READY = "curl -sf -o /dev/null http://localhost:49999/health"

_APT = "apt-get install -qq -y --no-install-recommends"
_PIP = "pip install --quiet --no-cache-dir --only-binary :all: --require-hashes --no-deps"

_PROGRAM = Path(atoll.interpreter.__file__).parent
_HERE = Path(__file__).parent

_START_PROGRAM = f"""\
import runpy
import sys

sys.path[:0] = ["{_HOME}", "{_HOME}/lib"]
runpy.run_module("interpreter", run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class Language:
    """How a language comes into the template."""

    title: str
    kernel: str
    """The name of its kernel specification."""
    install: str = ""
    """A command of root."""
    specification: Mapping[str, object] | None = None
    """Written, unless the language's package brings its own."""


def _specification(title: str, language: str, *argv: str, **env: str) -> dict[str, object]:
    return {"argv": argv, "display_name": title, "language": language, "env": env}


LANGUAGES = (
    Language(
        "Python",
        "python3",
        specification=_specification(
            "Python",
            "python",
            *("/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
            # Nothing of an execution is kept on the disk, and nobody reads colours.
            *("--HistoryManager.hist_file=:memory:", "--InteractiveShell.colors=nocolor"),
            *("--IPKernelApp.extensions=_interpreter", "--Session.packer=_interpreter.pack"),
        ),
    ),
    Language(
        "JavaScript and TypeScript",
        "deno",
        specification=_specification(
            "Deno",
            "typescript",
            *("/usr/local/bin/deno", "jupyter", "--kernel", "--conn", "{connection_file}"),
            NO_COLOR="1",
            DENO_NO_UPDATE_CHECK="1",
        ),
    ),
    Language(
        "Bash",
        "bash",
        specification=_specification(
            "Bash",
            "bash",
            *("/usr/bin/python3", "-m", "bash_kernel", "-f", "{connection_file}"),
        ),
    ),
    Language(
        "R",
        "ir",
        install=f"{_APT} r-base-core r-cran-irkernel r-cran-ggplot2 r-cran-dplyr r-cran-jsonlite",
        specification=_specification(
            "R", "R", *("R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}")
        ),
    ),
    Language(
        "Java",
        "java",
        install=f"{_APT} openjdk-17-jdk-headless",
        # its own specification comes with the package `jjava`
    ),
)

_SHARED = f"""\
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq -o Acquire::Retries=3
{_APT} fontconfig fonts-dejavu-core fonts-noto-cjk graphviz libgl1 libglib2.0-0
"""
_CLEAN = """\
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt/* /tmp/* /var/tmp/*
rm -rf /root/.cache /root/.config /home/user/.cache /home/user/.ipython /home/user/.local
rm -rf /run/e2b
# Python looks there only if it is there when the kernel starts, and `pip install` comes later.
install -d -o user -g user /home/user/.local /home/user/.local/lib /home/user/.local/lib/python3.11
install -d -o user -g user /home/user/.local/lib/python3.11/site-packages /home/user/.local/bin
"""


def recipe_of(base: Template) -> str:
    """Digest of all that decides what a build on this base becomes."""
    digest = hashlib.sha256(base.build_id.encode())
    files = [*_PROGRAM.glob("*.py"), *_HERE.glob("*.lock"), *_HERE.glob("*.py")]
    files.append(_HERE / "start.sh")
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def find_interpreter(store: Path, base: Template) -> LayeredBuild | None:
    """The build that is still right, if there is one."""
    return read_layered(store / NAME, recipe_of(base))


async def ensure_interpreter(
    store: Path,
    base: Template,
    open_driver: OpenDriver,
    *,
    progress: Callable[[str], None],
) -> Template:
    """The template, built now if the store has no build that is still right.

    Of several processes that ask at the same time one builds and the others wait. Raises
    `HostError`.
    """
    directory = store / NAME
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)

    def on_wait() -> None:
        progress(f"waiting for another process that is building the template `{NAME}`")

    if (found := find_interpreter(store, base)) is not None:
        return found.template
    async with builds.locked(directory, on_wait=on_wait):
        await asyncio.to_thread(builds.tidy, directory)
        found = find_interpreter(store, base)
        if found is None:
            async with open_driver(directory / _WORKSHOP) as driver:
                found = await _build(directory, base, driver, progress)
    return found.template


async def tidy_interpreter(store: Path, open_driver: OpenDriver) -> None:
    """End what a killed build left running, unless a build is under way now."""
    directory = store / NAME
    if not (directory / _WORKSHOP).exists():
        return
    with builds.try_locked(directory) as held:
        if held:
            async with open_driver(directory / _WORKSHOP):
                await asyncio.to_thread(builds.tidy, directory)


async def prune_interpreter(
    store: Path, *, in_use: Collection[Path], grace: timedelta
) -> list[Path]:
    """Remove builds that a newer one replaced, see `atoll.templates.base.prune_base`."""
    directory = store / NAME
    if not await asyncio.to_thread(directory.is_dir):
        return []
    removed = []
    limit = datetime.now(UTC) - grace
    async with builds.locked(directory, on_wait=lambda: None):
        for newer, build in pairwise(read_all_layered(directory)):
            used = any(layer.is_relative_to(build.directory) for layer in in_use)
            if newer.template.created_at < limit and not used:
                await asyncio.to_thread(builds.discard, build.directory)
                removed.append(build.directory)
    return removed


async def _build(
    directory: Path, base: Template, driver: Driver, progress: Callable[[str], None]
) -> LayeredBuild:
    started = asyncio.get_running_loop().time()
    progress(f"building the template `{NAME}` (once; it takes some minutes)")

    def describe(layer: Path) -> Template:
        return replace(
            base,
            template_id=derive_id(NAME),
            names=(NAME, *ALIASES),
            build_id=str(uuid.uuid4()),
            layers=(layer, *base.layers),
            created_at=datetime.now(UTC),
            resources=_RESOURCES,
            start_command=START,
            ready_command=READY,
        )

    async with open_workshop(
        driver,
        base.layers,
        name=f"build{base.template_id[:12]}",
        resources=_BUILD_RESOURCES,
        envs=base.envs,
    ) as workshop:
        try:
            await _install(workshop, progress)
        except StepFailed as failure:
            raise HostError(
                f"the template `{NAME}` could not be built: {failure}",
                remedy="check that sandboxes reach the package archive and the package index "
                "(`apt-get update` and `pip download` in one), then try again",
            ) from failure
        progress("writing the layer")
        build = await publish(directory, recipe_of(base), make=workshop.save, describe=describe)
    seconds = asyncio.get_running_loop().time() - started
    progress(f"the template `{NAME}` is ready ({seconds:.0f} s)")
    return build


async def _install(workshop: Workshop, progress: Callable[[str], None]) -> None:
    progress("installing fonts and tools")
    await workshop.run(_SHARED)
    for name in ("packages", "server"):
        await workshop.put(f"{_HOME}/{name}.lock", (_HERE / f"{name}.lock").read_bytes())
    progress("installing the Python libraries")
    await workshop.run(f"{_PIP} --requirement {_HOME}/packages.lock")
    await workshop.run(f"{_PIP} --target {_HOME}/lib --requirement {_HOME}/server.lock")
    for file in sorted(_PROGRAM.glob("*.py")):
        await workshop.put(f"{_HOME}/interpreter/{file.name}", file.read_bytes())
    await workshop.put(f"{_HOME}/start.py", _START_PROGRAM.encode())
    await workshop.put(f"{_HOME}/start", (_HERE / "start.sh").read_bytes())
    await workshop.run(f"chmod 755 {_HOME}/start")
    # The part that runs in the kernels is a module of their own Python.
    await workshop.run(f"mv {_HOME}/interpreter/preparation.py {_SITE}/_interpreter.py")
    missing: dict[str, str] = {}
    await workshop.run(f"rm -rf {_KERNELS}/python3")
    for language in LANGUAGES:
        progress(f"installing {language.title}")
        try:
            await _install_language(workshop, language)
        except StepFailed as failure:
            missing[language.kernel] = str(failure).splitlines()[-1]
            progress(f"without {language.title}: {missing[language.kernel]}")
    await workshop.put(_MISSING, json.dumps(missing, indent=2).encode())
    progress("compiling, and trying the kernels")
    await workshop.run(f"python3 -m compileall -q -j 2 {_SITE} {_HOME} || true")
    await workshop.run(f"chown -R root:root {_HOME} && fc-cache -f", envs={"HOME": "/root"})
    for language in LANGUAGES:
        if language.kernel not in missing:
            await workshop.run(f"python3 -I {_HOME}/start.py --try {language.kernel}", user="user")
    await workshop.run(_CLEAN)


async def _install_language(workshop: Workshop, language: Language) -> None:
    if language.install:
        await workshop.run(f"export DEBIAN_FRONTEND=noninteractive; {language.install}")
    if language.specification is not None:
        await workshop.put(
            f"{_KERNELS}/{language.kernel}/kernel.json",
            json.dumps(language.specification, indent=1).encode(),
        )
