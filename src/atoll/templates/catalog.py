"""The templates that sandboxes can be made from, by id and by name."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from atoll.errors import TemplateNotFound
from atoll.templates import interpreter
from atoll.templates.base import NAME, PRUNE_GRACE, ensure_base, load_base, prune_base
from atoll.templates.interpreter import OpenDriver
from atoll.templates.layered import read_all_layered, read_layered
from atoll.templates.model import Template, derive_id

BUILT_IN = (NAME, interpreter.NAME)
"""The templates that come with Atoll."""


class TemplateCatalog:
    """All templates of a store. `ensure_base` or `load` fills it; `get` and `list` ask memory."""

    def __init__(self, store: Path) -> None:
        """`store` is the directory of built templates; made when needed."""
        self._store = store
        self._templates: dict[str, Template] = {}

    async def ensure_base(
        self, *, progress: Callable[[str], None], authorities: Sequence[Path] = ()
    ) -> Template:
        """Know the template `base`, built now if there is no build that is still right.

        Arguments and errors are those of `atoll.templates.base.ensure_base`.
        """
        template = await ensure_base(self._store, progress=progress, authorities=authorities)
        self._know(template)
        self._look_for_interpreter()
        return template

    async def ensure_interpreter(
        self,
        open_driver: OpenDriver,
        *,
        progress: Callable[[str], None],
    ) -> Template:
        """Know the template `code-interpreter-v1`; `base` is known already.

        Arguments and errors are those of `atoll.templates.interpreter.ensure_interpreter`.
        """
        template = await interpreter.ensure_interpreter(
            self._store, self.get(NAME), open_driver, progress=progress
        )
        self._know(template)
        return template

    async def load(self) -> None:
        """Know the templates that the store has, as they are, and build nothing."""
        template = await asyncio.to_thread(load_base, self._store)
        if template is not None:
            self._know(template)
            self._look_for_interpreter()

    async def prune(self, *, in_use: Collection[Path]) -> builtins.list[Path]:
        """Remove old builds, except those with a layer `in_use`; returns what was removed."""
        standing = {layer for template in self._templates.values() for layer in template.layers}
        used = {*in_use, *standing}
        removed = await interpreter.prune_interpreter(self._store, in_use=used, grace=PRUNE_GRACE)
        for build in read_all_layered(self._store / interpreter.NAME):
            used.update(build.template.layers)  # without the one below, it would be no build
        return [*removed, *await prune_base(self._store, in_use=used)]

    async def tidy(self, open_driver: OpenDriver) -> None:
        """End what killed builds left running."""
        await interpreter.tidy_interpreter(self._store, open_driver)

    def find(self, ref: str) -> Template | None:
        """The template with this id or name, if it is built."""
        for template in self._templates.values():
            if ref == template.template_id or ref in template.names:
                return template
        if ref in (interpreter.NAME, *interpreter.ALIASES) and self._look_for_interpreter():
            return self.find(ref)  # it was built since
        return None

    def get(self, ref: str) -> Template:
        """The template with this id or name. Raises `TemplateNotFound`."""
        found = self.find(ref)
        if found is None:
            raise TemplateNotFound(ref, remedy=self.remedy(ref))
        return found

    def is_reserved(self, ref: str) -> bool:
        """Whether a template that comes with Atoll has this id or name, built or not."""
        names = (*BUILT_IN, *interpreter.ALIASES)
        return ref in names or ref in {derive_id(name) for name in BUILT_IN}

    def remedy(self, ref: str) -> str | None:
        """What to do about a template that comes with Atoll and is not built."""
        if ref in (interpreter.NAME, *interpreter.ALIASES, derive_id(interpreter.NAME)):
            return f"run `atoll template build {interpreter.NAME}`"
        return None

    def list(self) -> builtins.list[Template]:
        """All templates, by their main names."""
        return sorted(self._templates.values(), key=lambda template: template.names[0])

    def _look_for_interpreter(self) -> bool:
        build = read_layered(self._store / interpreter.NAME)
        if build is not None:
            self._know(build.template)
        return build is not None

    def _know(self, template: Template) -> None:
        self._templates[template.template_id] = template
