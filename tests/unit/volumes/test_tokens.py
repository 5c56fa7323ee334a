from __future__ import annotations

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
