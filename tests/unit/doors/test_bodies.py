"""What is said in the body of a create counts, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.requests import Request

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.models import NetworkUpdateBody, NewSandboxBody
from atoll.errors import InvalidInput
from atoll.isolation.driver import Egress
from atoll.sandboxes.model import NewSandbox


def ask(body: dict[str, Any]) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def read(body: dict[str, Any]) -> NewSandbox:
    parsed = await parse_body(ask({"templateID": "base", **body}), NewSandboxBody)
    return parsed.to_request(default_timeout=300, secured=True)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"allow_internet_acces": False}, "allow_internet_acces"),
        ({"network": {"denyOutt": []}}, "network.denyOutt"),
        ({"network": {"dnsServers": ["1.1.1.1"]}}, "network.dnsServers"),
        ({"network": {"httpsPorts": [8443]}}, "network.httpsPorts"),
        ({"network": {"egressProxy": {"address": "x"}}}, "network.egressProxy"),
        ({"autoResume": {"enable": True}}, "autoResume.enable"),
        ({"autoPause": True, "autoPauseMemory": False}, "autoPause"),
        ({"volumeMounts": [{"name": "a", "path": "/a", "readOnly": True}]}, "readOnly"),
    ],
)
async def test_an_option_that_would_be_lost_is_named(body: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        await read(body)


@pytest.mark.parametrize(
    "body",
    [
        # Python 2.63, Python 2.45.1, JavaScript 2.51 and the CLI, with all that they may send.
        {"metadata": {}, "envVars": {}, "timeout": 300, "allow_internet_access": True},
        {"secure": True, "autoPause": False, "autoPauseMemory": True, "mcp": None},
        {"autoResume": {"enabled": False}, "autoPauseMemory": False, "iam": {}},
        {"network": {"rules": {}, "allowOut": [], "denyOut": ["0.0.0.0/0"], "egressProxy": None}},
        {"network": {"allowPublicTraffic": False, "maskRequestHost": "x", "httpsPorts": []}},
    ],
)
async def test_what_the_released_sdks_send_passes(body: dict[str, Any]) -> None:
    assert (await read(body)).template == "base"


async def test_the_network_of_a_running_sandbox() -> None:
    good = await parse_body(ask({"allowOut": ["1.1.1.1"], "rules": {}}), NetworkUpdateBody)
    assert good.to_egress(None) == Egress(internet=True, allow=("1.1.1.1/32",), deny=())
    with pytest.raises(InvalidInput, match="denyOutt"):
        await parse_body(ask({"denyOutt": ["1.1.1.1"]}), NetworkUpdateBody)
    with pytest.raises(InvalidInput, match="dnsServers"):
        (await parse_body(ask({"dnsServers": ["1.1.1.1"]}), NetworkUpdateBody)).to_egress(None)
