"""`/files` as plain HTTP: signatures, encodings, ranges, forms, errors."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b.sandbox.signature import get_signature

from atoll.doors.e2b.access import sign
from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors


@pytest.fixture
def client(doors: Doors, sandbox: Sandbox) -> Iterator[httpx.Client]:
    with doors.client(sandbox) as client:
        yield client


@pytest.fixture
def visitor(doors: Doors, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """Knows the sandbox, not its token."""
    headers = doors.headers(sandbox)
    del headers["X-Access-Token"]
    with httpx.Client(base_url=doors.url, headers=headers) as client:
        yield client


# -- signatures ------------------------------------------------------------------------------


def signed(
    sandbox: Sandbox, path: Path | str, operation: Any, user: str | None, seconds: int | None
) -> dict[str, str]:
    """The query that the SDK makes."""
    made = get_signature(str(path), operation, user, sandbox.access_token, seconds)
    query = {"path": str(path), "signature": made["signature"]}
    if user is not None:
        query["username"] = user
    if made["expiration"] is not None:
        query["signature_expiration"] = str(made["expiration"])
    return query


@pytest.mark.parametrize("user", [None, "root"])
@pytest.mark.parametrize("seconds", [None, 60])
def test_signed_upload_and_download(
    visitor: httpx.Client, sandbox: Sandbox, tmp_path: Path, user: str | None, seconds: int | None
) -> None:
    path = tmp_path / "a b"
    upload = visitor.post(
        "/files",
        params=signed(sandbox, path, "write", user, seconds),
        files={"file": ("ignored", b"content")},
    )
    assert upload.status_code == 200
    assert upload.json() == [{"name": "a b", "type": "file", "path": str(path)}]
    download = visitor.get("/files", params=signed(sandbox, path, "read", user, seconds))
    assert download.content == b"content"


def test_bad_signatures(visitor: httpx.Client, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("secret")
    good = signed(sandbox, path, "read", "root", 60)
    assert visitor.get("/files", params=good).text == "secret"
    expired = visitor.get("/files", params=signed(sandbox, path, "read", "root", -5))
    assert expired.status_code == 401
    assert expired.json() == {"code": 401, "message": "signature is already expired"}
    for change in (
        {"path": "/etc/shadow"},
        {"username": "nobody"},
        {"username": ""},
        {"signature": good["signature"][:-1]},
        {"signature": ""},
        {"signature_expiration": str(int(time.time()) + 10**6)},
        {"signature_expiration": "soon"},
    ):
        refused = visitor.get("/files", params={**good, **change})
        assert refused.status_code == 401, change
        assert refused.json() == {"code": 401, "message": "invalid signature"}
    later = {key: value for key, value in good.items() if key != "signature_expiration"}
    assert visitor.get("/files", params=later).status_code == 401
    # A signature for reading is none for writing, and the other way round.
    assert visitor.post("/files", params=good, content=b"x").status_code == 401
    writing = signed(sandbox, path, "write", "root", 60)
    assert visitor.get("/files", params=writing).status_code == 401
    assert path.read_text() == "secret"


def stranger(doors: Doors) -> httpx.Client:
    """A client that names no sandbox, with an SDK's one URL for all of them."""
    return httpx.Client(base_url=doors.url)


@pytest.mark.parametrize("user", [None, "root"])
@pytest.mark.parametrize("seconds", [None, 60])
def test_found_by_the_signature_alone(
    doors: Doors,
    add_sandbox: Callable[..., Sandbox],
    tmp_path: Path,
    user: str | None,
    seconds: int | None,
) -> None:
    path = tmp_path / "a b+ü"
    ours = [add_sandbox(), add_sandbox(access_token=None), add_sandbox()][2]
    with stranger(doors) as client:
        upload = client.post(
            "/files",
            params=signed(ours, path, "write", user, seconds),
            files={"file": ("ignored", b"content")},
        )
        assert upload.status_code == 200
        assert path.read_bytes() == b"content"
        download = client.get("/files", params=signed(ours, path, "read", user, seconds))
        assert download.content == b"content"


