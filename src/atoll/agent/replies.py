"""Reading the agent's replies.

A sandbox's root can replace the agent, so whatever is said here is checked for form and bounds;
everything that does not fit raises `AgentFailed`.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from typing import Any

from atoll.agent.model import Entry, ProcessConfig, ProcessEnd, ProcessInfo, WatchEvent
from atoll.errors import (
    AgentFailed,
    AtollError,
    EventsLost,
    Exhausted,
    Forbidden,
    InvalidInput,
    NoSpace,
    NotFound,
    PathExists,
    Unauthenticated,
)

_ERRORS: Mapping[str, type[AtollError]] = {
    "already_exists": PathExists,
    "invalid_argument": InvalidInput,
    "unauthenticated": Unauthenticated,
    "permission_denied": Forbidden,
    "resource_exhausted": Exhausted,
    "no_space": NoSpace,
    "data_loss": EventsLost,
}
_MESSAGE_LENGTH = 2048
_METADATA_ITEMS = 2048
_METADATA_SIZE = 16 * 1024
"""In characters. What is more is left out: it must not make the file itself untellable. The agent
sends no more than this, and an upload may bring a quarter."""
_CONFIG_ITEMS = 32_768
"""Most arguments of a process, and most variables."""
_CONFIG_SIZE = 4 * 1024 * 1024
"""Most characters of them: more than a request to start a process may hold."""
_UNCHECKED_SIZE = 512 * 1024
"""JSON up to this size is parsed without a look at it: the worst takes some 10 ms and 20 MB."""
_STRING_LIMIT = 2 * _CONFIG_ITEMS
_STRUCTURE_SIZE = 512 * 1024
_OBJECT_COST = 384
"""What a description takes in memory besides its texts, in bytes."""
_ITEM_COST = 64
"""What an item of a dict or a tuple takes besides its texts, in bytes."""
_EVENT_TYPES = ("create", "write", "remove", "rename", "chmod")
_ENTRY_TYPES = ("file", "directory", "symlink", "other")


def decode_message(payload: bytes | memoryview) -> dict[str, Any]:
    """Read a JSON object."""
    content = bytes(payload)
    if len(content) > _UNCHECKED_SIZE:
        _check_structure(content)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AgentFailed("the agent sent malformed JSON") from error
    if not isinstance(value, dict):
        raise AgentFailed("the agent sent something other than a JSON object")
    return value


def _check_structure(content: bytes) -> None:
    """Refuse large JSON of too many parts: to parse it would hold up all else, and take far more
    memory than it has bytes. What is large for good reason holds few and long strings."""
    plain = content.replace(b"\\\\", b"").replace(b'\\"', b"")  # Only quotes that delimit are left.
    if plain.count(b'"') > 2 * _STRING_LIMIT or (
        sum(map(len, plain.split(b'"')[::2])) > _STRUCTURE_SIZE
    ):
        raise Exhausted("the agent's reply has too many parts")


def take_result(message: Mapping[str, Any], not_found: type[NotFound]) -> dict[str, Any]:
    """Return what a closing message holds, or raise the error it names."""
    result = message.get("ok")
    if isinstance(result, dict):
        return result
    raise read_error(message, not_found)


def read_error(message: Mapping[str, Any], not_found: type[NotFound]) -> AtollError:
    """The error that a message names; `not_found` is what is looked for in this operation."""
    error = message.get("error")
    if not isinstance(error, dict):
        return AgentFailed("the agent sent an unexpected message")
    code, words = take_text(error, "code"), take_text(error, "message")[:_MESSAGE_LENGTH]
    if code == "not_found":
        return not_found(words)
    return _ERRORS.get(code, AgentFailed)(words)


def take_text(values: Mapping[str, Any], key: str) -> str:
    """A required text."""
    value = values.get(key)
    if not isinstance(value, str):
        raise AgentFailed(f"the agent sent no valid {key}")
    try:
        value.encode()
    except UnicodeEncodeError:  # A lone surrogate, which JSON can spell.
        return value.encode("utf-8", "replace").decode()
    return value


def take_number(values: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """A required whole number within bounds."""
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise AgentFailed(f"the agent sent no valid {key}")
    return value


def take_flag(values: Mapping[str, Any], key: str) -> bool:
    """A required truth value."""
    value = values.get(key)
    if not isinstance(value, bool):
        raise AgentFailed(f"the agent sent no valid {key}")
    return value


def take_object(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A required object."""
    value = values.get(key)
    if not isinstance(value, dict):
        raise AgentFailed(f"the agent sent no valid {key}")
    return value


def _take_texts(values: Mapping[str, Any], key: str, items: int, size: int) -> dict[str, str]:
    found = take_object(values, key)
    if not found:
        return {}
    if len(found) > items:
        raise Exhausted(f"something in the sandbox has too many {key} to list")
    texts = {take_text({"name": name}, "name"): take_text(found, name) for name in found}
    if sum(len(name) + len(text) for name, text in texts.items()) > size:
        raise Exhausted(f"something in the sandbox has too much {key} to list")
    return texts


