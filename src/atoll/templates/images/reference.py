"""Where an image is: what `docker pull` takes, or a file or directory of this machine."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from atoll.errors import InvalidInput

_HUB = "docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_LONGEST = 512
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?"
)
_PATH = re.compile(
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REMEDY = "write it as `docker pull` takes it: [registry/]name[:tag]"


@dataclass(frozen=True, slots=True)
class RegistryReference:
    """An image in a registry."""

    registry: str
    """Host name or address, with a port where it is not the usual one."""
    path: str
    tag: str = "latest"
    digest: str | None = None
    """Goes before the tag."""

    @property
    def host(self) -> str:
        """The registry's host without its port."""
        host, colon, port = self.registry.rpartition(":")
        host = host if colon and port.isdigit() else self.registry
        return host.strip("[]")

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on whatever machine asks it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """As skopeo takes it. It takes no tag beside a digest, which says all."""
        last = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"docker://{self.registry}/{self.path}{last}"

    def __str__(self) -> str:
        return self.url.removeprefix("docker://")


@dataclass(frozen=True, slots=True)
class LocalReference:
    """An image on this machine's disk, for whoever may read the disk: never for clients."""

    form: str
    """`oci`, `oci-archive` or `docker-archive`."""
    path: Path
    name: str = ""
    """Which of several."""

    @property
    def url(self) -> str:
        """As skopeo takes it."""
        return f"{self.form}:{self.path}" + (f":{self.name}" if self.name else "")

    def __str__(self) -> str:
        return str(self.path)


def parse_reference(text: str) -> RegistryReference:
    """Read what a client calls an image. Raises `InvalidInput`."""
    shown = text[:_LONGEST]
    if len(text) > _LONGEST:
        raise InvalidInput(f"the name of an image is longer than {_LONGEST} characters")
    rest, at, digest = text.removeprefix("docker://").partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"{shown!r} has a digest that is no `sha256:` digest", remedy=_REMEDY)
    first, slash, path = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry = first
    else:
        registry, path = _HUB, rest
    path, colon, tag = path.partition(":")
    if registry in _HUB_NAMES:
        registry = _HUB
        path = path if "/" in path else f"library/{path}"
    if not _DOMAIN.fullmatch(registry) or not _PATH.fullmatch(path):
        raise InvalidInput(f"{shown!r} is not the name of an image", remedy=_REMEDY)
    if colon and not _TAG.fullmatch(tag):
        raise InvalidInput(f"{shown!r} has a tag that is none", remedy=_REMEDY)
    return RegistryReference(registry, path, tag if colon else "latest", digest if at else None)


def find_local(text: str) -> LocalReference | None:
    """The OCI layout, or the archive of `docker save` or of an OCI layout, at a path.

    None when nothing is there. `oci:`, `oci-archive:` or `docker-archive:` before the path says
    what it is, and a name after another colon which image of several. Raises `InvalidInput` for
    what is there and holds no image.
    """
    form, colon, rest = text.partition(":")
    if colon and form in ("oci", "oci-archive", "docker-archive"):
        path, _, name = rest.partition(":")
        return LocalReference(form, Path(path).absolute(), name)
    path, _, name = text.partition(":")
    found = Path(path).absolute()
    if found.is_dir():
        if (found / "oci-layout").is_file():
            return LocalReference("oci", found, name)
        raise InvalidInput(f"{path} is a directory, but no OCI layout")
    if not found.is_file():
        return None
    return LocalReference(_recognize(found), found, name)


def _recognize(path: Path) -> str:
    """What kind of archive it is: newer versions of `docker save` write both kinds at once."""
    form = None
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name == "oci-layout":
                    return "oci-archive"
                if name == "manifest.json":
                    form = "docker-archive"
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInput(f"{path} is not an archive of an image: {error}") from None
    if form is None:
        raise InvalidInput(
            f"{path} holds neither an OCI layout nor what `docker save` writes",
            remedy="an archive of plain files becomes a template by ADD in a Dockerfile",
        )
    return form
