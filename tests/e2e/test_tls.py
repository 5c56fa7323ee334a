"""TLS in the server: clients configured by nothing but a domain, an authority and a key."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import websockets

from atoll.certificates import LocalAuthority
from tests.e2e.test_gateway import ECHO
from tests.server import RunningServer, run_server

_PROGRAM = """
import threading
from e2b import Sandbox
from e2b.exceptions import TimeoutException

sandbox = Sandbox.create()
assert sandbox.commands.run("whoami").stdout == "user\\n"
sandbox.files.write("big", "x" * 3_000_000)
assert len(sandbox.files.read("big")) == 3_000_000
assert [each.sandbox_id for each in Sandbox.list().next_items()] == [sandbox.sandbox_id]
handle = sandbox.commands.run("while true; do echo x; sleep 0.05; done", background=True, timeout=0)
threading.Timer(0.5, sandbox.kill).start()
try:
    handle.wait()
except TimeoutException as error:
    assert "killed or reached its end of life" in str(error), error
else:
    raise AssertionError("the command outlived its sandbox")
assert not sandbox.is_running()
"""


_STREAMS = """
import http.server, time
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        if self.path == "/events":
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for number in range(1000):
                self.wfile.write(b"data: %d\\n\\n" % number)
                time.sleep(0.1)
        else:
            self.send_header("Content-Length", str(64 << 20))
            self.end_headers()
            for _ in range(64):
                self.wfile.write(bytes(1 << 20))
    def do_POST(self):
        left = size = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d" % size)
http.server.ThreadingHTTPServer(("127.0.0.1", 8200), H).serve_forever()
"""

_SERVING = """
import json
import sys
from e2b import Sandbox

sandbox = Sandbox.create(timeout=300)
sandbox.files.write("www/page.txt", "a page")
sandbox.files.write("echo.py", sys.argv[1])
serve = "cd www && exec python3 -m http.server 8000 --bind 127.0.0.1"
sandbox.commands.run(serve, background=True, timeout=0)
sandbox.commands.run("exec python3 echo.py 9001", background=True, timeout=0)
sandbox.files.write("streams.py", sys.argv[2])
sandbox.commands.run("exec python3 streams.py", background=True, timeout=0)
for port in (8000, 9001, 8200):
    sandbox.commands.run(f"until ss -Hltn 'sport = :{port}' | grep -q .; do sleep 0.1; done")
urls = {
    name: {str(end): sign("signed", use_signature_expiration=end) for end in (None, 600)}
    for name, sign in (("uploads", sandbox.upload_url), ("downloads", sandbox.download_url))
}
hosts = {port: sandbox.get_host(port) for port in (8000, 9001, 8200, 7777, 49983)}
print(json.dumps({"hosts": hosts, **urls}))
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    data_dir: Path = tmp_path_factory.mktemp("atoll-tls")
    command = [sys.executable, "-m", "atoll", "certs", "--data-dir", str(data_dir)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    authority = LocalAuthority(data_dir)
    for path in (authority.server_cert, authority.server_key, authority.cert, authority.trust):
        assert str(path) in said
    return authority


@pytest.fixture(scope="module")
def secure(authority: LocalAuthority) -> Iterator[RunningServer]:
    cert, key = str(authority.server_cert), str(authority.server_key)
    with run_server(authority.cert.parents[1], pool_size=1, tls_cert=cert, tls_key=key) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture(scope="module")
def trust(authority: LocalAuthority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.cert))


@dataclass(frozen=True)
class Serving:
    """A sandbox with two services, and what the SDK says of it."""

    hosts: dict[str, str]
    uploads: dict[str, str]
    downloads: dict[str, str]


@pytest.fixture(scope="module")
def serving(secure: RunningServer, authority: LocalAuthority) -> Serving:
    # A process of its own: the SDK reads what to trust once, and other tests have used it before.
    done = subprocess.run(
        [sys.executable, "-c", _SERVING, ECHO, _STREAMS],
        env=_environ(secure, authority),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Serving(**json.loads(done.stdout))


def _environ(server: RunningServer, authority: LocalAuthority) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("E2B_")},
        "SSL_CERT_FILE": str(authority.trust),
        "E2B_DOMAIN": f"sandbox.localhost:{server.port}",
        "E2B_API_KEY": server.api_key,
    }


def test_by_domain_alone(secure: RunningServer, authority: LocalAuthority) -> None:
    environ = _environ(secure, authority)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_by_what_atoll_env_says(secure: RunningServer, authority: LocalAuthority) -> None:
    script = f"{secure.atoll('env').stdout}\nexec {sys.executable} -c '{_PROGRAM}'"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"SSL_CERT_FILE={authority.trust}" in script


@pytest.mark.parametrize("http2", [True, False])
def test_host_names(serving: Serving, trust: ssl.SSLContext, http2: bool) -> None:
    with httpx.Client(verify=trust, http2=http2) as client:
        answer = client.get(f"https://{serving.hosts['8000']}/page.txt")
        assert answer.text == "a page"
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        closed = client.get(f"https://{serving.hosts['7777']}/")
        assert closed.json()["message"] == "The sandbox is running but port is not open"


@pytest.fixture(scope="module")
def streams(serving: Serving) -> str:
    """The address of a service whose requests and answers are long."""
    return f"https://{serving.hosts['8200']}"


@pytest.mark.parametrize("http2", [True, False])
def test_large_bodies_in_little_memory(
    secure: RunningServer, streams: str, trust: ssl.SSLContext, http2: bool
) -> None:
    def memory() -> int:
        return int(Path(f"/proc/{secure.process.pid}/statm").read_text().split()[1]) * 4096

    before = memory()
    with httpx.Client(verify=trust, http2=http2, timeout=60) as client:
        pieces = (bytes(1 << 20) for _ in range(64))
        answer = client.post(streams, content=pieces, headers={"Content-Length": str(64 << 20)})
        assert answer.text == str(64 << 20)
        with client.stream("GET", streams) as answer:
            assert sum(len(chunk) for chunk in answer.iter_raw()) == 64 << 20
    assert memory() - before < 30 << 20


@pytest.mark.parametrize("http2", [True, False])
def test_server_sent_events(streams: str, trust: ssl.SSLContext, http2: bool) -> None:
    with (
        httpx.Client(verify=trust, http2=http2) as client,
        client.stream("GET", f"{streams}/events") as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]


async def test_websocket(serving: Serving, trust: ssl.SSLContext) -> None:
    async with websockets.connect(f"wss://{serving.hosts['9001']}/", ssl=trust) as socket:
        for message in ("text", b"\x00\xff binary", "x" * 60_000):
            await socket.send(message)
            assert await socket.recv() == message


@pytest.mark.parametrize("seconds", [None, 600])
def test_signed_urls_by_host_name(
    serving: Serving, trust: ssl.SSLContext, seconds: int | None
) -> None:
    with httpx.Client(verify=trust) as client:
        url = serving.uploads[str(seconds)]
        assert url.startswith(f"https://{serving.hosts['49983']}/files?")
        assert client.post(url, files={"file": b"content"}).status_code == 200
        assert client.get(serving.downloads[str(seconds)]).text == "content"


def test_plain_http_is_refused(secure: RunningServer) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{secure.port}/health")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tls-cert", "/nowhere.pem"], "/nowhere.pem"),
        (["--tls-key", "/nowhere.pem"], "without its certificate"),
    ],
)
def test_bad_flags(tmp_path: Path, flags: list[str], said: str) -> None:
    command = [sys.executable, "-m", "atoll", "serve", "--data-dir", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert said in done.stderr
    assert "FIX: " in done.stderr
