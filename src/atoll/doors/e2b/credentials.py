"""Whose request to the control plane it is."""

from __future__ import annotations

from starlette.requests import Request

from atoll.store.keys import KeyStore


class Credentials:
    """Finds the team that a request acts for."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    async def find_team(self, request: Request) -> str:
        """Return the id of the team whose API key was sent. Raises `Unauthenticated`."""
        return await self._keys.authenticate(request.headers.get("x-api-key"))
