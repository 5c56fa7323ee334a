"""The name that everything of one server on a host bears: interfaces, control groups, rules."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def instance_name(state_dir: Path) -> str:
    """Seven hexadecimal digits that stand for a state directory.

    They are part of the names of control groups (`atoll-<name>`), nftables tables (`atoll_<name>`)
    and interfaces (`atl<name>…`, of which the kernel allows fifteen characters).
    """
    return hashlib.sha256(os.fsencode(state_dir.absolute())).hexdigest()[:7]
