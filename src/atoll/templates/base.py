"""The template `base`: Debian 12 with the tools that users of E2B expect.

It is built on this machine from the distribution's archive, once, and kept. The host's own archive
mirror, package index and certificate authorities are used, so it can be built wherever the host can
install packages.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from atoll.errors import HostError
from atoll.templates import authorities as trust
from atoll.templates import builds, nodejs, ownership
from atoll.templates.bootstrap import bootstrap, check_host, disk_full, explain
from atoll.templates.builds import Build
from atoll.templates.model import Template, derive_id
from atoll.templates.program import ProgramFailed
from atoll.templates.root import finish_root, skeleton_digest
from atoll.templates.sources import read_sources, render, select_debian

NAME = "base"
CODENAME = "bookworm"

PACKAGES = (
    # what E2B's own base image has and its SDKs count on
    *("bash", "sudo", "git", "curl", "ca-certificates", "procps", "iproute2", "ncurses-bin"),
    *("build-essential", "python3", "python3-dev", "python3-pip", "python3-venv"),
    "python-is-python3",
    # small things that people and agents reach for
    *("bzip2", "file", "jq", "less", "lsof", "nano", "openssh-client", "patch", "ripgrep"),
    *("rsync", "tree", "tzdata", "unzip", "vim", "wget", "xz-utils", "zip"),
)

ENVS = {"LANG": "C.UTF-8"}
TRUST_ENVS = {
    "NODE_EXTRA_CA_CERTS": f"/{trust.EXTRA_BUNDLE}",
    "REQUESTS_CA_BUNDLE": f"/{trust.BUNDLE}",
    "SSL_CERT_FILE": f"/{trust.BUNDLE}",
}
"""Set only when there are authorities beyond the distribution's: Node.js, and Python's `requests`
and `httpx` in a virtual environment, otherwise look only at lists of their own."""

_REVISION = 1
"""To be counted up when a step of the build changes that no part of the recipe shows."""

PRUNE_GRACE = timedelta(days=1)
"""As long as a sandbox may live, unless the operator allows more."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a build becomes, but for the authorities."""

    codename: str = CODENAME
    packages: tuple[str, ...] = PACKAGES
    sources: str = ""
    """Text of the archive's `.sources` file; empty stands for mmdebstrap's default archive."""
    nodejs: str = nodejs.REQUIREMENT
    skeleton: str = field(default_factory=skeleton_digest)
    machine: str = field(default_factory=lambda: os.uname().machine)
    envs: str = json.dumps([ENVS, TRUST_ENVS], sort_keys=True)
    revision: int = _REVISION

    @property
    def digest(self) -> str:
        """SHA-256 over everything in it."""
        text = json.dumps(
            {name: getattr(self, name) for name in self.__dataclass_fields__}, sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()


async def ensure_base(
    store: Path, *, progress: Progress, authorities: Sequence[Path] = ()
) -> Template:
    """The template `base`, built now if the store has no build that is still right.

    A build is right when its recipe is today's and it trusts exactly the authorities that the host
    trusts (or `authorities` names) beyond the distribution's. Of several processes that ask at the
    same time one builds and the others wait. `progress` gets one line of text per step.

    Raises `HostError` with a remedy when the machine is the reason that it can't be built, and
    `ConfigurationError` when a file of `authorities` is no certificate.
    """
    recipe = Recipe(sources=render(select_debian(read_sources(), CODENAME)))
    trusted = [*trust.read_host(), *trust.read_named(authorities)]
    directory = store / NAME
    try:
        # Closed to others: the set-id programs in there would give them the ids of sandboxes.
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"no directory for templates can be made: {error}",
            remedy="set ATOLL_TEMPLATE_DIR to a directory that root can write to",
        ) from error
    build = find_build(directory, recipe, trusted)
    if build is not None:
        await asyncio.to_thread(builds.try_tidy, directory)
        return as_template(build)

    def on_wait() -> None:
        progress("waiting for another process that is building the template `base`")

    async with builds.locked(directory, on_wait=on_wait) as lock:
        await asyncio.to_thread(builds.tidy, directory)
        build = find_build(directory, recipe, trusted)
        if build is None:
            build = await _build(directory, recipe, trusted, progress, lock)
    return as_template(build)


