"""skopeo: the program that speaks with registries and reads every form of image on disk."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from atoll.errors import HostError, InvalidInput, TooLarge
from atoll.templates.images.reference import LocalReference, RegistryReference
from atoll.templates.recipe import Credentials

PROGRAM = "skopeo"
PACKAGE = "skopeo"
NAME_IN_LAYOUT = "image"

_RESOLVE_SECONDS = 60.0
_COPY_SECONDS = 3600.0
_POLL_SECONDS = 0.2
_MANIFEST_BYTES = 4 << 20
_ERROR_BYTES = 64 << 10
_FATAL = re.compile(r'level=fatal msg=("(?:[^"\\]|\\.)*")')
_MORTAL = ("setpriv", "--pdeathsig", "KILL")
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
_POLICY = Path("/etc/containers/policy.json")
"""Whose images the machine's owner trusts. Without it skopeo would take none at all."""
_PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_DIR", "SSL_CERT_FILE")


class FetchFailed(InvalidInput):
    """An image can't be had from where it is said to be."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """A network to ask from that is not the host's own: a sandbox's."""

    pid: int
    """A process in it."""
    resolver: bytes
    """Its /etc/resolv.conf."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a registry is spoken to."""

    credentials: Credentials | None = field(default=None, repr=False)
    authfile: Path | None = None
    """Of the machine's owner, for when there are no credentials."""
    outlet: Outlet | None = None
    """None is the host's own network."""


NOBODY = Access()


async def resolve(reference: RegistryReference, access: Access) -> str:
    """The digest of what the registry has under this name now. Raises `FetchFailed`, `HostError`.

    It is that of a manifest, or of a list of manifests for several kinds of machines.
    """
    with _prepared(access, [reference.registry]) as place:
        raw = await _run(
            ["inspect", "--raw", *_tls("", reference), reference.url],
            place,
            access.outlet,
            seconds=_RESOLVE_SECONDS,
            subject=str(reference),
        )
    # Only a foreign registry's own word; what is fetched by it is compared.
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


async def fetch(
    reference: RegistryReference | LocalReference,
    layout: Path,
    access: Access,
    *,
    most_bytes: int,
) -> None:
    """Copy an image into an OCI layout at `layout`, as the one named `NAME_IN_LAYOUT`.

    Raises `FetchFailed`, `HostError`, and `TooLarge` when it takes more than `most_bytes`.
    """
    registries, tls = [], []
    if isinstance(reference, RegistryReference):
        registries, tls = [reference.registry], _tls("src-", reference)
    command = ["copy", "--quiet", "--retry-times", "2", *tls]
    command += ["--dest-oci-accept-uncompressed-layers", reference.url, _place_in(layout)]
    with _prepared(access, registries, layout) as place:
        copying = asyncio.create_task(
            _run(command, place, access.outlet, seconds=_COPY_SECONDS, subject=str(reference))
        )
        try:
            while not copying.done():
                await asyncio.wait({copying}, timeout=_POLL_SECONDS)
                if await asyncio.to_thread(_weigh, layout, place.directory) > most_bytes:
                    raise TooLarge(
                        f"the image {reference} takes more than {most_bytes >> 20} MiB",
                        remedy="raise ATOLL_MAX_IMAGE_MB, or make room on the disk",
                    )
            await copying
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)


async def send(layout: Path, reference: RegistryReference | LocalReference, access: Access) -> None:
    """Copy the image of a layout to a registry or an archive. Raises `FetchFailed`, `HostError`."""
    registries, tls = [], []
    if isinstance(reference, RegistryReference):
        registries, tls = [reference.registry], _tls("dest-", reference)
    with _prepared(access, registries, layout) as place:
        await _run(
            ["copy", "--quiet", "--retry-times", "2", *tls, _place_in(layout), reference.url],
            place,
            access.outlet,
            seconds=_COPY_SECONDS,
            subject=str(reference),
        )


def _place_in(layout: Path) -> str:
    return f"oci:{layout}:{NAME_IN_LAYOUT}"


def _tls(side: str, reference: RegistryReference) -> list[str]:
    """A registry on this very machine may do without TLS, as with Docker."""
    return [f"--{side}tls-verify=false"] if reference.is_loopback else []


@dataclass(frozen=True, slots=True)
class _Place:
    """What one call needs beside its arguments."""

    directory: Path
    accounts: int
    """A file that is in memory only: no crash leaves a password on the disk."""


