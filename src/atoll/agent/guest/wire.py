"""The frames between the host and the agent, and the JSON inside some of them.

A frame is one byte of kind, four bytes of big-endian length, and the payload. A connection carries
one operation at a time: the host sends a `J` request (followed, for operations with a body, by `D`
frames and one `X`), the agent answers with any number of frames and closes the operation with a `J`
frame that holds `ok` or `error`. Then the next request may follow.

The host imports this module too, for the constants: both sides are always of one version's making.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROTOCOL = 1
"""Raised when an old agent could misunderstand a new host, or the other way round."""

HEADER_SIZE = 5
DATA_LIMIT = 256 * 1024
"""Most bytes in one frame of content."""
REQUEST_LIMIT = 3 * 1024 * 1024
"""Most bytes of JSON in one request. Echoed back in a reply it stays below `MESSAGE_LIMIT`."""
MESSAGE_LIMIT = 4 * 1024 * 1024
"""Most bytes of JSON in one reply."""
_BATCH_SIZE = 64 * 1024
"""Bytes of JSON that one message of a list gathers; one large item makes it larger."""
ENTRY_LIMIT = 100_000
"""Most entries that one listing gives."""

JSON = ord("J")
DATA = ord("D")
END = ord("X")
STDOUT = ord("O")
STDERR = ord("E")
PTY = ord("P")


class _Reading:
    """What the scanner asks about how to build values: all as the standard library does."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


# The two C functions below are what the json package wraps in pure Python that would cost 4 ms and
# 1 MB per sandbox (it imports re and enum). The runtime directory pins the interpreter they are of.
_scan = _json.make_scanner(_Reading)  # type: ignore[arg-type]


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode = _json.make_encoder(
    None, _refuse, _json.encode_basestring, None, ":", ",", False, False, True
)


def decode_json(payload: bytes | bytearray) -> dict[str, object]:
    """Read a JSON object. Raises `ValueError` for anything else."""
    text = payload.decode("utf-8")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, RecursionError, ImportError, SystemError) as error:
        # The last two: the scanner asks the json package, which is not there, for its error class.
        raise ValueError("malformed JSON") from error
    if end != len(text) or not isinstance(value, dict):
        raise ValueError("not one JSON object")
    return value


def encode_json(message: Mapping[str, object], errors: str = "replace") -> bytes:
    """Write compact JSON. Text that is not Unicode is replaced, unless `errors` is `strict`: then
    it raises `UnicodeEncodeError`."""
    return "".join(_encode(message, 0)).encode("utf-8", errors)


def header(kind: int, length: int) -> bytes:
    """Make the first five bytes of a frame."""
    return bytes((kind,)) + length.to_bytes(4, "big")


def frame(kind: int, payload: bytes) -> bytes:
    """Make a whole frame."""
    return bytes((kind,)) + len(payload).to_bytes(4, "big") + payload


def message(value: Mapping[str, object]) -> bytes:
    """Make a whole `J` frame."""
    return frame(JSON, encode_json(value))


class Batch:
    """Makes messages of many small things: each holds a list of them under one key."""

    def __init__(self, key: str, send: Callable[[bytes], object]) -> None:
        self._key = key
        self._send = send
        self._items: list[bytes] = []
        self._size = 0

    def add(self, item: Mapping[str, object]) -> None:
        """Take one; send what there is before it when they would be too many together."""
        encoded = encode_json(item)
        if self._size + len(encoded) > _BATCH_SIZE:
            self.flush()
        self._items.append(encoded)
        self._size += len(encoded) + 1

    def flush(self) -> None:
        """Send what there is."""
        if self._items:
            self._send(frame(JSON, b'{"%s":[%s]}' % (self._key.encode(), b",".join(self._items))))
            self._items.clear()
            self._size = 0
