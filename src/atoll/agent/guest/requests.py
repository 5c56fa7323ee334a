"""Reading requests: the host is trusted, yet a mistake there must give a clear error here."""

from __future__ import annotations

from .refusal import Refusal


def text(request: dict[str, object], key: str) -> str:
    """A string of the request."""
    value = request.get(key)
    if not isinstance(value, str):
        raise Refusal("invalid_argument", f"{key} must be text")
    return system_text(value, key)


def system_text(value: str, what: str) -> str:
    """Check that text can be given to the kernel."""
    if "\0" in value:
        raise Refusal("invalid_argument", f"{what} must not hold a zero byte")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Refusal("invalid_argument", f"{what} is not valid Unicode") from error
    return value


def number(request: dict[str, object], key: str, low: int, high: int, default: int = 0) -> int:
    """A whole number of the request, within bounds."""
    value = request.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refusal("invalid_argument", f"{key} must be a whole number from {low} to {high}")
    return value


def flag(request: dict[str, object], key: str) -> bool:
    """A truth value of the request; a missing one is false."""
    value = request.get(key, False)
    if not isinstance(value, bool):
        raise Refusal("invalid_argument", f"{key} must be true or false")
    return value


def texts(request: dict[str, object], key: str) -> list[str]:
    """A list of text of the request."""
    value = request.get(key)
    if not isinstance(value, list):
        raise Refusal("invalid_argument", f"{key} must be a list")
    return [text({key: each}, key) for each in value]


def mapping(request: dict[str, object], key: str) -> dict[str, str]:
    """A mapping of text to text."""
    value = request.get(key) or {}
    if not isinstance(value, dict):
        raise Refusal("invalid_argument", f"{key} must be an object")
    for name, content in value.items():
        if not isinstance(content, str):
            raise Refusal("invalid_argument", f"{key} must map text to text")
        system_text(name, key)
        system_text(content, key)
    return value
