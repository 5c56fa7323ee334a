"""Token buckets."""

from __future__ import annotations

import pytest

from atoll.doors import limits
from atoll.doors.limits import Buckets
from atoll.errors import RateLimited


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_at_once_and_then_evenly() -> None:
    clock = Clock()
    buckets = Buckets(4, "things", clock=clock)
    for _ in range(4):
        buckets.take("a")
    with pytest.raises(RateLimited, match="more than 4 things") as caught:
        buckets.take("a")
    assert caught.value.retry_after == 15
    buckets.take("b")  # everyone has a bucket of one's own
    clock.now += 10
    with pytest.raises(RateLimited) as caught:
        buckets.check("a")
    assert caught.value.retry_after == 5
    clock.now += 5
    buckets.check("a")
    buckets.take("a")
    with pytest.raises(RateLimited):
        buckets.take("a")
    clock.now += 3600  # full again, and not fuller
    for _ in range(4):
        buckets.take("a")
    with pytest.raises(RateLimited):
        buckets.take("a")


def test_zero_is_no_limit() -> None:
    buckets = Buckets(0, "things")
    for _ in range(1000):
        buckets.take("a")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST", 10)
    clock = Clock()
    buckets = Buckets(1, "things", clock=clock)
    buckets.take("first")
    for number in range(100):
        clock.now += 0.001
        buckets.take(str(number))
        assert len(buckets._full_at) <= 10
    with pytest.raises(RateLimited):
        buckets.take("99")  # the latest are still known
