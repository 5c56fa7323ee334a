"""A server that is killed while a registry keeps it waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox, Template

from tests.images.making import Picture, busybox_layer
from tests.images.registry import PASSWORD, USERNAME, Registry
from tests.server import TEMPLATES, run_server


def find_skopeo(address: str) -> list[int]:
    """Processes of skopeo that speak with a registry."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if entry.name.isdigit() and b"skopeo" in command and address.encode() in command:
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], object], *, seconds: float = 20) -> None:
    """Wait for what other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_goes_on_and_no_password_stays(
    tmp_path: Path, private_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = private_registry.push(Picture([busybox_layer()]), "killed/image")
    address = private_registry.address
    store, data_dir = tmp_path / "templates", tmp_path / "data"
    for directory in (store, data_dir, tmp_path / "tmp"):
        directory.mkdir()
    (store / "base").symlink_to(Path(TEMPLATES) / "base")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    template = Template().from_image(name, username=USERNAME, password=PASSWORD)
    settings: dict[str, Any] = {"pool_size": 0, "template_dir": str(store), "registries": address}
    with run_server(data_dir, **settings) as server:
        private_registry.pause()
        try:
            Template.build_in_background(template, "killed", **server.options)
            wait_until(lambda: find_skopeo(address))
            for pid in find_skopeo(address):
                assert PASSWORD.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            server.kill()
            wait_until(lambda: not find_skopeo(address))
        finally:
            private_registry.resume()
    for folder, _, files in os.walk(tmp_path):
        for file in files:
            path = Path(folder, file)
            if path.is_file() and not path.is_relative_to(store / "base"):
                assert PASSWORD.encode() not in path.read_bytes(), path
    with run_server(data_dir, **settings) as server:
        with pytest.raises(Exception, match=r"was not found|no build"):
            Sandbox.create("killed", timeout=30, **server.options)
        Template.build(template, "killed", **server.options)
        with Sandbox.create("killed", timeout=30, **server.options) as sandbox:
            assert sandbox.commands.run("id -un").stdout == "user\n"
    server.assert_nothing_left()
    assert not list(store.glob("images/*/.building-*"))
