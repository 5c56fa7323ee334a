"""What is written down is enough to take a sandbox over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from atoll.isolation.driver import Egress, Resources
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.records import dump_sandbox, restore_sandbox
from atoll.templates.model import load_template
from tests.unit.conftest import make_template


def test_there_and_back(make_sandbox: Callable[..., Sandbox]) -> None:
    template = replace(
        make_template(),
        layers=(Path("/layers/top"), Path("/layers/bottom")),
        resources=Resources(1, 128, 256, 64),
        workdir="/srv",
        envs={"A": "b"},
    )
    sandbox = make_sandbox(
        5,
        template,
        team_id="team",
        metadata={"k": "v"},
        envs={"A": "c"},
        access_token="token",
        traffic_token="traffic",
        mask_request_host="host:${PORT}",
        egress=Egress(False, ("192.0.2.0/24",), ("198.51.100.7/32",)),
        internet_access=False,
    )
    row = dump_sandbox(sandbox)
    stored = replace(row, record=json.loads(json.dumps(row.record)))
    again = make_sandbox(template=load_template(stored.record["template"]))
    restore_sandbox(again, stored)
    assert again.template == template
    for name in ("team_id", "metadata", "envs", "access_token", "traffic_token", "egress"):
        assert getattr(again, name) == getattr(sandbox, name)
    for name in ("mask_request_host", "internet_access", "started_at", "end_at"):
        assert getattr(again, name) == getattr(sandbox, name)