def _take_metadata(values: Mapping[str, Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    size = 0
    found = take_object(values, "metadata")
    for name in itertools.islice(found, _METADATA_ITEMS):
        text = take_text(found, name)
        size += len(name) + len(text)
        if size > _METADATA_SIZE:
            break
        texts[take_text({"name": name}, "name")] = text
    return texts


def _take_optional_text(values: Mapping[str, Any], key: str) -> str | None:
    return None if values.get(key) is None else take_text(values, key)


def decode_entry(values: Mapping[str, Any]) -> Entry:
    """Read the description of a path."""
    kind = values.get("type")
    if kind not in _ENTRY_TYPES:
        raise AgentFailed("the agent sent no valid type of an entry")
    return Entry(
        name=take_text(values, "name"),
        type=kind,
        path=take_text(values, "path"),
        size=take_number(values, "size", 0, 2**63 - 1),
        mode=take_number(values, "mode", 0, 0o777),
        permissions=take_text(values, "permissions"),
        owner=take_text(values, "owner"),
        group=take_text(values, "group"),
        modified_ns=take_number(values, "modified_ns", -(2**63), 2**63 - 1),
        symlink_target=_take_optional_text(values, "symlink_target"),
        is_symlink=take_flag(values, "is_symlink"),
        metadata=_take_metadata(values),
    )


def decode_entries(message: Mapping[str, Any]) -> list[Entry]:
    """Read one batch of a listing."""
    batch = message.get("entries")
    if not isinstance(batch, list) or not all(isinstance(item, dict) for item in batch):
        raise AgentFailed("the agent sent no valid entries")
    return [decode_entry(item) for item in batch]


def decode_events(message: Mapping[str, Any]) -> list[WatchEvent]:
    """Read one batch of what happened in a directory."""
    batch = message.get("events")
    if not isinstance(batch, list) or not all(isinstance(item, dict) for item in batch):
        raise AgentFailed("the agent sent no valid events")
    return [_decode_event(item) for item in batch]


def _decode_event(values: Mapping[str, Any]) -> WatchEvent:
    kind = values.get("type")
    if kind not in _EVENT_TYPES:
        raise AgentFailed("the agent sent no valid type of an event")
    entry = None if values.get("entry") is None else decode_entry(take_object(values, "entry"))
    return WatchEvent(take_text(values, "name"), kind, entry)


def weigh_entry(entry: Entry) -> int:
    """Roughly how many bytes of memory the description of a path takes."""
    size = sys.getsizeof
    texts = size(entry.name) + size(entry.path) + size(entry.permissions)
    texts += size(entry.owner) + size(entry.group)
    if entry.symlink_target is not None:
        texts += size(entry.symlink_target)
    return _OBJECT_COST + texts + _weigh_texts(entry.metadata)


def _weigh_texts(texts: Mapping[str, str]) -> int:
    if not texts:
        return 0
    size = sys.getsizeof
    return sum(size(name) + size(text) + _ITEM_COST for name, text in texts.items())


def decode_process(values: Mapping[str, Any]) -> ProcessInfo:
    """Read the description of a process."""
    config = take_object(values, "config")
    args = config.get("args")
    if not isinstance(args, list):
        raise AgentFailed("the agent sent no valid args")
    if len(args) > _CONFIG_ITEMS:
        raise Exhausted("a process has too many arguments to list")
    return ProcessInfo(
        pid=take_pid(values),
        tag=_take_optional_text(values, "tag"),
        config=ProcessConfig(
            cmd=take_text(config, "cmd"),
            args=tuple(take_text({"args": arg}, "args") for arg in args),
            envs=_take_texts(config, "envs", _CONFIG_ITEMS, _CONFIG_SIZE),
            cwd=_take_optional_text(config, "cwd"),
        ),
    )


def weigh_process(process: ProcessInfo) -> int:
    """Roughly how many bytes of memory the description of a process takes."""
    size, config = sys.getsizeof, process.config
    texts = sum(map(size, (process.tag, config.cmd, config.cwd)))
    args = sum(size(arg) + _ITEM_COST for arg in config.args)
    return _OBJECT_COST + texts + args + _weigh_texts(config.envs)


def take_pid(values: Mapping[str, Any]) -> int:
    """A process number."""
    return take_number(values, "pid", 1, 2**31 - 1)


def decode_end(values: Mapping[str, Any]) -> ProcessEnd:
    """Read how a process ended."""
    error = _take_optional_text(values, "error")
    return ProcessEnd(
        exit_code=take_number(values, "exit_code", -1, 255),
        exited=take_flag(values, "exited"),
        status=take_text(values, "status")[:_MESSAGE_LENGTH],
        error=None if error is None else error[:_MESSAGE_LENGTH],
    )
