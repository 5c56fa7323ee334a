"""A template's root file system under runc, in namespaces like a sandbox's, for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from atoll.isolation.bundle import ID_BASE, ID_COUNT

_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
]
_USERS = {"root": (0, "/root"), "user": (1000, "/home/user")}


class Container:
    """A writable view of a root file system, and a way to run commands in it."""

    def __init__(self, layer: Path) -> None:
        self._layer = layer
        # Not pytest's directory: root of the namespace could not get into that.
        self._directory = Path(tempfile.mkdtemp(prefix="atoll-template-test-"))
        self.root = self._directory / "root"

    def __enter__(self) -> Container:
        self._directory.chmod(0o711)
        for name in ("upper", "work", "root"):
            (self._directory / name).mkdir()
            os.chown(self._directory / name, ID_BASE, ID_BASE)
        layers = f"lowerdir={self._layer},upperdir=upper,workdir=work"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, "root"]
        subprocess.run(command, check=True, cwd=self._directory)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.root], check=True)
        shutil.rmtree(self._directory)

    def run(self, script: str, *, user: str = "user") -> str:
        """Run a login shell's command; returns the output of both streams, stripped."""
        number, home = _USERS[user]
        capabilities = {"bounding": _CAPABILITIES}
        if number == 0:
            capabilities |= {"effective": _CAPABILITIES, "permitted": _CAPABILITIES}
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": number, "gid": number},
                "args": ["bash", "-l", "-c", script],
                "env": ["PATH=/usr/bin", f"HOME={home}", "SHELL=/bin/bash"],
                "cwd": home,
                "capabilities": capabilities,
            },
            "root": {"path": str(self.root)},
            "hostname": "e2b.local",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["mode=755"],
                },
            ],
            "linux": {
                "namespaces": [
                    {"type": kind} for kind in ("ipc", "mount", "network", "pid", "user", "uts")
                ],
                "uidMappings": [{"containerID": 0, "hostID": ID_BASE, "size": ID_COUNT}],
                "gidMappings": [{"containerID": 0, "hostID": ID_BASE, "size": ID_COUNT}],
            },
        }
        (self._directory / "config.json").write_text(json.dumps(config))
        done = subprocess.run(
            ["runc", "run", "--bundle", self._directory, f"template-test-{uuid.uuid4().hex}"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()
