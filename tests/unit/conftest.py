"""Sandbox objects for tests of what only looks at their fields."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from atoll.agent.client import AgentClient
from atoll.isolation.driver import Driver, Instance
from atoll.sandboxes.model import Sandbox, SandboxState, new_sandbox_id
from atoll.templates.model import Template

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def make_template(name: str = "base", build: str = "1") -> Template:
    """A template of a layer that is nowhere; other builds have another."""
    return Template(f"id-{name}", (name,), build, (Path("/nowhere", build),), MOMENT)


@pytest.fixture
def make_sandbox() -> Callable[..., Sandbox]:
    """Make a sandbox that started so many seconds after a fixed moment."""

    def make(after: float = 0, template: Template | None = None, **fields: Any) -> Sandbox:
        # Nothing here runs: the parts that reach into a sandbox are not there.
        nothing = cast(Any, None)
        fields.setdefault("state", SandboxState.RUNNING)
        return Sandbox(
            sandbox_id=fields.pop("sandbox_id", new_sandbox_id()),
            template=template or make_template(),
            instance=cast(Instance, nothing),
            agent=cast(AgentClient, nothing),
            driver=cast(Driver, nothing),
            created_at=0,
            started_at=MOMENT + timedelta(seconds=after),
            end_at=MOMENT + timedelta(seconds=after + 300),
            **fields,
        )

    return make
