"""What a program wrote while nobody listened."""

from __future__ import annotations

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT = 1024 * 1024
"""Most bytes held for one process."""
_SHARE = 64 * 1024
"""What a process may always hold, however much the others do."""
_TOTAL = 16 * 1024 * 1024
"""Bytes held for all processes together above which each is down to its share."""
_BLOCK = 64 * 1024
_OVERHEAD = 256
"""What a block costs besides its bytes; counted, so that alternating single bytes on stdout and
stderr cannot make the blocks' own weight exceed the limit."""


class HeldOutput:
    """The last bytes of output, in the order they were written. The oldest are dropped."""

    _all = 0

    def __init__(self) -> None:
        self._blocks: list[tuple[int, bytearray]] = []
        self._weight = 0

    def add(self, kind: int, data: bytes) -> None:
        """Append output."""
        blocks = self._blocks
        if blocks and blocks[-1][0] == kind and len(blocks[-1][1]) + len(data) <= _BLOCK:
            blocks[-1][1].extend(data)
            self._weigh(len(data))
        else:
            blocks.append((kind, bytearray(data)))
            self._weigh(len(data) + _OVERHEAD)
        limit = _LIMIT if HeldOutput._all <= _TOTAL else _SHARE
        drop = 0
        while self._weight > limit and drop < len(blocks) - 1:
            self._weigh(-len(blocks[drop][1]) - _OVERHEAD)
            drop += 1
        del blocks[:drop]

    def frames(self) -> Iterator[tuple[int, bytearray]]:
        """What is held, oldest first: kind of frame and bytes."""
        return iter(self._blocks)

    def clear(self) -> None:
        """Let go of everything."""
        self._blocks.clear()
        self._weigh(-self._weight)

    def _weigh(self, change: int) -> None:
        self._weight += change
        HeldOutput._all += change
