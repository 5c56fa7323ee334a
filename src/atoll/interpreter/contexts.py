"""Contexts: places where code runs and state is kept, one kernel each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import uuid
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from . import output
from .kernel import Kernel, KernelDied, KernelUnavailable
from .languages import JAVASCRIPT, PYTHON, Language

VARIABLES_FILE = Path("/run/e2b/envs.json")
"""Where the server outside leaves the variables that the sandbox was created with."""

MISSING_FILE = Path("/opt/interpreter/missing.json")
"""Which kernels the template could not be given, and why."""

_INSIST_SECONDS = 1.0
_PATIENCE = 20
"""How often code that goes on after an interrupt is interrupted before its kernel is replaced."""

Variables = Mapping[str, str]


def read_variables() -> dict[str, str]:
    """The variables of the sandbox; none when it was created without, or is not yet anybody's."""
    return _read_texts(VARIABLES_FILE)


def _read_texts(path: Path) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


class Context:
    """One context. Its kernel is started by the first use, or by `prepare`."""

    def __init__(self, language: Language, cwd: str) -> None:
        self.context_id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self._kernel: Kernel | None = None
        self._lock = asyncio.Lock()
        self._has_variables = False
        self._giving_up: asyncio.Task[None] | None = None
        self._closed = False
        self._lost = False
        """Whether state was lost of which nobody has been told."""

    def describe(self) -> dict[str, str]:
        """As the protocol shows it."""
        return {"id": self.context_id, "language": self.language.name, "cwd": self.cwd}

    async def prepare(self) -> None:
        """Start the kernel. Raises `KernelUnavailable`."""
        async with self._lock:
            await self._ensure_kernel()

    async def restart(self) -> None:
        """Replace the kernel by a fresh one, whatever it is doing.

        Raises `KernelUnavailable`, and `UnknownContext` when the context was closed.
        """
        await self._end_kernel()
        async with self._lock:
            await self._end_kernel()
            await self._ensure_kernel()

    async def close(self) -> None:
        """End the kernel, whatever it is doing, for good: who waits for a turn gets none."""
        self._closed = True
        await self._end_kernel()
        async with self._lock:  # a kernel that was being started has been ended as well
            pass

    async def execute(self, code: str, variables: Variables) -> AsyncGenerator[output.Event]:
        """Run code and yield its events, without the last. Executions wait for each other.

        Stop iterating (`aclose`) to interrupt it. Raises `KernelUnavailable`, and `UnknownContext`
        when the context was closed.
        """
        async with contextlib.AsyncExitStack() as turn:
            await turn.enter_async_context(self._lock)
            kernel = await self._ensure_kernel()
            self._give_variables(kernel)
            if self._lost:
                self._lost = False
                yield output.note(
                    "The execution before could not be interrupted: its kernel was replaced, and "
                    "what was in it is lost.\n"
                )
            if variables:
                kernel.run_silently(self.language.set_variables(variables))
            messages = kernel.execute(code)
            try:
                failed = False
                async for message in messages:
                    event = output.translate(message)
                    if event is None or (failed and event["type"] == "error"):
                        continue
                    failed = failed or event["type"] == "error"
                    yield event
            except KernelDied as death:
                await self._end_kernel()
                yield output.error(
                    "KernelDied",
                    f"the kernel of this context has ended: {death}; the next execution gets a new "
                    "one, and what was in it is lost",
                )
            except (GeneratorExit, asyncio.CancelledError):
                # Whoever asked has gone. The turn is over when the kernel is idle again.
                self._giving_up = asyncio.create_task(self._give_up(kernel, turn.pop_all()))
                raise
            finally:
                if variables and not kernel.died.is_set():
                    kernel.run_silently(self.language.set_variables(self._undo(variables)))

    async def _ensure_kernel(self) -> Kernel:
        if self._closed:
            raise UnknownContext(self.context_id)
        if self._kernel is not None and self._kernel.died.is_set():
            await self._end_kernel()
        if self._kernel is None:
            if why := _read_texts(MISSING_FILE).get(self.language.kernel):
                raise KernelUnavailable(f"this template has no {self.language.name} kernel: {why}")
            kernel = await Kernel.start(self.language, cwd=self.cwd, env=os.environ)
            if self._closed:
                await kernel.stop()
                raise UnknownContext(self.context_id)
            self._kernel = kernel
            self._has_variables = False
        return self._kernel

    async def _end_kernel(self) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            await kernel.stop()

    def _give_variables(self, kernel: Kernel) -> None:
        """Set the sandbox's own variables, once: they came after the kernel had been started."""
        if not self._has_variables:
            self._has_variables = True
            if variables := read_variables():
                kernel.run_silently(self.language.set_variables(variables))

    def _undo(self, variables: Variables) -> dict[str, str | None]:
        own = {**os.environ, **read_variables()}
        return {name: own.get(name) for name in variables}

    async def _give_up(self, kernel: Kernel, turn: contextlib.AsyncExitStack) -> None:
        """Interrupt until the kernel is idle, then let the next execution have its turn."""
        async with turn:
            for _ in range(_PATIENCE):
                if kernel.died.is_set():
                    self._lost = True
                    return  # the next use replaces it
                with contextlib.suppress(KernelDied, TimeoutError):
                    await kernel.interrupt()
                    async with asyncio.timeout(_INSIST_SECONDS):
                        await kernel.drain()
                    return
            if self._kernel is kernel:
                self._lost = True
                await self._end_kernel()


class UnknownContext(Exception):
    """There is no context of this id."""


class Contexts:
    """All contexts of the sandbox: one per language by itself, and those that were asked for."""

    def __init__(self, cwd: str) -> None:
        self._cwd = cwd
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}

    async def start(self) -> None:
        """Make the contexts that are there from the beginning, Python's ready to run.

        JavaScript's kernel is started by its first use: most sandboxes never use it.
        """
        self.get_default(JAVASCRIPT)
        await self.get_default(PYTHON).prepare()

    def get_default(self, language: Language) -> Context:
        """The language's own context. Languages with one kernel share it."""
        context = self._defaults.get(language.kernel)
        if context is None:
            context = self._defaults[language.kernel] = self._add(language, self._cwd)
        return context

    async def create(self, language: Language, cwd: str | None) -> Context:
        """Make a context whose kernel is ready. Raises `KernelUnavailable`."""
        context = Context(language, cwd or self._cwd)
        await context.prepare()
        self._contexts[context.context_id] = context
        return context

    def get(self, context_id: str) -> Context:
        """Raises `UnknownContext`."""
        try:
            return self._contexts[context_id]
        except KeyError:
            raise UnknownContext(context_id) from None

    def list(self) -> list[Context]:
        """All contexts, the oldest first."""
        return list(self._contexts.values())

    async def remove(self, context_id: str) -> None:
        """End a context. Raises `UnknownContext`."""
        context = self.get(context_id)
        del self._contexts[context_id]
        for kernel, default in list(self._defaults.items()):
            if default is context:
                del self._defaults[kernel]
        await context.close()

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(context.close() for context in self._contexts.values()))

    def _add(self, language: Language, cwd: str) -> Context:
        context = Context(language, cwd)
        self._contexts[context.context_id] = context
        return context
