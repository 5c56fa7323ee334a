"""From a plain Debian root file system to one that a sandbox can start from.

The files in `skeleton/` are laid over it, the user is made, the trust store is brought up to date,
and what ties it to this machine or this day is removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from atoll.templates.program import run

SKELETON = Path(__file__).parent / "skeleton"
USER = "user"
USER_ID = 1000
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}
"""What programs that work on a root file system are started with: nothing of the host's own."""

_MODES = {"etc/sudoers.d/user": 0o440, "usr/sbin/policy-rc.d": 0o755}

_IN_PLACE = f"""
groupadd --gid {USER_ID} {USER}
useradd --create-home --uid {USER_ID} --gid {USER_ID} --groups sudo --shell /bin/bash {USER}
visudo --check --quiet
update-ca-certificates
# Some packages link their manual pages into these when they are installed, and fail without.
mkdir -p /usr/share/man/man1 /usr/share/man/man5 /usr/share/man/man7 /usr/share/man/man8
"""

_ENTER = """
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
exec chroot "$1" /bin/sh -eu -c "$2"
"""
"""To be run in a mount namespace of its own, with a root file system and a script."""

_CLEARED = (
    "dev",
    "run",
    "tmp",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/tmp",
)
"""Directories that are emptied."""
_REMOVED = (
    *("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-"),
    *("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"),
    *("etc/.pwd.lock", "var/cache/debconf/*-old", "var/lib/dpkg/*-old"),
    *("var/log/*.log", "var/log/apt/*", "root/.cache", "root/.gnupg"),
)
"""Files of the installation's own, as patterns."""


def skeleton_files(skeleton: Path = SKELETON) -> dict[str, bytes]:
    """What is laid over the distribution's files, by path."""
    return {
        str(path.relative_to(skeleton)): path.read_bytes()
        for path in sorted(skeleton.rglob("*"))
        if path.is_file()
    }


def skeleton_digest() -> str:
    """SHA-256 over all that `finish_root` puts into a root, and over what it removes."""
    digest = hashlib.sha256()
    for path, content in skeleton_files().items():
        digest.update(f"{path}\0{_MODES.get(path, 0o644):o}\0{len(content)}\0".encode() + content)
    digest.update("\0".join([_IN_PLACE, *_CLEARED, *_REMOVED]).encode())
    return digest.hexdigest()


async def finish_root(
    root: Path, *, on_line: Callable[[str], None], held: Sequence[int] = ()
) -> None:
    """Do all of the above to a root that nothing but the distribution's packages has touched.

    Raises `ProgramFailed` and `OSError`.
    """
    lay_skeleton(root)
    await run(
        ["sh", "-eu", "-c", _ENTER, "enter", str(root), _IN_PLACE],
        env=ENVIRONMENT,
        on_line=on_line,
        alone=True,
        held=held,
    )
    clear(root)


def lay_skeleton(root: Path) -> None:
    """Write the skeleton's files; a link in the way is replaced, never followed. Blocking."""
    for name, content in skeleton_files().items():
        target = root / name
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)
        target.chmod(_MODES.get(name, 0o644))


def clear(root: Path) -> None:
    """Remove what an installation leaves and what belongs to one machine only. Blocking."""
    for name in _CLEARED:
        for entry in os.scandir(root / name):
            _remove(Path(entry.path))
    for pattern in _REMOVED:
        for path in root.glob(pattern):
            _remove(path)
    (root / "var/lib/apt/lists/partial").mkdir(mode=0o700)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    machine_id = root / "etc/machine-id"
    machine_id.unlink(missing_ok=True)
    machine_id.touch(mode=0o444)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
