"""Teams, keys and access tokens."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.errors import Conflict, Exhausted, InvalidInput, NotFound, Unauthenticated
from atoll.store.accounts import Accounts
from atoll.store.database import Database


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    database = Database(f"sqlite:///{tmp_path}/atoll.db")
    yield Accounts(database)
    database.close()


async def test_a_key_opens_its_team(accounts: Accounts) -> None:
    team, others = await accounts.teams.ensure("a"), await accounts.teams.ensure("b")
    _, one = await accounts.keys.create(team, "one")
    _, two = await accounts.keys.create(team, "two")
    _, other = await accounts.keys.create(others, "one")
    assert re.fullmatch("e2b_[0-9a-f]{40}", one)
    assert await accounts.keys.authenticate(one) == team
    assert await accounts.keys.authenticate(two) == team
    assert await accounts.keys.authenticate(other) == others
    for wrong in ("", "e2b_" + "0" * 40, one.upper(), "\udcff"):
        with pytest.raises(Unauthenticated):
            await accounts.keys.authenticate(wrong)


async def test_revoking_a_key(accounts: Accounts) -> None:
    team = await accounts.teams.ensure("a")
    made, secret = await accounts.keys.create(team, "brief")
    assert str(made.mask) == f"{secret[:6]}…{secret[-4:]}"
    assert await accounts.keys.list(team) == [made]
    await accounts.keys.authenticate(secret)
    with pytest.raises(NotFound):
        await accounts.keys.revoke(made.key_id, team_id=await accounts.teams.ensure("b"))
    await accounts.keys.revoke(made.key_id)
    with pytest.raises(Unauthenticated):  # at once, although it was remembered
        await accounts.keys.authenticate(secret)
    with pytest.raises(NotFound):
        await accounts.keys.revoke(made.key_id)


async def test_a_name_is_given_once_per_team(accounts: Accounts) -> None:
    team = await accounts.teams.ensure("a")
    one, _ = await accounts.keys.create(team, "one")
    two, _ = await accounts.keys.create(team, "two")
    with pytest.raises(Conflict):
        await accounts.keys.create(team, "one")
    with pytest.raises(Conflict):
        await accounts.keys.rename(team, two.key_id, "one")
    assert (await accounts.keys.rename(team, one.key_id, "one")).name == "one"
    assert (await accounts.keys.rename(team, two.key_id, "three")).name == "three"
    for name in ("", " ", "x" * 65, "a\nb"):
        with pytest.raises(InvalidInput):
            await accounts.keys.create(team, name)


async def test_teams(accounts: Accounts) -> None:
    made = await accounts.teams.create("a")
    assert await accounts.teams.ensure("a") == made
    with pytest.raises(Conflict):
        await accounts.teams.create("a")
    for name in ("", "a b", "../x", "-a", "x" * 65):
        with pytest.raises(InvalidInput):
            await accounts.teams.create(name)
    await accounts.keys.create(made, "one")
    assert [(team.name, team.keys) for team in await accounts.teams.list()] == [("a", 1)]
    with pytest.raises(NotFound):
        await accounts.teams.find(["a", "b"])


async def test_an_access_token_acts_for_its_teams(accounts: Accounts) -> None:
    a, b, c = [await accounts.teams.ensure(name) for name in "abc"]
    made, secret = await accounts.tokens.create("cli", [b, a])
    assert re.fullmatch("sk_e2b_[0-9a-f]{40}", secret)
    token = await accounts.tokens.authenticate(secret)
    assert [team.team_id for team in token.teams] == [b, a]
    assert await accounts.tokens.list() == [made]
    keys = await accounts.tokens.derive_keys(token, secret)
    assert keys == await accounts.tokens.derive_keys(token, secret)
    for team in (a, b):
        assert await accounts.keys.authenticate(keys[team]) == team
    assert c not in keys
    with pytest.raises(Unauthenticated):
        await accounts.tokens.authenticate("sk_e2b_" + "0" * 40)


async def test_revoking_a_token_takes_its_keys_along(accounts: Accounts) -> None:
    a, b = [await accounts.teams.ensure(name) for name in "ab"]
    made, secret = await accounts.tokens.create("cli", [a, b])
    keys = await accounts.tokens.derive_keys(made, secret)
    with pytest.raises(NotFound):  # it reaches farther than who asks
        await accounts.tokens.revoke(made.token_id, within=[a])
    await accounts.tokens.revoke(made.token_id, within=[a, b])
    with pytest.raises(Unauthenticated):
        await accounts.tokens.authenticate(secret)
    assert not await accounts.keys.is_valid(keys[a])
    with pytest.raises(NotFound):
        await accounts.tokens.revoke(made.token_id)


async def test_nothing_is_made_for_a_token_that_was_just_revoked(accounts: Accounts) -> None:
    a, b = [await accounts.teams.ensure(name) for name in "ab"]
    token, secret = await accounts.tokens.create("stolen", [a, b])
    await accounts.tokens.derive_keys(token, secret)
    assert (await accounts.keys.create(a, "one", token_id=token.token_id))[0].team == "a"
    await accounts.teams.revoke("b")  # after the token was looked at, and before it is used
    with pytest.raises(Unauthenticated):
        await accounts.keys.create(b, "late", token_id=token.token_id)
    with pytest.raises(Unauthenticated):
        await accounts.tokens.create("late", [a, b], token_id=token.token_id)
    await accounts.tokens.revoke(token.token_id)
    with pytest.raises(Unauthenticated):
        await accounts.tokens.derive_keys(token, secret)
    with pytest.raises(Unauthenticated):
        await accounts.keys.create(a, "late", token_id=token.token_id)
    assert [key.name for key in await accounts.keys.list()] == ["one"]
    assert await accounts.tokens.list() == []


async def test_a_team_uses_up_its_own_tokens_only(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.store.tokens._MOST_PER_TEAM", 2)
    a, b = [await accounts.teams.ensure(name) for name in "ab"]
    for _ in range(2):
        await accounts.tokens.create("cli", [a])
    for teams in ([a], [b, a]):
        with pytest.raises(Exhausted):
            await accounts.tokens.create("cli", teams)
    await accounts.tokens.create("cli", [b])


async def test_shutting_a_team_out(accounts: Accounts) -> None:
    a, b = [await accounts.teams.ensure(name) for name in "ab"]
    _, key = await accounts.keys.create(a, "one")
    _, both = await accounts.tokens.create("both", [a, b])
    _, only = await accounts.tokens.create("only", [a])
    await accounts.teams.revoke("a")
    assert not await accounts.keys.is_valid(key)
    assert [team.name for team in (await accounts.tokens.authenticate(both)).teams] == ["b"]
    with pytest.raises(Unauthenticated):
        await accounts.tokens.authenticate(only)
    with pytest.raises(NotFound):
        await accounts.teams.revoke("c")


async def test_no_secret_is_on_disk(tmp_path: Path, accounts: Accounts) -> None:
    team = await accounts.teams.ensure("a")
    _, key = await accounts.keys.create(team, "one")
    made, token = await accounts.tokens.create("cli", [team])
    derived = (await accounts.tokens.derive_keys(made, token))[team]
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for secret in (key, token, derived):
            assert secret.encode() not in file.read_bytes()
