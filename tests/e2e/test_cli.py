"""The command line, and the demonstration that `make run` shows."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect

from tests.server import TEMPLATES, RunningServer, find_leftovers, free_port, run_server


def test_env_prints_what_a_shell_can_source(server: RunningServer) -> None:
    printed = server.atoll("env")
    assert printed.returncode == 0
    program = "echo $E2B_API_URL $E2B_SANDBOX_URL $E2B_API_KEY"
    told = subprocess.run(
        ["sh", "-c", f"{printed.stdout}\n{program}"], capture_output=True, text=True
    ).stdout.split()
    assert told == [server.url, server.url, server.api_key]
    assert json.loads(server.atoll("env", "--json").stdout)["E2B_API_KEY"] == server.api_key


def test_env_without_a_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atoll", "env", "--data-dir", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 1
    assert "FIX:" in told.stderr


def test_keys_are_listed_and_revoked(server: RunningServer) -> None:
    import httpx

    key = server.atoll("keys", "create", "brief").stdout.strip()
    listed = json.loads(server.atoll("keys", "list", "--json").stdout)
    found = next(each for each in listed if each["name"] == "brief")
    assert found["hint"] == key[-4:]
    assert key not in server.atoll("keys", "list").stdout
    again = server.atoll("keys", "create", "brief")
    assert again.returncode == 1
    assert "FIX:" in again.stderr
    url = f"{server.url}/v2/sandboxes"
    assert httpx.get(url, headers={"X-API-Key": key}).status_code == 200
    assert server.atoll("keys", "revoke", found["id"]).returncode == 0
    time.sleep(2.1)
    assert httpx.get(url, headers={"X-API-Key": key}).status_code == 401
    assert server.atoll("keys", "revoke", found["id"]).returncode == 1


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atoll", "serve", "--data-dir", str(tmp_path)]
    environ = {**os.environ, "ATOLL_POOL_SIZE": "many"}
    told = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert told.returncode == 1
    assert "FIX:" in told.stderr
    assert "ATOLL_POOL_SIZE" in told.stderr


def test_a_taken_port_is_named(server: RunningServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atoll", "serve", "--data-dir", str(tmp_path)]
    told = subprocess.run([*command, "--port", str(server.port)], capture_output=True, text=True)
    assert told.returncode == 1
    assert str(server.port) in told.stderr
    assert "FIX:" in told.stderr


def test_the_demonstration(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atoll", "demo", "--once", "--data-dir", str(tmp_path)]
    environ = {**os.environ, "ATOLL_TEMPLATE_DIR": TEMPLATES}
    told = subprocess.run(
        [*command, "--port", str(free_port())], capture_output=True, text=True, env=environ
    )
    assert told.returncode == 0, told.stdout + told.stderr
    steps = [line for line in told.stdout.splitlines() if line.startswith("  ok ")]
    assert len(steps) == 6
    assert find_leftovers(tmp_path) == []


def test_doctor(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atoll", "doctor", "--data-dir", str(tmp_path)]
    # A machine without what only some templates need: it is named, and no more than that.
    programs = tmp_path / "bin"
    programs.mkdir()
    for directory in os.environ["PATH"].split(":"):
        for program in Path(directory).glob("*"):
            if program.name != "skopeo" and not (programs / program.name).is_symlink():
                (programs / program.name).symlink_to(program)
    environ = {**os.environ, "ATOLL_TEMPLATE_DIR": TEMPLATES, "PATH": str(programs)}
    told = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "a sandbox booted" in told.stdout
    assert "note  skopeo is not installed" in told.stdout
    # A machine without nft: the problem is named, with what to do.
    environ["PATH"] = "/nonexistent"
    told = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert told.returncode == 1
    assert "FIX:" in told.stdout


def test_the_idle_server_is_small(server: RunningServer) -> None:
    resident = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
    assert resident < 150 << 20


def test_clean_removes_nothing_that_is_not_atolls(tmp_path: Path) -> None:
    """Asked to clean a directory of somebody's own, by mistake, it refuses and touches nothing."""
    decoy = tmp_path / "home"
    (decoy / "documents").mkdir(parents=True)
    (decoy / "documents" / "thesis.txt").write_text("years of work")
    command = [sys.executable, "-m", "atoll", "clean", "--templates", "--data-dir", str(decoy)]
    # Never the templates that the environment of the tests names: they would be removed.
    environ = {**os.environ, "ATOLL_TEMPLATE_DIR": str(tmp_path / "templates")}
    told = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert told.returncode == 1
    assert "FIX:" in told.stderr
    assert (decoy / "documents" / "thesis.txt").read_text() == "years of work"
    assert [entry.name for entry in decoy.iterdir()] == ["documents"]


