from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, cast

import pytest

from atoll.parts import VOLUME_KEY_FILE, build_volumes
from atoll.settings import load_settings
from atoll.volumes.tokens import VolumeTokens


def test_a_token_opens_its_volume_and_no_other() -> None:
    tokens = VolumeTokens("key")
    token = tokens.issue("one")
    assert tokens.opens(token, "one")
    assert VolumeTokens("key").issue("one") == token
    assert not tokens.opens(token, "two")
    assert not tokens.opens("", "one")
    assert not tokens.opens("ä", "one")
    assert not VolumeTokens("other").opens(token, "one")


@pytest.mark.parametrize("left", ["", "\n", "\0" * 65, "ab"])
async def test_a_key_that_was_not_written_whole_makes_no_tokens(tmp_path: Path, left: str) -> None:
    """With an empty one, anybody could make the tokens of all volumes."""
    path = tmp_path / VOLUME_KEY_FILE
    path.write_text(left)
    settings, nothing = load_settings(data_dir=tmp_path), cast(Any, None)
    token = build_volumes(settings, nothing, nothing).tokens.issue("one")
    assert token != VolumeTokens(left.strip()).issue("one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert build_volumes(settings, nothing, nothing).tokens.issue("one") == token
