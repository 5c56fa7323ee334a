"""Parts of the guest program, alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from atoll.agent.guest.ending import describe_end
from atoll.agent.guest.output import HeldOutput
from atoll.agent.guest.paths import locate, permissions
from atoll.agent.guest.refusal import Refusal
from atoll.agent.guest.users import Accounts, User
from atoll.agent.guest.wire import STDERR, STDOUT, decode_json, encode_json


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (stat.S_IFREG | 0o644, "-rw-r--r--"),
        (stat.S_IFDIR | 0o755, "drwxr-xr-x"),
        (stat.S_IFLNK | 0o777, "Lrwxrwxrwx"),
        (stat.S_IFDIR | 0o1777, "dtrwxrwxrwx"),
        (stat.S_IFREG | 0o4755, "urwxr-xr-x"),
        (stat.S_IFREG | 0o6711, "ugrwx--x--x"),
        (stat.S_IFCHR | 0o620, "Dcrw--w----"),
        (stat.S_IFBLK | 0o660, "Drw-rw----"),
        (stat.S_IFIFO | 0o600, "prw-------"),
        (stat.S_IFSOCK | 0, "S---------"),
    ],
)
def test_permissions_are_written_as_go_does(mode: int, text: str) -> None:
    assert permissions(mode) == text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/home/u"),
        ("~", "/home/u"),
        ("~/a", "/home/u/a"),
        ("a/b", "/home/u/a/b"),
        ("./a/../b/", "/home/u/b"),
        ("../../../..", "/"),
        ("/", "/"),
        ("//etc//x/", "/etc/x"),
        ("/../x", "/x"),
    ],
)
def test_paths_are_located(path: str, expected: str) -> None:
    assert locate(path, User("u", 1, 1, "/home/u", [1])) == expected


def test_ends() -> None:
    assert describe_end(0)["error"] is None
    assert describe_end(9)["status"] == "signal: killed"
    assert describe_end(11 | 128)["status"] == "signal: segmentation fault (core dumped)"
    assert describe_end(40)["status"] == "signal: signal 40"


def test_json_round_trip() -> None:
    value = {"a": [1, -2, None, True, 'ä\n"\\\x00😀'], "b": {"c": {}}}
    assert decode_json(encode_json(value)) == value


@pytest.mark.parametrize("text", [b"", b" {}", b"{} ", b"[]", b"1", b"{", b'{"a"}', b"\xff"])
def test_what_is_no_json_object(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any message
        decode_json(text)


def test_accounts_of_hostile_files(tmp_path: Path) -> None:
    passwd, group = tmp_path / "passwd", tmp_path / "group"
    passwd.write_bytes(
        b"\n:::::\nroot:x:0:0::/root:\nbad:x:-1:0::/:\nbig:x:99999999999999:0::/:\n"
        b"arabic:x:\xd9\xa1:0::/:\nu:x:7:8::relative:\nu:x:0:0::/second:\nbytes\xff:x:9:9::/:\n"
    )
    group.write_bytes(b"g:x:8:\nextra:x:50:other,u\nbroken\nmany:x:51:u,u,u\n")
    accounts = Accounts(str(passwd), str(group))
    user = accounts.find("u")
    assert (user.uid, user.gid, user.home, user.groups) == (7, 8, "/", [8, 50, 51, 51, 51])
    by_number = accounts.find("7"), accounts.find("70000"), accounts.find("0")
    assert [(each.name, each.uid, each.gid) for each in by_number] == [
        *(("u", 7, 8), ("70000", 70000, 0), ("root", 0, 0))
    ]
    for name in ("bad", "big", "arabic", "nobody", "", "-1", "99999999999999"):
        with pytest.raises(Refusal, match="invalid username"):
            accounts.find(name)
    assert (accounts.user_name(7), accounts.user_name(5)) == ("u", "5")
    assert accounts.group_name(50) == "extra"
    passwd.write_text("v:x:1:1::/:\n")
    assert accounts.find("v").uid == 1
    with pytest.raises(Refusal):
        accounts.find("u")


def test_account_files_that_are_no_files(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    for make in (os.mkfifo, os.mkdir):
        make(passwd)
        accounts = Accounts(str(passwd), str(tmp_path / "missing"))
        assert accounts.find("root").uid == 0
        passwd.unlink() if passwd.is_fifo() else passwd.rmdir()
    with passwd.open("wb") as file:
        file.truncate(10 << 30)
    assert Accounts(str(passwd), str(passwd)).find("root").home == "/root"


def test_held_output_keeps_the_order_and_the_newest() -> None:
    held = HeldOutput()
    held.add(STDOUT, b"a")
    held.add(STDOUT, b"b")
    held.add(STDERR, b"c")
    held.add(STDOUT, b"d")
    blocks = [(kind, bytes(data)) for kind, data in held.frames()]
    assert blocks == [(STDOUT, b"ab"), (STDERR, b"c"), (STDOUT, b"d")]
    for number in range(100):
        held.add(STDOUT, bytes([number]) * 30_000)
    blocks = [(kind, bytes(data)) for kind, data in held.frames()]
    assert sum(len(data) for _, data in blocks) <= 1024 * 1024
    assert blocks[-1][1][-1] == 99
    held.clear()
    assert list(held.frames()) == []


def test_held_output_in_single_bytes_stays_small() -> None:
    held = HeldOutput()
    for _ in range(20_000):
        held.add(STDOUT, b"x")
        held.add(STDERR, b"y")
    assert len(list(held.frames())) < 4500
    held.clear()


def test_much_held_elsewhere_shrinks_everyones_part() -> None:
    others = [HeldOutput() for _ in range(40)]
    for held in others:
        for _ in range(20):
            held.add(STDOUT, b"x" * 60_000)
    total = sum(len(data) for held in others for _, data in held.frames())
    assert total < 24 * 1024 * 1024
    for held in others:
        held.clear()
