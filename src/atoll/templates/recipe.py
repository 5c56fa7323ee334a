"""What a build is made of, wherever it was written: an SDK's chain of calls, or a Dockerfile.

Values of `Env` and `Arg`, paths of `Workdir` and `Copy` and the names in `User` and `Copy.owner`
may hold `$NAME`, `${NAME}`, `${NAME:-word}` and the like: the builder substitutes what is in force
at that step, as within double quotes of a Dockerfile. `\\$` stands for a `$` and `\\\\` for a
backslash; other backslashes, and quotes, stand for themselves. Commands of `Run` are left to the
shell.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from atoll.errors import InvalidInput

MAX_STAGES = 50
MAX_STEPS = 500
"""Of all stages together."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks a registry. They live as long as the build and are written down nowhere."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FromTemplate:
    """A template of this server."""

    ref: str
    """Its id, a name, `name:tag` or `team/name:tag`."""
    kind: Literal["template"] = "template"


@dataclass(frozen=True, slots=True)
class FromImage:
    """A container image, with the user, directory and variables of its configuration."""

    reference: str
    """As `docker pull` takes it."""
    credentials: Credentials | None = field(default=None, repr=False)
    kind: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class FromStage:
    """What an earlier stage of the same recipe has become."""

    index: int
    kind: Literal["stage"] = "stage"


@dataclass(frozen=True, slots=True)
class FromScratch:
    """Nothing at all."""

    kind: Literal["scratch"] = "scratch"


Source = Annotated[FromTemplate | FromImage | FromStage | FromScratch, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command to its end; it has to succeed."""

    command: str | tuple[str, ...]
    """A line for the login shell of the user, or a program and its arguments."""
    user: str | None = None
    """Who runs it; None is who the last `User` said."""
    force: bool = False
    """Do it again even if it was done before; so is all that stands on it."""
    kind: Literal["run"] = "run"


@dataclass(frozen=True, slots=True)
class UploadedFiles:
    """Files that the client has sent, as an archive of paths relative to its directory."""

    hash: str
    """What the client calls the archive; unique in its team."""
    kind: Literal["uploaded"] = "uploaded"


@dataclass(frozen=True, slots=True)
class StageFiles:
    """Files of an earlier stage."""

    index: int
    kind: Literal["stage"] = "stage"


Files = Annotated[UploadedFiles | StageFiles, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy files, as Dockerfiles do: of a directory, what is in it."""

    files: Files
    sources: tuple[str, ...]
    """Paths, with `*`, `?` and `[…]`; each has to match something."""
    destination: str
    """A directory when it ends with `/`, is one, or there are several sources."""
    owner: str | None = None
    """`user`, `user:group` or numbers; None is root, or with `as_user` the user of the step."""
    as_user: bool = False
    """Give the files to the user of the step when no owner is named."""
    mode: int | None = None
    """Permissions of all that is copied; None leaves them as they are."""
    unpack: bool = False
    """Unpack sources that are archives (tar, plain or compressed), as ADD does."""
    force: bool = False
    kind: Literal["copy"] = "copy"


@dataclass(frozen=True, slots=True)
class Workdir:
    """Go to a directory, from the present one when relative; it is made where it is missing."""

    path: str
    force: bool = False
    kind: Literal["workdir"] = "workdir"


@dataclass(frozen=True, slots=True)
class User:
    """Be this user from now on."""

    name: str
    """A name or a number; a group after a colon is taken and ignored."""
    force: bool = False
    kind: Literal["user"] = "user"


@dataclass(frozen=True, slots=True)
class Env:
    """Set variables, for the following steps and for sandboxes."""

    variables: tuple[tuple[str, str], ...]
    force: bool = False
    kind: Literal["env"] = "env"


@dataclass(frozen=True, slots=True)
class Arg:
    """Set a variable for the following steps of the stage alone; one of `Env` goes before it."""

    name: str
    value: str
    force: bool = False
    kind: Literal["arg"] = "arg"


Step = Annotated[Run | Copy | Workdir | User | Env | Arg, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of steps upon a source."""

    source: Source
    steps: Annotated[tuple[Step, ...], Field(max_length=MAX_STEPS)] = ()
    labels: tuple[str, ...] = ()
    """What logs and errors call the steps (one each), for instance a line of the Dockerfile;
    empty for plain numbers."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a template becomes."""

    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=MAX_STAGES)]
    """The last one becomes the template; stages that it does not need are not built."""
    start_command: str | None = None
    """For the login shell of the user; runs in every sandbox from its first moment on."""
    ready_command: str | None = None
    """Succeeds once a sandbox is ready; without a start command it is only waited for."""
    force: bool = False
    """Use nothing of what was built before."""


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """As JSON, credentials included: for the wire, never for a disk."""
    return asdict(recipe)


def load_recipe(data: object) -> Recipe:
    """The recipe that was dumped, from whoever. Raises `InvalidInput`."""
    try:
        recipe = _adapter().validate_python(data)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            f"the recipe is wrong at {place or 'its root'}: {first['msg']}"
        ) from None
    check_recipe(recipe)
    return recipe


@functools.cache
def _adapter() -> TypeAdapter[Recipe]:
    # Made when it is needed: the command line, which only writes recipes, starts sooner without.
    return TypeAdapter(Recipe)


def check_recipe(recipe: Recipe) -> None:
    """Raises `InvalidInput` when stages refer to what comes later or is not there."""
    if sum(len(stage.steps) for stage in recipe.stages) > MAX_STEPS:
        raise InvalidInput(f"a build has at most {MAX_STEPS} steps")
    for number, stage in enumerate(recipe.stages):
        used = [stage.source.index] if isinstance(stage.source, FromStage) else []
        for step in stage.steps:
            if isinstance(step, Copy) and isinstance(step.files, StageFiles):
                used.append(step.files.index)
        for index in used:
            if not 0 <= index < number:
                raise InvalidInput(f"stage {number} uses stage {index}, which is not before it")
        if stage.labels and len(stage.labels) != len(stage.steps):
            raise InvalidInput(f"stage {number} has {len(stage.labels)} labels for its steps")
