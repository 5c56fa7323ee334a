"""The languages, and what differs from one to the next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """One language and its kernel."""

    name: str
    kernel: str
    """The name of its kernel specification."""
    set_variables: Callable[[Mapping[str, str | None]], str]
    """Makes code that sets environment variables, or removes those whose value is None."""
    transport: str = "tcp"
    """`ipc` where the kernel can: nobody else in the sandbox can connect, and it is faster."""
    aliases: tuple[str, ...] = ()
    mark: Callable[[str], str] | None = None
    """Makes code that publishes a sign as output and as data; for a kernel whose results may come
    after it has said that it is idle."""


def _in_python(variables: Mapping[str, str | None]) -> str:
    return f"__import__('_interpreter').set_variables({dict(variables)!r})"


def _in_deno(variables: Mapping[str, str | None]) -> str:
    return "".join(
        f"Deno.env.delete({json.dumps(name)});"
        if value is None
        else f"Deno.env.set({json.dumps(name)}, {json.dumps(value)});"
        for name, value in variables.items()
    )


def _mark_in_deno(sign: str) -> str:
    return f"""\
console.log("{sign}");
await Deno.jupyter.broadcast("display_data", {{data: {{"{sign}": ""}}, metadata: {{}}}});"""


def _in_bash(variables: Mapping[str, str | None]) -> str:
    return "\n".join(
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
        for name, value in variables.items()
        if name.isidentifier()
    )


def _in_r(variables: Mapping[str, str | None]) -> str:
    return "\n".join(
        f"Sys.unsetenv({json.dumps(name)})"
        if value is None
        else f"invisible(do.call(Sys.setenv, setNames(list({json.dumps(value)}),"
        f" {json.dumps(name)})))"
        for name, value in variables.items()
    )


def _in_java(variables: Mapping[str, str | None]) -> str:
    # A Java program can't change its environment; E2B's interpreter sets properties, too.
    return "\n".join(
        f"System.clearProperty({json.dumps(name)});"
        if value is None
        else f"System.setProperty({json.dumps(name)}, {json.dumps(value)});"
        for name, value in variables.items()
    )


PYTHON = Language("python", "python3", _in_python, transport="ipc")
JAVASCRIPT = Language("javascript", "deno", _in_deno, aliases=("js",), mark=_mark_in_deno)
TYPESCRIPT = Language("typescript", "deno", _in_deno, aliases=("ts",), mark=_mark_in_deno)
BASH = Language("bash", "bash", _in_bash, transport="ipc", aliases=("sh",))
R = Language("r", "ir", _in_r, transport="ipc")
JAVA = Language("java", "java", _in_java)

LANGUAGES = (PYTHON, JAVASCRIPT, TYPESCRIPT, BASH, R, JAVA)


def find_language(name: str) -> Language | None:
    """The language of this name or alias, in whatever case."""
    wanted = name.strip().lower()
    for language in LANGUAGES:
        if wanted == language.name or wanted in language.aliases:
            return language
    return None
