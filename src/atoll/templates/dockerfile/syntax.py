"""The text of a Dockerfile: its stages, its lines, and the flags of its instructions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from e2b_dockerfile_utils import (
    DockerfileInstruction,
    DockerfileSyntaxError,
    parse_dockerfile_ast,
)

from atoll.errors import InvalidInput

MAX_BYTES = 1 << 20

_BEFORE_STAGES = "ARG"


class DockerfileError(InvalidInput):
    """A line that is wrong or not supported; the message begins with the file and the line."""

    def __init__(self, name: str, line: int | None, reason: str, *, remedy: str | None = None):
        place = name if line is None else f"{name}:{line}"
        super().__init__(f"{place}: {reason}", remedy=remedy)
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction, and where it stands."""

    file: str
    instruction: DockerfileInstruction

    @property
    def name(self) -> str:
        """Which instruction, in capital letters."""
        return self.instruction.name

    @property
    def args(self) -> list[str]:
        """Its words as they are written, quotes and variables included."""
        return self.instruction.args

    @property
    def label(self) -> str:
        """What a build's log calls it."""
        return f"{self.file}:{self.instruction.start_line}"

    def error(self, reason: str, *, remedy: str | None = None) -> DockerfileError:
        """An error about this line, to raise."""
        return DockerfileError(self.file, self.instruction.start_line, reason, remedy=remedy)

    def flags(self, *, values: Collection[str] = (), switches: Collection[str] = ()) -> Flags:
        """The flags. Raises `DockerfileError` for one that is none of `values` and `switches`."""
        found: list[tuple[str, str]] = []
        for written in self.instruction.flags:
            name, equals, value = written.removeprefix("--").partition("=")
            if name in switches:
                if equals and value not in ("true", "false"):
                    raise self.error(f"--{name} is true or false, not {value!r}")
                value = value or "true"
            elif name not in values:
                raise self.error(f"{self.name} --{name} is not supported")
            elif not equals:
                raise self.error(f"--{name} needs a value: --{name}=…")
            found.append((name, value))
        return Flags(self, tuple(found))

    def no_flags(self) -> None:
        """Raises `DockerfileError` when there is one."""
        self.flags()


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of a line that are allowed, as they are written."""

    line: Line
    pairs: tuple[tuple[str, str], ...]

    def all(self, name: str) -> tuple[str, ...]:
        """The values of one that may be repeated."""
        return tuple(value for each, value in self.pairs if each == name)

    def one(self, name: str) -> str | None:
        """The value of one that may not."""
        found = self.all(name)
        if len(found) > 1:
            raise self.line.error(f"--{name} is given twice")
        return found[0] if found else None

    def has(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.one(name) == "true"


@dataclass(frozen=True, slots=True)
class StageText:
    """A stage: its FROM, and what follows it."""

    name: str | None
    """As `AS` says, in lower-case letters."""
    source: Line
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file."""

    name: str
    escape: str
    """The escape character: a backslash, unless the file's first line says otherwise."""
    arguments: tuple[Line, ...]
    """The ARGs before the first stage."""
    stages: tuple[StageText, ...]


def parse_dockerfile(text: str, name: str) -> Dockerfile:
    """Take a file's text apart; errors call it `name`. Raises `DockerfileError`."""
    if len(text) > MAX_BYTES:
        raise DockerfileError(name, None, f"it is bigger than {MAX_BYTES >> 10} KiB")
    try:
        parsed = parse_dockerfile_ast(text)
    except DockerfileSyntaxError as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise DockerfileError(name, error.line, reason) from None
    lines = [Line(name, each) for each in parsed.instructions]
    first = next((at for at, line in enumerate(lines) if line.name == "FROM"), None)
    for line in lines[:first]:
        if line.name != _BEFORE_STAGES:
            raise line.error(f"{line.name} comes before the first FROM")
    if first is None:
        raise DockerfileError(name, None, "there is no FROM in it")
    starts = [at for at, line in enumerate(lines) if line.name == "FROM"]
    ends = [*starts[1:], len(lines)]
    stages: list[StageText] = []
    for start, end in zip(starts, ends, strict=True):
        stage = _read_stage(lines[start], lines[start + 1 : end])
        if stage.name is not None and stage.name in {each.name for each in stages}:
            raise stage.source.error(f"there are two stages of the name {stage.name!r}")
        stages.append(stage)
    return Dockerfile(name, parsed.escape_token, tuple(lines[:first]), tuple(stages))


def _read_stage(source: Line, lines: list[Line]) -> StageText:
    match source.args:
        case [_]:
            name = None
        case [_, word, name] if word.lower() == "as":
            name = name.lower()
        case _:
            raise source.error("it should read: FROM image, or FROM image AS name")
    return StageText(name, source, tuple(lines))
