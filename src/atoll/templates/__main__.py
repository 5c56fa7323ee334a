"""`python -m atoll.templates`: build the template `base` ahead of the first start."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from atoll.errors import HostError
from atoll.settings import load_settings
from atoll.templates.base import ensure_base


def main() -> int:
    """Print each step of a build, and nothing when there is nothing to build."""
    try:
        settings = load_settings()
        authorities = [Path(name) for name in settings.authorities]
        asyncio.run(ensure_base(settings.templates, progress=print, authorities=authorities))
    except HostError as error:
        print(f"{error.message}\nFIX: {error.remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
