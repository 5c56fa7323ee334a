"""Dockerfiles as a test writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.templates.dockerfile.context import Context, read_ignored
from atoll.templates.dockerfile.syntax import parse_dockerfile
from atoll.templates.dockerfile.translation import Translation, translate

Translate = Callable[..., Translation]


@pytest.fixture
def translate_text(tmp_path: Path) -> Translate:
    """Translates a text with the test's directory as its context."""

    def work(
        text: str, *, target: str | None = None, templates: tuple[str, ...] = (), **args: str
    ) -> Translation:
        ignored = read_ignored(tmp_path, tmp_path / "Dockerfile")
        return translate(
            parse_dockerfile(text, "Dockerfile"),
            Context(tmp_path, ignored),
            build_args=args,
            is_template=lambda name: name in templates,
            find_account=lambda name: None,
            target=target,
        )

    return work
