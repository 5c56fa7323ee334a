"""The agent API as bytes on the wire: both codecs, envelopes, errors, limits, deadlines."""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import httpx
import pytest
from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.codec import proto_binary_codec
from connectrpc.errors import ConnectError
from protobuf import Oneof

from atoll.doors.e2b.gen import filesystem_pb, process_pb
from atoll.doors.e2b.gen.filesystem_connect import FilesystemClientSync
from atoll.doors.e2b.gen.process_connect import ProcessClientSync
from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors


def envelope(message: Any, flags: int = 0) -> bytes:
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", flags, len(data)) + data


def read_envelopes(raw: bytes) -> list[tuple[int, Any]]:
    found = []
    while raw:
        flags, length = struct.unpack(">BI", raw[:5])
        found.append((flags, json.loads(raw[5 : 5 + length])))
        raw = raw[5 + length :]
    return found


STREAM = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}


@pytest.fixture
def client(doors: Doors, sandbox: Sandbox) -> Iterator[httpx.Client]:
    with doors.client(sandbox) as client:
        yield client


def start(client: httpx.Client, body: Any, **headers: str) -> list[tuple[int, Any]]:
    response = client.post(
        "/process.Process/Start", content=envelope(body), headers={**STREAM, **headers}
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/connect+json"
    return read_envelopes(response.content)


def sh(command: str) -> dict[str, Any]:
    return {"cmd": "/bin/sh", "args": ["-c", command]}


def test_start_in_json(client: httpx.Client) -> None:
    events = start(client, {"process": sh("printf abc; exit 3"), "stdin": False})
    kinds = [next(iter(message.get("event", {"eos": 0}))) for _, message in events]
    assert kinds == ["start", "data", "end", "eos"]
    assert isinstance(events[0][1]["event"]["start"]["pid"], int)
    assert base64.b64decode(events[1][1]["event"]["data"]["stdout"]) == b"abc"
    end = events[2][1]["event"]["end"]
    assert end["exitCode"] == 3
    assert end["exited"] is True
    assert end["status"] == "exit status 3"
    assert events[3] == (2, {})


def test_stdin_is_open_unless_refused(client: httpx.Client) -> None:
    # Clients older than the field leave it out and expect to be able to write.
    with client.stream(
        "POST",
        "/process.Process/Start",
        content=envelope({"process": {"cmd": "cat"}}),
        headers=STREAM,
    ) as response:
        chunks = response.iter_raw()
        pid = read_envelopes(next(chunks))[0][1]["event"]["start"]["pid"]
        told = client.post(
            "/process.Process/SendInput",
            json={"process": {"pid": pid}, "input": {"stdin": base64.b64encode(b"hi").decode()}},
        )
        assert told.json() == {}
        assert (
            base64.b64decode(read_envelopes(next(chunks))[0][1]["event"]["data"]["stdout"]) == b"hi"
        )
        client.post("/process.Process/CloseStdin", json={"process": {"pid": pid}})
    events = start(client, {"process": {"cmd": "cat"}, "stdin": False})
    assert events[-2][1]["event"]["end"]["exited"] is True


def test_snake_case_and_unknown_fields(client: httpx.Client) -> None:
    events = start(client, {"process": {**sh("true"), "novelty": 1}, "stdin": False, "other": {}})
    assert events[-2][1]["event"]["end"]["status"] == "exit status 0"
    response = client.post(
        "/filesystem.Filesystem/CreateWatcher", json={"path": "/", "include_entry": True}
    )
    assert response.json()["watcherId"].startswith("w")


def test_unary_json_forms(client: httpx.Client) -> None:
    response = client.post(
        "/filesystem.Filesystem/Stat",
        json={"path": "/etc/passwd"},
        headers={"Content-Encoding": "identity", "Accept-Encoding": "identity"},
    )
    entry = response.json()["entry"]
    assert entry["type"] == "FILE_TYPE_FILE"
    assert isinstance(entry["size"], str)
    assert entry["permissions"] == "-rw-r--r--"
    assert entry["modifiedTime"].endswith("Z")
    assert "symlinkTarget" not in entry
    assert "metadata" not in entry


def test_binary_codec(doors: Doors, sandbox: Sandbox) -> None:
    headers = doors.headers(sandbox)
    with ProcessClientSync(doors.url, codec=proto_binary_codec()) as processes:
        request = process_pb.StartRequest(
            process=process_pb.ProcessConfig(
                cmd="/bin/sh", args=["-c", "printf '\\377\\0'; exit 9"]
            ),
            stdin=False,
        )
        events = [each.event.event for each in processes.start(request, headers=headers)]  # type: ignore[union-attr]
        assert [each.field for each in events if each] == ["start", "data", "end"]
        assert events[1].value.output == Oneof("stdout", b"\xff\0")  # type: ignore[union-attr]
        assert events[2].value.exit_code == 9  # type: ignore[union-attr]
        pid: Oneof[Literal["pid"], int] = Oneof("pid", 4_000_000)
        kill = process_pb.SendSignalRequest(
            process=process_pb.ProcessSelector(selector=pid), signal=process_pb.Signal.SIGKILL
        )
        with pytest.raises(ConnectError) as caught:
            processes.send_signal(kill, headers=headers)
        assert caught.value.code is Code.NOT_FOUND
    with FilesystemClientSync(doors.url, codec=proto_binary_codec()) as files:
        found = files.list_dir(filesystem_pb.ListDirRequest(path="/etc"), headers=headers)
        assert "passwd" in [each.name for each in found.entries]


def test_tags_and_list(client: httpx.Client) -> None:
    with client.stream(
        "POST",
        "/process.Process/Start",
        content=envelope(
            {"process": {"cmd": "sleep", "args": ["30"], "envs": {"A": "b"}}, "tag": "mine"}
        ),
        headers=STREAM,
    ) as response:
        next(response.iter_raw())
        listed = client.post("/process.Process/List", json={}).json()["processes"]
        mine = next(each for each in listed if each.get("tag") == "mine")
        assert mine["config"] == {
            "cmd": "sleep",
            "args": ["30"],
            "envs": {"A": "b"},
            "cwd": "/tmp",
        }
        answer = client.post(
            "/process.Process/SendSignal",
            json={"process": {"tag": "mine"}, "signal": "SIGNAL_SIGTERM"},
        )
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "body", "code"),
    [
        ("process.Process/SendSignal", {"process": {"pid": 1}, "signal": 3}, "invalid_argument"),
        ("process.Process/SendSignal", {"process": {"pid": 4194303}, "signal": 9}, "not_found"),
        ("process.Process/SendSignal", {"signal": 9}, "invalid_argument"),
        ("process.Process/SendInput", {"process": {"pid": 4194303}}, "invalid_argument"),
        ("process.Process/Update", {"process": {"pid": 4194303}}, "invalid_argument"),
        ("process.Process/CloseStdin", {"process": {"tag": "none"}}, "not_found"),
        ("filesystem.Filesystem/Stat", {"path": "/nowhere"}, "not_found"),
        ("filesystem.Filesystem/Stat", {"path": "a\0b"}, "invalid_argument"),
        ("filesystem.Filesystem/ListDir", {"path": "/etc/passwd"}, "invalid_argument"),
        ("filesystem.Filesystem/MakeDir", {"path": "/etc"}, "already_exists"),
        ("filesystem.Filesystem/Move", {"source": "/no", "destination": "/x"}, "not_found"),
        ("filesystem.Filesystem/Stat", b"{", "invalid_argument"),
        ("filesystem.Filesystem/Stat", b"[" * 100_000, "invalid_argument"),
        ("filesystem.Filesystem/Stat", b'{"path":' * 100_000, "invalid_argument"),
        ("filesystem.Filesystem/Stat", b'{"a":"' + b"[" * 5_000_000, "invalid_argument"),
        ("filesystem.Filesystem/Stat", b"\xff", "invalid_argument"),
        ("filesystem.Filesystem/Stat", b'{"path": 5}', "invalid_argument"),
    ],
)
def test_unary_errors(client: httpx.Client, method: str, body: Any, code: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    response = client.post(f"/{method}", content=content, headers=headers)
    assert response.status_code >= 400
    assert response.json()["code"] == code, response.text
    assert response.json()["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"stdin": False}, "invalid_argument"),
        ({"process": {"cmd": ""}}, "invalid_argument"),
        ({"process": sh("true"), "pty": {"size": {"cols": 0, "rows": 1}}}, "invalid_argument"),
        ({"process": sh("true"), "pty": {"size": {"cols": 99999, "rows": 1}}}, "invalid_argument"),
        ({"process": {"cmd": "/nowhere/to/be/found"}}, "invalid_argument"),
        ({"process": {**sh("true"), "cwd": "/nowhere"}}, "invalid_argument"),
    ],
)
def test_stream_errors(client: httpx.Client, body: Any, code: str) -> None:
    events = start(client, body)
    assert len(events) == 1
    flags, message = events[0]
    assert flags == 2
    assert message["error"]["code"] == code, message


