"""Reading the query of a request to the control plane."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.errors import InvalidInput

_HIGHEST = 2**63 - 1


def take_number(
    query: Mapping[str, str], name: str, *, low: int = 0, high: int = _HIGHEST
) -> int | None:
    """A whole number; None when it is not there. Raises `InvalidInput`."""
    text = query.get(name)
    if text is None:
        return None
    number = int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else -1
    if not low <= number <= high:
        bound = f"from {low} to {high}" if high < _HIGHEST else f"of {low} or more"
        raise InvalidInput(f"{name} must be a whole number {bound}")
    return number


def take_flag(query: Mapping[str, str], name: str) -> bool:
    """`true` or `false`; false when it is not there. Raises `InvalidInput`."""
    text = query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise InvalidInput(f"{name} must be true or false")
    return text == "true"


def take_interval(query: Mapping[str, str]) -> tuple[int | None, int | None]:
    """`start` and `end`, in seconds since the epoch. Raises `InvalidInput`."""
    start, end = take_number(query, "start"), take_number(query, "end")
    if start is not None and end is not None and start > end:
        raise InvalidInput("start must not be later than end")
    return start, end
