"""Several teams, their keys and access tokens, over the routes and the command line."""

from __future__ import annotations

import functools
import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox

from atoll.errors import ConfigurationError, Conflict, NotFound
from tests.command import atoll
from tests.routes import control_routes
from tests.server import RunningServer

MISSING = "a" * 20


@pytest.fixture(scope="module")
def token(server: RunningServer) -> str:
    """An access token of two teams."""
    for team in ("red", "blue"):
        atoll(server.data_dir, "teams", "create", team)
    return atoll(server.data_dir, "tokens", "create", "cli", "--team", "red", "--team", "blue")


@pytest.fixture
def account(server: RunningServer, token: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        yield client


@pytest.fixture
def stranger(server: RunningServer) -> Iterator[httpx.Client]:
    name = f"stranger-{uuid.uuid4()}"
    atoll(server.data_dir, "teams", "create", name)
    token = atoll(server.data_dir, "tokens", "create", "cli", "--team", name)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def test_teams_as_the_official_command_line_wants_them(
    server: RunningServer, account: httpx.Client, stranger: httpx.Client
) -> None:
    teams = account.get("/teams").json()
    assert [(team["name"], team["isDefault"]) for team in teams] == [("red", True), ("blue", False)]
    assert account.get("/teams").json() == teams  # the keys, too, are the same every time
    for team in teams:
        with Sandbox.create(
            metadata={"team": team["name"]}, **{**server.options, "api_key": team["apiKey"]}
        ):
            found = account.get("/v2/sandboxes", headers={"X-Team-ID": team["teamID"]}).json()
            assert [each["metadata"] for each in found] == [{"team": team["name"]}]
    assert httpx.get(f"{server.url}/teams", headers=server.headers).status_code == 401
    assert account.get("/v2/sandboxes").status_code == 200  # the token's first team
    theirs = stranger.get("/teams").json()[0]["teamID"]
    for foreign in (theirs, str(uuid.uuid4()), "red", ""):
        refused = account.get("/v2/sandboxes", headers={"X-Team-ID": foreign})
        assert refused.status_code == 403
        message = f"the access token does not act for a team {foreign!r}"
        assert refused.json() == {"code": 403, "message": message}


def test_keys_of_a_team(server: RunningServer, account: httpx.Client) -> None:
    red, blue = (team["teamID"] for team in account.get("/teams").json())
    made = account.post("/api-keys", json={"name": "ci"}, headers={"X-Team-ID": blue})
    assert made.status_code == 201
    body = made.json()
    key = body.pop("key")
    assert re.fullmatch("e2b_[0-9a-f]{40}", key)
    assert body["mask"] == {
        "prefix": "e2b_",
        "valueLength": 40,
        "maskedValuePrefix": key[4:6],
        "maskedValueSuffix": key[-4:],
    }
    uuid.UUID(body["id"])
    listed = account.get("/api-keys", headers={"X-Team-ID": blue})
    assert body in listed.json()
    assert key not in listed.text
    assert body not in account.get("/api-keys", headers={"X-Team-ID": red}).json()
    url = f"{server.url}/v2/sandboxes"
    assert httpx.get(url, headers={"X-API-Key": key}).status_code == 200

    path = f"/api-keys/{body['id']}"
    renamed = account.patch(path, json={"name": "ci 2"}, headers={"X-Team-ID": blue})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "ci 2")
    # In the wrong team it does not exist.
    assert account.delete(path, headers={"X-Team-ID": red}).status_code == 404
    assert account.delete(path, headers={"X-Team-ID": blue}).status_code == 204
    assert httpx.get(url, headers={"X-API-Key": key}).status_code == 401  # at once
    assert account.delete(path, headers={"X-Team-ID": blue}).status_code == 404
    for name in ("", "x" * 65):
        assert account.post("/api-keys", json={"name": name}).status_code == 400
    # A key makes no keys.
    assert httpx.get(f"{server.url}/api-keys", headers=server.headers).status_code == 401


def test_access_tokens(server: RunningServer, account: httpx.Client) -> None:
    made = account.post("/access-tokens", json={"name": "second"})
    assert made.status_code == 201
    body = made.json()
    assert re.fullmatch("sk_e2b_[0-9a-f]{40}", body["token"])
    assert body["mask"]["prefix"] == "sk_e2b_"
    second = {"Authorization": f"Bearer {body['token']}"}
    teams = httpx.get(f"{server.url}/teams", headers=second).json()
    assert [team["name"] for team in teams] == ["red", "blue"]
    assert account.delete(f"/access-tokens/{body['id']}").status_code == 204
    assert httpx.get(f"{server.url}/teams", headers=second).status_code == 401
    for header in ("Bearer", "Bearer sk_e2b_x", "Basic eDp5", f"Bearer {server.api_key}"):
        refused = httpx.get(f"{server.url}/teams", headers={"Authorization": header})
        assert refused.status_code == 401


