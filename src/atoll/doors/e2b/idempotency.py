"""`Idempotency-Key`: a create that is sent twice makes one sandbox."""

from __future__ import annotations

import hashlib
import json
import re

from starlette.requests import Request

from atoll.doors.e2b.models import NewSandboxBody
from atoll.errors import InvalidInput
from atoll.sandboxes.model import Idempotency

_KEY = re.compile(r"[a-z0-9-]{1,255}")  # what the SDKs let through


def read_idempotency(request: Request, body: NewSandboxBody) -> Idempotency | None:
    """Read the header, if it is there. Raises `InvalidInput`."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidInput("an Idempotency-Key has 1 to 255 lower-case letters, digits and hyphens")
    # What the body says counts, not how it is written; and the route, whose defaults differ.
    said = json.dumps([request.url.path, body.model_dump(exclude_unset=True)], sort_keys=True)
    return Idempotency(key, hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest())
