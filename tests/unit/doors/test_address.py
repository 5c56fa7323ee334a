"""Which sandbox a request is for."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.doors.address import Address, Locator, Via
from atoll.errors import InvalidInput


def locate(headers: dict[str, str] | list[tuple[str, str]], path: str = "/x") -> Address | None:
    pairs = headers.items() if isinstance(headers, dict) else headers
    scope: dict[str, Any] = {
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "raw_path": path.encode(),
    }
    return Locator("sandboxes.example:8443").locate(scope)


IDS = {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "49983"}


@pytest.mark.parametrize(
    ("headers", "path", "expected"),
    [
        (IDS, "/files", ("abc", 49983, Via.HEADERS)),
        ({**IDS, "Host": "80-other.localhost"}, "/", ("abc", 49983, Via.HEADERS)),
        (IDS, "/sandboxes/other/ports/80/", ("abc", 49983, Via.HEADERS)),
        ({"Host": "8000-abc.sandboxes.example"}, "/", ("abc", 8000, Via.HOST)),
        ({"Host": "8000-ABC.Sandboxes.Example.:8443"}, "/", ("abc", 8000, Via.HOST)),
        ({"Host": "8000-abc.localhost:3000"}, "/", ("abc", 8000, Via.HOST)),
        ({"Host": "8000-abc.localhost"}, "/sandboxes/o/ports/9/", ("abc", 8000, Via.HOST)),
        ({"Host": "x"}, "/sandboxes/abc/ports/80/a", ("abc", 80, Via.PATH)),
        ({}, "/sandboxes/%61bc/ports/8%30", ("abc", 80, Via.PATH)),
        ({"Host": "localhost:3000"}, "/", None),
        ({"Host": "sandboxes.example"}, "/", None),
        ({"Host": "api.sandboxes.example"}, "/", None),
        ({"Host": "api.localhost:3000"}, "/", None),
        ({"Host": "sandbox.sandboxes.example"}, "/", None),
        ({"Host": "my-own-name.sandboxes.example"}, "/", None),
        ({"Host": "8000-abc.elsewhere.example"}, "/", None),
        ({"Host": "8000-abc.x.sandboxes.example"}, "/", None),
        ({"Host": "8000-abc.sandboxes.example.evil"}, "/", None),
        ({"Host": "8000-abc.notsandboxes.example"}, "/", None),
        ({"Host": "[::1]:3000"}, "/", None),
        ({"Host": ""}, "/", None),
        ({}, "/sandboxes", None),
        ({}, "/sandboxes/abc", None),
        ({}, "/sandboxes/abc/timeout", None),
        ({}, "/sandboxes/abc/ports", None),
        ({}, "/sandboxes/abc/ports/", None),
    ],
)
def test_locate(headers: dict[str, str], path: str, expected: Any) -> None:
    found = locate(headers, path)
    assert (found and (found.sandbox_id, found.port, found.via)) == expected


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"E2b-Sandbox-Id": "abc"}, "/"),
        ({"E2b-Sandbox-Port": "80"}, "/"),
        ({**IDS, "E2b-Sandbox-Id": ""}, "/"),
        ({**IDS, "E2b-Sandbox-Id": "../../etc"}, "/"),
        ({**IDS, "E2b-Sandbox-Id": "a" * 33}, "/"),
        ({**IDS, "E2b-Sandbox-Id": "ABC"}, "/"),
        ({**IDS, "E2b-Sandbox-Id": "abc\n"}, "/"),
        ({**IDS, "E2b-Sandbox-Port": "0"}, "/"),
        ({**IDS, "E2b-Sandbox-Port": "65536"}, "/"),
        ({**IDS, "E2b-Sandbox-Port": "-1"}, "/"),
        ({**IDS, "E2b-Sandbox-Port": "80 "}, "/"),
        ({**IDS, "E2b-Sandbox-Port": "²"}, "/"),
        ({**IDS, "E2b-Sandbox-Port": "9" * 5000}, "/"),
        ({"Host": "0-abc.localhost"}, "/"),
        ({"Host": "99999-abc.localhost"}, "/"),
        ({"Host": "80-a_b.localhost"}, "/"),
        ({"Host": f"http-{'a' * 20}.localhost"}, "/"),
        ({"Host": f"{'a' * 20}.sandboxes.example:8443"}, "/"),
        ({"Host": "80-.localhost"}, "/"),
        ({}, "/sandboxes/abc/ports/http/"),
        ({}, "/sandboxes/a%2fb/ports/80/"),
        ({}, "/sandboxes/abc/ports/%00/"),
        ([("E2b-Sandbox-Id", "abc"), ("E2b-Sandbox-Id", "def"), ("E2b-Sandbox-Port", "1")], "/"),
        ([("E2b-Sandbox-Id", "abc"), ("E2b-Sandbox-Port", "1"), ("E2b-Sandbox-Port", "1")], "/"),
        ([("Host", "localhost"), ("Host", "80-abc.localhost")], "/"),
    ],
)
def test_refuse(headers: Any, path: str) -> None:
    with pytest.raises(InvalidInput):
        locate(headers, path)


def test_path_is_cut() -> None:
    found = locate({}, "/sandboxes/abc/ports/80/a%2Fb/../c")
    assert found is not None
    assert found.raw_path == b"/a%2Fb/../c"
    assert found.prefix == "/sandboxes/abc/ports/80"
    bare = locate({}, "/sandboxes/abc/ports/80")
    assert bare is not None
    assert bare.raw_path == b""
