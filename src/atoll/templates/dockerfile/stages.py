"""One stage of a Dockerfile as the steps of a recipe."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from e2b_dockerfile_utils import DockerfileHeredoc, chomp_heredoc_content, parse_heredoc

from atoll.errors import AtollError
from atoll.templates.dockerfile.context import Archive, Context, Member
from atoll.templates.dockerfile.remote import fetch, is_remote
from atoll.templates.dockerfile.start import Program, Start, read_program
from atoll.templates.dockerfile.syntax import Flags, Line
from atoll.templates.dockerfile.words import Variables, Words, write_literal
from atoll.templates.recipe import (
    Arg,
    Copy,
    Env,
    Run,
    Source,
    StageFiles,
    Step,
    UploadedFiles,
    User,
    Workdir,
)

_NO_EFFECT = frozenset(("EXPOSE", "LABEL", "MAINTAINER", "STOPSIGNAL", "VOLUME"))
_OCTAL = re.compile(r"[0-7]{3,4}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WRITTEN = ".dockerfile"
"""Where in an archive the files are that the Dockerfile itself holds or names by address."""

# The text is the second word of a shell that knows nothing of it: no mark of an end can be in it.
_RUN_SCRIPT = (
    'script=$(mktemp) && printf %s "$1" >"$script" && chmod 700 "$script" && "$script"; '
    'status=$?; rm -f "$script"; exit $status'
)


@dataclass(slots=True)
class Draft:
    """What a stage has come to so far."""

    source: Source
    steps: list[Step] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    variables: Variables = field(default_factory=Variables)
    envs: set[str] = field(default_factory=set)
    """Names that ENV has set: ARG doesn't change them any more."""
    arguments: dict[str, str] = field(default_factory=dict)
    """What ARG has set, as the builder takes it; stages above have it as well."""
    start: Start = field(default_factory=Start)
    has_user: bool = False
    has_workdir: bool = False

    def add(self, line: Line, step: Step) -> None:
        """One step more."""
        self.steps.append(step)
        self.labels.append(line.label)

    def above(self, source: Source, line: Line) -> Draft:
        """A stage that begins where this one ends."""
        made = Draft(
            source,
            variables=self.variables.copy(),
            envs=set(self.envs),
            arguments=dict(self.arguments),
            start=self.start.inherited(),
            has_user=self.has_user,
            has_workdir=self.has_workdir,
        )
        for name, value in self.arguments.items():
            made.add(line, Arg(name, value))
        return made


@dataclass(slots=True)
class Surroundings:
    """What the lines of all stages share."""

    words: Words
    context: Context
    build_args: Mapping[str, str]
    """What the user gives to ARGs."""
    defaults: Mapping[str, str]
    """Values of ARGs that have none of their own: those before the first FROM, the platform's."""
    find_stage: Callable[[Line, str], int]
    """The number in the recipe of what `--from` names. Raises `DockerfileError`."""
    archives: dict[str, Archive] = field(default_factory=dict)
    """What has to be sent, by its hash."""
    used: set[str] = field(default_factory=set)
    """Names of build arguments that some ARG has taken."""


