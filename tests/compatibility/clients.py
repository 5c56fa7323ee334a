"""What the installed official clients offer: every public method, function and command."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, is_typeddict

import e2b
from e2b.template.main import TemplateBuilder, TemplateFinal

ROOT = Path(__file__).parents[2]
NODE = ROOT / ".venv-clients" / "bin" / "node"
MODULES = ROOT / "tests" / "clients" / "node_modules"

Surface = dict[str, set[str]]
"""Names of methods by what they are called on."""

_PARTS = ("files", "commands", "pty", "git")


def list_python() -> tuple[Surface, Surface]:
    """The methods of the sync and of the async Python SDK, under the names of the sync classes."""
    sync: Surface = {"functions": set()}
    asynchronous: Surface = {"functions": set()}
    for name in e2b.__all__:
        found = getattr(e2b, name)
        if inspect.isfunction(found):
            sync["functions"].add(name)
        elif inspect.isclass(found) and not is_typeddict(found):
            surface = asynchronous if name.startswith("Async") else sync
            surface[name.removeprefix("Async")] = _public_methods(found)
    for surface, owner in ((sync, e2b.Sandbox), (asynchronous, e2b.AsyncSandbox)):
        for part in _PARTS:
            kind = inspect.get_annotations(getattr(owner, part).fget, eval_str=True)["return"]
            surface[f"Sandbox.{part}"] = _public_methods(kind)
    # Exported for sync only, where it is the same as sandbox.git.
    del sync["Git"]
    # What the methods of a template return; not exported.
    sync["TemplateBuilder"] = _public_methods(TemplateBuilder) | _public_methods(TemplateFinal)
    return _without_empty(sync), _without_empty(asynchronous)


def _without_empty(surface: Surface) -> Surface:
    return {name: methods for name, methods in surface.items() if methods}


def _public_methods(kind: type[Any]) -> set[str]:
    """The methods that the package itself gave a class: not those of dict, str or Exception."""
    own = {
        name
        for base in kind.__mro__
        if base.__module__.partition(".")[0] == "e2b"
        for name in vars(base)
        if not name.startswith("_")
    }
    return {name for name in own if callable(getattr(kind, name))}


def list_javascript() -> Surface:
    """The methods that the JS SDK declares, by class; functions under `functions`."""
    text = (MODULES / "e2b" / "dist" / "index.d.ts").read_text()
    exported = re.findall(r"^export \{(.*)\};$", text, re.M)[-1]
    names = {each.strip().removeprefix("type ") for each in exported.split(",")}
    classes = dict(_declared_classes(text))
    surface: Surface = {
        "functions": names & set(re.findall(r"^declare function (\w+)\(", text, re.M))
    }
    for name in names & classes.keys():
        methods = _with_bases(name, classes)
        if methods and "Error" not in _bases(name, classes):
            surface[name] = methods
    return surface


def _declared_classes(text: str) -> Iterator[tuple[str, tuple[str, set[str]]]]:
    """Each class with its base and the public methods and properties of its body."""
    pattern = r"^declare (?:abstract )?class (\w+)(?:<.*?>)?(?: extends (\w+))?.*?\{\n(.*?)^\}"
    for name, base, body in re.findall(pattern, text, re.M | re.S):
        members = re.findall(
            r"^  (?!private|protected)(?:static )?(?:abstract )?(?:get )?(\w+)(?:<[^\n]*?>)?\(",
            body,
            re.M,
        )
        yield name, (base, {each for each in members if each != "constructor"})


def _bases(name: str, classes: dict[str, tuple[str, set[str]]]) -> list[str]:
    found = []
    while name in classes and (name := classes[name][0]):
        found.append(name)
    return found


def _with_bases(name: str, classes: dict[str, tuple[str, set[str]]]) -> set[str]:
    every = [name, *(base for base in _bases(name, classes) if base in classes)]
    return set().union(*(classes[each][1] for each in every))


def list_commands() -> Surface:
    """The commands of the CLI by the group that they are in, as its help lists them."""
    surface: Surface = {}
    pending = ["e2b"]
    while pending:
        group = pending.pop()
        for line in re.findall(r"^  ([a-z]\S*(?: .*?)?)(?:  |$)", _commands_part(group), re.M):
            name = line.split()[0].split("|")[0]
            if name == "help":
                continue
            # A group takes neither options nor arguments; so do few commands.
            if "[" not in line and "<" not in line and _commands_part(f"{group} {name}"):
                pending.append(f"{group} {name}")
            else:
                surface.setdefault(group, set()).add(name)
    return surface


def _commands_part(command: str) -> str:
    main = MODULES / "@e2b" / "cli" / "dist" / "index.js"
    arguments: list[str | Path] = [NODE, main, *command.split()[1:], "--help"]
    environ = {"NO_UPDATE_NOTIFIER": "1", "HOME": "/nonexistent"}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environ)
    return done.stdout.partition("\nCommands:\n")[2]
