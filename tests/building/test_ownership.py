"""Whose a template is: teams, sharing, lists, removal."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from e2b import BuildException, Sandbox, Template

from tests.command import atoll
from tests.server import RunningServer


@pytest.fixture
def other(server: RunningServer) -> dict[str, Any]:
    """The options of another team's client."""
    team = f"team-{uuid.uuid4().hex[:8]}"
    atoll(server.data_dir, "teams", "create", team)
    key = atoll(server.data_dir, "keys", "create", "theirs", "--team", team)
    return {**server.options, "api_key": key}


def call(server: RunningServer, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {**server.headers, **options.pop("headers", {})}
    return httpx.request(method, server.url + path, headers=headers, **options)


def test_another_team_sees_what_is_public(server: RunningServer, other: dict[str, Any]) -> None:
    theirs = {"X-API-Key": other["api_key"]}
    built = Template.build(Template().from_template("base"), "shared", **server.options)
    for name in ("shared", "default/shared", built.template_id):
        with pytest.raises(Exception, match="404"):
            Sandbox.create(name, **other)
        assert not Template.exists(name, **other)
    one = f"/templates/{built.template_id}"
    assert call(server, "PATCH", f"/v2{one}", json={"public": True}).json() == {
        "names": ["default/shared"]
    }
    for name in ("default/shared", built.template_id):
        Sandbox.create(name, **other).kill()
        assert Template.exists(name, **other)
    with pytest.raises(Exception, match="404"):
        Sandbox.create("shared", **other)  # that would be one of their own
    for method, path in (
        ("DELETE", one),
        ("PATCH", one),
        ("GET", one),
        ("GET", f"{one}/tags"),
        ("GET", f"{one}/builds/{built.build_id}/status"),
        ("GET", f"{one}/files/{'0' * 64}"),
    ):
        refused = call(server, method, path, headers=theirs, json={})
        assert refused.status_code == 403, (method, path, refused.text)
    with pytest.raises(BuildException, match="403"):
        Template.build(Template().from_template("base"), "default/shared", **other)
    # The same name in their own team is another template.
    own = Template.build(Template().from_template("base"), "shared", **other)
    assert own.template_id != built.template_id
    call(server, "PATCH", f"/v2{one}", json={"public": False})
    with pytest.raises(Exception, match="404"):
        Sandbox.create("default/shared", **other)


def test_names_that_are_taken(server: RunningServer) -> None:
    for name in ("base", "code-interpreter-v1", "code-interpreter"):
        with pytest.raises(BuildException, match=r"403: the name .* is taken"):
            Template.build(Template().from_template("base"), name, **server.options)
    for name in ("no spaces", "a/b/c", "näme", "x" * 129, ".."):
        with pytest.raises(BuildException, match="400"):
            Template.build(Template().from_template("base"), name, **server.options)
    assert Template.exists("base", **server.options)


def test_lists_and_removal(server: RunningServer) -> None:
    template = Template().from_template("base").run_cmd("echo here > here")
    built = Template.build(template, "removed", cpu_count=1, **server.options)
    sandbox = Sandbox.create("removed", **server.options)
    (listed,) = [
        each
        for each in call(server, "GET", "/v2/templates").json()
        if each["templateID"] == built.template_id
    ]
    assert listed["names"] == ["default/removed"]
    assert listed["aliases"] == ["removed"]
    assert (listed["cpuCount"], listed["buildStatus"]) == (1, "ready")
    assert (listed["buildCount"], listed["spawnCount"]) == (1, 1)
    first = call(server, "GET", "/v2/templates", params={"limit": 1})
    assert len(first.json()) == 1
    if "x-next-token" in first.headers:
        token = first.headers["x-next-token"]
        second = call(server, "GET", "/v2/templates", params={"limit": 1, "nextToken": token})
        assert second.json() != first.json()
    one = call(server, "GET", f"/templates/{built.template_id}").json()
    assert [each["buildID"] for each in one["builds"]] == [built.build_id]
    logs = call(server, "GET", f"/templates/removed/builds/{built.build_id}/logs").json()["logs"]
    back = call(
        server,
        "GET",
        f"/templates/removed/builds/{built.build_id}/logs",
        params={"direction": "backward"},
    ).json()["logs"]
    assert [each["message"] for each in logs] == [each["message"] for each in back][::-1]
    assert call(server, "DELETE", "/templates/removed").status_code == 204
    assert call(server, "DELETE", "/templates/removed").status_code == 404
    with pytest.raises(Exception, match="404"):
        Sandbox.create("removed", **server.options)
    # What runs already stays.
    assert sandbox.files.read("here") == "here\n"
    sandbox.kill()
