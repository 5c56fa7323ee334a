"""How fast files go in and out."""

from __future__ import annotations

import os

from e2b import Sandbox

from bench.samples import Samples, interleave
from bench.servers import run_atoll, run_stub
from bench.table import Row

_SMALL = os.urandom(1024)
_LARGE_MB = 100
_LARGE = os.urandom(_LARGE_MB << 20)


def measure_files() -> list[Row]:
    """1 KB and 100 MB, in and out, beside the same client against a bare server."""
    with run_stub() as stub, run_atoll(pool_size=1) as target:
        ours = Sandbox.create(**target.options)
        bare = Sandbox.create(**stub.options)
        small = interleave(
            {
                "write": lambda: ours.files.write("/home/user/small", _SMALL),
                "read": lambda: ours.files.read("/home/user/small", format="bytes"),
                "bare write": lambda: bare.files.write("/home/user/small", _SMALL),
                "bare read": lambda: bare.files.read("/home/user/small", format="bytes"),
            },
            200,
        )
        large = interleave(
            {
                "write": lambda: ours.files.write("/home/user/large", _LARGE),
                "read": lambda: ours.files.read("/home/user/large", format="bytes"),
                "bare write": lambda: bare.files.write("/home/user/large", _LARGE),
                "bare read": lambda: bare.files.read("/home/user/large", format="bytes"),
            },
            8,
            warm_up=1,
        )
        assert ours.files.read("/home/user/large", format="bytes") == _LARGE
        ours.kill()
    rows = []
    for act in ("write", "read"):
        mine, theirs = small[act], small[f"bare {act}"]
        rows.append(
            Row(
                f"file {act}, 1 KB",
                str(mine),
                f"the same against a bare server {theirs}",
                mine.p50 / theirs.p50,
                "p50 ≤ 2.5 ms",
                mine.p50 <= 2.5,
            )
        )
    for act, name in (("write", "upload"), ("read", "download")):
        mine, theirs = large[act], large[f"bare {act}"]
        ratio = theirs.p50 / mine.p50
        rows.append(
            Row(
                f"{name}, {_LARGE_MB} MB (ratio of throughputs)",
                _throughput(mine),
                f"the same against a bare server {_throughput(theirs)}",
                ratio,
                "ratio ≥ 0.60",
                ratio >= 0.6,
            )
        )
    return rows


def _throughput(times: Samples) -> str:
    return f"{_LARGE_MB / times.p50 * 1000:.0f} MB/s (n={len(times.values)})"
