"""Doing one task of a build in a sandbox."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence

from atoll.agent.runtime import agent_command
from atoll.errors import AtollError, Unauthenticated
from atoll.templates.layered import StepFailed, Workshop
from atoll.templates.plan import Command, Directory, Placement
from atoll.templates.recipe import StageFiles

_COPYING = (
    *agent_command()[:-1],
    "-c",
    "import sys; from guest.copying import main; main(sys.argv[1])",
)
"""The agent's own interpreter copies, so that an image needs no program for it."""
_QUOTED_LINES = 5


class TaskFailed(Exception):
    """A task could not be done; the message says why, for whoever wrote the recipe."""


async def run_command(workshop: Workshop, work: Command, on_line: Callable[[str], None]) -> None:
    """Run a command to its end. Raises `TaskFailed`."""
    shown = work.command if isinstance(work.command, str) else " ".join(work.command)
    failure = f"failed to run command '{shown}': command failed"
    try:
        await workshop.run(
            work.command, user=work.user, on_line=on_line, envs=work.envs, cwd=work.workdir
        )
    except StepFailed as error:
        said = "".join(f"\n{line}" for line in error.lines[-_QUOTED_LINES:])
        raise TaskFailed(f"{failure}: {error.status}{said}") from error
    except Unauthenticated as error:  # in the words of E2B, which tests of its SDK look for
        raise TaskFailed(f"{failure}: unauthenticated: {error}") from error
    except AtollError as error:
        raise TaskFailed(f"{failure}: {error}") from error


async def make_directories(workshop: Workshop, directories: Sequence[Directory]) -> None:
    """Make directories where they are missing. Raises `TaskFailed`."""
    for directory in directories:
        request = {"op": "directory", "path": directory.path, "owner": directory.owner}
        await _copy(workshop, request, None, f"failed to make the directory {directory.path}")


async def place_files(
    workshop: Workshop, work: Placement, archive: AsyncIterable[bytes], *, most_bytes: int
) -> None:
    """Copy files from an archive, which unpacked may hold so many bytes, to where they are to be.

    Raises `TaskFailed`.
    """
    request = {
        "op": "receive",
        "sources": work.sources,
        "destination": work.destination,
        "user": work.user,
        "owner": work.owner,
        "mode": work.mode,
        "unpack": work.unpack,
        "most_bytes": most_bytes,
        "keep_owner": isinstance(work.files, StageFiles),
    }
    await _copy(workshop, request, archive, _describe(work))


async def pack_files(workshop: Workshop, work: Placement) -> AsyncIterator[bytes]:
    """Give what is copied from a stage, as an archive. Raises `TaskFailed`."""
    request = json.dumps({"op": "pack", "sources": work.sources})
    try:
        async for chunk in workshop.read((*_COPYING, request)):
            yield chunk
    except StepFailed as error:
        raise TaskFailed(f"{_describe(work)}: {_say(error)}") from error


async def _copy(
    workshop: Workshop, request: object, archive: AsyncIterable[bytes] | None, failure: str
) -> None:
    try:
        await workshop.run((*_COPYING, json.dumps(request)), chunks=archive)
    except StepFailed as error:
        raise TaskFailed(f"{failure}: {_say(error)}") from error
    except AtollError as error:
        raise TaskFailed(f"{failure}: {error}") from error


def _describe(work: Placement) -> str:
    return f"failed to copy '{' '.join(work.sources)}' to '{work.destination}'"


def _say(error: StepFailed) -> str:
    return error.lines[-1] if error.lines else error.status
