"""Filters, order and pages of the list of sandboxes.

The rules are E2B's: newest first unless asked otherwise, `startedAfter` inclusive, a template that
nobody knows matches nothing, and the next page's token in a header that the last page lacks.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote

from atoll.errors import InvalidInput
from atoll.sandboxes.model import Sandbox

_MAX_LIMIT = 100
_STATES = ("running", "paused")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    sandboxes: list[Sandbox]
    next_token: str | None
    total_running: int | None
    """How many running ones match on all pages together; None when running ones weren't asked."""


def parse_metadata(text: str | None) -> dict[str, str]:
    """Read the `metadata` filter: `k=v&k2=v2`, names and values encoded once more inside."""
    pairs = parse_qsl(text or "", keep_blank_values=True)
    return {unquote(name): unquote(value) for name, value in pairs}


def start_position(sandbox: Sandbox) -> tuple[float, str]:
    """Where a sandbox stands in the order of starting."""
    # The id decides between sandboxes of the same moment, so that pages neither repeat nor skip.
    assert sandbox.started_at is not None  # only live ones are listed
    return sandbox.started_at.timestamp(), sandbox.sandbox_id


def _encode_token(sandbox: Sandbox) -> str:
    started, sandbox_id = start_position(sandbox)
    return base64.urlsafe_b64encode(f"{started!r} {sandbox_id}".encode()).decode()


def _decode_token(token: str) -> tuple[float, str]:
    try:
        text, sandbox_id = base64.urlsafe_b64decode(token).decode().split(" ")
        started = float(text)
        if not math.isfinite(started):
            raise ValueError(text)
        return started, sandbox_id
    except (ValueError, binascii.Error):
        raise InvalidInput("nextToken is not one that this server gave out") from None


def _parse_limit(text: str | None) -> int:
    if text is None:
        return _MAX_LIMIT
    limit = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidInput(f"limit must be a number from 1 to {_MAX_LIMIT}")
    return limit


def _parse_moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("startedAfter must be a moment in RFC 3339 form") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parse_states(query: Mapping[str, str], repeated: Iterable[str]) -> set[str]:
    states = {part for text in repeated for part in text.split(",") if part} or set(_STATES)
    if unknown := states - set(_STATES):
        raise InvalidInput(f"state must be running or paused, not {sorted(unknown)[0]!r}")
    return states


def list_page(
    sandboxes: Iterable[Sandbox], query: Mapping[str, str], states: Iterable[str]
) -> Page:
    """Filter, order and cut by the query parameters of `GET /v2/sandboxes`.

    Raises `InvalidInput` for a parameter that makes no sense.
    """
    wanted_states = _parse_states(query, states)
    limit = _parse_limit(query.get("limit"))
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidInput("order must be asc or desc")
    found = filter_metadata(sandboxes, query.get("metadata"))
    if (after := query.get("startedAfter")) is not None:
        moment = _parse_moment(after)
        found = [each for each in found if each.started_at and each.started_at >= moment]
    if (template := query.get("template")) is not None:
        known = [(each, (each.template.template_id, *each.template.names)) for each in found]
        found = [each for each, names in known if template in names]
    found = [each for each in found if each.state.value in wanted_states]
    total = sum(each.state.value == "running" for each in found)
    found.sort(key=start_position, reverse=order == "desc")
    if token := query.get("nextToken"):
        last = _decode_token(token)
        found = [
            each
            for each in found
            if (start_position(each) < last if order == "desc" else start_position(each) > last)
        ]
    page = found[:limit]
    return Page(
        sandboxes=page,
        next_token=_encode_token(page[-1]) if len(found) > limit else None,
        total_running=total if "running" in wanted_states else None,
    )


def list_running(sandboxes: Iterable[Sandbox], metadata: str | None) -> list[Sandbox]:
    """What `GET /sandboxes` lists: all that run, the newest first."""
    found = filter_metadata(sandboxes, metadata)
    found = [each for each in found if each.state.value == "running"]
    return sorted(found, key=start_position, reverse=True)


def filter_metadata(sandboxes: Iterable[Sandbox], text: str | None) -> list[Sandbox]:
    """Those that have all the pairs of a `metadata` filter."""
    wanted = parse_metadata(text).items()
    return [each for each in sandboxes if wanted <= each.metadata.items()]
