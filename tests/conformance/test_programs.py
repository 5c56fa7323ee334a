"""Ordinary programs work inside: the boundary is not in their way."""

from __future__ import annotations

import pytest

from atoll.isolation.driver import Resources
from tests.conformance.box import Box
from tests.conformance.conftest import MakeBox


@pytest.fixture
async def box(make_box: MakeBox) -> Box:
    """A sandbox of the size that users have."""
    return await make_box(resources=Resources(cpu_count=2, memory_mb=1024))


async def test_sudo(box: Box) -> None:
    assert await box.check("sudo -n id -u 2>&1") == "0"
    assert await box.check("sudo -u user id -un 2>&1") == "user"
    assert await box.check("sudo -n sh -c 'echo x > /etc/new; chown user /etc/new' 2>&1") == ""


@pytest.mark.timeout(300)
async def test_apt_get_installs(box: Box) -> None:
    await box.check("sudo apt-get -q update 2>&1", timeout=120)
    await box.check("sudo apt-get -qy install strace 2>&1", timeout=120)
    traced = await box.check("strace -f -o /tmp/trace sh -c true && grep -c execve /tmp/trace")
    assert int(traced) >= 1


@pytest.mark.timeout(300)
async def test_pip_installs(box: Box) -> None:
    await box.check("python3 -m venv v && v/bin/pip install -q six 2>&1", timeout=200)
    assert await box.check("v/bin/python -c 'import six; print(six.__name__)'") == "six"


@pytest.mark.timeout(300)
async def test_npm_installs(box: Box) -> None:
    await box.check("mkdir p && cd p && npm init -y && npm install is-number 2>&1", timeout=200)
    assert await box.check("cd p && node -p 'require(\"is-number\")(1)'") == "true"


async def test_a_compiler_and_threads(box: Box) -> None:
    source = (
        "#include <pthread.h>\n#include <stdio.h>\n"
        "static void *f(void *p) { return p; }\n"
        "int main(void) { pthread_t t; void *r; pthread_create(&t, 0, f, (void *)7);\n"
        'pthread_join(t, &r); printf("%ld\\n", (long)r); return 0; }\n'
    )
    await box.write({"/tmp/t.c": source})
    assert await box.check("gcc -pthread -o t /tmp/t.c && ./t") == "7"


async def test_processes_of_python(box: Box) -> None:
    program = """
        import multiprocessing as m
        with m.get_context("fork").Pool(2) as pool:
            print(pool.map(abs, [-1, -2]))
        shared = m.Value("i", 5)
        print(shared.value, m.Semaphore(2).acquire())
        """
    assert await box.python(program) == "[1, 2]\n5 True"


async def test_node_runs_workers(box: Box) -> None:
    program = (
        "const {Worker} = require('worker_threads');"
        "new Worker('require(\"worker_threads\").parentPort.postMessage(1)', {eval: true})"
        ".on('message', m => console.log('got', m))"
    )
    await box.write({"/tmp/w.js": program})
    assert await box.check("node /tmp/w.js") == "got 1"


async def test_git(box: Box) -> None:
    await box.check(
        "git init -q r && cd r && git config user.email a@b.c && git config user.name a"
    )
    await box.check("cd r && echo 1 > f && git add f && git commit -qm one")
    assert await box.check("cd r && git log --format=%s") == "one"


async def test_tools_that_look_at_the_system(box: Box) -> None:
    await box.check(
        "ps aux && free -m && df -h && uptime && ip addr && ss -tlnp && nproc && top -bn1"
    )
    assert await box.check("hostname") == "e2b.local"
    assert await box.ping("127.0.0.1")


async def test_terminals_and_locks(box: Box) -> None:
    assert "/dev/pts/" in await box.check("script -qec tty /dev/null")
    assert await box.check("flock /tmp/lock true && mkfifo /tmp/p && echo fine") == "fine"
