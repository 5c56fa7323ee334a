"""Programs of Debian for a measurement, without installing them: the machine stays as it was."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def unpack(*packages: str) -> Iterator[Path | None]:
    """Unpack the packages into a directory for the time being; None, said loudly, without them."""
    with tempfile.TemporaryDirectory(prefix="atoll-debian-") as scratch:
        root = Path(scratch) / "root"
        try:
            subprocess.run(
                ["apt-get", "download", "-q", *packages],
                cwd=scratch,
                check=True,
                capture_output=True,
            )
            for package in Path(scratch).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"SKIPPED: {' '.join(packages)} can't be had from Debian: {error}", flush=True)
            yield None
        else:
            yield root


def environment(root: Path) -> dict[str, str]:
    """Variables with which programs find the libraries that were unpacked beside them."""
    libraries = sorted({str(each.parent) for each in (root / "usr/lib").rglob("*.so*")})
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
