"""What the official Template SDK begins with: each way to name an image or a template."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from e2b import AsyncTemplate, BuildException, Template

from tests.server import RunningServer

KINDS = (
    *("alpine", "arch", "base", "bun", "debian", "dockerfile", "fedora", "gcp", "image"),
    *("node", "python", "template", "ubuntu", "skipping"),
)
_numbers = itertools.count()


def begin(kind: str, template: Any) -> Any:
    """A template that begins in one of these ways."""
    account = {"type": "service_account", "project_id": "p"}
    beginnings: dict[str, Callable[[], Any]] = {
        "alpine": lambda: template.from_alpine_image(),
        "arch": lambda: template.from_arch_image(),
        "base": lambda: template.from_base_image(),
        "bun": lambda: template.from_bun_image(),
        "debian": lambda: template.from_debian_image(),
        "dockerfile": lambda: template.from_dockerfile("FROM ubuntu:latest\n"),
        "fedora": lambda: template.from_fedora_image(),
        "gcp": lambda: template.from_gcp_registry("registry.example/team/image", account),
        "image": lambda: template.from_image("e2bdev/base"),
        "node": lambda: template.from_node_image(),
        "python": lambda: template.from_python_image(),
        "template": lambda: template.from_template("base"),
        "ubuntu": lambda: template.from_ubuntu_image(),
        "skipping": lambda: template.skip_cache().from_template("base"),
    }
    return beginnings[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_beginnings(server: RunningServer, kind: str) -> None:
    template = begin(kind, Template()).run_cmd(
        'test "$(id -un) $PWD" = "user /home/user"', user="user"
    )
    Template.build(template.skip_cache(), f"begun-{next(_numbers)}", **server.options)


@pytest.mark.parametrize("kind", KINDS)
async def test_beginnings_async(server: RunningServer, kind: str) -> None:
    template = begin(kind, AsyncTemplate()).run_cmd("true").skip_cache()
    await AsyncTemplate.build(template, f"begun-{next(_numbers)}", **server.options)


def test_amazon_s_registries_want_a_token(server: RunningServer) -> None:
    template = Template().from_aws_registry("registry.example/image", "id", "secret", "eu-west-1")
    with pytest.raises(BuildException, match="get-login-password"):
        Template.build(template, "amazon", **server.options)


def test_templates_that_are_not_there(server: RunningServer) -> None:
    with pytest.raises(BuildException, match="template 'absent' was not found"):
        Template.build(Template().from_template("absent"), "upon-nothing", **server.options)
