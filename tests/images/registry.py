"""A real registry server on loopback."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.images.making import Picture, find_program
from tests.server import free_port

USERNAME, PASSWORD = "keeper", "open sesame"
# bcrypt, the only kind that the registry knows.
_ACCOUNT = f"{USERNAME}:$2b$05$ZWFzdGVyZWdnZWFzdGVyZO2NGm3mmeqEfR40ZS26t6ze1LFvPGUK6\n"


@dataclass
class Registry:
    """A running registry."""

    address: str
    directory: Path
    private: bool
    process: subprocess.Popen[bytes]

    def pause(self) -> None:
        """Take connections, and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self.process.send_signal(signal.SIGCONT)

    def push(self, picture: Picture, name: str) -> str:
        """Put an image into it; returns what it is called."""
        layout = self.directory / f"layout-{time.monotonic_ns()}"
        picture.write_layout(layout)
        credentials = ["--dest-creds", f"{USERNAME}:{PASSWORD}"] if self.private else []
        reference = f"{self.address}/{name}"
        subprocess.run(
            [
                *("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"),
                *(*credentials, f"oci:{layout}:latest", f"docker://{reference}"),
            ],
            check=True,
            capture_output=True,
        )
        return reference

    def count_blobs(self) -> int:
        """How many layers and configurations were asked for since it started."""
        return (self.directory / "log").read_text().count('method=GET http.request.uri="/v2/')


@contextlib.contextmanager
def run_registry(directory: Path, *, private: bool = False) -> Iterator[Registry]:
    """Run a registry, with or without an account that it asks for."""
    directory.mkdir(parents=True)
    port = free_port()
    auth = ""
    if private:
        (directory / "htpasswd").write_text(_ACCOUNT)
        auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {directory}/htpasswd\n"
    (directory / "config.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {directory}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{auth}"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [find_program("docker-registry"), "serve", str(directory / "config.yml")],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/v2/")
                break
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Registry(f"127.0.0.1:{port}", directory, private, process)
    finally:
        process.terminate()
        process.wait()
