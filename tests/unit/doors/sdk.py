"""The official SDK's view of a sandbox, without a control plane."""

from __future__ import annotations

from e2b import Sandbox as SdkSandbox
from e2b.connection_config import ConnectionConfig
from packaging.version import Version

from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors


def connect_sdk(doors: Doors, sandbox: Sandbox) -> SdkSandbox:
    """The object that `Sandbox.create` would have returned."""
    config = ConnectionConfig(
        sandbox_url=doors.url,
        api_key="e2b_" + "0" * 40,
        extra_sandbox_headers=doors.headers(sandbox),
    )
    return SdkSandbox(
        sandbox_id=sandbox.sandbox_id,
        envd_version=Version("0.6.7"),
        envd_access_token=sandbox.access_token,
        sandbox_domain=None,
        connection_config=config,
        traffic_access_token=sandbox.traffic_token,
    )