def test_clean_leaves_what_lies_beside_its_own(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=0) as server:
        pass
    (tmp_path / "atoll.toml").write_text("pool_size = 1\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    assert server.atoll("clean").returncode == 0
    left = sorted(entry.name for entry in tmp_path.iterdir())
    assert left == ["atoll.toml", "notes", "server.log"]


def atoll(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll", *map(str, arguments)]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("ATOLL_")}
    return subprocess.run(command, capture_output=True, text=True, env=environ)


def test_clean_removes_certificates(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert atoll("certs", "--data-dir", data).returncode == 0
    (data / "tls" / "mine.pem").write_text("mine")
    assert atoll("clean", "--data-dir", data).returncode == 0
    assert [str(each.relative_to(data)) for each in data.rglob("*.*")] == ["tls/mine.pem"]
    (data / "tls" / "mine.pem").unlink()
    assert atoll("certs", "--data-dir", data).returncode == 0
    assert atoll("clean", "--data-dir", data).returncode == 0
    assert not data.exists()


def test_clean_after_a_refused_start(server: RunningServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert atoll("serve", "--data-dir", data, "--port", server.port).returncode == 1
    assert atoll("clean", "--data-dir", data).returncode == 0
    assert not data.exists()
    # Beside what is somebody's, a file of that name is no sign of ours.
    data.mkdir()
    (data / "server.lock").touch()
    (data / "agent").mkdir()
    assert atoll("clean", "--data-dir", data).returncode == 1
    assert len(list(data.iterdir())) == 2


def test_what_fails_says_what_to_do(server: RunningServer, tmp_path: Path) -> None:
    for arguments in (
        ("keys", "create", "", "--data-dir", server.data_dir),
        ("certs", "--domain", "bad domain!", "--data-dir", tmp_path),
        ("certs", "--domain", "localhost", "--data-dir", tmp_path),
    ):
        told = atoll(*arguments)
        assert told.returncode == 1
        assert "\nFIX: " in told.stderr


def test_no_table_cuts_what_secrets_are_known_by(server: RunningServer) -> None:
    name = "a name that takes some room"
    key = server.atoll("keys", "create", name, "--team", "quite-a-long-name-of-a-team").stdout
    token = server.atoll("tokens", "create", name, "--team", "quite-a-long-name-of-a-team").stdout
    for kind, secret in (("keys", key.strip()), ("tokens", token.strip())):
        ids = [each["id"] for each in json.loads(server.atoll(kind, "list", "--json").stdout)]
        command = f"{sys.executable} -m atoll {kind} list --data-dir {server.data_dir}"
        for columns in (40, 80):
            terminal = pexpect.spawn(command, dimensions=(50, columns), encoding="utf-8")
            shown = terminal.read()
            terminal.close()
            assert f"…{secret[-4:]}" in shown
            assert all(each in shown for each in ids)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def test_a_stop_during_the_start_is_heard(tmp_path: Path) -> None:
    """While the template is being built by another process, say."""
    store = tmp_path / "templates"
    (store / "base").mkdir(parents=True)
    with (store / "base" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "atoll", "serve", "--data-dir", str(tmp_path)]
        process = subprocess.Popen([*command, "--port", str(free_port())])
        deadline = time.monotonic() + 60
        while not catches(process.pid, signal.SIGTERM):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=10) == 0
