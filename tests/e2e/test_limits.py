"""How often a key may ask, and how many sandboxes a team may have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from e2b import Sandbox
from e2b.exceptions import AuthenticationException, RateLimitException

from tests.command import atoll
from tests.server import RunningServer, run_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(
        tmp_path_factory.mktemp("limits"),
        pool_size=0,
        max_requests_per_minute=40,
        max_creates_per_minute=5,
        max_failed_keys_per_minute=5,
        max_team_sandboxes=2,
    ) as running:
        yield running


@pytest.fixture
def key(server: RunningServer) -> str:
    """A key of a team of its own."""
    return new_key(server, f"team-{time.monotonic_ns()}")


def new_key(server: RunningServer, team: str) -> str:
    name = str(time.monotonic_ns())
    return atoll(server.data_dir, "keys", "create", name, "--team", team)


def until_refused(act: Callable[[], object]) -> None:
    """Do something over and over: the machine may be slow, and buckets fill up again."""
    for _ in range(1000):
        act()


def test_requests(server: RunningServer, key: str) -> None:
    url = f"{server.url}/v2/sandboxes"
    with httpx.Client(headers={"X-API-Key": key}) as client:
        accepted = 0
        while (answer := client.get(url)).status_code == 200:
            accepted += 1
            assert accepted < 1000
    assert accepted >= 40
    assert answer.status_code == 429
    assert answer.json()["code"] == 429
    assert "more than 40 requests" in answer.json()["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 2
    assert "should-retry" not in answer.headers  # the SDK's own patience decides
    impatient = {**server.options, "api_key": key, "retries": 0}
    with pytest.raises(RateLimitException):
        until_refused(lambda: Sandbox.list(**impatient).next_items())
    # With its usual patience the SDK waits as it is told to.
    assert Sandbox.list(**{**server.options, "api_key": key}).next_items() == []
    # Other keys have buckets of their own.
    assert httpx.get(url, headers=server.headers).status_code == 200


def test_creates(server: RunningServer, key: str) -> None:
    options = {**server.options, "api_key": key, "retries": 0}
    for _ in range(5):
        Sandbox.create(**options).kill()
    with pytest.raises(RateLimitException, match="more than 5 sandboxes"):
        until_refused(lambda: Sandbox.create(**options).kill())


def test_a_teams_sandboxes(server: RunningServer) -> None:
    team = f"team-{time.monotonic_ns()}"
    keys = [new_key(server, team) for _ in range(3)]
    body = {"templateID": "base", "timeout": 60}

    def create(key: str) -> int:
        url = f"{server.url}/v2/sandboxes"
        return httpx.post(url, json=body, headers={"X-API-Key": key}, timeout=60).status_code

    with ThreadPoolExecutor(6) as threads:  # at once: those that are being made count, too
        assert sorted(threads.map(create, keys * 2)) == [201, 201, 429, 429, 429, 429]
    options = {**server.options, "api_key": keys[0]}
    began = time.monotonic()
    with pytest.raises(RateLimitException, match="ATOLL_MAX_TEAM_SANDBOXES"):
        Sandbox.create(**options)
    assert time.monotonic() - began < 30  # it did not try again
    for each in Sandbox.list(**options).next_items():
        Sandbox.kill(each.sandbox_id, **options)
    assert create(keys[1]) == 201


def test_unknown_keys(server: RunningServer, key: str) -> None:
    url = f"{server.url}/v2/sandboxes"
    assert httpx.get(url, headers={"X-API-Key": key}).status_code == 200
    with pytest.raises(AuthenticationException):
        Sandbox.list(**{**server.options, "api_key": "e2b_" + "0" * 40}).next_items()
    wrong = [httpx.get(url, headers={"X-API-Key": f"e2b_{number:040x}"}) for number in range(1, 12)]
    assert [each.status_code for each in wrong[:4]] == [401] * 4
    assert wrong[-1].status_code == 429
    assert int(wrong[-1].headers["retry-after"]) >= 1
    bearer = {"Authorization": "Bearer sk_e2b_" + "0" * 40}
    assert httpx.get(f"{server.url}/teams", headers=bearer).status_code == 429
    # Who is known is not locked out by strangers at the same address.
    assert httpx.get(url, headers={"X-API-Key": key}).status_code == 200
