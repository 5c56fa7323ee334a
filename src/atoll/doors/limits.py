"""How often a client may ask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from atoll.errors import RateLimited

_PERIOD = 60.0
_MOST = 10_000
"""Clients that are remembered; those who have long been quiet are forgotten first."""


class Buckets:
    """A bucket of tokens for each client: `per_minute` of them, refilled evenly.

    So a client that was quiet may ask that often at once. With 0 everyone may, always.
    """

    def __init__(
        self, per_minute: int, what: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = per_minute
        self._what = what
        self._clock = clock
        # The moment at which each client's bucket will be full again: all that is to be known.
        self._full_at: dict[str, float] = {}

    def check(self, client: str) -> None:
        """Raise `RateLimited` when the client's bucket is empty."""
        if not self._per_minute:
            return
        wait = self._next(client) - self._clock() - _PERIOD
        if wait > 1e-6:
            raise RateLimited(
                f"more than {self._per_minute} {self._what} in a minute",
                retry_after=math.ceil(wait),
            )

    def take(self, client: str) -> None:
        """Take a token. Raises `RateLimited` when there is none."""
        if not self._per_minute:
            return
        self.check(client)
        full_at = self._next(client)
        self._full_at.pop(client, None)  # to the end of the order
        self._full_at[client] = full_at
        if len(self._full_at) > _MOST:
            self._forget()

    def _next(self, client: str) -> float:
        return max(self._full_at.get(client, 0.0), self._clock()) + _PERIOD / self._per_minute

    def _forget(self) -> None:
        now = self._clock()
        self._full_at = {each: full_at for each, full_at in self._full_at.items() if full_at > now}
        while len(self._full_at) > _MOST:
            del self._full_at[next(iter(self._full_at))]


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of the control plane."""

    requests: Buckets
    """Of each key."""
    creates: Buckets
    """Of each key."""
    failures: Buckets
    """Of each address that sends keys which nobody knows."""

    @classmethod
    def per_minute(cls, *, requests: int, creates: int, failures: int) -> Limits:
        """Limits of so many per minute; 0 is none."""
        return cls(
            Buckets(requests, "requests with this key"),
            Buckets(creates, "sandboxes made with this key"),
            Buckets(failures, "unknown keys from this address"),
        )
