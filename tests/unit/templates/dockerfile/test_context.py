from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from atoll.errors import InvalidInput, PathNotFound
from atoll.templates.dockerfile.context import Archive, Context, read_ignored


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.txt", ".hidden", "src/one.py", "src/deep/two.py", "lib/[x].txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("a.txt")
    return tmp_path


def select(root: Path, source: str, *ignored: str, excluded: tuple[str, ...] = ()) -> set[str]:
    found = Context(root, ignored).select(source, excluded=excluded)
    return {member.path for member in found}


EVERYTHING = {
    *("a.txt", "b.txt", ".hidden", "src", "src/one.py", "src/deep", "src/deep/two.py"),
    *("lib", "lib/[x].txt", "empty", "link"),
}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (".", EVERYTHING),
        ("/", EVERYTHING),
        ("./a.txt", {"a.txt"}),
        ("/src/../a.txt", {"a.txt"}),
        ("src", {"src", "src/one.py", "src/deep", "src/deep/two.py"}),
        ("src/", {"src", "src/one.py", "src/deep", "src/deep/two.py"}),
        ("empty", {"empty"}),
        ("*.txt", {"a.txt", "b.txt"}),
        ("?.txt", {"a.txt", "b.txt"}),
        ("[^a].txt", {"b.txt"}),
        ("src/*", {"src/one.py", "src/deep", "src/deep/two.py"}),
        ("s*/*/*.py", {"src/deep/two.py"}),
        (".h*", {".hidden"}),
        ("lib/\\[x].txt", {"lib/[x].txt"}),
    ],
)
def test_what_a_source_stands_for(context: Path, source: str, found: set[str]) -> None:
    assert select(context, source) == found


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("./src//deep/", ["src/deep"]),
        ("*.txt", ["*.txt"]),
        ("[^a].txt", ["b.txt"]),
        ("lib/\\[x].*", ["lib/[[]x].txt"]),
        ("[s]rc", ["src"]),
    ],
)
def test_how_the_builder_is_told(context: Path, source: str, told: list[str]) -> None:
    found = Context(context).select(source)
    assert Context(context).name_sources(source, found) == told


def test_what_is_left_out(context: Path) -> None:
    assert select(context, ".", "*", "!src/deep") == {"src", "src/deep", "src/deep/two.py"}
    assert select(context, "src", "**/*.py") == {"src", "src/deep"}
    assert select(context, "*.txt", "a.txt") == {"b.txt"}
    assert select(context, "src", excluded=("**/two.py",)) == {"src", "src/one.py", "src/deep"}
    assert select(context, "src", excluded=("deep",)) == {"src", "src/one.py"}
    assert select(context, "?.txt", excluded=("a*",)) == {"b.txt"}
    with pytest.raises(PathNotFound, match=r"there is no 'a.txt' in .*; .dockerignore leaves it"):
        select(context, "a.txt", "*.txt")
    with pytest.raises(PathNotFound, match=r"there is no '\*.md' in"):
        select(context, "*.md")
    with pytest.raises(InvalidInput, match="Invalid ignore pattern"):
        select(context, ".", "[")


def test_links(context: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (followed,) = Context(context).select("link")
    with followed.open() as file:
        assert file.read() == b"a.txt"
    (kept,) = (each for each in Context(context).select(".") if each.path == "link")
    assert kept.content == b"a.txt"
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret")
    (context / "out").symlink_to(outside)
    for source in ("out", "out/secret", "out/*"):
        with pytest.raises((InvalidInput, PathNotFound)):
            Context(context).select(source)


def test_what_is_no_content(context: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(context / "socket"))
        assert select(context, ".") == EVERYTHING
    os.mkfifo(context / "pipe")
    with pytest.raises(InvalidInput, match="pipe is neither a file"):
        select(context, ".")


def test_the_dockerfile_own_list_goes_before(tmp_path: Path) -> None:
    dockerfile = tmp_path / "e2b.Dockerfile"
    assert read_ignored(tmp_path, dockerfile) == []
    (tmp_path / ".dockerignore").write_text("# remark\n\n*.log\n!keep.log\n")
    assert read_ignored(tmp_path, dockerfile) == ["*.log", "!keep.log"]
    (tmp_path / "e2b.Dockerfile.dockerignore").write_text("\ufeff*.tmp\n")
    assert read_ignored(tmp_path, dockerfile) == ["*.tmp"]


def test_an_archive(context: Path) -> None:
    (context / "a.txt").chmod(0o750)
    os.utime(context / "a.txt", (86400, 86400))
    archive = Archive(Context(context).select("."))
    file = io.BytesIO()
    archive.write(file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        members = {member.name: member for member in tar}
        assert members.keys() == EVERYTHING
        assert members["a.txt"].mode == 0o750
        assert members["link"].linkname == "a.txt"
        assert members["empty"].isdir()
        assert {each.uid for each in members.values()} == {0}
        assert members["a.txt"].mtime == 86400
        content = tar.extractfile("src/one.py")
        assert content is not None
        assert content.read() == b"src/one.py"


def test_a_hash_is_that_of_the_content(context: Path) -> None:
    def digest() -> str:
        return Archive(Context(context).select(".")).hash

    before = digest()
    os.utime(context / "a.txt", (1, 1))
    assert digest() == before
    (context / "a.txt").chmod(0o600)
    changed = digest()
    assert changed != before
    (context / "a.txt").write_text("other")
    assert digest() not in (before, changed)
    (context / "link").unlink()
    (context / "link").symlink_to("b.txt")
    assert len({digest(), changed, before}) == 3
