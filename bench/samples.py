"""Timing, and what is said of many timings."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Samples:
    """Durations of the same act, in milliseconds."""

    values: list[float]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """The 99th percentile (the largest value, for fewer than 100)."""
        return sorted(self.values)[math.ceil(0.99 * len(self.values)) - 1]

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms (n={len(self.values)})"


def time_once(act: Callable[[], object]) -> float:
    """How long the act takes, in milliseconds."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def sample(act: Callable[[], object], count: int, *, warm_up: int = 3) -> Samples:
    """Time an act so many times, after a few that don't count."""
    for _ in range(warm_up):
        act()
    return Samples([time_once(act) for _ in range(count)])


def interleave(
    acts: dict[str, Callable[[], object]], count: int, *, warm_up: int = 3
) -> dict[str, Samples]:
    """Time several acts in turn, so that the machine's moods meet all of them alike."""
    for act in acts.values():
        for _ in range(warm_up):
            act()
    values: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(count):
        for name, act in acts.items():
            values[name].append(time_once(act))
    return {name: Samples(each) for name, each in values.items()}
