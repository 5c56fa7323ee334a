"""A whole Dockerfile as a recipe, with what has to be sent for it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from atoll.templates.dockerfile.context import Archive, Context
from atoll.templates.dockerfile.stages import Draft, StageWriter, Surroundings
from atoll.templates.dockerfile.syntax import Dockerfile, DockerfileError, Line, StageText
from atoll.templates.dockerfile.words import Variables, Words
from atoll.templates.recipe import (
    Credentials,
    FromImage,
    FromScratch,
    FromStage,
    FromTemplate,
    Recipe,
    Stage,
    User,
    Workdir,
)

FindAccount = Callable[[str], Credentials | None]

_SCRATCH = "scratch"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Where E2B's SDKs leave a Dockerfile that says nothing of it.
_USER = "user"
_WORKDIR = "/home/user"


@dataclass(frozen=True, slots=True)
class Translation:
    """What a Dockerfile comes to."""

    recipe: Recipe
    archives: Mapping[str, Archive]
    """By their hashes, which the recipe's steps name."""
    unused_args: frozenset[str]
    """Build arguments that no ARG has taken."""


def translate(
    dockerfile: Dockerfile,
    context: Context,
    *,
    build_args: Mapping[str, str],
    is_template: Callable[[str], bool],
    find_account: FindAccount,
    target: str | None = None,
) -> Translation:
    """Turn a file into a recipe. Raises `DockerfileError`.

    `is_template` says whether a name after FROM is that of a template; other names are images, for
    which `find_account` gives the account at their registry.
    `target` is the stage to stop at, the last one by default.
    """
    translator = _Translator(dockerfile, context, build_args, is_template, find_account)
    return translator.translate(target)


