"""From what a kernel publishes to the events of the protocol.

Facts: the event types, the order of their fields and the names of the formats are those that E2B's
released clients parse.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .kernel import Message

Event = dict[str, Any]

END: Event = {"type": "end_of_execution"}
KEEPALIVE: Event = {"type": "keepalive"}

_FORMATS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def error(name: str, value: str, traceback: str = "") -> Event:
    """An error event."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def note(text: str) -> Event:
    """Something that the interpreter itself has to say."""
    return {"type": "stderr", "text": text, "timestamp": datetime.now(UTC).isoformat()}


def translate(message: Message) -> Event | None:
    """The event that a message becomes; None for one that clients do not see."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        return {
            "type": "stderr" if content["name"] == "stderr" else "stdout",
            "text": content["text"],
            "timestamp": _date(message),
        }
    if kind in ("execute_result", "display_data"):
        return _result(content.get("data", {}), is_main=kind == "execute_result")
    if kind == "error":
        return error(
            content.get("ename", ""), content.get("evalue", ""), "".join(content["traceback"])
        )
    if kind == "execute_reply" and content["status"] != "ok":
        return error(
            content.get("ename") or "Error",
            content.get("evalue") or "the code was not run",
            "".join(content.get("traceback") or ()),
        )
    if kind == "execute_input":
        return {"type": "number_of_executions", "execution_count": content["execution_count"]}
    return None


def _date(message: Message) -> str:
    date = message["header"]["date"]
    return date if isinstance(date, str) else str(date.isoformat())


def _result(bundle: dict[str, Any], *, is_main: bool) -> Event:
    event: Event = {"type": "result"}
    extra = {}
    for mime, value in bundle.items():
        name = _FORMATS.get(mime)
        if name is None:
            extra[mime] = value
        else:
            event[name] = _unquote(value) if name == "text" and isinstance(value, str) else value
    event["extra"] = extra
    event["is_main_result"] = is_main
    return event


def _unquote(text: str) -> str:
    """Take away one pair of quotes, in which a kernel shows a string."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
