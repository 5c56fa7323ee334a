"""Where the distribution's packages come from: the archive that the host itself uses.

The host may use a mirror near by, or one that is the only reachable one. Templates are built from
the same. Only entries of Debian's own archive count: a machine's sources also name other
publishers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
"""Debian's own keys; the package `debian-archive-keyring` has them, in every Debian."""

_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)")


@dataclass(frozen=True, slots=True)
class Source:
    """One suite of one archive."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


def read_sources(directory: Path = Path("/etc/apt")) -> list[Source]:
    """Every source of binary packages that apt is configured with, in apt's order of files."""
    files = [directory / "sources.list"]
    parts = directory / "sources.list.d"
    if parts.is_dir():
        files += sorted(parts.iterdir())
    found: list[Source] = []
    for file in files:
        if not file.is_file():
            continue
        if file.suffix == ".list":
            found += _read_one_line_style(file.read_text(errors="replace"))
        elif file.suffix == ".sources":
            found += _read_deb822_style(file.read_text(errors="replace"))
    return found


def select_debian(sources: list[Source], codename: str) -> list[Source]:
    """The sources of Debian's release `codename`, its updates and its security updates.

    Empty when the host does not run that release: then `mmdebstrap` knows the default archive.
    """
    suites = (codename, f"{codename}-updates", f"{codename}-security")
    chosen: dict[str, Source] = {}
    for source in sources:
        if (
            source.suite in suites
            and source.uri.startswith(("http://", "https://"))
            and "main" in source.components
            and (not source.signed_by or "debian-archive" in source.signed_by)
        ):
            chosen.setdefault(
                source.suite, Source(source.uri, source.suite, ("main",), source.signed_by)
            )
    if codename not in chosen:
        return []
    return [chosen[suite] for suite in suites if suite in chosen]


def render(sources: list[Source]) -> str:
    """As the text of a `.sources` file."""
    return "\n".join(
        f"Types: deb\nURIs: {source.uri}\nSuites: {source.suite}\n"
        f"Components: {' '.join(source.components)}\nSigned-By: {KEYRING}\n"
        for source in sources
    )


def _read_one_line_style(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        entry = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if entry is None:
            continue
        options = dict(
            option.partition("=")[::2] for option in (entry["options"] or "").lower().split()
        )
        suite, *components = entry["rest"].split()
        yield Source(entry["uri"], suite, tuple(components), options.get("signed-by", ""))


def _read_deb822_style(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
                continue
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0", "off")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(uri, suite, components, fields.get("signed-by", "").strip())
