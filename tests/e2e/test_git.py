"""`sandbox.git`, through the official SDK: git itself in the sandbox, with remotes of its own."""

from __future__ import annotations

import pytest
from e2b import AsyncSandbox, Sandbox
from e2b.exceptions import GitUpstreamException

from tests.server import RunningServer

# The SDK calls its own module deprecated; programs that use it have to run all the same.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def commit_first(sandbox: Sandbox, name: str) -> str:
    """Make a repository with one commit, and say where it is."""
    path = f"/home/user/{name}"
    sandbox.git.init(path, initial_branch="main")
    sandbox.git.configure_user("Ann", "ann@example.com", scope="local", path=path)
    sandbox.files.write(f"{path}/a.txt", "first\n")
    sandbox.git.add(path)
    sandbox.git.commit(path, "first")
    return path


def test_init_add_commit_status(sandbox: Sandbox) -> None:
    path = commit_first(sandbox, "status")
    assert sandbox.git.status(path).is_clean
    sandbox.files.write(f"{path}/a.txt", "second\n")
    sandbox.files.write(f"{path}/b.txt", "new\n")
    sandbox.git.add(path, files=["b.txt"])
    status = sandbox.git.status(path)
    assert status.current_branch == "main"
    assert {each.name: each.staged for each in status.file_status} == {
        "a.txt": False,
        "b.txt": True,
    }


def test_branches(sandbox: Sandbox) -> None:
    git = sandbox.git
    path = commit_first(sandbox, "branches")
    git.create_branch(path, "side")
    assert git.branches(path).current_branch == "side"
    git.checkout_branch(path, "main")
    assert sorted(git.branches(path).branches) == ["main", "side"]
    git.delete_branch(path, "side", force=True)
    assert git.branches(path).branches == ["main"]


def test_reset_and_restore(sandbox: Sandbox) -> None:
    path = commit_first(sandbox, "reset")
    sandbox.files.write(f"{path}/a.txt", "changed\n")
    sandbox.git.add(path)
    sandbox.git.reset(path, mode="mixed", target="HEAD")
    assert not sandbox.git.status(path).has_staged
    sandbox.git.restore(path, paths=["a.txt"])
    assert sandbox.files.read(f"{path}/a.txt") == "first\n"


def test_remotes(sandbox: Sandbox) -> None:
    git, files = sandbox.git, sandbox.files
    path = commit_first(sandbox, "origin")
    git.init("/home/user/bare.git", bare=True, initial_branch="main")
    git.remote_add(path, "origin", "/home/user/bare.git")
    assert git.remote_get(path, "origin") == "/home/user/bare.git"
    assert git.remote_get(path, "other") is None
    with pytest.raises(GitUpstreamException):
        git.push(path, set_upstream=False)
    git.push(path, remote="origin", branch="main", set_upstream=True)
    git.clone("/home/user/bare.git", path="/home/user/copy")
    assert files.read("/home/user/copy/a.txt") == "first\n"
    files.write(f"{path}/a.txt", "second\n")
    git.add(path)
    git.commit(path, "second")
    git.push(path)
    git.pull("/home/user/copy")
    assert files.read("/home/user/copy/a.txt") == "second\n"


def test_configuration_and_credentials(sandbox: Sandbox) -> None:
    git = sandbox.git
    git.set_config("core.pager", "cat")
    assert git.get_config("core.pager") == "cat"
    assert git.get_config("no.such") is None
    git.configure_user("Bob", "bob@example.com")
    assert git.get_config("user.name") == "Bob"
    git.dangerously_authenticate("u", "p", host="git.example.com")
    request = 'printf "protocol=https\\nhost=git.example.com\\n\\n"'
    filled = sandbox.commands.run(f"{request} | git credential fill")
    assert "username=u\npassword=p\n" in filled.stdout


async def test_the_async_sdk(server: RunningServer) -> None:
    async with await AsyncSandbox.create(timeout=60, **server.options) as sandbox:
        git, files = sandbox.git, sandbox.files
        path, copy, bare = "/home/user/r", "/home/user/c", "/home/user/bare.git"
        await git.init(path, initial_branch="main")
        await git.configure_user("Ann", "ann@example.com")
        await git.set_config("core.pager", "cat")
        assert await git.get_config("core.pager") == "cat"
        await files.write(f"{path}/a.txt", "first\n")
        await git.add(path)
        await git.commit(path, "first")
        assert (await git.status(path)).is_clean
        await git.create_branch(path, "side")
        await git.checkout_branch(path, "main")
        assert (await git.branches(path)).current_branch == "main"
        await git.delete_branch(path, "side", force=True)
        await files.write(f"{path}/a.txt", "changed\n")
        await git.reset(path, mode="mixed", target="HEAD")
        await git.restore(path, paths=["a.txt"])
        assert await files.read(f"{path}/a.txt") == "first\n"
        await git.init(bare, bare=True, initial_branch="main")
        await git.remote_add(path, "origin", bare)
        assert await git.remote_get(path, "origin") == bare
        await git.push(path, remote="origin", branch="main", set_upstream=True)
        await git.clone(bare, path=copy)
        await git.pull(copy)
        assert await files.read(f"{copy}/a.txt") == "first\n"
        await git.dangerously_authenticate("u", "p", host="git.example.com")
        store = await files.read("/home/user/.git-credentials")
        assert "https://u:p@git.example.com" in store
