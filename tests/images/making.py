"""Images made by the tests' own means: a few files, and no program that builds images."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FETCHED = Path(__file__).parents[2] / ".venv-clients" / "debian"


def find_program(name: str) -> str:
    """A program that scripts/setup-tests has fetched, unless this machine has it."""
    for path in (
        f"/bin/{name}",
        f"/usr/bin/{name}",
        _FETCHED / "usr/bin" / name,
        _FETCHED / "bin" / name,
    ):
        if os.access(path, os.X_OK):
            return str(path)
    found = shutil.which(name)
    assert found, f"{name} is missing: run scripts/setup-tests"
    return found


_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURE = _MACHINES[os.uname().machine]


class LayerMaker:
    """Writes the archive of a layer, entry by entry; nothing is too odd for it."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._archive = tarfile.open(  # noqa: SIM115
            fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT
        )

    def add(self, name: str, data: bytes = b"", **fields: Any) -> LayerMaker:
        """Add an entry; `fields` are those of `TarInfo`."""
        info = tarfile.TarInfo(name)
        info.mode = 0o644
        for key, value in fields.items():
            setattr(info, key, value)
        info.size = fields.get("size", len(data))
        self._archive.addfile(info, io.BytesIO(data) if data else None)
        return self

    def directory(self, name: str, mode: int = 0o755, **fields: Any) -> LayerMaker:
        """Add a directory."""
        return self.add(name, type=tarfile.DIRTYPE, mode=mode, **fields)

    def program(self, name: str, path: str | Path) -> LayerMaker:
        """Add a program of this machine."""
        return self.add(name, Path(path).read_bytes(), mode=0o755)

    def link(self, name: str, target: str, *, hard: bool = False) -> LayerMaker:
        """Add a link."""
        kind = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
        return self.add(name, type=kind, linkname=target)

    def finish(self) -> bytes:
        """The whole archive."""
        self._archive.close()
        return self._buffer.getvalue()


@dataclass
class Picture:
    """An image: layers, and what its configuration says."""

    layers: Sequence[bytes]
    config: dict[str, Any] = field(default_factory=dict)
    architecture: str = ARCHITECTURE
    diff_ids: list[str] | None = None
    """Other ones than are true."""

    def configuration(self) -> bytes:
        """The configuration as JSON."""
        diff_ids = self.diff_ids or [_digest(layer) for layer in self.layers]
        return json.dumps(
            {
                "architecture": self.architecture,
                "os": "linux",
                "config": self.config,
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }
        ).encode()

    def write_layout(self, directory: Path) -> Path:
        """Write an OCI layout."""
        blobs = directory / "blobs" / "sha256"
        blobs.mkdir(parents=True)

        def put(content: bytes, kind: str) -> dict[str, Any]:
            digest = _digest(content)
            (blobs / digest.removeprefix("sha256:")).write_bytes(content)
            return {"mediaType": kind, "digest": digest, "size": len(content)}

        kind = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": put(self.configuration(), f"{kind}.config.v1+json"),
            "layers": [
                put(gzip.compress(layer, 1, mtime=0), f"{kind}.layer.v1.tar+gzip")
                for layer in self.layers
            ],
        }
        entry = put(json.dumps(manifest).encode(), f"{kind}.manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        index = {"schemaVersion": 2, "manifests": [entry]}
        (directory / "index.json").write_text(json.dumps(index))
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return directory

    def write_docker_archive(self, path: Path, name: str = "test:latest") -> Path:
        """Write what `docker save` writes."""
        config = self.configuration()
        config_name = _digest(config).removeprefix("sha256:") + ".json"
        layers = [f"{number}/layer.tar" for number in range(len(self.layers))]
        manifest = [{"Config": config_name, "RepoTags": [name], "Layers": layers}]
        maker = LayerMaker()
        for member, content in zip(layers, self.layers, strict=True):
            maker.add(member, content)
        maker.add(config_name, config).add("manifest.json", json.dumps(manifest).encode())
        path.write_bytes(maker.finish())
        return path


def busybox_layer() -> bytes:
    """A root file system of busybox alone: no bash, no Python, no C library, no accounts."""
    maker = LayerMaker().directory("bin").program("bin/busybox", find_program("busybox"))
    for name in ("sh", "ls", "cat", "id", "echo", "sleep", "env", "stat", "pwd", "httpd", "touch"):
        maker.link(f"bin/{name}", "busybox")
    return maker.finish()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
