"""Names and descriptions of images, as clients and strangers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import ConfigurationError, InvalidInput
from atoll.templates.images.config import dump_config, load_config, read_config
from atoll.templates.images.names import find_template
from atoll.templates.images.packing import LABEL, read_label
from atoll.templates.images.reference import find_local, parse_reference
from atoll.templates.importing import read_names

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("team/tool", "docker.io/team/tool:latest"),
        ("index.docker.io/alpine:3", "docker.io/library/alpine:3"),
        ("localhost/tool", "localhost/tool:latest"),
        ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
        ("127.0.0.1:5000/tool", "127.0.0.1:5000/tool:latest"),
        ("ghcr.io/Team".lower() + f"/tool:1@{DIGEST}", f"ghcr.io/team/tool@{DIGEST}"),
        ("docker://quay.io/a/b", "quay.io/a/b:latest"),
        ("Host/tool", "Host/tool:latest"),
    ],
)
def test_what_docker_pull_takes(text: str, url: str) -> None:
    assert parse_reference(text).url == f"docker://{url}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Alpine",
        "alpine:",
        "a b",
        "../etc",
        "/etc/passwd",
        "dir:/etc",
        "oci:/srv/layout",
        "docker-archive:/srv/x.tar",
        "--authfile=/etc/shadow",
        "-alpine",
        "registry.example.com/",
        "registry.example.com:port/x",
        "user:password@registry.example.com/x",
        "registry.example.com/x\n",
        "registry.example.com/x?y",
        "alpine@sha256:short",
        "alpine:" + "t" * 129,
        "a" * 600,
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_reference(text)


def test_the_host_of_a_registry() -> None:
    hosts = [
        parse_reference(f"{each}/x").host for each in ("a.example", "a.example:5000", "[::1]:5")
    ]
    assert hosts == ["a.example", "a.example", "::1"]


def test_only_this_machine_may_do_without_tls() -> None:
    names = ("localhost:5000", "127.0.0.1", "127.9.9.9:5000", "127.0.0.1.evil.example", "10.0.0.1")
    found = [parse_reference(f"{each}/x").is_loopback for each in names]
    assert found == [True, True, True, False, False]


def test_images_that_are_templates() -> None:
    own = {"ubuntu:22.04": "base", "registry.example.com/tool": "mine", "e2bdev/base": "other"}
    found = {
        text: find_template(text, own)
        for text in (
            *("ubuntu:22.04", "docker.io/library/ubuntu:22.04", "ubuntu:24.04", "ubuntu"),
            *("registry.example.com/tool:7", "e2bdev/base:latest", "e2bdev/code-interpreter"),
            *(f"e2bdev/base@{DIGEST}", "example.com/e2bdev/base"),
        )
    }
    assert list(found.values()) == [
        *("base", "base", None, None),
        *("mine", "other", "code-interpreter-v1"),
        *(None, None),
    ]
    assert find_template("e2bdev/base") == "base"


def test_the_setting_of_image_names() -> None:
    assert read_names(["ubuntu:22.04=base"]) == {"ubuntu:22.04": "base"}
    for wrong in ("ubuntu", "=base", "ubuntu=", "No Image=base"):
        with pytest.raises(ConfigurationError, match="ATOLL_IMAGE_NAMES"):
            read_names([wrong])


def test_what_is_on_the_disk(tmp_path: Path) -> None:
    assert find_local(str(tmp_path / "missing")) is None
    with pytest.raises(InvalidInput, match="no OCI layout"):
        find_local(str(tmp_path))
    (tmp_path / "oci-layout").write_text("{}")
    found = find_local(f"{tmp_path}:v1")
    assert found is not None
    assert found.url == f"oci:{tmp_path}:v1"
    (tmp_path / "text").write_text("text")
    with pytest.raises(InvalidInput, match="not an archive"):
        find_local(str(tmp_path / "text"))


def config(**process: Any) -> bytes:
    return json.dumps({"os": "linux", "architecture": "amd64", "config": process}).encode()


def test_a_configuration() -> None:
    read = read_config(
        config(Env=["A=1", "B=x=y", "broken", "=no"], User="me:us", Cmd=None, Labels=None),
        machine="x86_64",
    )
    assert dict(read.envs) == {"A": "1", "B": "x=y"}
    assert (read.user, read.workdir, read.command) == ("me:us", "", ())
    dumped = dump_config(read, machine="x86_64", created="2026-01-01T00:00:00Z")
    assert read_config(json.dumps(dumped).encode(), machine="x86_64") == read
    assert load_config({"diff_ids": [], "entrypoint": [], "command": ["a"]}).command == ("a",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        config(Env="A=1"),
        config(Env=[1]),
        config(Env=["A=1"] * 5000),
        config(Labels={"a": 1}),
        json.dumps({"rootfs": {"diff_ids": "x"}}).encode(),
        json.dumps({"architecture": "s390x", "os": "linux"}).encode(),
        json.dumps({"architecture": "amd64", "os": "windows"}).encode(),
    ],
)
def test_what_is_no_configuration(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_config(content, machine="x86_64")


def test_the_label() -> None:
    def label(text: str) -> Any:
        return read_label(read_config(config(Labels={LABEL: text}), machine="x86_64"))

    assert label('{"name": "a", "cpu_count": 4}').cpu_count == 4
    for wrong in ("", "{", "[]", '{"cpu_count": 0}', '{"memory_mb": 99999999999}', '{"name": 1}'):
        assert label(wrong) is None
    assert read_label(read_config(config(), machine="x86_64")) is None
