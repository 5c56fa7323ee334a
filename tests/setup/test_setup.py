"""`scripts/setup` as a newcomer meets it: again and again, and on machines where it can't succeed.

The failing runs use a copy of the project's files, real apt and real pip, and a closed port in
place of the network; they change nothing on the machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"
DPKG_STATUS = Path("/var/lib/dpkg/status")
# The standard programs that the script itself calls.
TOOLS = (
    *("bash", "cat", "dirname", "flock", "getent", "grep", "id", "mktemp", "mount", "mv", "rm"),
    *("sed", "sha256sum", "tail", "uname", "unshare"),
)

pytestmark = pytest.mark.timeout(600)


def run_setup(
    project: Path, env: dict[str, str] | None = None, *, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, "/bin/bash", str(project / "scripts/setup")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=300,
    )


@pytest.fixture
def project() -> Iterator[Path]:
    """What set-up looks at, in a place that every user can read."""
    directory = Path(tempfile.mkdtemp(prefix="atoll-setup-test-"))
    directory.chmod(0o755)
    shutil.copytree(ROOT / "scripts", directory / "scripts")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, directory)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A directory for PATH with what every system has, and nothing of ours in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (directory / name).symlink_to(found)
    return directory


def expect_fix(done: subprocess.CompletedProcess[str], pattern: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(f"FIX: .*{pattern}.*", last), done.stderr


def test_a_second_run_is_quick_and_changes_nothing() -> None:
    first = run_setup(ROOT)
    assert first.returncode == 0, first.stderr

    def look() -> list[tuple[str, int]]:
        watched = [ROOT / ".venv", ROOT / ".venv/bin", ROOT / ".venv/.setup", DPKG_STATUS]
        watched += [ROOT / "requirements.lock", Path("/etc/nsswitch.conf")]
        return [(str(path), path.stat().st_mtime_ns) for path in watched if path.exists()]

    before = look()
    started = time.monotonic()
    second = run_setup(ROOT)
    assert time.monotonic() - started < 5
    assert second.returncode == 0
    assert second.stdout == "setup: everything is in place\n"
    assert second.stderr == ""
    assert look() == before


def test_names_below_localhost_lead_to_this_machine() -> None:
    done = subprocess.run(
        ["getent", "ahostsv4", "3000-abc.localhost"], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("127.0.0.")


def test_a_foreign_python_first_in_the_path_is_not_used(tmp_path: Path) -> None:
    trap = tmp_path / "python3"
    trap.write_text("#!/bin/sh\nexit 77\n")
    trap.chmod(0o755)
    done = run_setup(ROOT, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr


def test_somebody_who_is_not_root(project: Path) -> None:
    before = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    expect_fix(run_setup(project, before=before), "become root")


def test_a_system_without_apt(project: Path, bare_path: Path) -> None:
    done = run_setup(project, {"PATH": str(bare_path)})
    expect_fix(done, "install what Debian calls .*mmdebstrap.*package manager")


def test_an_archive_that_can_not_be_reached(project: Path, bare_path: Path, tmp_path: Path) -> None:
    for name in ("apt-get", "dpkg"):
        (bare_path / name).symlink_to(f"/usr/bin/{name}")
    for name in ("state/lists/partial", "cache/archives/partial", "log"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").touch()
    # A machine of its own to apt: nothing installed, no lists, no network.
    (tmp_path / "apt.conf").write_text(
        f'Dir::State "{tmp_path}/state"; Dir::State::status "{tmp_path}/status";\n'
        f'Dir::Cache "{tmp_path}/cache"; Dir::Log "{tmp_path}/log";\n'
        f'Acquire::http::Proxy "{NOWHERE}"; Acquire::https::Proxy "{NOWHERE}";\n'
    )
    before = DPKG_STATUS.stat().st_mtime_ns
    done = run_setup(project, {"PATH": str(bare_path), "APT_CONFIG": str(tmp_path / "apt.conf")})
    expect_fix(done, "apt-get update.*apt-get install .*mmdebstrap.*network, proxy")
    assert not (project / ".venv").exists()
    assert DPKG_STATUS.stat().st_mtime_ns == before


def test_an_index_that_can_not_be_reached(project: Path) -> None:
    env = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": f"{NOWHERE}/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
    }
    done = run_setup(project, env)
    expect_fix(done, "pip download uv.*network, proxy")
    assert not (project / ".venv/.setup").exists()


def test_a_python_that_is_too_old_or_broken(project: Path) -> None:
    for python in ("/bin/false", "/nonexistent"):
        expect_fix(run_setup(project, {"ATOLL_PYTHON": python}), "Python 3.11 or newer")


def run_setup_tests(
    project: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(project / "scripts/setup-tests")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=300,
    )


@pytest.fixture
def prepared(project: Path) -> Path:
    """A project that `scripts/setup` is done with, and the lists of the tests' clients."""
    (project / ".venv").symlink_to(ROOT / ".venv")
    clients = project / "tests/clients"
    clients.mkdir(parents=True)
    for name in ("requirements.lock", "package.json", "package-lock.json"):
        shutil.copy(ROOT / "tests/clients" / name, clients)
    return project


def test_the_clients_are_there_and_a_second_run_changes_nothing() -> None:
    first = run_setup_tests(ROOT)
    assert first.returncode == 0, first.stderr
    watched = [ROOT / ".venv-clients", ROOT / "tests/clients/node_modules"]
    before = [path.stat().st_mtime_ns for path in watched]
    second = run_setup_tests(ROOT)
    assert second.stdout == "setup-tests: everything is in place\n"
    assert second.stderr == ""
    assert [path.stat().st_mtime_ns for path in watched] == before
    version = subprocess.run([watched[0] / "bin/node", "--version"], capture_output=True, text=True)
    assert int(version.stdout.lstrip("v").partition(".")[0]) >= 20


def test_clients_before_setup(project: Path) -> None:
    expect_fix(run_setup_tests(project), "run scripts/setup first")


def test_clients_without_an_index(prepared: Path) -> None:
    done = run_setup_tests(prepared, {"UV_DEFAULT_INDEX": f"{NOWHERE}/simple", "UV_OFFLINE": "1"})
    expect_fix(done, "pip download e2b.*network, proxy")
    assert not (prepared / ".venv-clients/.setup").exists()


def test_npm_packages_that_are_not_what_the_lock_says(prepared: Path) -> None:
    lock = prepared / "tests/clients/package-lock.json"
    false, replaced = re.subn(r'("integrity": "sha512-)\w{8}', r"\1AAAAAAAA", lock.read_text())
    assert replaced > 50
    lock.write_text(false)
    expect_fix(run_setup_tests(prepared), "npm view e2b.*network, proxy")
    assert not (prepared / ".venv-clients/.setup").exists()


def test_no_lock_names_where_packages_come_from() -> None:
    assert '"resolved"' not in (ROOT / "tests/clients/package-lock.json").read_text()
    for lock in ("requirements.lock", "tests/clients/requirements.lock", "scripts/uv.lock"):
        assert "://" not in (ROOT / lock).read_text()
