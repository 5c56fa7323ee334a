"""The way out of a terminal that does not lead through the program in it."""

from __future__ import annotations

_ESCAPE = ord("~")
_LEAVE = ord(".")
_LINE_ENDS = b"\r\n"


class Escape:
    """Watches what is typed for `~.` at the beginning of a line, as ssh does; `~~` is one `~`."""

    def __init__(self) -> None:
        self._at_start = True
        self._pending = False

    def filter(self, typed: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether to leave."""
        passed = bytearray()
        for byte in typed:
            if self._pending:
                self._pending = False
                if byte == _LEAVE:
                    return bytes(passed), True
                if byte != _ESCAPE:
                    passed.append(_ESCAPE)
            elif self._at_start and byte == _ESCAPE:
                self._pending = True
                self._at_start = False
                continue
            passed.append(byte)
            self._at_start = byte in _LINE_ENDS
        return bytes(passed), False