@contextmanager
def _prepared(
    access: Access, registries: Sequence[str], beside: Path | None = None
) -> Iterator[_Place]:
    """A directory for one call (beside another, where there is room), and accounts; then gone."""
    parent = beside.parent if beside is not None else None
    directory = Path(tempfile.mkdtemp(prefix="atoll-skopeo-", dir=parent))
    try:
        (directory / "tmp").mkdir()
        if access.outlet is not None:
            (directory / "resolv.conf").write_bytes(access.outlet.resolver)
        accounts = os.memfd_create("accounts")
        try:
            _write_all(accounts, _list_accounts(access, registries))
            yield _Place(directory, accounts)
        finally:
            os.close(accounts)
    except OSError as error:
        raise HostError(f"{PROGRAM} can't be run: {error}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _list_accounts(access: Access, registries: Sequence[str]) -> bytes:
    if access.credentials is None and access.authfile is not None:
        return access.authfile.read_bytes()
    auths = {}
    if access.credentials is not None:
        pair = f"{access.credentials.username}:{access.credentials.password}"
        token = base64.b64encode(pair.encode()).decode()
        auths = {_account(registry): {"auth": token} for registry in registries}
    return json.dumps({"auths": auths}).encode()


def _account(registry: str) -> str:
    return "https://index.docker.io/v1/" if registry == "docker.io" else registry


async def _run(
    command: Sequence[str], place: _Place, outlet: Outlet | None, *, seconds: float, subject: str
) -> bytes:
    """Run skopeo to its end; returns what it wrote. Raises `FetchFailed`, `HostError`."""
    action, *rest = command
    directory = place.directory
    program = [PROGRAM, "--tmpdir", str(directory / "tmp"), "--override-os", "linux"]
    if not await asyncio.to_thread(_POLICY.exists):
        program.append("--insecure-policy")
    program += [action, "--authfile", f"/proc/self/fd/{place.accounts}", *rest]
    try:
        process = await asyncio.create_subprocess_exec(
            *_wrap(outlet, directory),
            *program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(directory),
            pass_fds=[place.accounts],
        )
    except FileNotFoundError:
        raise _missing() from None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(seconds):
            said, errors = await asyncio.gather(
                _read(process.stdout, _MANIFEST_BYTES), _read(process.stderr, _ERROR_BYTES)
            )
            status = await process.wait()
    except TimeoutError:
        raise FetchFailed(f"{subject}: it took more than {seconds:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status == 127:
        raise _missing()
    if status != 0:
        raise FetchFailed(
            f"{subject}: {_explain(errors.decode(errors='replace'))}",
            remedy="check the name, the credentials, and that this machine reaches the registry",
        )
    return said


def _wrap(outlet: Outlet | None, directory: Path) -> list[str]:
    """What starts a program that neither outlives the server nor leaves a mount."""
    if outlet is None:
        return [*_MORTAL, *_ALONE]
    enter = ["nsenter", f"--net=/proc/{outlet.pid}/ns/net", "--"]
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return [*_MORTAL, *enter, *_ALONE, "sh", "-c", script, str(directory / "resolv.conf")]


def _missing() -> HostError:
    return HostError(
        f"{PROGRAM}, which fetches images, is not installed",
        remedy=f"apt-get install {PACKAGE}",
    )


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    """All that comes, but keep no more than the first part of it."""
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept += chunk[: most - len(kept)]
    return kept


def _environment(directory: Path) -> Mapping[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.upper() in _PASSED_ON}
    path = os.environ.get("PATH", os.defpath)
    return {**passed, "PATH": path, "HOME": str(directory), "TMPDIR": str(directory / "tmp")}


def _explain(errors: str) -> str:
    """The reason, out of a line of a log."""
    found = _FATAL.findall(errors)
    if found:
        try:
            return str(json.loads(found[-1]))
        except ValueError:
            return str(found[-1])
    lines = errors.strip().splitlines()
    return lines[-1] if lines else "no reason was given"


def _weigh(*directories: Path) -> int:
    """Bytes of all files in directories that change meanwhile."""
    total = 0
    for directory in directories:
        for folder, _, files in os.walk(directory):
            for name in files:
                try:
                    total += os.lstat(f"{folder}/{name}").st_blocks * 512
                except FileNotFoundError:
                    continue
    return total
