"""Which part of a file a request wants, and on what condition.

As `http.ServeContent` of Go decides it, which E2B's envd answers with. There are no entity tags: a
file of a sandbox has only the time of its last change, to the second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from starlette.types import Scope

from atoll.doors.answers import header

_HEADERS = (
    b"range",
    b"if-range",
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
)
_RANGE = re.compile(r"\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*")
_LAST_SECOND = 253402300799
"""Of the year 9999: no later one can be written down."""


@dataclass(frozen=True, slots=True)
class Part:
    """What to answer with: 200 or 206 and the bytes, or a refusal without them."""

    status: int
    start: int = 0
    length: int = 0


class _NoOverlap(Exception):
    """The range begins behind the end of the file."""


def is_conditional(scope: Scope) -> bool:
    """Whether the request wants something else than the whole file in any case."""
    return any(name in _HEADERS for name, _ in scope["headers"])


def last_modified(modified_ns: int) -> bytes | None:
    """The header's value, when there is one: a file without a date has the epoch's."""
    seconds = modified_ns // 1_000_000_000
    if not 0 < seconds <= _LAST_SECOND:
        return None
    return formatdate(seconds, usegmt=True).encode()


def choose_part(scope: Scope, size: int, modified_ns: int) -> Part:
    """Decide what of a file to send.

    The status of a refusal is 304 (it did not change), 412 (it did), or 416 (the file has no such
    part).
    """
    modified = modified_ns // 1_000_000_000
    if not _matches(scope, modified):
        return Part(412)
    if _is_known(scope, modified):
        return Part(304)
    asked = _text(scope, b"range")
    if asked is None or not _may_be_part(scope, modified):
        return Part(200, 0, size)
    try:
        chosen = _parse_range(asked, size)
    except _NoOverlap:
        # Some clients send a range with every request, to bound the answer.
        return Part(416) if size else Part(200)
    except ValueError:
        return Part(416)
    return Part(200, 0, size) if chosen is None else Part(206, *chosen)


def _matches(scope: Scope, modified: int) -> bool:
    tags = _text(scope, b"if-match")
    if tags is not None:
        return tags.strip() == "*"
    since = _date(scope, b"if-unmodified-since")
    return since is None or modified <= since


def _is_known(scope: Scope, modified: int) -> bool:
    tags = _text(scope, b"if-none-match")
    if tags is not None:
        return tags.strip() == "*"
    since = _date(scope, b"if-modified-since")
    return since is not None and modified <= since


def _may_be_part(scope: Scope, modified: int) -> bool:
    return _text(scope, b"if-range") is None or _date(scope, b"if-range") == modified


def _parse_range(asked: str, size: int) -> tuple[int, int] | None:
    """Start and length; None for several ranges, which are answered with the whole, as HTTP allows.

    Raises `ValueError` when it is malformed, `_NoOverlap`.
    """
    unit, _, ranges = asked.partition("=")
    parts = [part for part in ranges.split(",") if part.strip()]
    if unit != "bytes" or not parts:
        raise ValueError
    if len(parts) > 1:
        return None
    match = _RANGE.fullmatch(parts[0])
    if match is None or not (match[1] or match[2]):
        raise ValueError
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise _NoOverlap
        return size - length, length
    first = int(match[1])
    last = int(match[2]) if match[2] else max(first, size - 1)
    if first > last:
        raise ValueError
    if first >= size:
        raise _NoOverlap
    return first, min(last, size - 1) - first + 1


def _text(scope: Scope, name: bytes) -> str | None:
    found = header(scope, name)
    return found.decode("latin-1") if found else None


def _date(scope: Scope, name: bytes) -> int | None:
    """Seconds since 1970; None for what is no date."""
    text = _text(scope, name)
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
