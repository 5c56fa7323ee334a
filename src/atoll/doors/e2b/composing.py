"""`POST /files/compose`: several files of the sandbox into one."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.types import Receive, Scope

from atoll.doors.answers import answer_json
from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.entries import summarize_entry
from atoll.doors.lines import Line
from atoll.sandboxes.model import Sandbox

_Path = Annotated[str, Field(min_length=1)]


class _Compose(BaseModel):
    source_paths: Annotated[list[_Path], Field(min_length=1)]
    destination: _Path
    username: str | None = None


async def compose_files(sandbox: Sandbox, scope: Scope, receive: Receive, line: Line) -> None:
    """Join the files that the body names and answer with what became of them."""
    wanted = await parse_body(Request(scope, receive), _Compose)
    user = wanted.username or sandbox.template.user
    entry = await sandbox.agent.compose(wanted.source_paths, wanted.destination, user=user)
    await answer_json(scope, line.send, 200, summarize_entry(entry))
