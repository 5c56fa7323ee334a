"""Names of templates, as clients write them: `name`, `name:tag`, `team/name:tag`, or an id."""

from __future__ import annotations

import re
from dataclasses import dataclass

from atoll.errors import InvalidInput

DEFAULT_TAG = "default"
"""What a build is called that nobody gave a tag, and what a name without one means."""
_MOST_TAGS = 50
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a client calls a template."""

    name: str
    """A name, or an id."""
    tag: str | None = None
    team: str | None = None


def parse_reference(text: str) -> Reference:
    """Raises `InvalidInput` for what can't be a name."""
    team, slash, rest = text.rpartition("/")
    name, colon, tag = rest.partition(":")
    if slash and not _TEAM.fullmatch(team):
        raise InvalidInput(f"{text!r} is not a template's name: {team!r} is no team")
    if colon and not _TAG.fullmatch(tag):
        raise InvalidInput(f"{text!r} is not a template's name: {tag!r} is no tag")
    # Names are kept in small letters, as E2B does.
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{text!r} is not a template's name",
            remedy="take up to 128 small letters, digits, dots, dashes and underscores, "
            "and a tag after a colon",
        )
    return Reference(name, tag if colon else None, team if slash else None)


def check_tags(tags: list[str]) -> list[str]:
    """The same tags, each once. Raises `InvalidInput`."""
    if len(tags) > _MOST_TAGS:
        raise InvalidInput(f"a build has at most {_MOST_TAGS} tags")
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise InvalidInput(
                f"{tag!r} is not a tag", remedy="take letters, digits, dots, dashes and underscores"
            )
    return list(dict.fromkeys(tags))
