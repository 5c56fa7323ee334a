"""Reading the body of a request to the control plane."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from atoll.errors import InvalidInput, TooLarge

_MAX_BODY = 1 << 20

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """Read the whole body. Raises `TooLarge` above a mebibyte."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > _MAX_BODY:
        raise TooLarge(f"the body is larger than {_MAX_BODY} bytes")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise TooLarge(f"the body is larger than {_MAX_BODY} bytes")
    return bytes(body)


async def parse_body(request: Request, model: type[Body]) -> Body:
    """Read the body as JSON of this model; no body counts as an empty object.

    Raises `InvalidInput` that names the first field that is wrong, and `TooLarge`.
    """
    raw = await read_body(request)
    try:
        return model.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InvalidInput(
                f"{where[:200]} is no option that this server knows",
                remedy="check its spelling, or leave it out",
            ) from None
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise InvalidInput(f"the body is not what this route takes: {what}") from None
