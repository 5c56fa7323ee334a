"""Bodies about templates and their builds, and the recipe that an SDK's steps make up."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from atoll.errors import InvalidInput
from atoll.templates.jobs import Request
from atoll.templates.recipe import (
    MAX_STEPS,
    Copy,
    Credentials,
    Env,
    FromImage,
    FromTemplate,
    Recipe,
    Run,
    Source,
    Stage,
    Step,
    UploadedFiles,
    User,
    Workdir,
    check_recipe,
    load_recipe,
)

_IMAGE_USER = "user"
_IMAGE_HOME = "/home/user"
_HIGHEST_MODE = 0o7777

Text = Annotated[str, StringConstraints(max_length=256)]
Command = Annotated[str, StringConstraints(max_length=65_536)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class NewTemplateBody(_Body):
    """`POST /v3/templates`, and the older `POST /v2/templates`."""

    name: Text | None = None
    alias: Text | None = None
    tags: Annotated[list[Text], Field(max_length=100)] | None = None
    cpuCount: int | None = None
    memoryMB: int | None = None
    minFreeDiskMb: int | None = None

    def to_request(self) -> Request:
        """Raises `InvalidInput` without a name."""
        name = self.name or self.alias
        if not name:
            raise InvalidInput("the template needs a name")
        return Request(
            name, tuple(self.tags or ()), self.cpuCount, self.memoryMB, self.minFreeDiskMb
        )


class TemplateUpdateBody(_Body):
    """`PATCH /v2/templates/{id}`."""

    public: bool | None = None


class AssignTagsBody(_Body):
    """`POST /templates/tags`."""

    target: Text
    tags: Annotated[list[Text], Field(max_length=100)]


class RemoveTagsBody(_Body):
    """`DELETE /templates/tags`."""

    name: Text
    tags: Annotated[list[Text], Field(max_length=100)]


class RegistryBody(_Body):
    """Who asks a registry."""

    type: Literal["registry", "aws", "gcp"]
    username: str = ""
    password: str = Field("", repr=False)
    serviceAccountJson: str = Field("", repr=False)

    def to_credentials(self) -> Credentials:
        """Raises `InvalidInput` for what this server can't log in with."""
        if self.type == "aws":
            raise InvalidInput(
                "this server does not ask AWS for a registry's password",
                remedy="give the user name `AWS` and what `aws ecr get-login-password` prints",
            )
        if self.type == "gcp":
            return Credentials("_json_key", self.serviceAccountJson)
        return Credentials(self.username, self.password)


class StepBody(_Body):
    """A step, as the SDKs send it."""

    type: Annotated[str, StringConstraints(max_length=32)]
    args: Annotated[list[str], Field(max_length=2000)] = []
    filesHash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    force: bool | None = False

    def to_step(self) -> Step:
        """Raises `InvalidInput` for what is no step."""
        force, args = bool(self.force), self.args
        match self.type.upper():
            case "RUN" if args:
                return Run(args[0], (args[1] or None) if len(args) > 1 else None, force=force)
            case "COPY" if len(args) >= 2 and self.filesHash is not None:
                return self._to_copy(self.filesHash)
            case "WORKDIR" if args:
                return Workdir(args[0], force=force)
            case "USER" if args:
                return User(args[0], force=force)
            case "ENV" if args and len(args) % 2 == 0:
                return Env(tuple(zip(args[::2], args[1::2], strict=True)), force=force)
            case "RUN" | "COPY" | "WORKDIR" | "USER" | "ENV":
                raise InvalidInput(f"the step {self.type} lacks arguments, or its files")
        raise InvalidInput(f"there is no step {self.type!r}")

    def _to_copy(self, files_hash: str) -> Copy:
        source, destination, *rest = self.args
        owner, mode = (*rest, "", "")[:2]
        return Copy(
            UploadedFiles(files_hash),
            # The names of files are what they are; only the other arguments hold variables.
            (source.replace("\\", "\\\\").replace("$", "\\$"),),
            destination,
            owner=owner or None,
            as_user=not owner,
            mode=_parse_mode(mode) if mode else None,
            force=bool(self.force),
        )


class BuildBody(_Body):
    """`POST /v2/templates/{id}/builds/{build}`: steps of an SDK, or a whole recipe."""

    fromImage: Text | None = None
    fromTemplate: Text | None = None
    fromImageRegistry: RegistryBody | None = None
    force: bool | None = False
    steps: Annotated[list[StepBody], Field(max_length=MAX_STEPS)] | None = None
    startCmd: Command | None = None
    readyCmd: Command | None = None
    recipe: dict[str, Any] | None = None
    """Atoll's own: all that a Dockerfile may say."""

    def to_recipe(self) -> Recipe:
        """Raises `InvalidInput` for what can't be built."""
        if self.recipe is not None:
            return load_recipe(self.recipe)
        steps = tuple(step.to_step() for step in self.steps or ())
        source: Source
        if self.fromImage and not self.fromTemplate:
            registry = self.fromImageRegistry
            credentials = registry.to_credentials() if registry is not None else None
            source = FromImage(self.fromImage, credentials)
            # Whatever the image says: this is who and where E2B's SDKs begin.
            steps = (User(_IMAGE_USER), Workdir(_IMAGE_HOME), *steps)
            labels = ("base", "base", *(str(n) for n in range(1, len(steps) - 1)))
        elif self.fromTemplate and not self.fromImage:
            source = FromTemplate(self.fromTemplate)
            labels = ()
        else:
            raise InvalidInput("a build stands on either fromImage or fromTemplate")
        recipe = Recipe(
            (Stage(source, steps, labels),),
            start_command=self.startCmd or None,
            ready_command=self.readyCmd or None,
            force=bool(self.force),
        )
        check_recipe(recipe)
        return recipe


def _parse_mode(text: str) -> int:
    try:
        mode = int(text.removeprefix("0o"), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _HIGHEST_MODE:
        raise InvalidInput(f"{text!r} is not a mode: give octal digits, for instance 0755")
    return mode