def test_bad_stream_input(client: httpx.Client) -> None:
    pieces: list[list[dict[str, Any]]] = [
        [{"data": {"input": {"stdin": "YQ=="}}}],
        [{"start": {"process": {"pid": 4194303}}}, {"start": {"process": {"pid": 1}}}],
        [],
    ]
    for messages in pieces:
        content = b"".join(envelope(each) for each in messages)
        response = client.post("/process.Process/StreamInput", content=content, headers=STREAM)
        assert read_envelopes(response.content)[-1][1]["error"]["code"] == "invalid_argument"


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 17 << 20, 500])
def test_false_length(client: httpx.Client, claimed: int) -> None:
    content = struct.pack(">BI", 0, claimed) + b"{}"
    response = client.post("/process.Process/Start", content=content, headers=STREAM)
    error = read_envelopes(response.content)[-1][1]["error"]
    assert error["code"] in ("resource_exhausted", "unimplemented")
    assert client.get("/health").status_code == 204


def test_huge_json_body_is_never_kept(doors: Doors, client: httpx.Client) -> None:
    def content() -> Iterator[bytes]:
        yield b'{"path": "'
        for _ in range(1024):
            yield bytes(1 << 20)

    before = memory()
    response = client.post(
        "/filesystem.Filesystem/Stat",
        content=content(),
        headers={"Content-Type": "application/json"},
    )
    assert response.json()["code"] == "resource_exhausted"
    assert memory() - before < 100 << 20


