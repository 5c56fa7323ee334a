"""How fast a service in a sandbox is through the gateway, beside nginx and beside no proxy."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from e2b import Sandbox
from websockets.sync.client import ClientConnection, connect

from bench.debian import environment, unpack
from bench.peers import chroot_command
from bench.samples import interleave
from bench.servers import free_port, run_atoll
from bench.table import Row

_ECHO = Path(__file__).parents[1] / "tests" / "e2e" / "echo.py"
_SERVICE = (
    "require('http').createServer((request, response) => {"
    " response.setHeader('content-type', 'text/plain'); response.end('hello, world\\n') })"
    ".listen(%d, '127.0.0.1')"
)
_CONNECTIONS = 16
_SECONDS = 4
_ROUNDS = 3
_ECHOES = 1000

_NGINX = """
worker_processes auto; daemon off; user root; pid {scratch}/pid; error_log {scratch}/log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {scratch}/a; proxy_temp_path {scratch}/b;
  fastcgi_temp_path {scratch}/c; uwsgi_temp_path {scratch}/d; scgi_temp_path {scratch}/e;
  upstream kept {{ server 127.0.0.1:{service}; keepalive 64; }}
  server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://127.0.0.1:{service}; }} }}
  server {{ listen 127.0.0.1:{kept}; location / {{
    proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""


def measure_gateway() -> list[Row]:
    """Requests per second, and a WebSocket's round trip."""
    with run_atoll(pool_size=1) as target:
        sandbox = Sandbox.create(timeout=600, **target.options)
        try:
            return [*_measure_requests(sandbox, target.url), *_measure_echo(sandbox)]
        finally:
            sandbox.kill()


def _measure_requests(sandbox: Sandbox, url: str) -> list[Row]:
    _start(sandbox, f"node -e {_quote(_SERVICE % 8000)}", 8000)
    own = free_port()
    with (
        chroot_command("node", "-e", _SERVICE % own) as service,
        _run(service, own),
        unpack("wrk", "libluajit-5.1-2") as wrk,
        unpack("nginx") as nginx,
    ):
        if wrk is None or nginx is None:
            return []
        with _run_nginx(nginx, own) as (plain, kept):
            named = [f"E2b-Sandbox-Id: {sandbox.sandbox_id}", "E2b-Sandbox-Port: 8000"]
            targets = {
                "atoll": (url, named),
                "nginx": (f"http://127.0.0.1:{plain}", []),
                "kept": (f"http://127.0.0.1:{kept}", []),
                "bare": (f"http://127.0.0.1:{own}", []),
            }
            rates = dict.fromkeys(targets, 0.0)
            for _ in range(_ROUNDS):  # in turn, so that the machine's moods meet all of them alike
                for name, (address, headers) in targets.items():
                    rates[name] += _load(wrk, address, headers) / _ROUNDS
    what, ours = f"proxied requests, {_CONNECTIONS} connections", rates["atoll"]
    measured = f"{ours:.0f}/s"
    ratio = ours / rates["nginx"]
    return [
        Row(
            what,
            measured,
            f"nginx, as installed: {rates['nginx']:.0f}/s",
            ratio,
            "ratio ≥ 0.25",
            ratio >= 0.25,
        ),
        Row(
            "the same",
            measured,
            f"nginx that keeps connections: {rates['kept']:.0f}/s",
            ours / rates["kept"],
        ),
        Row(
            "the same",
            measured,
            f"the service without a proxy: {rates['bare']:.0f}/s",
            ours / rates["bare"],
        ),
    ]


def _measure_echo(sandbox: Sandbox) -> list[Row]:
    sandbox.files.write("echo.py", _ECHO.read_text())
    _start(sandbox, "python3 echo.py 9001", 9001)
    own = free_port()
    with (
        _run([sys.executable, str(_ECHO), str(own)], own),
        connect(f"ws://{sandbox.get_host(9001)}/") as proxied,
        connect(f"ws://127.0.0.1:{own}/") as bare,
    ):

        def echo(client: ClientConnection) -> None:
            client.send("hello")
            assert client.recv() == "hello"

        times = interleave({"atoll": lambda: echo(proxied), "bare": lambda: echo(bare)}, _ECHOES)
    atoll = times["atoll"]
    return [
        Row(
            "WebSocket echo",
            str(atoll),
            f"without a proxy {times['bare']}",
            atoll.p50 / times["bare"].p50,
            "p50 ≤ 2 ms",
            atoll.p50 <= 2,
        )
    ]


def _start(sandbox: Sandbox, command: str, port: int) -> None:
    sandbox.commands.run(command, background=True, timeout=0)
    wait = f"until ss -Hltn 'sport = :{port}' | grep -q .; do sleep 0.1; done"
    sandbox.commands.run(wait, timeout=20)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@contextlib.contextmanager
def _run(command: list[str], port: int, environ: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until the end of the block, from when it listens on the port."""
    process = subprocess.Popen(command, env=environ)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} did not start: see above")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _run_nginx(root: Path, service: int) -> Iterator[tuple[int, int]]:
    """Two ports: with a connection to the service per request, and with connections kept."""
    plain, kept = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="atoll-nginx-") as scratch:
        config = Path(scratch) / "nginx.conf"
        config.write_text(_NGINX.format(scratch=scratch, service=service, plain=plain, kept=kept))
        command = [str(root / "usr/sbin/nginx"), "-c", str(config), "-e", f"{scratch}/log"]
        with _run(command, kept, environment(root)):
            yield plain, kept


def _load(root: Path, url: str, headers: list[str]) -> float:
    """Requests per second that were answered well."""
    command = [str(root / "usr/bin/wrk"), "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}", url]
    for header in headers:
        command += ["-H", header]
    done = subprocess.run(
        command, env=environment(root), check=True, capture_output=True, text=True
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"{url} did not answer well:\n{done.stdout}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)
    assert found is not None
    return float(found[1])
