"""Templates that stand on another: built in a sandbox of it, kept as one more layer.

    <store>/<name>/<digest>/template.json   what it is; written last
    <store>/<name>/<digest>/rootfs/         the layer: only what differs from the template below

What a build runs is isolated from the host by the same means as any other sandbox.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.agent.client import AgentClient
from atoll.agent.model import ProcessConfig, ProcessEnd
from atoll.agent.streams import ProcessStream
from atoll.errors import InvalidInput, ProcessNotFound
from atoll.isolation.driver import Driver, Instance, Resources, SandboxSpec
from atoll.templates import builds
from atoll.templates.model import Template, dump_template, load_template
from atoll.templates.profile import profile_files

_FORMAT = 1
_LAST_LINES = 30
_LONGEST_LINE = 4096


class StepFailed(Exception):
    """A command of a build failed; the message holds the end of what it printed."""

    def __init__(self, status: str, lines: Iterable[str]) -> None:
        self.status = status
        self.lines = tuple(lines)
        super().__init__("\n".join([status, *self.lines]).strip())


@dataclass(frozen=True, slots=True)
class LayeredBuild:
    """A finished build of such a template."""

    directory: Path
    recipe: str
    """Digest of all that decided what it became, the template below included."""
    template: Template


def read_layered(directory: Path, recipe: str | None = None) -> LayeredBuild | None:
    """The newest finished build in a template's directory; with this recipe, when one is given."""
    found = (each for each in read_all_layered(directory) if recipe in (None, each.recipe))
    return next(found, None)


def read_all_layered(directory: Path) -> list[LayeredBuild]:
    """All finished builds in a template's directory, the newest first."""
    if not directory.is_dir():
        return []
    found = [
        build
        for path in directory.iterdir()
        if not path.name.startswith(".") and (build := _read(path)) is not None
    ]
    return sorted(found, key=lambda build: build.template.created_at, reverse=True)


def _read(directory: Path) -> LayeredBuild | None:
    try:
        manifest = json.loads((directory / builds.MANIFEST).read_bytes())
        if manifest["format"] != _FORMAT:
            return None
        template = load_template(manifest["template"])
        recipe = str(manifest["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all(layer.is_dir() for layer in template.layers):
        return None  # the build below it was removed
    return LayeredBuild(directory, recipe, template)


class Workshop:
    """A sandbox in which a layer is made."""

    def __init__(self, driver: Driver, instance: Instance, envs: Mapping[str, str]) -> None:
        self._driver = driver
        self._instance = instance
        self._envs = envs
        self.agent = AgentClient(lambda: driver.dial_agent(instance))

    async def run(
        self,
        command: str | tuple[str, ...],
        *,
        user: str = "root",
        on_line: Callable[[str], None] = lambda line: None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = "/",
        chunks: AsyncIterable[bytes] | None = None,
    ) -> None:
        """Run a command to its end: a line for a login shell, or a program with its arguments.

        `chunks` are what it reads from stdin. Raises `StepFailed`, and as
        `AgentClient.start_process` does.
        """
        argv = ("/bin/bash", "-l", "-c", command) if isinstance(command, str) else command
        config = ProcessConfig(argv[0], argv[1:], {**self._envs, **(envs or {})}, cwd)
        stream = await self.agent.start_process(config, user=user, stdin=chunks is not None)
        async with stream:
            if chunks is None:
                await _follow(stream, on_line)
                return
            following = asyncio.create_task(_follow(stream, on_line))
            try:
                await self._feed(stream.pid, chunks, following)
                await following
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _feed(
        self, pid: int, chunks: AsyncIterable[bytes], following: asyncio.Task[None]
    ) -> None:
        """Give a program its input, for as long as it runs. Raises what `chunks` raises."""
        failures: list[Exception] = []

        async def watched() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
            except Exception as error:
                failures.append(error)
                raise

        async def send() -> None:
            # A program that ends before it has read everything says itself why.
            with suppress(ProcessNotFound, InvalidInput):
                await self.agent.send_input(pid, watched(), pty=False)
                await self.agent.close_stdin(pid)

        sending = asyncio.create_task(send())
        try:
            await asyncio.wait({sending, following}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if following.done() or not sending.done():
                sending.cancel()
            (end,) = await asyncio.gather(sending, return_exceptions=True)
        if failures:
            raise failures[0]
        if isinstance(end, Exception) and not following.done():
            raise end

    async def read(self, command: tuple[str, ...]) -> AsyncIterator[bytes]:
        """Run a program as root, and give what it writes to stdout. Raises `StepFailed`."""
        said = b""
        config = ProcessConfig(command[0], command[1:], {}, "/")
        async with await self.agent.start_process(config, user="root") as stream:
            async for event in stream:
                if isinstance(event, ProcessEnd):
                    if event.exit_code:
                        text = said.decode(errors="replace").strip()
                        raise StepFailed(event.status, text.splitlines())
                    return
                if event.kind == "stdout":
                    yield event.data
                else:
                    said = (said + event.data)[-_LONGEST_LINE:]
        raise StepFailed("its end was not seen", ())

    async def put(self, path: str, content: bytes) -> None:
        """Write a file as root."""

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        await self.agent.write_file(path, user="root", chunks=chunks())

    async def save(self, directory: Path) -> None:
        """Write what has been made as a layer."""
        await self.agent.close()
        await self._driver.save_layer(self._instance, directory)


async def _follow(stream: ProcessStream, on_line: Callable[[str], None]) -> None:
    last: deque[str] = deque(maxlen=_LAST_LINES)
    rest = b""

    def say(line: bytes) -> None:
        # A progress bar writes over itself: what it ends with counts.
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
        last.append(text)
        on_line(text)

    async for event in stream:
        if isinstance(event, ProcessEnd):
            if rest:
                say(rest)
            if event.exit_code:
                raise StepFailed(event.status, last)
            return
        *whole, rest = (rest + event.data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        for line in whole:
            say(line[:_LONGEST_LINE])
    raise StepFailed("its end was not seen", last)


@asynccontextmanager
async def open_workshop(
    driver: Driver,
    layers: tuple[Path, ...],
    *,
    name: str,
    resources: Resources,
    envs: Mapping[str, str],
) -> AsyncIterator[Workshop]:
    """A sandbox upon these layers; it is gone afterwards. The driver has been started."""
    await driver.destroy(name)
    spec = SandboxSpec(name, layers, resources, files=profile_files(envs))
    instance = await driver.create(spec)
    workshop = Workshop(driver, instance, envs)
    try:
        yield workshop
    finally:
        await workshop.agent.close()
        await asyncio.shield(driver.destroy(name))


async def publish(
    directory: Path,
    recipe: str,
    *,
    make: Callable[[Path], Any],
    describe: Callable[[Path], Template],
) -> LayeredBuild:
    """Make a layer aside (`make` gets the path) and let it become the build of that recipe."""
    final = directory / recipe[:20]
    async with builds.building(directory) as aside:
        await make(aside / builds.ROOTFS)
        template = describe(final / builds.ROOTFS)
        manifest = {"format": _FORMAT, "recipe": recipe, "template": dump_template(template)}
        (aside / builds.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        await builds.settle(aside, final)
    return LayeredBuild(final, recipe, template)
