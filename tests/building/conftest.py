"""A server that builds templates, in a directory of templates of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import RunningServer, link_templates, run_server

IMAGE_NAMES = [
    f"{image}=base"
    for image in (
        *("debian:stable", "ubuntu:latest", "fedora:44", "alpine:3.24", "archlinux:latest"),
        *("python:3", "node:lts", "oven/bun:latest", "registry.example/team/image"),
    )
]
"""The registries that the SDKs' defaults are in may be out of reach."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """When it has stopped, nothing of its builds may be left."""
    data_dir: Path = tmp_path_factory.mktemp("atoll")
    store = link_templates(tmp_path_factory.mktemp("store") / "templates")
    with run_server(
        data_dir, pool_size=1, template_dir=str(store), image_names=",".join(IMAGE_NAMES)
    ) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory of files to copy."""
    files = tmp_path / "context"
    (files / "folder" / "sub").mkdir(parents=True)
    (files / "one.txt").write_text("one\n")
    (files / "two.txt").write_text("two\n")
    (files / "folder" / "inner.txt").write_text("inner\n")
    (files / "folder" / "sub" / "deep.sh").write_text("#!/bin/sh\necho deep\n")
    (files / "folder" / "sub" / "deep.sh").chmod(0o755)
    (files / "folder" / "link").symlink_to("inner.txt")
    return files
