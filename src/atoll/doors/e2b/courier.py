"""Delivers events to webhooks.

What waits is in the database, so a restart loses nothing. A delivery that fails is tried three
times more, ten seconds apart, as E2B documents; each webhook gets its deliveries one after the
other, and no webhook waits for another one's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
import uuid
from collections import Counter

import aiohttp
import structlog

from atoll.doors.e2b.destinations import Destinations
from atoll.doors.e2b.events import describe_event
from atoll.errors import InvalidInput
from atoll.sandboxes.history import History
from atoll.store.events import EventRow
from atoll.store.webhooks import Delivery

log = structlog.get_logger(__name__)

RETRIES = 3
_PATIENCE = 10.0
"""Seconds within which a receiver has to answer."""
_MOST_ROUNDS = 64
_MOST_ROUNDS_PER_TEAM = 4
_IDLE_SECONDS = 60.0
_AFTER_FAILURE_SECONDS = 5.0


def sign(secret: str, payload: bytes) -> str:
    """The signature of a payload, as E2B documents it: a plain hash, and base64 without `=`."""
    digest = hashlib.sha256(secret.encode() + payload).digest()
    return base64.b64encode(digest).decode().rstrip("=")


class Courier:
    """Brings what is due to where it belongs."""

    def __init__(
        self,
        history: History,
        destinations: Destinations,
        *,
        retry_seconds: float,
    ) -> None:
        self._store = history.webhooks
        self._lifecycle = history.lifecycle
        self._destinations = destinations
        self._retry_seconds = retry_seconds
        self._news = asyncio.Event()
        self._rounds: dict[str, asyncio.Task[None]] = {}
        self._per_team: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._lifecycle.listen(self._on_event)

    def start(self) -> None:
        """Begin, with what an earlier server left."""
        connector = aiohttp.TCPConnector(
            resolver=self._destinations, use_dns_cache=False, force_close=True, limit=_MOST_ROUNDS
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_PATIENCE),
            auto_decompress=False,
            trust_env=False,
        )
        self._task = asyncio.create_task(self._run(), name="courier")

    async def stop(self) -> None:
        """End. What is under way counts as not delivered."""
        tasks = [*self._rounds.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        await self._destinations.close()

    def _on_event(self, event: EventRow) -> None:
        self._news.set()

    async def _run(self) -> None:
        while True:
            self._news.clear()
            pause = _AFTER_FAILURE_SECONDS
            try:
                await self._lifecycle.flush()
                now = time.time()  # one moment for both questions: nothing falls in between
                for webhook_id, team_id in (await self._store.due(now)).items():
                    self._begin_round(webhook_id, team_id)
                due = await self._store.next_due(now)
                pause = _IDLE_SECONDS if due is None else min(due - time.time(), _IDLE_SECONDS)
            except Exception as error:  # whatever the database's driver raises
                log.error("webhook.queue_failed", error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause, 0.01)):
                    await self._news.wait()

    def _begin_round(self, webhook_id: str, team_id: str) -> None:
        if webhook_id in self._rounds or len(self._rounds) >= _MOST_ROUNDS:
            return  # the end of a round is news: whoever waits gets its turn then
        if self._per_team[team_id] >= _MOST_ROUNDS_PER_TEAM:
            return
        self._per_team[team_id] += 1
        task = asyncio.create_task(self._round(webhook_id))
        self._rounds[webhook_id] = task

        def end(_: asyncio.Task[None]) -> None:
            del self._rounds[webhook_id]
            self._per_team[team_id] -= 1
            self._news.set()

        task.add_done_callback(end)

    async def _round(self, webhook_id: str) -> None:
        """Deliver what is due to one webhook, until there is no more or something fails."""
        try:
            while (delivery := await self._store.next_delivery(webhook_id)) is not None:
                failure = await self._deliver(delivery)
                if failure is None:
                    await self._store.finish(delivery)
                    continue
                log.warning(
                    "webhook.failed",
                    webhook_id=webhook_id,
                    attempt=delivery.failures + 1,
                    error=failure,
                )
                if delivery.failures >= RETRIES:
                    await self._store.finish(delivery)
                else:
                    await self._store.postpone(delivery, self._retry_seconds)
                return
        except Exception as error:  # whatever the database's driver raises
            log.error("webhook.round_failed", error=type(error).__name__)
            await asyncio.sleep(_AFTER_FAILURE_SECONDS)

    async def _deliver(self, delivery: Delivery) -> str | None:
        """Try once; returns what went wrong."""
        assert self._session is not None
        webhook = delivery.webhook
        payload = json.dumps(describe_event(delivery.event), separators=(",", ":")).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "atoll-webhooks",
            "e2b-webhook-id": webhook.webhook_id,
            "e2b-delivery-id": str(uuid.uuid4()),
            "e2b-signature-version": "v1",
            "e2b-signature": sign(webhook.secret, payload),
        }
        try:
            self._destinations.check_url(webhook.url)  # the policy may have changed since
            async with self._session.post(
                webhook.url, data=payload, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status  # the body is the receiver's to choose: nobody reads it
        except TimeoutError:
            return f"no answer within {_PATIENCE:g} s"
        except (aiohttp.ClientError, OSError, ValueError, InvalidInput) as error:
            return type(error).__name__
        return None if 200 <= status < 300 else f"status {status}"
