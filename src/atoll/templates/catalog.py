"""The templates that sandboxes can be made from, by id and by name."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from atoll.errors import TemplateNotFound
from atoll.templates.base import ensure_base, load_base, prune_base
from atoll.templates.model import Template


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
        return template

    async def load(self) -> None:
        """Know the templates that the store has, as they are, and build nothing."""
        template = await asyncio.to_thread(load_base, self._store)
        if template is not None:
            self._know(template)

    async def prune(self, *, in_use: Collection[Path]) -> builtins.list[Path]:
        """Remove old builds, except those with a layer `in_use`; returns what was removed."""
        return await prune_base(self._store, in_use=in_use)

    def get(self, ref: str) -> Template:
        """The template with this id or name. Raises `TemplateNotFound`."""
        for template in self._templates.values():
            if ref == template.template_id or ref in template.names:
                return template
        raise TemplateNotFound(ref)

    def list(self) -> builtins.list[Template]:
        """All templates, by their main names."""
        return sorted(self._templates.values(), key=lambda template: template.names[0])

    def _know(self, template: Template) -> None:
        self._templates[template.template_id] = template
