"""Templates from a Dockerfile: a layer of pip, no change at all, how soon a large one is of use.

The peer is `buildah bud` with the same Dockerfile on the same base, in turns with ours; where it is
not installed (Debian's package `buildah`), its column stays empty.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from e2b import Sandbox

from bench.samples import Samples, time_once
from bench.servers import TEMPLATES, Target, run_atoll
from bench.table import Row

_TURNS = 3
_LARGE_MB = 500
_PIP_BAR, _AGAIN_BAR, _CREATE_BAR = 10_000, 1_000, 1_000
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
_DOCKERFILE = """\
FROM {base}
RUN echo {turn} && pip install --no-cache-dir --quiet six==1.17.0
COPY app.py /srv/
"""

Build = Callable[[Path], None]


def measure_building() -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="atoll-bench-build-") as scratch:
        store = Path(scratch) / "templates"
        store.mkdir()
        (store / "base").symlink_to(Path(TEMPLATES) / "base")
        with run_atoll(pool_size=0, template_dir=str(store)) as target:
            return [
                *_measure_pip(target, Path(scratch)),
                _measure_large(target, Path(scratch)),
            ]


def _measure_pip(target: Target, scratch: Path) -> list[Row]:
    firsts: dict[str, list[float]] = {"ours": [], "theirs": []}
    agains: dict[str, list[float]] = {"ours": [], "theirs": []}
    _build(target, "bench-pip", _write(scratch / "first", "FROM e2bdev/base\n"))
    with _buildah(target, scratch) as buildah:
        builders: dict[str, tuple[str, Build]] = {
            "ours": ("e2bdev/base", partial(_build, target, "bench-pip"))
        }
        if buildah is not None:
            builders["theirs"] = ("localhost/base", buildah)
        for turn in range(_TURNS):
            for who, (base, build) in builders.items():
                text = _DOCKERFILE.format(base=base, turn=turn)
                directory = _write(scratch / f"{who}{turn}", text)
                firsts[who].append(time_once(partial(build, directory)))
                agains[who].append(time_once(partial(build, directory)))
    return [
        _row("a template with a layer of pip, from a Dockerfile", firsts, _PIP_BAR),
        _row("the same again, nothing changed", agains, _AGAIN_BAR),
    ]


def _row(what: str, times: dict[str, list[float]], bar: float) -> Row:
    ours = Samples(times["ours"])
    limit = f"p50 ≤ {bar / 1000:g} s"
    if not times["theirs"]:
        return Row(what, str(ours), "", None, limit, ours.p50 <= bar)
    theirs = Samples(times["theirs"])
    met = ours.p50 <= bar and ours.p50 <= theirs.p50
    ratio = ours.p50 / theirs.p50
    return Row(what, str(ours), f"buildah bud {theirs}", ratio, f"{limit}, ratio ≤ 1", met)


def _measure_large(target: Target, scratch: Path) -> Row:
    text = f"FROM e2bdev/base\nRUN head -c {_LARGE_MB}M /dev/urandom >/large\n"
    _build(target, "bench-large", _write(scratch / "large", text))
    spent = time_once(partial(Sandbox.create, "bench-large", timeout=60, **target.options))
    return Row(
        f"create from a template of {_LARGE_MB} MB more, right after its build",
        f"{spent:.0f} ms",
        "",
        None,
        f"≤ {_CREATE_BAR / 1000:g} s",
        spent <= _CREATE_BAR,
    )


def _write(directory: Path, text: str) -> Path:
    directory.mkdir()
    (directory / "Dockerfile").write_text(text)
    (directory / "app.py").write_text("print('hello')\n")
    return directory


def _build(target: Target, name: str, directory: Path) -> None:
    """As a user does it: the whole command, with the interpreter's start.

    Its bytecode is kept, as on any machine, though the environment of this one may say otherwise.
    """
    command = [sys.executable, "-m", "atoll", "template", "build", "--name", name]
    command += ["--path", str(directory), "--data-dir", str(target.data_dir)]
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(directory.parent / "bytecode")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise SystemExit(f"the build of {name} failed:\n{done.stderr}")


@contextlib.contextmanager
def _buildah(target: Target, scratch: Path) -> Iterator[Build | None]:
    """`buildah bud` on the base template; its storage is gone afterwards."""
    if shutil.which("buildah") is None:
        yield None
        return
    policy = scratch / "policy.json"
    policy.write_text(_POLICY)
    storage = scratch / "buildah"
    tool = ["buildah", "--root", str(storage / "root"), "--runroot", str(storage / "run")]
    tool += ["--storage-driver", "overlay"]
    # Nothing of the machine's own settings: they may name programs that are not there.
    run = partial(
        subprocess.run,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "CONTAINERS_CONF": os.devnull},
    )

    def build(directory: Path) -> None:
        options = ["--signature-policy", str(policy), "--layers", "--network", "host"]
        run([*tool, "bud", *options, "--runtime", "runc", "--tag", "bench", str(directory)])

    archive = scratch / "base.tar"
    push = [sys.executable, "-m", "atoll", "template", "push", "base", str(archive)]
    environ = {**os.environ, "ATOLL_TEMPLATE_DIR": str(scratch / "templates")}
    subprocess.run([*push, "--data-dir", str(target.data_dir)], check=True, env=environ)
    try:
        run([*tool, "pull", "--signature-policy", str(policy), f"oci-archive:{archive}"])
        archive.unlink()
        image = run([*tool, "images", "--quiet"]).stdout.strip()
        run([*tool, "tag", image, "localhost/base"])
        yield build
    finally:
        run([*tool, "rm", "--all"])  # what a build that failed has left mounted
        run([*tool, "rmi", "--all", "--force"])
        subprocess.run(["umount", str(storage / "root" / "overlay")], capture_output=True)