def load_base(store: Path) -> Template | None:
    """The newest finished build, whether or not it is still right; None when there is none."""
    found = builds.read_builds(store / NAME)
    return as_template(found[0]) if found else None


async def prune_base(
    store: Path, *, in_use: Collection[Path] = (), grace: timedelta = PRUNE_GRACE
) -> list[Path]:
    """Remove builds that a newer one replaced more than `grace` ago, unless a layer is `in_use`.

    `in_use` can only speak for the caller's own sandboxes. The grace is for those of other servers
    that share the store. Returns the removed directories.
    """
    directory = store / NAME
    if not await asyncio.to_thread(directory.is_dir):
        return []
    removed = []
    limit = datetime.now(UTC) - grace
    async with builds.locked(directory, on_wait=lambda: None):
        for newer, build in pairwise(builds.read_builds(directory)):
            used = any(layer.is_relative_to(build.directory) for layer in in_use)
            if newer.created_at < limit and not used:
                await asyncio.to_thread(builds.discard, build.directory)
                removed.append(build.directory)
    return removed


def find_build(directory: Path, recipe: Recipe, trusted: Sequence[trust.Authority]) -> Build | None:
    """The newest build that this recipe and these trusted authorities would make again."""
    for build in builds.read_builds(directory):
        extra = trust.find_extra(trusted, build.distribution_authorities)
        if build.recipe == recipe.digest and build.extra_authorities == {
            authority.fingerprint for authority in extra
        }:
            return build
    return None


def as_template(build: Build) -> Template:
    """The template that a build of `base` is."""
    return Template(
        template_id=derive_id(NAME),
        names=(NAME,),
        build_id=build.build_id,
        layers=(build.rootfs,),
        created_at=build.created_at,
        envs=build.envs,
    )


async def _build(
    directory: Path,
    recipe: Recipe,
    trusted: Sequence[trust.Authority],
    progress: Progress,
    lock: int,
) -> Build:
    check_host(directory)
    started = asyncio.get_running_loop().time()
    progress("building the template `base` (once; it takes a minute or two)")
    try:
        async with builds.building(directory) as aside:
            build = await _build_in(aside, recipe, trusted, progress, lock)
            await builds.publish(build, aside)
    except ProgramFailed as failure:
        raise explain(failure, directory) from failure
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(directory) from error
        raise HostError(
            f"the template `base` could not be built: {error}",
            remedy="run scripts/setup, then try again",
        ) from error
    seconds = asyncio.get_running_loop().time() - started
    progress(f"the template `base` is ready ({seconds:.0f} s)")
    return build


async def _build_in(
    aside: Path,
    recipe: Recipe,
    trusted: Sequence[trust.Authority],
    progress: Progress,
    lock: int,
) -> Build:
    root = aside / builds.ROOTFS
    progress("fetching Node.js")
    wheel = await nodejs.download(aside / "nodejs", on_line=progress)
    await bootstrap(
        root,
        codename=recipe.codename,
        packages=recipe.packages,
        sources=recipe.sources,
        progress=progress,
        held=(lock,),
    )
    progress("installing Node.js")
    await asyncio.to_thread(nodejs.unpack, wheel, root / "usr/local")
    await asyncio.to_thread(shutil.rmtree, wheel.parent)
    distribution = trust.read_bundle(root / trust.BUNDLE)
    known = frozenset(authority.fingerprint for authority in distribution)
    extra = trust.find_extra(trusted, known)
    if extra:
        progress(f"adding {len(extra)} certificate authorities that this machine trusts")
    trust.add_to(root, extra)
    progress("setting up the user and the system's files")
    await finish_root(root, held=(lock,), on_line=lambda line: None)
    await asyncio.to_thread(ownership.shift, root)
    fingerprints = frozenset(authority.fingerprint for authority in extra)
    digest = hashlib.sha256("\n".join([recipe.digest, *sorted(fingerprints)]).encode())
    return Build(
        directory=aside.parent / digest.hexdigest()[:20],
        recipe=recipe.digest,
        build_id=str(uuid.uuid4()),
        created_at=datetime.now(UTC),
        distribution_authorities=known,
        extra_authorities=fingerprints,
        envs={**ENVS, **(TRUST_ENVS if extra else {})},
    )
