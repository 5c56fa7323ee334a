"""Which package archive a template is built from."""

from __future__ import annotations

from pathlib import Path

from atoll.templates.sources import Source, read_sources, render, select_debian

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.invalid/security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.invalid/
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.invalid/
Suites: bookworm
Components: main
"""

ONE_LINE = """\
deb [arch=amd64 signed-by=/etc/apt/keyrings/other.gpg] https://other.invalid/apt bookworm main
# deb http://commented.invalid/debian bookworm main
deb http://plain.invalid/debian bookworm main contrib # main archive
deb-src http://source.invalid/debian bookworm main
deb https://flat.invalid/ ./
deb cdrom:[Debian]/ bookworm main
nonsense
"""


def write(directory: Path, **parts: str) -> Path:
    (directory / "sources.list.d").mkdir()
    for name, text in parts.items():
        (directory / "sources.list.d" / name.replace("_", ".")).write_text(text)
    return directory


def test_the_modern_form(tmp_path: Path) -> None:
    chosen = select_debian(read_sources(write(tmp_path, debian_sources=DEB822)), "bookworm")
    assert [(source.uri, source.suite) for source in chosen] == [
        ("http://mirror.invalid/debian", "bookworm"),
        ("http://mirror.invalid/debian", "bookworm-updates"),
        ("http://mirror.invalid/security", "bookworm-security"),
    ]


def test_the_old_form_without_other_publishers(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    chosen = select_debian(read_sources(tmp_path), "bookworm")
    assert chosen == [Source("http://plain.invalid/debian", "bookworm", ("main",))]


def test_files_that_apt_would_not_read_do_not_count(tmp_path: Path) -> None:
    parts = write(tmp_path, debian_sources_disabled=DEB822, old_list_save=ONE_LINE)
    assert read_sources(parts) == []


def test_another_release_of_the_host_means_the_default_archive(tmp_path: Path) -> None:
    sources = read_sources(write(tmp_path, debian_sources=DEB822))
    assert select_debian(sources, "trixie") == []
    assert render([]) == ""


def test_what_is_rendered_is_read_again(tmp_path: Path) -> None:
    sources = [
        Source("http://mirror.invalid/debian", "bookworm", ("main",)),
        Source("https://mirror.invalid/security", "bookworm-security", ("main",)),
    ]
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/debian.sources").write_text(render(sources))
    again = select_debian(read_sources(tmp_path), "bookworm")
    assert [(source.uri, source.suite) for source in again] == [
        (source.uri, source.suite) for source in sources
    ]
    assert all("debian-archive" in source.signed_by for source in again)
