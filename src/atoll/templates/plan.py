"""From a recipe to layers: what has to be run or copied, in which surroundings, under which key.

Nothing is done here, so a build that finds all its keys in the store costs no more than this.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from e2b_dockerfile_utils import ShellLex

from atoll.errors import InvalidInput
from atoll.templates.layers import Ground, derive_key
from atoll.templates.recipe import (
    Arg,
    Copy,
    Env,
    Files,
    Run,
    Stage,
    StageFiles,
    Step,
    UploadedFiles,
    User,
    Workdir,
)

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOMES = {"root": "/root", "user": "/home/user"}
"""Of those who are the same in every image; whoever writes `$HOME` means it."""
_TITLE_LENGTH = 200
_MOST_SUBSTITUTED = 2 << 20
"""Characters that the variables of a build may come to, wherever they are named. Without a bound
thirty lines that each double a variable fill the server's memory."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something to run."""

    command: str | tuple[str, ...]
    user: str
    workdir: str | None
    envs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Placement:
    """Something to copy."""

    files: Files
    sources: tuple[str, ...]
    destination: str
    """Absolute, or relative to the user's home."""
    user: str
    owner: str | None
    mode: int | None
    unpack: bool


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that has to be there."""

    path: str
    owner: str


@dataclass(frozen=True, slots=True)
class Task:
    """What one layer is made by."""

    key: str
    label: str
    """Which step it is, for logs and errors."""
    title: str
    """What it does, for people."""
    work: Command | Placement | None
    directories: tuple[Directory, ...]
    """Made first."""
    replaces: str | None = None
    """The key that this one is found under from now on, when it was not to be found but made."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage, thought through."""

    ground: Ground
    tasks: tuple[Task, ...]
    result: Ground
    """What it leaves, but for the layers of its tasks."""


class _Budget:
    """What may still be substituted, in all stages together."""

    def __init__(self) -> None:
        self._left = _MOST_SUBSTITUTED

    def take(self, words: Sequence[str], values: Collection[str]) -> None:
        """Count what these words may become at most. Raises `InvalidInput`."""
        names = sum(word.count("$") for word in words)
        self._left -= names * max(map(len, values), default=0)
        if self._left < 0:
            raise InvalidInput(
                f"the variables of the build come to more than {_MOST_SUBSTITUTED >> 20} MiB"
            )


@dataclass(frozen=True, slots=True)
class _State:
    ground: Ground
    args: Mapping[str, str]
    directories: tuple[Directory, ...]
    budget: _Budget
    fresh: bool
    """Whether what comes must not be taken from the store."""

    def expand(self, word: str) -> str:
        """Substitute what is in force. Quotes are no signs here: the word is taken as if it stood
        in double ones."""
        return self.expand_all((word,))[0]

    def expand_all(self, words: Sequence[str]) -> list[str]:
        """Substitute the same in several words."""
        known = {"PATH": DEFAULT_PATH, **self.args, **self.ground.envs}
        if (home := _HOMES.get(self.ground.user)) is not None:
            known.setdefault("HOME", home)
        self.budget.take(words, known.values())
        return [_expand(word, known) for word in words]

    def locate(self, path: str) -> str:
        """An absolute path; relative to the home where the user is there."""
        return posixpath.join(self.ground.workdir or "", path)


