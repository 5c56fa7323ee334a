"""From a template to an image, as which it travels; and what of the template an image tells.

The image is one that other programs run as well. What only a template has is in a label.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import atoll
from atoll.errors import HostError
from atoll.templates.images.config import ImageConfig, dump_config
from atoll.templates.images.layout import Layout, blobs_of
from atoll.templates.model import Template

LABEL = "dev.atoll.template"

_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
_SOURCES = Path(atoll.__file__).parent.parent
_ERROR_BYTES = 4000
_ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount")


class TemplateLabel(BaseModel):
    """What a label tells of the template that the image was made from; written by whoever."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field("", max_length=200)
    start_command: str | None = Field(None, max_length=65536)
    ready_command: str | None = Field(None, max_length=65536)
    cpu_count: int | None = Field(None, ge=1, le=1024)
    memory_mb: int | None = Field(None, ge=128, le=1 << 24)


@dataclass(frozen=True, slots=True)
class _Packed:
    diff_id: str
    digest: str
    size: int


def read_label(config: ImageConfig) -> TemplateLabel | None:
    """What the image tells of the template it was made from, if it was."""
    try:
        return TemplateLabel.model_validate_json(config.labels.get(LABEL, ""))
    except ValidationError:
        return None


async def pack_template(
    template: Template, directory: Path, *, progress: Callable[[str], None]
) -> None:
    """Write a template as an OCI layout. Raises `HostError`."""
    await asyncio.to_thread(blobs_of(directory).mkdir, parents=True)
    packed: list[_Packed] = []
    stack = template.layers
    for number in range(1, len(stack) + 1):
        progress(f"packing layer {number} of {len(stack)}")
        packed.append(await _pack(stack[len(stack) - number :], directory, number))
    label = TemplateLabel(
        name=template.names[0],
        start_command=template.start_command,
        ready_command=template.ready_command,
        cpu_count=template.resources.cpu_count,
        memory_mb=template.resources.memory_mb,
    )
    config = ImageConfig(
        diff_ids=tuple(each.diff_id for each in packed),
        envs=template.envs,
        user=template.user,
        workdir=template.workdir or "",
        command=("/bin/sh", "-l"),
        labels={LABEL: label.model_dump_json(exclude_none=True)},
    )
    described = dump_config(
        config, machine=os.uname().machine, created=template.created_at.isoformat()
    )
    layers = [(_LAYER, each.digest, each.size) for each in packed]
    await asyncio.to_thread(Layout.write, directory, config=described, layers=layers)


async def _pack(layers: Sequence[Path], directory: Path, number: int) -> _Packed:
    """Pack the first of these layers, which stands on the others."""
    output, scratch = directory / f"layer-{number}", directory / f"scratch-{number}"
    await asyncio.to_thread(scratch.mkdir)
    process = await asyncio.create_subprocess_exec(
        *_ALONE,
        *(sys.executable, "-B", "-X", "utf8", "-m", "atoll.templates.images.packer"),
        *(str(output), str(scratch), *map(str, layers)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(_SOURCES), "PATH": os.environ.get("PATH", os.defpath)},
    )
    try:
        said, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        reason = errors.decode(errors="replace")[-_ERROR_BYTES:].strip()
        raise HostError(f"the layer {layers[0]} can't be packed: {reason}")
    answer: dict[str, Any] = json.loads(said)
    packed = _Packed(answer["diff_id"], answer["digest"], answer["size"])
    final = blobs_of(directory) / packed.digest.removeprefix("sha256:")
    await asyncio.to_thread(output.rename, final)
    return packed