class StageWriter:
    """Goes through the lines of a stage."""

    def __init__(self, draft: Draft, surroundings: Surroundings) -> None:
        self._draft = draft
        self._around = surroundings
        self._words = surroundings.words
        self._handlers: dict[str, Callable[[Line], None]] = {
            "RUN": self._run,
            "COPY": self._copy,
            "ADD": self._add,
            "ENV": self._env,
            "ARG": self._arg,
            "WORKDIR": self._workdir,
            "USER": self._user,
        }
        self._starters: dict[str, Callable[[Start, Line], Start]] = {
            "CMD": Start.with_arguments,
            "ENTRYPOINT": Start.with_entrypoint,
            "SHELL": Start.with_shell,
            "HEALTHCHECK": Start.with_check,
        }

    def write(self, line: Line) -> None:
        """Take one line into account. Raises `DockerfileError`."""
        if line.name in self._handlers:
            self._handlers[line.name](line)
        elif line.name in self._starters:
            self._draft.start = self._starters[line.name](self._draft.start, line)
        elif line.name == "ONBUILD":
            raise line.error(
                "ONBUILD is not supported: a template keeps nothing to run in other builds",
                remedy="write the instruction into the Dockerfiles that need it",
            )
        elif line.name not in _NO_EFFECT:
            raise line.error(f"{line.name} is not supported")

    def _run(self, line: Line) -> None:
        flags = line.flags(values=("mount", "network", "security"))
        for mount in flags.all("mount"):
            _check_mount(line, mount)
        for name, usual in (("network", "default"), ("security", "sandbox")):
            if flags.one(name) not in (None, usual):
                raise line.error(f"RUN --{name}={flags.one(name)} is not supported")
        program = read_program(line, line.args)
        if program is None:
            raise line.error("RUN needs a command")
        argv = _add_heredocs(line, program, self._draft.start.shell)
        self._draft.add(line, Run(argv))

    def _copy(self, line: Line) -> None:
        flags = line.flags(values=("chown", "chmod", "from", "exclude"), switches=("link",))
        origin = flags.one("from")
        if origin is None:
            self._copy_from_context(line, flags, unpack=False)
            return
        if flags.all("exclude"):
            raise line.error("COPY --exclude together with --from is not supported")
        sources, destination = self._split(line)
        files = StageFiles(self._around.find_stage(line, origin))
        kept = tuple(self._words.keep(line, each) for each in sources)
        self._add_copy(line, flags, Copy(files, kept, destination))

    def _add(self, line: Line) -> None:
        flags = line.flags(values=("chown", "chmod", "exclude", "checksum"), switches=("link",))
        self._copy_from_context(line, flags, unpack=True)

    def _copy_from_context(self, line: Line, flags: Flags, *, unpack: bool) -> None:
        sources, destination = self._split(line)
        variables, context = self._draft.variables, self._around.context
        excluded = [self._words.expand(line, each, variables) for each in flags.all("exclude")]
        checksum = flags.one("checksum") if unpack else None
        plain: list[str] = []
        members: dict[str, Member] = {}
        for number, written in enumerate(sources):
            member = self._find_written(line, number, written, checksum if unpack else None)
            if member is not None:
                step = Copy(UploadedFiles(""), (member.path,), destination)
                self._send(line, flags, step, [member])
                continue
            source = self._words.expand(line, written, variables)
            try:
                found = context.select(source, excluded=excluded)
                plain += context.name_sources(source, found)
            except AtollError as error:
                raise line.error(error.message) from None
            except OSError as error:
                raise line.error(f"{error.filename} can't be read: {error.strerror}") from None
            members |= {each.path: each for each in found}
        if checksum is not None and plain:
            raise line.error("ADD --checksum is for addresses: files of the context have no need")
        if plain:
            step = Copy(UploadedFiles(""), tuple(plain), destination, unpack=unpack)
            self._send(line, flags, step, list(members.values()))

    def _split(self, line: Line) -> tuple[list[str], str]:
        """The sources as they are written, and the destination for the builder."""
        if len(line.args) < 2:
            raise line.error(f"{line.name} needs a source and a destination")
        *sources, last = line.args
        if parse_heredoc(last) is not None:
            raise line.error("the destination can't be a heredoc")
        destination = self._words.keep(line, last)
        if len(sources) > 1 and not destination.endswith("/") and destination != ".":
            raise line.error(
                f"several sources need a directory as destination, and {last!r} may be a file",
                remedy=f"end it with a slash: {last}/",
            )
        return sources, destination

    def _find_written(
        self, line: Line, number: int, written: str, checksum: str | None
    ) -> Member | None:
        """A source that is a heredoc, or with ADD an address; None when it is of the context."""
        marker = parse_heredoc(written)
        directory = f"{_WRITTEN}/{number}"
        if marker is not None:
            body = next(each for each in line.instruction.heredocs if each.name == marker.name)
            text = self._expand_heredoc(line, body)
            path = f"{directory}/{marker.name}"
            return Member(path, 0o644, stat.S_IFREG, content=text.encode())
        address = self._words.try_expand(line, written, self._draft.variables)
        if line.name != "ADD" or address is None or not is_remote(address):
            return None
        name, content = fetch(line, address, checksum)
        return Member(f"{directory}/{name}", 0o600, stat.S_IFREG, content=content)

    def _expand_heredoc(self, line: Line, heredoc: DockerfileHeredoc) -> str:
        text = chomp_heredoc_content(heredoc.content) if heredoc.chomp else heredoc.content
        if not heredoc.expand:
            return text
        return self._words.expand_text(line, text, self._draft.variables)

    def _send(self, line: Line, flags: Flags, step: Copy, members: list[Member]) -> None:
        try:
            archive = Archive(members)
        except OSError as error:
            raise line.error(f"{error.filename} can't be read: {error.strerror}") from None
        self._around.archives[archive.hash] = archive
        sources = tuple(write_literal(source) for source in step.sources)
        files = UploadedFiles(archive.hash)
        self._add_copy(line, flags, replace(step, files=files, sources=sources))

    def _add_copy(self, line: Line, flags: Flags, step: Copy) -> None:
        owner = flags.one("chown")
        self._draft.add(
            line,
            replace(
                step,
                owner=None if owner is None else self._words.keep(line, owner),
                mode=self._read_mode(line, flags.one("chmod")),
            ),
        )

    def _read_mode(self, line: Line, written: str | None) -> int | None:
        if written is None:
            return None
        text = self._words.expand(line, written, self._draft.variables)
        if not _OCTAL.fullmatch(text):
            raise line.error(
                f"--chmod={text} is not supported", remedy="write an octal number, such as 0755"
            )
        return int(text, 8)

    def _env(self, line: Line) -> None:
        line.no_flags()
        if not line.args:
            raise line.error("ENV needs NAME=value")
        variables = self._draft.variables
        before = variables.copy()  # a line does not see what it sets itself
        pairs = []
        for at in range(0, len(line.args), 3):
            name = self._words.expand(line, line.args[at], before)
            _check_name(line, name)
            value = line.args[at + 1]
            pairs.append((name, self._words.keep(line, value)))
            known = self._words.try_expand(line, value, before)
            if known is None:
                variables.forget(name)
            else:
                variables.put(name, known)
            self._draft.envs.add(name)
        self._draft.add(line, Env(tuple(pairs)))

    def _arg(self, line: Line) -> None:
        line.no_flags()
        if not line.args:
            raise line.error("ARG needs a name")
        for word in line.args:
            written, equals, default = word.partition("=")
            name = self._words.expand(line, written, self._draft.variables)
            _check_name(line, name)
            given = self._around.build_args.get(name)
            if given is not None:
                self._around.used.add(name)
            elif not equals:
                given = self._around.defaults.get(name)
            self._set_argument(line, name, given, default if equals else None)

    def _set_argument(self, line: Line, name: str, given: str | None, default: str | None) -> None:
        known: str | None
        if given is not None:
            kept, known = write_literal(given), given
        elif default is not None:
            kept = self._words.keep(line, default)
            known = self._words.try_expand(line, default, self._draft.variables)
        else:
            if name not in self._draft.envs:
                self._draft.variables.put(name, None)
            return
        self._draft.arguments[name] = kept
        self._draft.add(line, Arg(name, kept))
        if name in self._draft.envs:
            return
        if known is None:
            self._draft.variables.forget(name)
        else:
            self._draft.variables.put(name, known)

    def _workdir(self, line: Line) -> None:
        self._draft.add(line, Workdir(self._keep_one(line)))
        self._draft.has_workdir = True

    def _user(self, line: Line) -> None:
        self._draft.add(line, User(self._keep_one(line)))
        self._draft.has_user = True

    def _keep_one(self, line: Line) -> str:
        line.no_flags()
        kept = self._words.keep(line, line.args[0]) if line.args else ""
        if not kept:
            raise line.error(f"{line.name} needs a value")
        return kept


