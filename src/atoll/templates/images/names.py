"""Images that are here already: names that mean a template of this server."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.templates.images.reference import parse_reference

_OWN = {
    "e2bdev/base": "base",
    "e2bdev/code-interpreter": "code-interpreter-v1",
}
"""What E2B publishes under these names is what the templates stand for."""


def find_template(image: str, names: Mapping[str, str] | None = None) -> str | None:
    """The template that the image of this name is; None for one of a registry.

    `names` are further ones, which go before those that come with Atoll: names as `docker pull`
    takes them, each with the name of a template. A name without a tag is meant with any. Raises
    `InvalidInput` for what is no image's name.
    """
    wanted = parse_reference(image)
    if wanted.digest:
        return None
    for known, template in {**_OWN, **(names or {})}.items():
        each = parse_reference(known)
        same = (each.registry, each.path) == (wanted.registry, wanted.path)
        if same and (each.tag == wanted.tag or ":" not in known.rpartition("/")[2]):
            return template
    return None
