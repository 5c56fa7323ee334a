"""An OCI layout on disk, with one image in it: what skopeo has copied, or is to copy."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.errors import InvalidInput
from atoll.templates.images.skopeo import NAME_IN_LAYOUT

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MOST_BYTES = 8 << 20
_NAME = "org.opencontainers.image.ref.name"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True, slots=True)
class Layout:
    """An image in a layout. Its files have the digests that they are named by: skopeo saw to it."""

    digest: str
    """Of its manifest."""
    config: bytes
    layers: tuple[Path, ...]
    """The packed layers, the lowest first."""

    @staticmethod
    def read(directory: Path) -> Layout:
        """Read the layout that skopeo has made. Blocking; raises `InvalidInput`."""
        try:
            index = json.loads((directory / "index.json").read_bytes())
            digest = str(index["manifests"][0]["digest"])
            manifest: dict[str, Any] = json.loads(_read(_blob(directory, digest)))
            config = _read(_blob(directory, manifest["config"]["digest"]))
            layers = tuple(_blob(directory, each["digest"]) for each in manifest["layers"])
        except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise InvalidInput("this is not an image of files") from None
        return Layout(digest, config, layers)

    @staticmethod
    def write(
        directory: Path, *, config: dict[str, Any], layers: list[tuple[str, str, int]]
    ) -> None:
        """Write all but the layers, which are there by now: media type, digest and size of each."""
        about = _put(directory, json.dumps(config).encode(), CONFIG)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": about,
            "layers": [
                {"mediaType": kind, "digest": digest, "size": size} for kind, digest, size in layers
            ],
        }
        entry = _put(directory, json.dumps(manifest).encode(), MANIFEST)
        entry["annotations"] = {_NAME: NAME_IN_LAYOUT}
        (directory / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "manifests": [entry]})
        )
        (directory / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def blobs_of(directory: Path) -> Path:
    """Where a layout keeps its files, by their digests."""
    return directory / "blobs" / "sha256"


def _blob(directory: Path, digest: Any) -> Path:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise ValueError(digest)
    return blobs_of(directory) / match[1]


def _read(path: Path) -> bytes:
    if path.stat().st_size > _MOST_BYTES:
        raise InvalidInput("the image's description is too long")
    return path.read_bytes()


def _put(directory: Path, content: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (blobs_of(directory) / digest).write_bytes(content)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}
