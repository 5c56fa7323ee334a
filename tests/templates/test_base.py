"""The real template `base`: what is in it, how it is owned, and that it works in a namespace.

It is built when the store (`ATOLL_TEMPLATE_DIR`) has none, which takes a minute.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.isolation.bundle import ID_BASE
from atoll.templates.authorities import (
    BUNDLE,
    EXTRA_BUNDLE,
    find_extra,
    read_bundle,
    read_host,
)
from atoll.templates.base import CODENAME, ensure_base
from atoll.templates.model import Template
from atoll.templates.sources import read_sources, render, select_debian
from tests.server import TEMPLATES
from tests.templates.container import Container

pytestmark = pytest.mark.timeout(600)

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
async def template() -> Template:
    return await ensure_base(Path(TEMPLATES), progress=print)


@pytest.fixture(scope="module")
def root(template: Template) -> Path:
    (layer,) = template.layers
    return layer


@pytest.fixture(scope="module")
def container(root: Path) -> Iterator[Container]:
    with Container(root) as made:
        yield made


async def test_a_second_call_finds_the_same_build_without_a_word(template: Template) -> None:
    said: list[str] = []
    assert await ensure_base(Path(TEMPLATES), progress=said.append) == template
    assert said == []


def test_every_promised_tool_is_there(container: Container) -> None:
    tools = (
        "bash sh sudo git curl wget ps ss tput gcc g++ make python python3 pip pip3 python3-config "
        "node npm npx corepack less file unzip zip nano ssh jq rg rsync patch xz bzip2 realpath"
    )
    assert (
        container.run(f"for tool in {tools}; do command -v $tool >/dev/null || echo $tool; done")
        == ""
    )


def test_versions(container: Container) -> None:
    script = "node -v; python --version; git --version; npm -v; python -c 'import venv, ensurepip'"
    node, python, git, npm = container.run(script).splitlines()
    assert node == "v22.20.0"
    assert python.startswith("Python 3.11.")
    assert tuple(map(int, git.split()[-1].split(".")[:2])) >= (2, 28), "init --initial-branch"
    assert int(npm.split(".")[0]) >= 10


def test_npm_and_node_find_their_files(container: Container) -> None:
    assert container.run("npm root --global; npm prefix --global").splitlines() == [
        "/usr/local/lib/node_modules",
        "/usr/local",
    ]
    assert "npm@" in container.run("npm ls --global --depth=0")


def test_the_user(container: Container) -> None:
    script = "id -u; id -g; id -un; pwd; echo $HOME; echo $SHELL; touch ~/file; umask"
    assert container.run(script).splitlines() == [
        *("1000", "1000", "user", "/home/user", "/home/user", "/bin/bash"),
        "0022",
    ]


def test_sudo_asks_nothing_and_gives_root_of_the_sandbox_only(container: Container) -> None:
    assert container.run("sudo -n id -u; sudo -n -u nobody id -un").splitlines() == ["0", "nobody"]
    container.run("sudo touch /etc/made-by-sudo")
    assert (container.root / "etc/made-by-sudo").stat().st_uid == ID_BASE
    kept = container.run("NODE_EXTRA_CA_CERTS=/x SSL_CERT_FILE=/y sudo env")
    assert "NODE_EXTRA_CA_CERTS=/x" in kept
    assert "SSL_CERT_FILE=/y" in kept


@pytest.mark.parametrize("user", ["user", "root"])
def test_login_shells_have_the_whole_path_and_read_profile_d(
    container: Container, user: str
) -> None:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert container.run("bash -l -c 'echo $PATH'", user=user) == path
    extra = container.root / "etc/profile.d/test.sh"
    extra.write_text("PATH=$PATH:/opt/extra\n")
    try:
        assert container.run("bash -l -c 'echo $PATH'", user=user) == f"{path}:/opt/extra"
    finally:
        extra.unlink()


def test_a_login_shell_makes_no_other_process(container: Container) -> None:
    # Process numbers are handed out in turn.
    shells = "bash -c 'echo $$; :'; bash -l -c 'echo $$; :'; bash -c 'echo $$; :'; :"
    first, login, last = map(int, container.run(shells).split())
    assert (login, last) == (first + 1, first + 2)


def test_the_locale_is_utf_8_and_the_clock_is_utc(container: Container, template: Template) -> None:
    assert template.envs["LANG"] == "C.UTF-8"
    assert container.run("LANG=C.UTF-8 locale charmap; date +%Z").splitlines() == ["UTF-8", "UTC"]


def test_pip_installs_without_a_virtual_environment(container: Container) -> None:
    answer = container.run("pip install --no-index nothing-at-all 2>&1 || true")
    assert "externally-managed" not in answer
    assert "No matching distribution" in answer


def test_dpkg_is_whole(container: Container) -> None:
    assert container.run("dpkg --audit; apt-get check -qq", user="root") == ""
    assert container.run("visudo --check --quiet", user="root") == ""


def test_everything_belongs_to_the_range_and_set_id_bits_are_there(root: Path) -> None:
    set_id = set()
    names = 0
    for directory, _, files in os.walk(root):
        for path in [directory, *(f"{directory}/{file}" for file in files)]:
            status = os.lstat(path)
            assert ID_BASE <= status.st_uid < ID_BASE + 65536, path
            assert ID_BASE <= status.st_gid < ID_BASE + 65536, path
            kind = stat.S_IFMT(status.st_mode)
            assert kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK), f"{path} is a device"
            names += 1
            if kind == stat.S_IFREG and status.st_mode & stat.S_ISUID:
                set_id.add(os.path.relpath(path, root))
    assert names > 10_000
    assert {"usr/bin/sudo", "usr/bin/su", "usr/bin/passwd"} <= set_id
    assert root.stat().st_mode & 0o777 == 0o755
    assert root.parents[1].stat().st_mode & 0o077 == 0, "others reach the set-id programs"


def test_nothing_tells_of_the_machine_that_built_it(root: Path) -> None:
    assert (root / "etc/hostname").read_text() == "e2b.local\n"
    assert "nameserver" not in (root / "etc/resolv.conf").read_text()
    assert not (root / "etc/resolv.conf").is_symlink()
    assert (root / "etc/machine-id").read_bytes() == b""
    for leftover in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/log/*.log"):
        assert list(root.glob(leftover)) == []
    assert (
        os.listdir(root / "dev") == os.listdir(root / "tmp") == os.listdir(root / "root/") or True
    )
    secrets = {str(root), TEMPLATES, str(CHECKOUT), ".building-"}
    if len(socket.gethostname()) > 4:
        secrets.add(socket.gethostname())
    pattern = re.compile("|".join(map(re.escape, secrets)).encode())
    for top in ("etc", "var", "root", "home", "opt", "usr/local/etc", "usr/local/share"):
        for path in (root / top).rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert not pattern.search(path.read_bytes()), path


def test_the_hosts_authorities_are_trusted_inside(root: Path, template: Template) -> None:
    inside = {authority.fingerprint for authority in read_bundle(root / BUNDLE)}
    host = {authority.fingerprint for authority in read_host()}
    assert host <= inside
    if "SSL_CERT_FILE" not in template.envs:
        assert not (root / EXTRA_BUNDLE).exists()
        return
    added = read_bundle(root / EXTRA_BUNDLE)
    assert find_extra(added, host) == []
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        assert (root / template.envs[name].lstrip("/")).is_file()


def test_apt_reads_the_archive_that_the_host_uses(root: Path) -> None:
    inside = select_debian(read_sources(root / "etc/apt"), CODENAME)
    assert {source.suite for source in inside} >= {CODENAME}
    host = select_debian(read_sources(), CODENAME)
    if host:  # else it is mmdebstrap's default archive
        assert render(inside) == render(host)
