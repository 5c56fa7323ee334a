"""Upon an image, a layer with what sandboxes count on and the image may lack."""

from __future__ import annotations

import secrets
from pathlib import Path

from atoll.agent.runtime import agent_command
from atoll.errors import InvalidInput
from atoll.isolation.driver import Driver, Resources
from atoll.templates.layered import StepFailed, open_workshop
from atoll.templates.layers import Layer, LayerStore, derive_key
from atoll.templates.root import USER

_REVISION = 1
"""To be counted up when `guest.fitting` makes something else of the same image."""
_RESOURCES = Resources(cpu_count=1, memory_mb=256, disk_mb=256, max_processes=64)
_FITTING = (
    *agent_command()[:-1],
    "-c",
    "import sys; from guest.fitting import main; main(sys.argv[1])",
    USER,
)


async def fit(driver: Driver, layers: LayerStore, key: str, below: tuple[Path, ...]) -> Layer:
    """Have the user `user`, a home and the usual directories in what stands on `below`.

    It is done in a sandbox of the image, by the agent's own interpreter: the image's files are
    those of a stranger, and may be one static binary. Raises `InvalidInput`, `HostError`.
    """

    async def make(root: Path) -> None:
        name = f"build{secrets.token_hex(8)}"
        async with open_workshop(driver, below, name=name, resources=_RESOURCES, envs={}) as shop:
            try:
                await shop.run(_FITTING)
            except StepFailed as error:
                reason = error.lines[-1] if error.lines else error.status
                raise InvalidInput(f"the image can't be made a sandbox of: {reason}") from error
            await shop.save(root)

    return await layers.ensure(derive_key("fit", _REVISION, key), below, make)