def test_strangers_learn_nothing(
    doors: Doors, add_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_text("secret")
    live, ended, unsecured = add_sandbox(), add_sandbox(), add_sandbox(access_token=None)
    doors.end(ended)
    good = signed(live, path, "read", "root", 60)
    with stranger(doors) as client:
        assert client.get("/files", params=good).text == "secret"
        expired = client.get("/files", params=signed(live, path, "read", "root", -5))
        assert expired.status_code == 401
        assert expired.content == b'{"code":401,"message":"signature is already expired"}'
        unsigned = {
            **good,
            "signature": sign("", str(path), "read", "root", good["signature_expiration"]),
        }
        answers = {
            (answer.status_code, answer.content)
            for answer in (
                client.get("/files", params=signed(ended, path, "read", "root", 60)),
                client.get("/files", params=unsigned),
                client.get("/files", params={**good, "path": "/etc/shadow"}),
                client.get("/files", params={**good, "username": "user"}),
                client.get("/files", params={**good, "signature_expiration": "9999999999"}),
                client.get("/files", params={**good, "signature": good["signature"] + "="}),
                client.get("/files", params={**good, "signature": "v2" + good["signature"][2:]}),
                client.get("/files", params={**good, "signature": ""}),
                client.get("/files", params={**good, "signature_expiration": "9" * 50_000}),
                client.get("/files", params={**good, "signature": "v1_" + "é" * 43}),
                client.post("/files", params=good, content=b"x"),
            )
        }
    assert unsecured.access_token is None
    assert answers == {(401, b'{"code":401,"message":"invalid signature"}')}
    assert path.read_text() == "secret"


def test_a_url_that_names_no_sandbox(doors: Doors) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{doors.url}/files", params={"path": "/tmp/x"})
        assert answer.status_code == 401
        assert "names no sandbox" in answer.json()["message"]
        assert "E2b-Sandbox-Id" in answer.json()["message"]


def test_browsers_may_use_signed_urls(doors: Doors, sandbox: Sandbox, tmp_path: Path) -> None:
    query = signed(sandbox, tmp_path / "f", "write", None, None)
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with stranger(doors) as client:
        assert client.options("/files", params=query, headers=asked).status_code == 204
        posted = client.post("/files", params=query, content=b"x", headers={"Origin": "https://a"})
    assert posted.headers["access-control-allow-origin"] == "*"


def test_signature_comes_before_the_file(visitor: httpx.Client, sandbox: Sandbox) -> None:
    expired = visitor.get("/files", params=signed(sandbox, "/nowhere", "read", None, -5))
    assert expired.status_code == 401
    assert (
        visitor.get("/files", params=signed(sandbox, "/nowhere", "read", None, 60)).status_code
        == 404
    )


def test_token_is_demanded(visitor: httpx.Client) -> None:
    for method, path in (
        ("GET", "/files"),
        ("POST", "/files"),
        ("GET", "/envs"),
        ("GET", "/metrics"),
    ):
        refused = visitor.request(method, path, params={"path": "/etc/passwd"})
        assert refused.status_code == 401
        assert refused.json()["code"] == 401
        assert "access token" in refused.json()["message"]
    assert visitor.get("/health").status_code == 204
    wrong = {"X-Access-Token": "wrong"}
    assert visitor.get("/envs", headers=wrong).status_code == 401


# -- the other routes ------------------------------------------------------------------------


def test_envs_and_metrics(client: httpx.Client) -> None:
    assert client.get("/envs").json() == {"FROM_CREATE": "yes", "BOTH": "create"}
    metrics = client.get("/metrics").json()
    assert metrics["mem_total"] == 1 << 30
    assert metrics["mem_used_mib"] == 50
    assert metrics["disk_total"] > metrics["disk_used"] > 0
    assert metrics["cpu_count"] == 2
    assert metrics["cpu_used_pct"] >= 0


def test_internal_and_unknown_routes(client: httpx.Client) -> None:
    for path in ("/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw"):
        assert client.post(path, json={"accessToken": "mine"}).status_code == 403
    missing = client.get("/anything")
    assert missing.status_code == 404
    assert missing.json()["code"] == 404
    wrong = client.delete("/files")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET, POST"


# -- downloads -------------------------------------------------------------------------------


def test_download_headers(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<script>")
    response = client.get("/files", params={"path": str(tmp_path / "page.html")})
    assert response.headers["content-length"] == "8"
    assert response.headers["content-type"] == "text/html"
    assert response.headers["content-disposition"] == 'inline; filename="page.html"'
    assert response.headers["content-security-policy"] == "sandbox"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize(
    "name", ['q"uo\\te', "naïve.txt", "new\nline", "data:text\nhtml,", "x.tar.gz"]
)
def test_names_of_downloads(client: httpx.Client, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("content")
    response = client.get("/files", params={"path": str(tmp_path / name)})
    assert response.text == "content"
    assert "\n" not in response.headers["content-disposition"]


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (None, None),
        ("gzip", "gzip"),
        ("gzip, deflate, br", None),
        ("*", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=0", None),
        ("gzip;q=0.001, identity;q=0", "gzip"),
        ("*;q=0, gzip", "gzip"),
    ],
)
def test_encodings(
    client: httpx.Client, tmp_path: Path, accept: str | None, encoding: str | None
) -> None:
    content = b"compress me " * 1000
    (tmp_path / "f").write_bytes(content)
    headers = {"Accept-Encoding": accept} if accept else {}
    with client.stream(
        "GET", "/files", params={"path": str(tmp_path / "f")}, headers=headers
    ) as response:
        assert response.headers.get("content-encoding") == encoding
        raw = b"".join(response.iter_raw())
    assert (gzip.decompress(raw) if encoding else raw) == content


@pytest.mark.parametrize("accept", ["identity;q=0", "*;q=0", "br, identity;q=0"])
def test_no_acceptable_encoding(client: httpx.Client, accept: str) -> None:
    response = client.get(
        "/files", params={"path": "/etc/passwd"}, headers={"Accept-Encoding": accept}
    )
    assert response.status_code == 406
    assert response.json() == {
        "code": 406,
        "message": "no acceptable encoding found, supported: [identity, gzip]",
    }


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=5-", 206, b"56789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=8-100", 206, b"89"),
        ("bytes=-100", 206, b"0123456789"),
        ("bytes=10-", 416, b"invalid range\n"),
        ("bytes=5-4", 416, b"invalid range\n"),
        ("bytes=-0", 416, b"invalid range\n"),
        ("lines=1-2", 416, b"invalid range\n"),
        ("bytes=-", 416, b"invalid range\n"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
    ],
)
def test_ranges(
    client: httpx.Client, tmp_path: Path, wanted: str, status: int, content: bytes
) -> None:
    (tmp_path / "real").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("real")
    for name in ("real", "link"):
        response = client.get(
            "/files", params={"path": str(tmp_path / name)}, headers={"Range": wanted}
        )
        assert (response.status_code, response.content) == (status, content)
        if status == 206:
            first = b"0123456789".index(content)
            expected = f"bytes {first}-{first + len(content) - 1}/10"
            assert response.headers["content-range"] == expected
        elif status == 416:
            assert response.headers["content-range"] == "bytes */10"


_MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
_BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
_TAG = '"a-tag"'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Modified-Since": _MODIFIED}, 304),
        ({"If-Modified-Since": _BEFORE}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Unmodified-Since": _MODIFIED}, 200),
        ({"If-Unmodified-Since": _BEFORE}, 412),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": _TAG, "If-Modified-Since": _MODIFIED}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": _TAG}, 412),
        ({"If-Match": "*", "If-Unmodified-Since": _BEFORE}, 200),
        ({"Range": "bytes=0-1", "If-Range": _MODIFIED}, 206),
        ({"Range": "bytes=0-1", "If-Range": _BEFORE}, 200),
        ({"Range": "bytes=0-1", "If-Range": _TAG}, 200),
        ({"Range": "bytes=0-1", "If-Modified-Since": _MODIFIED}, 304),
        ({"Range": "bytes=0-1", "Accept-Encoding": "gzip"}, 206),
    ],
    ids=str,
)
def test_conditions(
    client: httpx.Client, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    """As Go's `http.ServeContent`, which E2B's envd answers with."""
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    os.utime(file, ns=(0, 784111777_999999999))
    response = client.get("/files", params={"path": str(file)}, headers=headers)
    assert response.status_code == status
    assert response.headers["last-modified"] == _MODIFIED
    assert "etag" not in response.headers
    assert response.content == {200: b"0123456789", 206: b"01"}.get(status, b"")


def test_a_date_that_cannot_be_written(client: httpx.Client, tmp_path: Path) -> None:
    for seconds in (0, -5):
        os.utime(tmp_path, (seconds, seconds))
        (tmp_path / "file").write_text("x")
        os.utime(tmp_path / "file", (seconds, seconds))
        response = client.get("/files", params={"path": str(tmp_path / "file")})
        assert "last-modified" not in response.headers


def test_a_range_of_an_empty_file(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    params = {"path": str(tmp_path / "empty")}
    assert client.get("/files", params=params, headers={"Range": "bytes=0-99"}).status_code == 200


def test_compose(client: httpx.Client, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name * 3)
    body: dict[str, object] = {
        "source_paths": [f"{tmp_path}/a", f"{tmp_path}/b"],
        "destination": f"{tmp_path}/new/all",
    }
    response = client.post("/files/compose", json=body)
    assert response.status_code == 200
    assert response.json() == {"name": "all", "type": "file", "path": f"{tmp_path}/new/all"}
    assert (tmp_path / "new" / "all").read_text() == "aaabbb"
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 400),
        ({"source_paths": [], "destination": "/tmp/x"}, 400),
        ({"source_paths": ["/etc/hostname"], "destination": ""}, 400),
        ({"source_paths": ["/etc/hostname"], "destination": "/etc/../etc/hostname"}, 400),
        ({"source_paths": ["/etc"], "destination": "/tmp/x"}, 400),
        ({"source_paths": ["/missing"], "destination": "/tmp/x"}, 404),
        ({"source_paths": ["/missing"], "destination": "/tmp/x", "username": "nobody-here"}, 401),
    ],
)
def test_compose_errors(client: httpx.Client, body: dict[str, object], code: int) -> None:
    response = client.post("/files/compose", json=body)
    assert (response.status_code, response.json()["code"]) == (code, code)
    assert client.get("/files/compose").status_code == 405


