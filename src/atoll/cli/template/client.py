"""Building a template through the control plane: ask for a build, send files, follow it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from atoll.cli.api import ControlPlane
from atoll.cli.printing import clean
from atoll.errors import AtollError, Forbidden, HostError, InvalidInput, NotFound

if TYPE_CHECKING:
    from atoll.templates.dockerfile.context import Archive
    from atoll.templates.recipe import Recipe

_POLL_SECONDS = (0.01, 0.2)
"""At first, as a build of nothing new is soon over, and at most."""
_GOING_ON = ("waiting", "building")


class BuildBroken(AtollError):
    """The server could not build it."""


class TemplateBuild:
    """A build that was asked for."""

    def __init__(self, api: ControlPlane, template_id: str, build_id: str) -> None:
        self._api = api
        self.template_id = template_id
        self.build_id = build_id

    @classmethod
    def request(
        cls,
        api: ControlPlane,
        name: str,
        *,
        cpu_count: int | None = None,
        memory_mb: int | None = None,
    ) -> TemplateBuild:
        """Ask for a build of the template of this name, which is made when it is new."""
        body: dict[str, object] = {"name": name}
        if cpu_count is not None:
            body["cpuCount"] = cpu_count
        if memory_mb is not None:
            body["memoryMB"] = memory_mb
        asked = api.call("POST", "v3", "templates", body=body)
        return cls(api, asked["templateID"], asked["buildID"])

    def send(self, archives: Mapping[str, Archive], progress: Callable[[str], None]) -> None:
        """Send the archives that the server lacks."""
        for name, archive in archives.items():
            place = self._api.call("GET", "templates", self.template_id, "files", name)
            if place["present"]:
                continue
            with tempfile.TemporaryFile() as file:
                try:
                    archive.write(file)
                except OSError as error:
                    raise HostError(f"the build context can't be read: {error}") from None
                size = file.tell()
                progress(f"sending {max(1, size >> 10)} KiB of files")
                file.seek(0)
                self._api.upload(place["url"], file, size, place.get("headers") or {})

    def start(self, recipe: Recipe) -> None:
        """Let the server begin."""
        from atoll.templates.recipe import dump_recipe

        path = ("v2", "templates", self.template_id, "builds", self.build_id)
        self._api.call("POST", *path, body={"recipe": dump_recipe(recipe)})

    def follow(self, *, to_the_end: bool = True) -> Iterator[dict[str, Any]]:
        """Its log; to the end, or as far as it is. Raises `BuildBroken` when it has failed."""
        offset, (pause, longest) = 0, _POLL_SECONDS
        while True:
            said = self._status(offset)
            yield from said["logEntries"]
            offset += len(said["logEntries"])
            if said["logEntries"]:
                continue  # there may be more already
            if said["status"] not in _GOING_ON or not to_the_end:
                break
            time.sleep(pause)
            pause = min(2 * pause, longest)
        if said["status"] == "error":
            reason = said.get("reason") or {}
            place = f"{reason['step']}: " if reason.get("step") else ""
            raise BuildBroken(f"{place}{reason.get('message', 'the build failed')}")

    def _status(self, offset: int) -> dict[str, Any]:
        path = ("templates", self.template_id, "builds", self.build_id, "status")
        said: dict[str, Any] = self._api.call("GET", *path, query={"logsOffset": offset})
        return said


def format_entry(entry: Mapping[str, Any]) -> str:
    """A line of a build's log, for a terminal."""
    step, message = entry.get("step") or "", entry["message"]
    # A step's title names the step by itself.
    return clean(message if not step or message.startswith(f"[{step}]") else f"{step}: {message}")


def is_template(api: ControlPlane, name: str) -> bool:
    """Whether the server has a template of this name."""
    first = name.partition("/")[0]
    if "@" in name or ("/" in name and ("." in first or ":" in first or first == "localhost")):
        return False  # a registry is named, or a digest: it can only be an image
    try:
        api.call("GET", "templates", "aliases", name)
    except (NotFound, InvalidInput, Forbidden):
        return False  # not a template's name, or not one that this key may use
    return True
