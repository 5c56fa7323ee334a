"""Paths in a directory that somebody else changes at the same time."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.errors import AtollError, Conflict, InvalidInput, PathExists, PathNotFound, TooLarge
from atoll.isolation.driver import VolumeRoot
from atoll.volumes import tree as tree_module
from atoll.volumes.draft import Draft
from atoll.volumes.model import Attributes, EntryKind
from atoll.volumes.tree import Tree, clean_path

BASE = 1_000_000
NOTHING = Attributes()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """A tree over the directory `volume`, beside which a secret lies."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("secret")
    descriptor = os.open(tmp_path / "volume", os.O_RDONLY | os.O_DIRECTORY)
    yield Tree(VolumeRoot(descriptor, BASE, 65536))
    os.close(descriptor)


def put(
    tree: Tree, path: str, data: bytes, *, overwrite: bool = True, parents: bool = True
) -> None:
    draft = Draft(tree, path, NOTHING, overwrite=overwrite, parents=parents)
    try:
        draft.write(data)
        draft.finish()
    finally:
        draft.close()


def get(tree: Tree, path: str) -> bytes:
    descriptor = tree.open_file(path)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "clean"),
    [("a", "/a"), ("/", "/"), (".", "/"), ("//a//b/", "/a/b"), ("../../a/../b", "/b")],
)
def test_a_path_is_cleaned(path: str, clean: str) -> None:
    assert clean_path(path) == clean


@pytest.mark.parametrize("path", ["", "a\0b", "a/" * 2049])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        clean_path(path)


def test_owners_are_those_of_the_sandboxes(tree: Tree, tmp_path: Path) -> None:
    put(tree, "file", b"x")
    assert (tmp_path / "volume/file").stat().st_uid == BASE + 1000
    assert tree.change("file", Attributes(uid=0)).uid == 0
    assert (tmp_path / "volume/file").stat().st_uid == BASE
    os.chown(tmp_path / "volume/file", 5, 5)
    assert tree.describe("file").uid == 65534
    with pytest.raises(InvalidInput):
        tree.change("file", Attributes(uid=65536, mode=0))
    assert tree.describe("file").mode == 0o666


def test_an_owner_that_is_none_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    for wanted in (Attributes(uid=70000), Attributes(gid=-1)):
        with pytest.raises(InvalidInput):
            tree.make_directory("a/b", wanted, parents=True)
        with pytest.raises(InvalidInput):
            Draft(tree, "a/b", wanted, overwrite=True, parents=True)
    assert list((tmp_path / "volume").iterdir()) == []


def test_a_draft_is_seen_when_it_is_whole(tree: Tree, tmp_path: Path) -> None:
    put(tree, "file", b"old")
    draft = Draft(tree, "file", NOTHING, overwrite=True, parents=False)
    draft.write(b"new")
    assert get(tree, "file") == b"old"
    assert os.listdir(tmp_path / "volume") == ["file"]
    draft.finish()
    draft.close()
    assert get(tree, "file") == b"new"
    assert os.listdir(tmp_path / "volume") == ["file"]
    with pytest.raises(PathExists):
        put(tree, "file", b"", overwrite=False)
    # One that is made while the draft is written counts as well.
    late = Draft(tree, "late", NOTHING, overwrite=False, parents=False)
    put(tree, "late", b"first")
    with pytest.raises(PathExists):
        late.finish()
    late.close()
    assert get(tree, "late") == b"first"
    os.mkdir(tmp_path / "volume/folder")
    with pytest.raises(InvalidInput):
        put(tree, "folder", b"")
    assert sorted(os.listdir(tmp_path / "volume")) == ["file", "folder", "late"]


def test_no_operation_follows_a_symlink_out(tree: Tree, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "up").symlink_to("../secret")
    (volume / "absolute").symlink_to(tmp_path / "secret")
    (volume / "magic").symlink_to("/proc/self/cwd")
    for link in ("up", "absolute", "magic"):
        with pytest.raises(InvalidInput):
            tree.open_file(f"{link}/file")
        with pytest.raises(InvalidInput):
            tree.list_directory(link, 1)
        with pytest.raises(InvalidInput):
            tree.describe(f"{link}/file")
        with pytest.raises(InvalidInput):
            tree.remove(f"{link}/file")
        with pytest.raises(InvalidInput):
            tree.change(f"{link}/file", Attributes(mode=0o777))
        with pytest.raises(InvalidInput):
            put(tree, f"{link}/new", b"")
        with pytest.raises(InvalidInput):
            tree.make_directory(f"{link}/a/b", NOTHING, parents=True)
        assert tree.describe(link).kind is EntryKind.SYMLINK
    names = [(each.path, each.kind) for each in tree.list_directory("/", 10)]
    assert names == [(f"/{each}", "symlink") for each in ("absolute", "magic", "up")]
    assert os.listdir(tmp_path / "secret") == ["file"]