def test_compose_wants_the_token(doors: Doors) -> None:
    sandbox = doors.add()
    with doors.client(sandbox) as stranger:
        del stranger.headers["X-Access-Token"]
        assert stranger.post("/files/compose", json={}).status_code == 401


def test_files_that_say_they_are_empty(client: httpx.Client, tmp_path: Path) -> None:
    assert "Linux" in client.get("/files", params={"path": "/proc/version"}).text
    (tmp_path / "empty").touch()
    assert client.get("/files", params={"path": str(tmp_path / "empty")}).content == b""


def test_path_errors(client: httpx.Client, tmp_path: Path) -> None:
    cases = {
        str(tmp_path): (400, f"path '{tmp_path}' is a directory"),
        str(tmp_path / "no"): (404, f"path '{tmp_path / 'no'}' does not exist"),
    }
    for path, (code, message) in cases.items():
        response = client.get("/files", params={"path": path})
        assert response.status_code == code
        assert response.json() == {"code": code, "message": message}
    assert client.get("/files", params={"path": "a\0b"}).status_code == 400
    assert client.get("/files").status_code == 400


def test_download_that_nobody_reads_holds_little(
    doors: Doors, sandbox: Sandbox, client: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(bytes(300 << 20))
    before = memory()
    with client.stream("GET", "/files", params={"path": str(tmp_path / "big")}) as response:
        time.sleep(0.5)
        assert memory() - before < 40 << 20
        # The sandbox dies: the announced length is never reached.
        doors.end(sandbox)
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in response.iter_raw():
                pass


def memory() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


# -- uploads ---------------------------------------------------------------------------------


def test_raw_upload_needs_a_path(client: httpx.Client) -> None:
    response = client.post("/files", content=b"x")
    assert response.status_code == 400
    assert "path" in response.json()["message"]


def test_gzip_members_and_bad_gzip(client: httpx.Client, tmp_path: Path) -> None:
    def upload(body: bytes) -> httpx.Response:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
        return client.post(
            "/files", params={"path": str(tmp_path / "f")}, content=body, headers=headers
        )

    assert upload(gzip.compress(b"one ") + gzip.compress(b"two") + bytes(512)).status_code == 200
    assert (tmp_path / "f").read_bytes() == b"one two"
    (tmp_path / "f").unlink()
    whole = gzip.compress(random.Random(1).randbytes(100_000))
    for bad in (b"not gzip", whole[:-20], whole[:5000], whole + b"rubbish", zlib.compress(b"x")):
        response = upload(bad)
        assert response.status_code == 400, bad[:20]
        assert "gzip" in response.json()["message"]
        wait_until_gone(tmp_path / "f")
    other = client.post(
        "/files",
        params={"path": str(tmp_path / "f")},
        content=b"x",
        headers={"Content-Encoding": "br"},
    )
    assert other.status_code == 400


def form(*parts: tuple[str, bytes], boundary: str = "b") -> tuple[bytes, dict[str, str]]:
    body = b""
    for disposition, content in parts:
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        body += content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('filename="plain"', "plain"),
        ("filename=token", "token"),
        ('filename="a\\"b"', 'a"b'),
        ('filename="a%22b%0Ac"', 'a"b\nc'),
        ('filename="100%25"', "100%25"),
        ("filename=\"x\"; filename*=UTF-8''na%C3%AFve", "naïve"),
        ('filename="semi; name=other"', "semi; name=other"),
        ('filename="sub/dir/deep"', "sub/dir/deep"),
    ],
)
def test_names_in_forms(client: httpx.Client, tmp_path: Path, written: str, name: str) -> None:
    # The SDKs put the whole path into the name; a directory is needed for it not to be the home's.
    written = written.replace('filename="', f'filename="{tmp_path}/').replace(
        "UTF-8''", f"UTF-8''{tmp_path}/"
    )
    if "token" in written:
        written = f"filename={tmp_path}/token"
    body, headers = form((f'form-data; name="file"; {written}', b"content"))
    response = client.post("/files", content=body, headers=headers)
    assert response.json()[0]["path"] == str(tmp_path / name), response.text
    assert (tmp_path / name).read_bytes() == b"content"


