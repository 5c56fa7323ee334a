"""Nothing that a user can set, call or see is missing from the docs."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from atoll.cli import app
from atoll.sandboxes.model import EndReason
from atoll.settings import Settings
from tests.routes import control_routes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text()


def test_every_setting_is_documented_and_exists() -> None:
    documented = set(re.findall(r"^\| `ATOLL_([A-Z_]+)`", page("settings.md"), re.M))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_every_command_is_documented_and_exists() -> None:
    group = typer.main.get_command(app)
    found = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}" for each in inner} if inner else {name}
    documented = set(re.findall(r"^\| `atoll ([a-z ]+?)(?: [A-Z]+)?`", page("cli.md"), re.M))
    assert documented == found


def test_every_option_is_documented() -> None:
    group = typer.main.get_command(app)
    text = page("cli.md")
    pending = list(group.commands.values())  # type: ignore[attr-defined]
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        for option in command.params:
            for name in option.opts:
                assert not name.startswith("--") or name in text, name


def test_every_control_plane_route_is_documented() -> None:
    documented = set(re.findall(r"^\| `([A-Z]+ /\S+)`", page("api.md"), re.M))
    for route in control_routes():
        for method in (route.methods or set()) - {"HEAD"}:
            assert f"{method} {route.path}" in documented


def test_every_reason_of_an_end_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", page("sandboxes.md"), re.M))
    assert {reason.value for reason in EndReason} == documented


def test_every_link_leads_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\(([a-z-]+\.md)\)", page("README.md")))
    assert listed == {file.name for file in DOCS.glob("*.md")} - {"README.md"}
