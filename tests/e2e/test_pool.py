"""A sandbox from the pool is like one that was booted on demand."""

from __future__ import annotations

import time
from pathlib import Path

from e2b import Sandbox

from tests.server import run_server

_PROBE = """
env | sort | grep -v -e '^E2B_SANDBOX_ID=' -e '^_='
id; pwd; hostname; umask; ulimit -a; cat /etc/hosts | sed 's/[0-9.]* e2b/IP e2b/'
ls -la /run/e2b /home/user | sed 's/... .. ..:..//'
cat /proc/1/limits
grep -e ^Cap -e ^Seccomp -e NoNewPrivs -e Groups -e Umask /proc/self/status
awk '{ print $5, $9 }' /proc/self/mountinfo | sort
ss -Hltnup; ps -eo user,comm | grep -v -e ps -e grep | sort
"""


def test_pooled_and_cold_are_alike(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=1) as server:
        wait_for_pool(tmp_path, 1)
        pooled = Sandbox.create(envs={"A": "1"}, metadata={"m": "n"}, **server.options)
        first = pooled.commands.run(_PROBE, user="user").stdout
        pooled_info = pooled.get_info()
    (tmp_path / "cold").mkdir()
    with run_server(tmp_path / "cold", pool_size=0) as server:
        cold = Sandbox.create(envs={"A": "1"}, metadata={"m": "n"}, **server.options)
        second = cold.commands.run(_PROBE, user="user").stdout
        cold_info = cold.get_info()
    assert first == second
    assert (pooled_info.metadata, pooled_info.cpu_count) == (
        cold_info.metadata,
        cold_info.cpu_count,
    )
    lifetimes = {
        round((each.end_at - each.started_at).total_seconds()) for each in (pooled_info, cold_info)
    }
    assert lifetimes == {300}
    assert pooled._envd_access_token != cold._envd_access_token


def test_ids_tokens_and_entropy_differ(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=3) as server:
        wait_for_pool(tmp_path, 3)
        made = [Sandbox.create(**server.options) for _ in range(6)]
        draw = (
            "head -c 16 /dev/urandom | base64; python3 -c 'import random; print(random.random())'"
        )
        drawn = [line for each in made for line in each.commands.run(draw).stdout.split()]
        assert len(set(drawn)) == 12
        assert len({each.sandbox_id for each in made}) == 6
        assert len({each._envd_access_token for each in made}) == 6


def test_a_pooled_sandbox_cannot_be_reached(tmp_path: Path) -> None:
    import httpx

    with run_server(tmp_path, pool_size=2) as server:
        wait_for_pool(tmp_path, 2)
        listed = httpx.get(f"{server.url}/v2/sandboxes", headers=server.headers)
        assert listed.json() == []
        for directory in (tmp_path / "isolation" / "sandboxes").iterdir():
            sandbox_id = directory.name
            headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": "49983"}
            assert httpx.get(f"{server.url}/health", headers=headers).status_code == 502
            shown = httpx.get(f"{server.url}/sandboxes/{sandbox_id}", headers=server.headers)
            assert shown.status_code == 404


def wait_for_pool(data_dir: Path, size: int) -> None:
    """Wait until so many sandboxes are ready: each has an entry in the store."""
    import sqlite3

    deadline = time.monotonic() + 30
    while True:
        with sqlite3.connect(data_dir / "atoll.db") as connection:
            query = "select count(*) from sandboxes where state = 'pooled'"
            ready = connection.execute(query).fetchone()[0]
        connection.close()
        if ready >= size:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)