def test_other_parts_are_passed_over(client: httpx.Client, tmp_path: Path) -> None:
    body, headers = form(
        ('form-data; name="comment"', b"x" * 100_000),
        (f'form-data; name="file"; filename="{tmp_path}/f"', b"\r\n--b\r\rdata--b"),
        ('form-data; name="submit"', b""),
    )
    assert len(client.post("/files", content=body, headers=headers).json()) == 1
    assert (tmp_path / "f").read_bytes() == b"\r\n--b\r\rdata--b"


def test_bad_forms(client: httpx.Client, tmp_path: Path) -> None:
    field = f'form-data; name="file"; filename="{tmp_path}/f"'
    twice, headers = form((field, b"1"), (field, b"2"))
    nothing, _ = form(('form-data; name="other"', b"1"))
    unnamed, _ = form(('form-data; name="file"; filename=""', b"1"))
    whole, _ = form((field, b"content"))
    for body in (twice, nothing, unnamed, whole[:-10], b"rubbish", b"--b\r\nBad Header\r\n\r\n"):
        response = client.post("/files", content=body, headers=headers)
        assert response.status_code == 400, body
        assert response.json()["message"]
    for kind in ("multipart/form-data", f"multipart/form-data; boundary={'x' * 199}"):
        response = client.post("/files", content=whole, headers={"Content-Type": kind})
        assert response.status_code == 400


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_boundary_cut_anywhere(client: httpx.Client, tmp_path: Path, cut: int) -> None:
    content = b"a\r\n--bound" * 20
    body, headers = form(
        (f'form-data; name="file"; filename="{tmp_path}/f"', content), boundary="boundary"
    )

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), cut):
            yield body[at : at + cut]

    assert client.post("/files", content=pieces(), headers=headers).status_code == 200
    assert (tmp_path / "f").read_bytes() == content


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Metadata-": "x"},
        {"X-Metadata-Key": "ta\tb"},
        {"X-Metadata-Key": "\xe9"},
        {f"X-Metadata-{'k' * 247}": "x"},
        {"X-Metadata-Key": "v" * 4090},
    ],
)
def test_bad_metadata(client: httpx.Client, tmp_path: Path, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    path = tmp_path / "f"
    response = client.post("/files", params={"path": str(path)}, content=b"x", headers=raw)
    assert response.status_code == 400
    assert not path.exists()


def test_client_that_leaves_writes_nothing(
    client: httpx.Client, doors: Doors, sandbox: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "f"

    def pieces() -> Iterator[bytes]:
        yield bytes(1 << 20)
        deadline = time.monotonic() + 5
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        client.post("/files", params={"path": str(path)}, content=pieces())
    wait_until_gone(path)


def wait_until_gone(path: Path) -> None:
    """The agent removes a half-written file when it sees the connection close."""
    deadline = time.monotonic() + 5
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_browsers_may_use_it(doors: Doors, add_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = add_sandbox()
    preflight = httpx.options(
        f"{doors.url}/files",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "e2b-sandbox-id,e2b-sandbox-port,x-access-token",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "x-access-token" in preflight.headers["access-control-allow-headers"]
    with doors.client(sandbox) as client:
        for path in ("/health", "/nothing", "/envs"):
            answer = client.get(path, headers={"Origin": "https://app.example"})
            assert answer.headers["access-control-allow-origin"] == "*"
    gone = httpx.get(
        f"{doors.url}/health",
        headers={"E2b-Sandbox-Id": "gone", "E2b-Sandbox-Port": "49983", "Origin": "https://a.b"},
    )
    assert gone.status_code == 502
    assert gone.headers["access-control-allow-origin"] == "*"
    assert json.loads(gone.content)["message"] == "The sandbox was not found"
