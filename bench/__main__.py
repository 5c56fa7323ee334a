"""`python -m bench [ROWS…] [--json FILE]`: measure, and print one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.building import measure_building
from bench.commands import measure_commands
from bench.creates import measure_creates
from bench.files import measure_files
from bench.gateway import measure_gateway
from bench.interpreter import measure_interpreter
from bench.memory import measure_memory
from bench.table import print_rows
from bench.terminals import measure_terminals
from bench.watching import measure_watching

_GROUPS = {
    "creates": measure_creates,
    "commands": measure_commands,
    "files": measure_files,
    "gateway": measure_gateway,
    "watching": measure_watching,
    "interpreter": measure_interpreter,
    "building": measure_building,
    "memory": measure_memory,
    "terminals": measure_terminals,
}


def main() -> None:
    """Run the groups that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("groups", nargs="*", choices=[[], *_GROUPS], help="all when none is named")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.groups or _GROUPS:
        print(f"measuring {name} …", flush=True)
        rows += _GROUPS[name]()
    print_rows(rows, arguments.json)


if __name__ == "__main__":
    main()
