"""Everything about who may use the server."""

from __future__ import annotations

from atoll.store.database import Database
from atoll.store.keys import KeyStore
from atoll.store.teams import TeamStore
from atoll.store.tokens import TokenStore


class Accounts:
    """Teams, their API keys, and access tokens."""

    def __init__(self, database: Database) -> None:
        self.teams = TeamStore(database)
        self.keys = KeyStore(database)
        self.tokens = TokenStore(database)
