"""The server dies and comes back; the sandboxes did not notice."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox
from e2b.exceptions import SandboxNotFoundException

from tests.e2e.test_lifecycle import read_ends
from tests.server import find_init, find_leftovers, kill_process, run_server


def test_kill_9_leaves_the_sandboxes_to_the_next_start(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=1) as server:
        kept = Sandbox.create(
            timeout=300, metadata={"k": "v"}, envs={"KEPT": "yes"}, **server.options
        )
        handle = kept.commands.run(
            "for i in $(seq 1 1000); do echo $i; sleep 0.05; done", background=True
        )
        kept.files.write("file", "before")
        brief = Sandbox.create(timeout=2, **server.options)
        gone = Sandbox.create(timeout=300, **server.options)
        inner = next(iter(gone.commands.list()), None)
        assert inner is None
        end_at = kept.get_info().end_at
        doomed = find_init(server.data_dir, gone.sandbox_id)

        server.kill()
        Path(f"/proc/{doomed}").stat()  # sandboxes live on without their server
        kill_process(doomed)
        time.sleep(2.5)
        server.start(stop_sandboxes=True)

        # The same id, token, deadline, metadata, files and processes.
        info = kept.get_info()
        assert (info.end_at, info.metadata) == (end_at, {"k": "v"})
        assert kept.files.read("file") == "before"
        assert kept.commands.run("echo $KEPT").stdout == "yes\n"
        again = kept.commands.connect(handle.pid)
        seen: list[str] = []
        for stdout, _, _ in again:
            seen += (stdout or "").split()
            if len(seen) > 20:
                break
        again.kill()
        assert seen == [str(n) for n in range(int(seen[0]), int(seen[0]) + len(seen))]
        # Its time was over while nobody watched.
        deadline = time.monotonic() + 1
        while brief.is_running():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(SandboxNotFoundException):
            gone.get_info()
        ends = read_ends(server, [brief.sandbox_id, gone.sandbox_id])
        assert ends == {brief.sandbox_id: "timeout", gone.sandbox_id: "lost"}
        kept.kill()
    server.assert_nothing_left()


def test_kill_9_under_load(tmp_path: Path) -> None:
    """Killed while it creates: what was acknowledged is there, what was half-made is not."""
    import threading

    with run_server(tmp_path, pool_size=2) as server:
        acknowledged: list[str] = []

        def create_forever() -> None:
            body = {"templateID": "base", "timeout": 300}
            while True:
                try:
                    answer = httpx.post(
                        f"{server.url}/v2/sandboxes", headers=server.headers, json=body, timeout=30
                    )
                except httpx.HTTPError:
                    return
                if answer.status_code == 201:
                    acknowledged.append(answer.json()["sandboxID"])

        for _ in range(3):
            threads = [threading.Thread(target=create_forever) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.7)
            server.kill()
            for thread in threads:
                thread.join()
            server.start(stop_sandboxes=True)
            listed = httpx.get(
                f"{server.url}/v2/sandboxes", headers=server.headers, params={"limit": 100}
            )
            alive = {each["sandboxID"] for each in listed.json()}
            assert set(acknowledged) <= alive
            for sandbox_id in alive:
                sandbox = Sandbox.connect(sandbox_id, **server.options)
                assert sandbox.commands.run("echo fine").stdout == "fine\n"
                sandbox.kill()
            acknowledged.clear()
    server.assert_nothing_left()


def test_a_stop_without_the_flag_leaves_sandboxes(tmp_path: Path) -> None:
    with run_server(tmp_path, stop_sandboxes=False, pool_size=1) as server:
        sandbox = Sandbox.create(timeout=300, **server.options)
        assert server.stop() == 0
        assert find_leftovers(tmp_path)
        server.start(stop_sandboxes=False)
        assert sandbox.commands.run("echo still here").stdout == "still here\n"
    cleaned = server.atoll("clean")
    assert cleaned.returncode == 0, cleaned.stderr
    server.assert_nothing_left()
    assert not (tmp_path / "atoll.db").exists()


def test_two_servers_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        run_server(tmp_path / "a", pool_size=0) as first,
        run_server(tmp_path / "b", pool_size=0) as second,
        Sandbox.create(**first.options) as one,
        Sandbox.create(**second.options) as two,
    ):
        assert one.commands.run("echo a").stdout == "a\n"
        assert two.commands.run("echo b").stdout == "b\n"
        # A second server on the same directory is refused, and told what to do.
        refused = first.atoll("serve", "--port", str(second.port), timeout=30)
        assert refused.returncode == 1
        assert "another server uses" in refused.stderr
        assert "FIX:" in refused.stderr
    first.assert_nothing_left()
    second.assert_nothing_left()