@pytest.mark.parametrize("path", ["/api-keys", "/access-tokens"])
def test_a_revoked_token_finishes_nothing(
    server: RunningServer, account: httpx.Client, path: str
) -> None:
    """Not even a request that was let in before, and whose body comes after."""
    made = account.post("/access-tokens", json={"name": "brief"}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    keys = account.get("/api-keys").json()

    def body() -> Iterator[bytes]:
        yield b'{"name":'
        time.sleep(1)  # the head of the request is long there
        assert account.delete(f"/access-tokens/{made['id']}").status_code == 204
        yield b' "late"}'

    late = httpx.post(f"{server.url}{path}", content=body(), headers=headers)
    assert late.status_code == 401, late.text
    assert account.get("/api-keys").json() == keys


def test_foreign_and_missing_keys_and_tokens_answer_alike(
    account: httpx.Client, stranger: httpx.Client
) -> None:
    key = stranger.post("/api-keys", json={"name": "theirs"}).json()["id"]
    token = stranger.post("/access-tokens", json={"name": "theirs"}).json()["id"]
    nobody = str(uuid.uuid4())
    for path, foreign in (("/api-keys", key), ("/access-tokens", token)):
        answers = [account.delete(f"{path}/{each}") for each in (foreign, nobody, "x")]
        if path == "/api-keys":
            answers += [
                account.patch(f"{path}/{each}", json={"name": "mine"}) for each in (foreign, nobody)
            ]
        seen = {
            (answer.status_code, re.sub("'.*?'", "ID", answer.json()["message"]))
            for answer in answers
        }
        assert len(seen) == 1
        assert seen.pop()[0] == 404
        assert stranger.delete(f"{path}/{foreign}").status_code == 204


def sandbox_routes() -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in control_routes()
        if "{sandbox_id}" in route.path
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


@pytest.mark.parametrize(("method", "path"), sandbox_routes())
def test_another_teams_sandbox_answers_as_none(
    account: httpx.Client, sandbox: Sandbox, method: str, path: str
) -> None:
    answers = []
    for sandbox_id in (sandbox.sandbox_id, MISSING):
        filled = re.sub(r"\{(?!sandbox_id)\w+\}", "x", path).replace("{sandbox_id}", sandbox_id)
        body: dict[str, object] = {"timeout": 1}
        if path.endswith("/network"):
            body = {"allowOut": []}
        sent = {"json": body} if method in ("POST", "PUT", "PATCH") else {}
        answer = account.request(method, filled, **sent)  # type: ignore[arg-type]
        headers = {name: value for name, value in answer.headers.items() if name != "date"}
        answers.append((answer.status_code, answer.text.replace(sandbox_id, MISSING), headers))
    assert answers[0] == answers[1]
    # Its record of events is merely empty, as that outlives a sandbox.
    assert answers[0][0] == 404 or answers[0][1] == "[]"
    assert sandbox.is_running()


def test_the_command_line(server: RunningServer) -> None:
    run = functools.partial(atoll, server.data_dir)
    team = json.loads(run("teams", "create", "green", "--json"))
    with pytest.raises(Conflict):
        run("teams", "create", "green")
    key = run("keys", "create", "one", "--team", "green")
    token = run("tokens", "create", "one", "--team", "green")
    listed = {each["name"]: each for each in json.loads(run("teams", "list", "--json"))}
    assert (listed["green"]["id"], listed["green"]["keys"]) == (team["id"], 1)
    assert "green" in run("teams", "list")
    assert token not in run("tokens", "list")
    keys = json.loads(run("keys", "list", "--team", "green", "--json"))
    assert [each["hint"] for each in keys] == [key[-4:]]
    tokens = json.loads(run("tokens", "list", "--json"))
    mine = next(each for each in tokens if each["teams"] == ["green"])
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{server.url}/teams", headers=headers).status_code == 200
    run("tokens", "revoke", mine["id"])
    assert httpx.get(f"{server.url}/teams", headers=headers).status_code == 401
    with pytest.raises(NotFound):
        run("tokens", "revoke", mine["id"])
    run("teams", "revoke", "green")
    assert httpx.get(f"{server.url}/v2/sandboxes", headers={"X-API-Key": key}).status_code == 401
    with pytest.raises(NotFound, match="no-such-team"):
        run("tokens", "create", "x", "--team", "no-such-team")


@pytest.mark.parametrize("command", ["keys create x", "teams list", "tokens list"])
def test_a_mistyped_data_dir_is_not_made(tmp_path: Path, command: str) -> None:
    wrong = tmp_path / "atol"
    with pytest.raises(ConfigurationError, match=str(wrong)) as caught:
        atoll(wrong, *command.split())
    assert "--data-dir" in str(caught.value.remedy)
    assert not wrong.exists()
