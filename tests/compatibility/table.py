"""The tables of docs/compatibility.md: read from the TOML files, and written as Markdown."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
PAGE = TESTS.parent / "docs" / "compatibility.md"

NO_TEST = ("not yet: ", "no: ", "local: ")
"""How a claim begins that gives the reason why there is no test."""


@dataclass(frozen=True)
class Table:
    """One TOML file: what is said about each method, by what it is called on."""

    name: str
    title: str
    columns: tuple[str, ...]
    sections: dict[str, dict[str, str | list[str]]]

    def find_tests(self) -> list[tuple[str, str]]:
        """Each method with each test that it names."""
        return [
            (method, claim)
            for methods in self.sections.values()
            for method, claims in methods.items()
            for claim in ([claims] if isinstance(claims, str) else claims)
            if not claim.startswith(NO_TEST)
        ]


def load_table(name: str) -> Table:
    """Read `<name>.toml`."""
    content = tomllib.loads((HERE / f"{name}.toml").read_text())
    return Table(name, content["title"], tuple(content["columns"]), content["on"])


def load_tables() -> list[Table]:
    """All of them, in the order of the page."""
    return [load_table(name) for name in ("python", "javascript", "cli")]


def render_page() -> str:
    """The whole page."""
    head = (HERE / "introduction.md").read_text()
    return "\n".join([head, *(_render_table(table) for table in load_tables())])


def _render_table(table: Table) -> str:
    lines = [f"## {table.title}", ""]
    for section, methods in table.sections.items():
        lines += [f"### {section}", "", f"| {' | '.join(table.columns)} |"]
        lines.append("|---" * len(table.columns) + "|")
        for method, claims in sorted(methods.items()):
            cells = [claims] * (len(table.columns) - 1) if isinstance(claims, str) else claims
            lines.append(f"| `{method}` | {' | '.join(_render_claim(cell) for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _render_claim(claim: str) -> str:
    for prefix in NO_TEST:
        if claim.startswith(prefix):
            return f"*{prefix.removesuffix(': ')}*: {claim.removeprefix(prefix)}"
    file, _, test = claim.partition("::")
    return f"[{test}](../tests/{file})"


def read_test(claim: str) -> str:
    """The source of a named test, and of what it calls in its own file.

    Raises `LookupError` when there is no such test.
    """
    file, _, test = claim.partition("::")
    path = TESTS / file
    if not path.is_file():
        raise LookupError(f"there is no {file}")
    return _read_javascript(path, test) if path.suffix == ".js" else _read_python(path, test)


@cache
def _functions(path: Path) -> dict[str, str]:
    text = path.read_text()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.parse(text).body if isinstance(node, kinds)]
    return {node.name: ast.get_source_segment(text, node) or "" for node in nodes}


def _read_python(path: Path, test: str) -> str:
    functions = _functions(path)
    if not test.startswith("test_") or test not in functions:
        raise LookupError(f"there is no {test} in {path.name}")
    source = functions[test]
    used = {name for name in re.findall(r"\w+", source) if name in functions and name != test}
    return "\n".join([source, *(functions[name] for name in sorted(used))])


def _read_javascript(path: Path, test: str) -> str:
    head, *blocks = re.split(r"^(?=test\()", path.read_text(), flags=re.M)
    for block in blocks:
        if block.startswith(f"test('{test}'"):
            return head + block
    raise LookupError(f"there is no {test!r} in {path.name}")
