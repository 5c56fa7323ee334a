"""Images that have next to nothing in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import InvalidInput
from atoll.templates.images.reference import LocalReference
from tests.images.conftest import Workplace
from tests.images.making import LayerMaker, Picture, busybox_layer, find_program


async def test_busybox_alone(workplace: Workplace, tmp_path: Path) -> None:
    """No bash, no Python, no C library, no accounts."""
    layout = Picture([busybox_layer()]).write_layout(tmp_path / "busybox")
    ground = await workplace.ground(LocalReference("oci", layout))
    async with workplace.box(ground) as box:
        assert await box.run("id -un; id -u; id -g; pwd") == "user\n1000\n1000\n/home/user"
        assert await box.run("echo $0; touch mine && stat -c %U mine") == "/bin/sh\nuser"
        assert await box.run("stat -c %a /tmp /root") == "1777\n700"
        assert await box.run("id -un; pwd", user="root") == "root\n/root"


async def test_one_static_program_and_nothing_else(workplace: Workplace, tmp_path: Path) -> None:
    """Under this name busybox knows how to do this one thing."""
    layer = LayerMaker().program("pwd", find_program("busybox")).finish()
    layout = Picture([layer], {"Entrypoint": ["/pwd"]}).write_layout(tmp_path / "pwd")
    ground = await workplace.ground(LocalReference("oci", layout))
    async with workplace.box(ground) as box:
        assert await box.execute("/pwd") == "/home/user"
        assert await box.execute("/pwd", user="root") == "/root"
        with pytest.raises(InvalidInput, match="/bin/bash"):
            await box.run("true")


async def test_the_number_of_the_user_is_taken(workplace: Workplace, tmp_path: Path) -> None:
    accounts = b"root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh"
    layer = (
        LayerMaker()
        .directory("etc")
        .add("etc/passwd", accounts)
        .add("etc/group", b"root:x:0:\nnode:x:1000:\n")
        .add("etc/shadow", b"root:*:1:0:99999:7:::\n", mode=0o640)
        .finish()
    )
    layout = Picture([busybox_layer(), layer]).write_layout(tmp_path / "node")
    ground = await workplace.ground(LocalReference("oci", layout))
    async with workplace.box(ground) as box:
        assert await box.run("id -u; id -g; echo ~node") == "1001\n1001\n/home/node"
        assert await box.run("id -un", user="node") == "node"
        assert (await box.run("cat /etc/shadow", user="root")).startswith("root:*:1")


async def test_an_image_with_a_user_of_that_name_keeps_it(
    workplace: Workplace, tmp_path: Path
) -> None:
    layer = (
        LayerMaker()
        .directory("etc")
        .add("etc/passwd", b"user:x:77:88::/nonexistent:/bin/sh\n")
        .finish()
    )
    layout = Picture([busybox_layer(), layer]).write_layout(tmp_path / "own")
    ground = await workplace.ground(LocalReference("oci", layout))
    async with workplace.box(ground) as box:
        assert await box.run("id -u; id -g; pwd") == "77\n88\n/"
