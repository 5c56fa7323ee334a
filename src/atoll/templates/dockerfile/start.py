"""What a Dockerfile says of the program that runs: CMD, ENTRYPOINT, SHELL and HEALTHCHECK."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from atoll.templates.dockerfile.syntax import Line

_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class Program:
    """A program as a line gives it: its words, or a text for the shell."""

    words: tuple[str, ...]
    text: str | None = None

    def argv(self, shell: tuple[str, ...]) -> tuple[str, ...]:
        """How it is started without a shell around it."""
        return self.words if self.text is None else (*shell, self.text)

    def command(self, shell: tuple[str, ...]) -> str:
        """The same as a line for a login shell."""
        if self.text is not None and shell == _SHELL:
            return self.text  # a shell is what it goes to
        return shlex.join(self.argv(shell))


def read_program(line: Line, words: list[str]) -> Program | None:
    """The program of a RUN, CMD or ENTRYPOINT; None when it is empty."""
    if line.instruction.json:
        return Program(tuple(words)) if words else None
    text = words[0] if words else ""
    return Program((), text) if text.strip() else None


@dataclass(frozen=True, slots=True)
class Start:
    """What is known of it so far, from this stage and those below."""

    shell: tuple[str, ...] = _SHELL
    entrypoint: Program | None = None
    arguments: Program | None = None
    """CMD."""
    arguments_are_own: bool = False
    """CMD is of this stage: the one of a stage below does not outlive an ENTRYPOINT."""
    check: Program | None = None

    def inherited(self) -> Start:
        """The same, as a stage above sees it."""
        return replace(self, arguments_are_own=False)

    def with_shell(self, line: Line) -> Start:
        """After SHELL."""
        line.no_flags()
        if not line.instruction.json or not line.args:
            raise line.error('SHELL takes a list: SHELL ["/bin/bash", "-c"]')
        return replace(self, shell=tuple(line.args))

    def with_arguments(self, line: Line) -> Start:
        """After CMD."""
        line.no_flags()
        program = read_program(line, line.args)
        return replace(self, arguments=program, arguments_are_own=True)

    def with_entrypoint(self, line: Line) -> Start:
        """After ENTRYPOINT."""
        line.no_flags()
        arguments = self.arguments if self.arguments_are_own else None
        return replace(self, entrypoint=read_program(line, line.args), arguments=arguments)

    def with_check(self, line: Line) -> Start:
        """After HEALTHCHECK; how often it is asked is the server's affair."""
        line.flags(values=("interval", "timeout", "start-period", "start-interval", "retries"))
        match line.args:
            case [word] if word.upper() == "NONE":
                return replace(self, check=None)
            case [word, *words] if word.upper() == "CMD" and words:
                return replace(self, check=read_program(line, words))
        raise line.error("it should read: HEALTHCHECK CMD command, or HEALTHCHECK NONE")

    @property
    def command(self) -> str | None:
        """What is started, for a login shell."""
        if self.entrypoint is None:
            return None if self.arguments is None else self.arguments.command(self.shell)
        if self.entrypoint.text is not None or self.arguments is None:
            return self.entrypoint.command(self.shell)  # a text takes no arguments
        return shlex.join((*self.entrypoint.words, *self.arguments.argv(self.shell)))

    @property
    def ready_command(self) -> str | None:
        """What succeeds once it is ready, for a login shell."""
        return None if self.check is None else self.check.command(self.shell)