def test_a_directory_that_turns_into_a_symlink(tree: Tree, tmp_path: Path) -> None:
    """Somebody swaps the two as fast as he can, while all operations are tried."""
    volume, over = tmp_path / "volume", threading.Event()
    (volume / "real").mkdir()
    (volume / "real/file").write_text("inside")
    (volume / "link").symlink_to(tmp_path / "secret")

    def swap() -> None:
        while not over.is_set():
            os.rename(volume / "real", volume / "aside")
            os.rename(volume / "link", volume / "real")
            os.rename(volume / "real", volume / "link")
            os.rename(volume / "aside", volume / "real")

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    deadline = time.monotonic() + 30
    try:
        for number in itertools.count():
            if number >= 400 and (b"inside" in seen or time.monotonic() > deadline):
                break
            try:
                seen.add(get(tree, "real/file"))
                put(tree, f"real/{number}", b"x", parents=False)
                tree.make_directory(f"real/d{number}", NOTHING, parents=False)
                tree.change("real/file", Attributes(mode=0o600))
                tree.remove(f"real/{number}")
            except AtollError as error:
                seen.add(type(error).__name__.encode())
    finally:
        over.set()
        swapping.join()
    assert b"secret" not in seen
    assert b"inside" in seen
    assert os.listdir(tmp_path / "secret") == ["file"]
    assert (tmp_path / "secret/file").stat().st_mode & 0o777 == 0o644


def test_a_tree_that_grows_while_it_is_removed(tree: Tree, tmp_path: Path) -> None:
    """The one who adds to it has no more rights than a sandbox's root."""
    doomed = tmp_path / "volume/doomed"
    doomed.mkdir()
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    for path in (doomed.parent, doomed):
        os.chown(path, BASE, BASE)
    started, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(doomed)
            os.setgid(BASE)
            os.setuid(BASE)
            for number in range(1_000_000):
                os.mkdir(f"{number}")
                os.close(os.open(f"{number}/file", os.O_CREAT, 0o600))
                if number == 100:
                    os.write(writer, b"x")
        finally:
            os._exit(0)
    os.read(started, 1)
    tree.remove("doomed")
    os.waitpid(pid, 0)
    os.close(started)
    os.close(writer)
    assert not doomed.exists()


def test_a_tree_that_grows_without_end(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a directory open that is not reached yet may add to it all the time."""
    monkeypatch.setattr(tree_module, "_REMOVAL_SECONDS", 0.5)
    remove = tree_module._remove_or_flatten

    def grow(top: int, name: str) -> None:
        os.makedirs(f"/proc/self/fd/{top}/{name}/more/and/more")
        remove(top, name)

    monkeypatch.setattr(tree_module, "_remove_or_flatten", grow)
    (tmp_path / "volume/doomed/inner").mkdir(parents=True)
    with pytest.raises(Conflict):
        tree.remove("doomed")


def test_a_listing_is_bounded(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MOST_ENTRIES", 10)
    for number in range(5):
        put(tree, f"a/{number}", b"")
        put(tree, f"b/{number}", b"")
    assert len(tree.list_directory("/", 1)) == 2
    assert len(tree.list_directory("a", 1)) == 5
    with pytest.raises(TooLarge):
        tree.list_directory("/", 2)
    for number in range(11):
        put(tree, f"c/{number}", b"")
    with pytest.raises(TooLarge):
        tree.list_directory("c", 1)
    monkeypatch.setattr(tree_module, "MOST_BYTES", 100)
    (tmp_path / "volume/a/link").symlink_to("x" * 100)
    with pytest.raises(TooLarge):
        tree.list_directory("a", 1)


def test_what_is_not_there_was_not_found(tree: Tree) -> None:
    put(tree, "file", b"")
    for path in ("none", "none/inner", "file/inner"):
        for work in (tree.describe, tree.open_file, tree.remove):
            with pytest.raises(PathNotFound):
                work(path)
        with pytest.raises(PathNotFound):
            tree.list_directory(path, 1)
    with pytest.raises(PathNotFound):
        tree.make_directory("none/inner", NOTHING, parents=False)
    with pytest.raises(PathNotFound):
        tree.make_directory("file/inner/more", NOTHING, parents=True)
