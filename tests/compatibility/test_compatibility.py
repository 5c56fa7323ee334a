"""Nothing that the official clients offer is missing from the compatibility page."""

from __future__ import annotations

import re

import pytest

from tests.compatibility.clients import Surface, list_commands, list_javascript, list_python
from tests.compatibility.table import (
    NO_TEST,
    PAGE,
    Table,
    load_table,
    load_tables,
    read_test,
    render_page,
)

CLAIMS = [
    pytest.param(table.name, method, claim, id=f"{table.name}-{method}-{claim.split('::')[-1]}")
    for table in load_tables()
    for method, claim in table.find_tests()
]


def names(table: Table) -> Surface:
    return {section: set(methods) for section, methods in table.sections.items()}


def test_every_python_method_is_listed() -> None:
    sync, asynchronous = list_python()
    every = {
        name: sync.get(name, set()) | asynchronous.get(name, set())
        for name in sync.keys() | asynchronous.keys()
    }
    assert names(load_table("python")) == every


def test_python_names_a_test_for_sync_and_for_async() -> None:
    sync, asynchronous = list_python()
    for section, methods in load_table("python").sections.items():
        for method, claims in methods.items():
            if isinstance(claims, str) and not claims.startswith(NO_TEST):
                only_one = (method in sync.get(section, ())) != (
                    method in asynchronous.get(section, ())
                )
                assert only_one, f"{section}.{method} is there for sync and async"


def test_every_javascript_method_is_listed() -> None:
    found = list_javascript()
    assert found.keys() > {"Sandbox", "Filesystem", "Commands", "Pty", "Git", "Volume"}
    assert names(load_table("javascript")) == found


def test_every_command_is_listed() -> None:
    found = list_commands()
    assert found["e2b sandbox"] > {"create", "connect", "exec"}
    assert names(load_table("cli")) == found


@pytest.mark.parametrize(("table", "method", "claim"), CLAIMS)
def test_the_named_test_uses_it(table: str, method: str, claim: str) -> None:
    source = read_test(claim)
    used = rf'"{method}"' if table == "cli" else rf"\b{method}\b"
    assert re.search(used, source), f"{claim} never says {method}"


def test_the_page_says_what_the_tables_say() -> None:
    remedy = "write it anew: .venv/bin/python -m tests.compatibility"
    assert PAGE.read_text() == render_page(), remedy
