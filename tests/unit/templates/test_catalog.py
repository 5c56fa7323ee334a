"""The catalogue: which builds of the templates may go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from atoll.templates import interpreter
from atoll.templates.base import Recipe, as_template
from atoll.templates.catalog import TemplateCatalog
from atoll.templates.layered import publish, read_all_layered
from atoll.templates.model import Template
from tests.unit.templates.test_base import put_build


async def test_a_base_stays_while_a_layer_stands_on_it(tmp_path: Path) -> None:
    """Else the layer would be no build any more, and nobody would ever remove it."""
    below, _ = [await put_build(tmp_path, Recipe(), day=day) for day in (1, 2)]
    directory = tmp_path / interpreter.NAME
    directory.mkdir()

    async def make(layer: Path) -> None:
        layer.mkdir()

    now = datetime.now(UTC)
    for name, below_it, created_at in [
        ("old", (below.rootfs,), now - timedelta(days=90)),
        ("new", (), now),
    ]:
        template = replace(as_template(below), layers=below_it, created_at=created_at)

        def describe(layer: Path, template: Template = template) -> Template:
            return replace(template, layers=(layer, *template.layers))

        await publish(directory, name, make=make, describe=describe)
    catalog = TemplateCatalog(tmp_path)
    assert await catalog.prune(in_use=()) == []
    assert len(read_all_layered(directory)) == 2
