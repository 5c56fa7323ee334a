from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from atoll.errors import InvalidInput
from atoll.templates.dockerfile.accounts import Accounts
from atoll.templates.recipe import Credentials


def write(path: Path, **auths: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths, "credsStore": "other"}))
    return path


def entry(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_who_may_fetch_what(tmp_path: Path) -> None:
    auths = {
        "localhost:5000": entry("ann:a:b"),
        "https://index.docker.io/v1/": entry("bob:b"),
        "kept.example": {},
    }
    accounts = Accounts(write(tmp_path / "auth.json", **auths))
    assert accounts.find("localhost:5000/a/b:1") == Credentials("ann", "a:b")
    for name in ("debian", "team/tool:1", "docker.io/library/debian"):
        assert accounts.find(name) == Credentials("bob", "b")
    assert accounts.find("ghcr.io/a/b") is None
    assert accounts.find("kept.example/a") is None


def test_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    assert Accounts().find("debian") is None
    write(tmp_path / ".docker" / "config.json", **{"r.example": entry("home:x")})
    assert Accounts().find("r.example/a") == Credentials("home", "x")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "other"))
    assert Accounts().find("r.example/a") is None
    with pytest.raises(InvalidInput, match="there is no"):
        Accounts(tmp_path / "missing")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": [1]}', '{"auths": {"a": 1}}'])
def test_what_is_no_such_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "auth.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"auth.json can't be read"):
        Accounts(tmp_path / "auth.json")


def test_passwords_that_are_elsewhere(tmp_path: Path) -> None:
    file = write(tmp_path / "auth.json", **{"r.example": {"identitytoken": "x"}})
    with pytest.raises(InvalidInput, match=r"holds no password for r\.example"):
        Accounts(file).find("r.example/a")
