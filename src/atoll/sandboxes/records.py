"""A sandbox as a row of the store, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from atoll.isolation.driver import Egress
from atoll.sandboxes.model import Idempotency, Sandbox
from atoll.store.sandboxes import SandboxRow
from atoll.templates.model import dump_template
from atoll.volumes.model import NamedMount


def dump_sandbox(sandbox: Sandbox) -> SandboxRow:
    """Write down what adopting the sandbox after a restart takes."""
    return SandboxRow(
        sandbox_id=sandbox.sandbox_id,
        state=sandbox.state.value,
        team_id=sandbox.team_id or None,
        created_at=sandbox.created_at,
        started_at=sandbox.started_at.timestamp() if sandbox.started_at else None,
        end_at=sandbox.end_at.timestamp() if sandbox.end_at else None,
        record={
            "template": dump_template(sandbox.template),
            "metadata": dict(sandbox.metadata),
            "envs": dict(sandbox.envs),
            "access_token": sandbox.access_token,
            "traffic_token": sandbox.traffic_token,
            "mask_request_host": sandbox.mask_request_host,
            "egress": {
                "internet": sandbox.egress.internet,
                "allow": list(sandbox.egress.allow),
                "deny": list(sandbox.egress.deny),
            },
            "internet_access": sandbox.internet_access,
            "idempotency": asdict(sandbox.idempotency) if sandbox.idempotency else None,
            "volumes": [asdict(each) for each in sandbox.volumes],
        },
    )


def strip_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a record when its sandbox has ended: no token, no variable."""
    names = ("template_id", "names", "build_id", "resources")
    template = {name: record["template"][name] for name in names}
    return {"template": template, "metadata": record["metadata"]}


def restore_sandbox(sandbox: Sandbox, row: SandboxRow) -> None:
    """Give an adopted sandbox back what it had before the restart."""
    record = row.record
    sandbox.team_id = row.team_id or ""
    sandbox.created_at = row.created_at
    sandbox.started_at = _parse_time(row.started_at)
    sandbox.end_at = _parse_time(row.end_at)
    sandbox.metadata = record["metadata"]
    sandbox.envs = record["envs"]
    sandbox.access_token = record["access_token"]
    sandbox.traffic_token = record["traffic_token"]
    sandbox.mask_request_host = record["mask_request_host"]
    egress = record["egress"]
    sandbox.egress = Egress(egress["internet"], tuple(egress["allow"]), tuple(egress["deny"]))
    sandbox.internet_access = record["internet_access"]
    if (idempotency := record.get("idempotency")) is not None:
        sandbox.idempotency = Idempotency(**idempotency)
    sandbox.volumes = tuple(NamedMount(**each) for each in record.get("volumes", ()))


def _parse_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
