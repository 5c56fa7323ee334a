"""A server process that dies: makes a sandbox, tells about it, and ends without a word.

Run as `python -m tests.conformance.crash KIND STATE ID LAYER...`; it waits to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from atoll.agent.model import ProcessConfig
from atoll.isolation.driver import Egress, SandboxSpec
from tests.conformance.box import Box
from tests.conformance.kinds import KINDS


async def main() -> None:
    name, state, sandbox_id, *layers = sys.argv[1:]
    driver = next(kind for kind in KINDS if kind.name == name).make(Path(state))
    await driver.start()
    print("started", flush=True)
    spec = SandboxSpec(sandbox_id, tuple(Path(layer) for layer in layers))
    box = Box(driver, await driver.create(spec))
    await driver.set_egress(box.instance, Egress(deny=("198.51.100.10",)))
    config = ProcessConfig("/bin/bash", ("-c", "echo kept > /tmp/kept; exec sleep 600"), {}, None)
    await box.agent.start_process(config, user="user")
    await box.check("until [ -e /tmp/kept ]; do sleep 0.01; done")
    print("ready", box.instance.pid, box.instance.address, flush=True)
    await asyncio.sleep(600)


asyncio.run(main())
