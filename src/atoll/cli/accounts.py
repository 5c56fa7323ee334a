"""The teams, keys and tokens of a data directory, for the commands about them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from atoll.errors import ConfigurationError

if TYPE_CHECKING:
    from atoll.store.accounts import Accounts

T = TypeVar("T")


def with_accounts(data_dir: Path | None, work: Callable[[Accounts], Awaitable[T]]) -> T:
    """Open the database of a data directory that a server has been started on, and work in it.

    Raises `ConfigurationError` for any other directory: a key made there would open nothing.
    """
    from atoll.settings import load_settings
    from atoll.store.accounts import Accounts
    from atoll.store.database import Database

    settings = load_settings(data_dir=data_dir)
    if not settings.database_url and not (settings.data_dir / "atoll.db").is_file():
        raise ConfigurationError(
            f"{settings.data_dir} is not a data directory of Atoll: it has no atoll.db",
            remedy="name the directory of your server with --data-dir, or start `atoll serve` "
            "on this one first",
        )
    database = Database(settings.database)

    async def run() -> T:
        return await work(Accounts(database))

    try:
        return asyncio.run(run())
    finally:
        database.close()