def memory() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def test_brackets_in_a_command_are_fine(client: httpx.Client) -> None:
    command = "true '" + '{[\\"' * 5000 + "'"
    events = start(client, {"process": sh(command), "stdin": False})
    assert events[-2][1]["event"]["end"]["status"] == "exit status 0"


def test_wrong_protocols(client: httpx.Client) -> None:
    for kind in ("application/grpc", "application/grpc+proto", "text/plain"):
        response = client.post("/process.Process/List", content=b"", headers={"Content-Type": kind})
        assert response.status_code == 415
    assert client.get("/process.Process/List").status_code == 405
    assert client.post("/process.Process/Nothing", json={}).status_code == 404
    odd = {"Content-Type": "application/json", "X-Odd": "\xff\xfe"}
    raw = [(k.encode(), v.encode("latin-1")) for k, v in odd.items()]
    assert client.post("/process.Process/List", content=b"{}", headers=raw).status_code == 200


def test_keepalive_pings(client: httpx.Client) -> None:
    events = start(
        client,
        {"process": sh("sleep 2.3; echo x"), "stdin": False},
        **{"Keepalive-Ping-Interval": "1"},
    )
    kinds = [next(iter(message.get("event", {"eos": 0}))) for _, message in events]
    assert kinds == ["start", "keepalive", "keepalive", "data", "end", "eos"]


def test_servers_deadline(client: httpx.Client) -> None:
    began = time.monotonic()
    events = start(client, {"process": sh("exec sleep 30")}, **{"Connect-Timeout-Ms": "400"})
    assert 0.3 < time.monotonic() - began < 2
    assert events[-1][1]["error"]["code"] == "deadline_exceeded"
    pid = events[0][1]["event"]["start"]["pid"]
    kill = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}
    assert client.post("/process.Process/SendSignal", json=kill).status_code == 200


def test_users(client: httpx.Client) -> None:
    def whoami(authorization: str) -> Any:
        return client.post(
            "/process.Process/Start",
            content=envelope({"process": {"cmd": "id", "args": ["-un"]}}),
            headers={**STREAM, "Authorization": authorization},
        )

    basic = base64.b64encode(b"nobody:").decode()
    events = read_envelopes(whoami(f"Basic {basic}").content)
    assert base64.b64decode(events[1][1]["event"]["data"]["stdout"]) == b"nobody\n"
    events = read_envelopes(whoami("Bearer something").content)
    assert base64.b64decode(events[1][1]["event"]["data"]["stdout"]) == b"root\n"
    refused = whoami("Basic ???")
    assert refused.status_code == 401
    assert refused.json()["code"] == "unauthenticated"


def test_disconnect_reaches_the_agent_at_once(doors: Doors, sandbox: Sandbox) -> None:
    body = envelope({"process": sh("sleep 30")})
    lines = [
        "POST /process.Process/Start HTTP/1.1",
        "Host: x",
        *(f"{name}: {value}" for name, value in {**doors.headers(sandbox), **STREAM}.items()),
        f"Content-Length: {len(body)}",
    ]
    before = agent_connections(doors)
    with socket.create_connection(("127.0.0.1", doors.port)) as sock:
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        seen = b""
        while b"pid" not in seen:
            seen += sock.recv(4096)
        opened = agent_connections(doors) - before
        assert opened
    deadline = time.monotonic() + 1
    while opened & agent_connections(doors):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def agent_connections(doors: Doors) -> set[str]:
    """The connections that the agent holds: inodes of the connected sockets with its name."""
    with open("/proc/net/unix") as table:
        rows = [row.split() for row in table if row.rstrip().endswith(f"@{doors.agent_name}")]
    return {row[6] for row in rows if row[5] == "03"}


def test_dropped_not_ended_when_the_sandbox_dies(
    doors: Doors, add_sandbox: Callable[..., Sandbox]
) -> None:
    victim, other = add_sandbox(), add_sandbox()
    with doors.client(victim) as client, doors.client(other) as bystander:
        with client.stream(
            "POST",
            "/process.Process/Start",
            content=envelope({"process": sh("sleep 30")}),
            headers=STREAM,
        ) as response:
            chunks = response.iter_raw()
            next(chunks)
            doors.end(victim)
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                next(chunks)
        gone = client.get("/health")
        assert gone.status_code == 502
        assert gone.json() == {
            "sandboxId": victim.sandbox_id,
            "message": "The sandbox was not found",
            "code": 502,
        }
        assert bystander.get("/health").status_code == 204


def test_stream_client_type() -> None:
    # The generated clients are the library's: what they speak is what the SDK speaks.
    assert issubclass(ProcessClientSync, ConnectClientSync)
