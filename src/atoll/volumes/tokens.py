"""What opens the content of one volume."""

from __future__ import annotations

import hmac
import re
import secrets

_PREFIX = "vol_e2b_"
_KEY = re.compile("[0-9a-f]{64}")


def new_key() -> str:
    """A key to make tokens from."""
    return secrets.token_hex(32)


def is_key(text: str) -> bool:
    """Whether a text is such a key. Whoever knows the key can make the tokens of all volumes."""
    return _KEY.fullmatch(text) is not None


class VolumeTokens:
    """Tokens are made from a key of this server, so none is stored."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def issue(self, volume_id: str) -> str:
        """The token of a volume: the same each time, as long as the volume lives."""
        return _PREFIX + hmac.digest(self._key, volume_id.encode(), "sha256").hex()

    def opens(self, token: str, volume_id: str) -> bool:
        """Whether it is the token of that volume, in constant time."""
        return hmac.compare_digest(token.encode(), self.issue(volume_id).encode())