def _check_mount(line: Line, mount: str) -> None:
    """A cache begins empty here, which is what a build must be able to bear anyway."""
    options = dict(option.partition("=")[::2] for option in mount.split(","))
    kind = options.get("type", "bind")
    if kind != "cache":
        raise line.error(
            f"RUN --mount=type={kind} is not supported",
            remedy="COPY what the command needs"
            if kind == "bind"
            else "of mounts, only type=cache is",
        )


def _check_name(line: Line, name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise line.error(f"{name!r} is no name of a variable")


def _add_heredocs(line: Line, program: Program, shell: tuple[str, ...]) -> tuple[str, ...]:
    """How a RUN is started, with the texts that follow it."""
    heredocs = line.instruction.heredocs
    if program.text is None or not heredocs:
        return program.argv(shell)
    if len(heredocs) == 1 and parse_heredoc(program.text.strip()) is not None:
        (only,) = heredocs
        script = chomp_heredoc_content(only.content) if only.chomp else only.content
        if script.startswith("#!"):
            return ("/bin/sh", "-c", _RUN_SCRIPT, "sh", script)
        return (*shell, script)
    # As a part of a command they are the shell's affair.
    texts = "".join(f"\n{each.content}{each.name}" for each in heredocs)
    return (*shell, program.text + texts)
