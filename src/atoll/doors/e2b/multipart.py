"""The files in a `multipart/form-data` body, as a stream: nothing is kept in memory or on disk."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from atoll.errors import InvalidInput

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_PARAMETER = re.compile(
    r';\s*([\w!#$%&\'+.^`|~*-]+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s;"]*))', re.DOTALL
)
_FIELD = "file"


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of the form. Its content must be read before the next file is asked for."""

    name: str
    """The file name as the client gave it, directories included."""
    chunks: AsyncIterator[bytes]


class _Part:
    """The headers of a part."""

    def __init__(self) -> None:
        self.name = bytearray()
        self.value = bytearray()
        self.disposition: bytes | None = None

    def end_header(self) -> None:
        if bytes(self.name).lower() == b"content-disposition":
            self.disposition = bytes(self.value)
        self.name.clear()
        self.value.clear()


_END_OF_PART = object()
_END_OF_FORM = object()


class _Events:
    """Turns the parser's callbacks into a queue: parts, their data, their ends."""

    def __init__(self, boundary: str) -> None:
        """Raises `FormParserError` for a boundary that can't be."""
        self.queue: deque[object] = deque()
        self._part = _Part()
        self._parser = MultipartParser(
            boundary.encode("latin-1"),
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_name,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": lambda: self.queue.append(self._part),
                "on_part_data": lambda data, start, end: self.queue.append(data[start:end]),
                "on_part_end": lambda: self.queue.append(_END_OF_PART),
                "on_end": lambda: self.queue.append(_END_OF_FORM),
            },
        )

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidInput(f"the form is malformed: {error}") from None

    def _begin(self) -> None:
        self._part = _Part()

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._part.name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _end_header(self) -> None:
        self._part.end_header()


async def read_files(body: AsyncIterator[bytes], content_type: str) -> AsyncGenerator[FormFile]:
    """Read the parts named "file", in order. Raises `InvalidInput` for a malformed form."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise InvalidInput("the content type of the form has no boundary")
    try:
        events = _Events(match[1] or match[2])
    except FormParserError as error:
        raise InvalidInput(f"the boundary of the form is malformed: {error}") from None

    async def next_event() -> object:
        while not events.queue:
            chunk = await anext(body, None)
            if chunk is None:
                raise InvalidInput("the form ends before its last boundary")
            events.feed(chunk)
        return events.queue.popleft()

    async def content() -> AsyncGenerator[bytes]:
        while isinstance(event := await next_event(), bytes):
            yield event

    while (event := await next_event()) is not _END_OF_FORM:
        if not isinstance(event, _Part):
            continue  # content of a part that nobody asked for
        name = _file_name(event.disposition)
        if name is not None:
            yield FormFile(name, content())
    async for _ in body:
        pass  # what stands after the form says nothing


def _file_name(disposition: bytes | None) -> str | None:
    """The file name of a part named "file"; None for any other part."""
    if disposition is None:
        return None
    text = disposition.decode("utf-8", "surrogateescape")
    found = {
        match[1].lower(): match[3] if match[2] is None else _unquote(match[2])
        for match in _PARAMETER.finditer(text)
    }
    if found.get("name") != _FIELD:
        return None
    if (extended := found.get("filename*")) is not None:
        charset, _, rest = extended.partition("'")
        if charset.lower() != "utf-8":
            raise InvalidInput("filename* must be in UTF-8")
        return unquote(rest.partition("'")[2], errors="surrogateescape")
    return found.get("filename", "")


def _unquote(text: str) -> str:
    r"""Undo the quoting of a parameter, as HTML forms and httpx do it.

    They write `%22` for a quotation mark and `%0D`, `%0A` and the like for control characters, but
    leave a percent sign alone; curl writes `\"` and `\\`.
    """
    text = re.sub(r'\\(["\\])', r"\1", text)
    return re.sub(r"%(22|[01][0-9A-F])", lambda match: chr(int(match[1], 16)), text)