class _Translator:
    def __init__(
        self,
        dockerfile: Dockerfile,
        context: Context,
        build_args: Mapping[str, str],
        is_template: Callable[[str], bool],
        find_account: FindAccount,
    ) -> None:
        self._file = dockerfile
        self._is_template = is_template
        self._find_account = find_account
        self._words = Words(dockerfile.escape)
        self._used: set[str] = set()
        self._globals = self._read_globals(build_args)
        self._surroundings = Surroundings(
            self._words,
            context,
            build_args,
            {**_describe_platform(), **self._globals.values},
            self._find_stage,
            used=self._used,
        )
        self._drafts: list[Draft] = []
        """Those of the recipe, in its order."""
        self._places: dict[int, int] = {}
        """Where in the recipe a stage of the file is."""
        self._images: dict[str, int] = {}
        """Where in the recipe the images are that only files are taken from."""
        self._current = 0

    def translate(self, target: str | None) -> Translation:
        last = self._find_target(target)
        for number in sorted(self._collect(last)):
            self._current = number
            draft = self._write_stage(self._file.stages[number])
            if number == last:
                self._settle(draft, self._file.stages[number])
            self._places[number] = len(self._drafts)
            self._drafts.append(draft)
        start = self._drafts[-1].start
        recipe = Recipe(
            tuple(
                Stage(draft.source, tuple(draft.steps), tuple(draft.labels))
                for draft in self._drafts
            ),
            start_command=start.command,
            ready_command=start.ready_command if start.command else None,
        )
        unused = frozenset(self._surroundings.build_args) - self._used
        return Translation(recipe, self._surroundings.archives, unused)

    def _read_globals(self, build_args: Mapping[str, str]) -> Variables:
        variables = Variables(complete=True)
        for name, value in _describe_platform().items():
            variables.put(name, value)
        for line in self._file.arguments:
            line.no_flags()
            for word in line.args:
                name, equals, default = word.partition("=")
                if name in build_args:
                    self._used.add(name)
                    variables.put(name, build_args[name])
                elif equals:
                    variables.put(name, self._words.expand(line, default, variables))
        return variables

    def _find_target(self, target: str | None) -> int:
        if target is None:
            return len(self._file.stages) - 1
        for number, stage in enumerate(self._file.stages):
            if target.lower() == stage.name or target == str(number):
                return number
        raise DockerfileError(self._file.name, None, f"there is no stage {target!r} in it")

    def _collect(self, last: int) -> set[int]:
        """The stages that one needs, itself included."""
        found = {last}
        for number in range(last, -1, -1):
            if number in found:
                found |= set(self._list_needed(number))
        return found

    def _list_needed(self, number: int) -> Iterator[int]:
        stage = self._file.stages[number]
        names = [self._expand_source(stage)]
        for line in stage.lines:
            names += [each[7:] for each in line.instruction.flags if each.startswith("--from=")]
        for at, name in enumerate(names):
            place = self._locate(name, number, by_number=at > 0)
            if place is not None:
                yield place

    def _locate(self, name: str, before: int, *, by_number: bool) -> int | None:
        """The stage of the file that goes by this name, among those before another."""
        if by_number and name.isdecimal() and int(name) < before:
            return int(name)
        for number, stage in enumerate(self._file.stages[:before]):
            if stage.name is not None and name.lower() == stage.name:
                return number
        return None

    def _expand_source(self, stage: StageText) -> str:
        name = self._words.expand(stage.source, stage.source.args[0], self._globals)
        if not name:
            raise stage.source.error(
                f"{stage.source.args[0]} is empty",
                remedy="give it with --build-arg, or a default with ARG before the first FROM",
            )
        return name

    def _write_stage(self, stage: StageText) -> Draft:
        draft = self._begin(stage)
        writer = StageWriter(draft, self._surroundings)
        for line in stage.lines:
            writer.write(line)
        return draft

    def _begin(self, stage: StageText) -> Draft:
        line = stage.source
        self._check_platform(line)
        name = self._expand_source(stage)
        place = self._locate(name, self._current, by_number=False)
        if place is not None:
            index = self._places[place]
            return self._drafts[index].above(FromStage(index), line)
        if name == _SCRATCH:
            return Draft(FromScratch())
        source = self._find_source(name)
        draft = Draft(source)
        # As with E2B: whoever the image runs as, a Dockerfile's commands begin as root.
        draft.add(line, User("root"))
        if isinstance(source, FromTemplate):
            draft.add(line, Workdir("/"))
        return draft

    def _find_source(self, name: str) -> FromTemplate | FromImage:
        if self._is_template(name):
            return FromTemplate(name)
        return FromImage(name, self._find_account(name))

    def _check_platform(self, line: Line) -> None:
        wanted = line.flags(values=("platform",)).one("platform")
        if wanted is None:
            return
        text = self._words.expand(line, wanted, self._globals)
        own = _describe_platform()["TARGETPLATFORM"]
        if text not in (own, own.partition("/")[2], f"{own}/v8"):
            raise line.error(f"the platform {text!r} is not this machine's, which is {own}")

    def _find_stage(self, line: Line, name: str) -> int:
        place = self._locate(name, self._current, by_number=True)
        if place is not None:
            return self._places[place]
        if name.isdecimal() or name.lower() == self._file.stages[self._current].name:
            raise line.error(f"there is no stage {name!r} before this one")
        if "$" in name:
            raise line.error("--from takes no variables", remedy="name a stage: FROM $… AS name")
        if name not in self._images:
            source = self._find_source(name)
            self._images[name] = len(self._drafts)
            self._drafts.append(Draft(source))
        return self._images[name]

    def _settle(self, draft: Draft, stage: StageText) -> None:
        line = stage.lines[-1] if stage.lines else stage.source
        if not draft.has_user:
            draft.add(line, User(_USER))
        if not draft.has_workdir:
            draft.add(line, Workdir(_WORKDIR))


def _describe_platform() -> dict[str, str]:
    """What the ARGs hold that BuildKit sets by itself; we build for the machine we are on."""
    machine = platform.machine()
    architecture = _ARCHITECTURES.get(machine, machine)
    values = {"PLATFORM": f"linux/{architecture}", "OS": "linux", "ARCH": architecture}
    return {
        f"{side}{name}": value
        for side in ("TARGET", "BUILD")
        for name, value in {**values, "VARIANT": ""}.items()
    }