class Planner:
    """Plans the stages of one recipe, one after the other."""

    def __init__(
        self, digests: Mapping[str, str], *, latest: Callable[[str], str], force: bool
    ) -> None:
        """`digests` are those of the archives that the client has sent, by what it calls them;
        `latest` tells which key took the place of one, when it was made anew."""
        self._digests = digests
        self._latest = latest
        self._force = force
        self._budget = _Budget()

    def plan(self, stage: Stage, ground: Ground, earlier: Sequence[PlannedStage]) -> PlannedStage:
        """Plan one stage upon its ground. Raises `StepInvalid`."""
        state = _State(ground, {}, (), self._budget, fresh=False)
        tasks: list[Task] = []
        for number, step in enumerate(stage.steps):
            label = stage.labels[number] if stage.labels else str(number + 1)
            try:
                state, task = self._take(state, step, label, earlier)
            except InvalidInput as error:
                raise StepInvalid(str(error), label) from None
            if task is not None:
                tasks.append(task)
        if state.directories:
            key = derive_key(state.ground.key, _describe(state.directories))
            tasks.append(Task(key, label, "WORKDIR", None, state.directories))
            state = replace(state, ground=replace(state.ground, key=key))
        return PlannedStage(ground, tuple(tasks), state.ground)

    def _take(
        self, state: _State, step: Step, label: str, earlier: Sequence[PlannedStage]
    ) -> tuple[_State, Task | None]:
        if step.force or (self._force and isinstance(step, Run | Copy)):
            state = replace(state, fresh=True)
        ground = state.ground
        if isinstance(step, Env):
            # All values see what was in force before the line.
            values = state.expand_all([value for _, value in step.variables])
            names = [name for name, _ in step.variables]
            envs = {**ground.envs, **dict(zip(names, values, strict=True))}
            ground = replace(ground, envs=envs)
            return replace(state, ground=ground), None
        if isinstance(step, Arg):
            args = {**state.args, step.name: state.expand(step.value)}
            return replace(state, args=args), None
        if isinstance(step, User):
            name = state.expand(step.name).partition(":")[0]
            if not name:
                raise InvalidInput("a user needs a name")
            return replace(state, ground=replace(ground, user=name)), None
        if isinstance(step, Workdir):
            path = posixpath.normpath(state.locate(state.expand(step.path)))
            if not path.startswith("/"):
                raise InvalidInput(f"{step.path!r} is relative, and there is nothing to go from")
            directory = Directory(path, ground.user)
            directories = state.directories
            if path not in ("/", *_HOMES.values()) and directory not in directories:
                directories = (*directories, directory)
            ground = replace(ground, workdir=path)
            return replace(state, ground=ground, directories=directories), None
        work = self._resolve(state, step)
        content = derive_key(self._content(work, earlier))
        plain = derive_key(ground.key, _describe(state.directories), content)
        if state.fresh:
            key = derive_key(plain, secrets.token_hex(8))
            task = Task(key, label, _entitle(step), work, state.directories, replaces=plain)
        else:
            key = self._latest(plain)
            task = Task(key, label, _entitle(step), work, state.directories)
        return replace(state, ground=replace(ground, key=key), directories=()), task

    def _resolve(self, state: _State, step: Run | Copy) -> Command | Placement:
        ground = state.ground
        if isinstance(step, Run):
            return Command(
                step.command,
                step.user or ground.user,
                ground.workdir,
                {**state.args, **ground.envs},
            )
        owner = state.expand(step.owner) if step.owner else None
        if owner is None and step.as_user:
            owner = ground.user
        elif owner is None and isinstance(step.files, UploadedFiles):
            owner = "0:0"
        return Placement(
            step.files,
            tuple(state.expand_all(step.sources)),
            state.locate(state.expand(step.destination)),
            ground.user,
            owner,
            step.mode,
            step.unpack,
        )

    def _content(self, work: Command | Placement, earlier: Sequence[PlannedStage]) -> object:
        if isinstance(work, Command):
            return ["run", work.command, work.user, work.workdir, dict(work.envs)]
        if isinstance(work.files, StageFiles):
            files = earlier[work.files.index].result.key
        elif work.files.hash in self._digests:
            files = self._digests[work.files.hash]
        else:
            raise InvalidInput("the files that this step copies were not uploaded")
        rest = [work.sources, work.destination, work.user, work.owner, work.mode, work.unpack]
        return ["copy", files, *rest]


class StepInvalid(Exception):
    """A step asks for something impossible."""

    def __init__(self, message: str, label: str) -> None:
        super().__init__(message)
        self.label = label


def _expand(word: str, known: Mapping[str, str]) -> str:
    if "\0" in word:
        raise InvalidInput("a value holds a null character")
    try:
        lex = ShellLex("\\", env=known, skip_unset_env=False)
        return lex.process_word('"' + word.replace('"', "\0") + '"').replace("\0", '"')
    except ValueError as error:
        raise InvalidInput(f"{word!r} can't be substituted: {error}") from None


def _describe(directories: Sequence[Directory]) -> list[list[str]]:
    return [[each.path, each.owner] for each in directories]


def _entitle(step: Run | Copy) -> str:
    if isinstance(step, Run):
        command = step.command if isinstance(step.command, str) else " ".join(step.command)
        text = f"RUN {command}"
    else:
        text = f"COPY {' '.join(step.sources)} {step.destination}"
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1] + "…"
