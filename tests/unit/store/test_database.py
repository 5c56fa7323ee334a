"""Opening the database."""

from __future__ import annotations

import pytest

from atoll.errors import ConfigurationError
from atoll.store.database import Database


@pytest.mark.parametrize("url", ["nonsense", "nosuchdb://x", "postgresql+nodriver://x"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Database(url)
