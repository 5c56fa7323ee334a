"""Starting a program.

The child is made by the C function behind the standard library's subprocess module: it uses vfork,
so no page of the agent is copied and no Python runs between fork and exec. (Forking and preparing
the child in Python was measured at more than twice the time.)
"""

from __future__ import annotations

import _posixsubprocess
import errno
import os
import sys

from .refusal import Refusal, describe, quote, refuse_resources
from .users import User, acting_as
from .worker import killed_first

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_UMASK = 0o022
_CANDIDATES = 256

_BASH = "/bin/bash"
"""What the SDKs ask for, whatever the image is."""
_OTHER_SHELLS = ("/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh", "/usr/bin/sh", "/busybox/sh")


class Program:
    """What to run, and how."""

    __slots__ = ("args", "cmd", "cwd", "envs", "pty", "stdin", "user")

    def __init__(
        self,
        cmd: str,
        args: Sequence[str],
        envs: dict[str, str],
        cwd: str | None,
        user: User,
        *,
        pty: tuple[int, int] | None,
        stdin: bool,
    ) -> None:
        self.cmd = cmd
        self.args = args
        self.envs = envs
        self.cwd = cwd
        self.user = user
        self.pty = pty
        self.stdin = stdin


class Started:
    """A program that runs, and the agent's ends of its pipes."""

    __slots__ = ("input", "outputs", "pid")

    def __init__(self, pid: int, input_fd: int | None, outputs: dict[int, int]) -> None:
        self.pid = pid
        self.input = input_fd
        self.outputs = outputs
        """Descriptor to read, and the kind of frame its content goes into."""


def spawn(program: Program, kinds: tuple[int, int, int]) -> Started:
    """Run a program; `kinds` are the frames for stdout, stderr and pty.

    Raises `Refusal`: resource_exhausted when the kernel gives no process or descriptors,
    invalid_argument, permission_denied or unauthenticated when the program cannot be run as asked.
    """
    opened: list[int] = []
    kept: list[int] = []

    def pipe() -> tuple[int, int]:
        ends = os.pipe()
        opened.extend(ends)
        return ends

    try:
        if program.pty is not None:
            master, slave = os.openpty()
            opened.extend((master, slave))
            set_window(master, *program.pty)
            os.fchown(slave, program.user.uid, -1)
            theirs = (slave, slave, slave)
            input_fd: int | None = master
            outputs = {master: kinds[2]}
        else:
            if program.stdin:
                stdin, input_fd = pipe()
            else:
                stdin, input_fd = os.open("/dev/null", os.O_RDONLY), None
                opened.append(stdin)
            stdout, stdout_in = pipe()
            stderr, stderr_in = pipe()
            theirs = (stdin, stdout_in, stderr_in)
            outputs = {stdout: kinds[0], stderr: kinds[1]}
        kept = [*outputs] if input_fd is None else [*outputs, input_fd]
        for fd in kept:
            os.set_blocking(fd, False)
        pid = _start(program, theirs)
    except OSError as error:
        kept = []
        raise refuse_resources(error, f"cannot start {quote(program.cmd)}") from error
    except BaseException:
        kept = []
        raise
    finally:
        for fd in opened:
            if fd not in kept:
                os.close(fd)
    return Started(pid, input_fd, outputs)


def set_window(fd: int, cols: int, rows: int) -> None:
    """Set the size of a terminal. Raises `OSError` when it is gone."""
    # Only sandboxes that use terminals pay for these two modules.
    import fcntl
    import termios

    size = b"".join(n.to_bytes(2, sys.byteorder) for n in (rows, cols, 0, 0))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


def _start(program: Program, fds: tuple[int, int, int]) -> int:
    """Make the child. Raises `OSError` when there can be none, and `Refusal`."""
    user = program.user
    env = {
        "PATH": DEFAULT_PATH,
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        **program.envs,
    }
    cmd, args = program.cmd, program.args
    if cmd == _BASH and not os.path.exists(_BASH):
        cmd, args = _replace_shell(args)
    report, report_in = os.pipe()
    try:
        with killed_first(), acting_as(user, for_exec=True):
            cwd = program.cwd
            if cwd is None:
                cwd = user.home if os.access(user.home, os.X_OK) else "/"
            pid = _posixsubprocess.fork_exec(
                [os.fsencode(arg) for arg in (cmd, *args)],
                _find_candidates(cmd, env["PATH"]),
                False,  # Leave descriptors alone: all of the agent's close themselves on exec.
                (report_in,),
                os.fsencode(cwd),  # type: ignore[arg-type]
                [os.fsencode(f"{name}={value}") for name, value in env.items()],
                *(fds[0], -1, -1, fds[1], -1, fds[2]),
                *(report, report_in),
                True,  # Undo the interpreter's own handling of SIGPIPE and SIGXFSZ.
                True,  # A session of its own.
                -1,
                *(None, None, None),  # The ids are borrowed already; asking here would cost vfork.
                _UMASK,
                None if program.pty is None else _take_terminal,  # type: ignore[arg-type]
                True,
            )
        os.close(report_in)
        report_in = -1
        # Ends as soon as the program runs; a failed child writes `class:errno in hex:detail`.
        failure = os.read(report, 1024)
    finally:
        os.close(report)
        if report_in >= 0:
            os.close(report_in)
    if failure:
        os.waitpid(pid, 0)
        raise _explain(failure, program.cmd, cwd)
    return pid


def _take_terminal() -> None:
    """In the child: make the terminal on its stdin the one that controls its session."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _replace_shell(args: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What does it in an image without bash: another shell, as the options that the SDKs give it
    any knows; and where there is none, the program itself that the line names."""
    for shell in _OTHER_SHELLS:
        if os.path.exists(shell):
            return shell, args
    if list(args[:-1]) == ["-l", "-c"]:
        import shlex  # and much behind it; few sandboxes come here

        try:
            words = shlex.split(args[-1])
        except ValueError:
            words = []
        if words:
            return words[0], words[1:]
    return _BASH, args


def _find_candidates(cmd: str, path: str) -> tuple[bytes, ...]:
    if "/" in cmd:
        return (os.fsencode(cmd),)
    folders = path.split(":")[:_CANDIDATES]
    return tuple(os.fsencode(f"{folder or '.'}/{cmd}") for folder in folders) if cmd else (b"",)


def _explain(failure: bytes, cmd: str, cwd: str) -> Refusal:
    parts = failure.decode("ascii", "replace").split(":", 2)
    if len(parts) != 3 or parts[0] != "OSError":
        return Refusal("internal", f"cannot run {quote(cmd)}: the child failed")
    error = OSError(int(parts[1], 16), "")
    shown = quote(cmd)
    if parts[2] == "noexec":
        shown = quote(cwd)
        if error.errno == errno.ENOENT:
            return Refusal("invalid_argument", f"cwd {shown} does not exist")
        if error.errno == errno.ENOTDIR:
            return Refusal("invalid_argument", f"cwd {shown} is not a directory")
        code = "permission_denied" if error.errno == errno.EACCES else "invalid_argument"
        return Refusal(code, f"cwd {shown}: {describe(error)}")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Refusal("invalid_argument", f"command {shown} was not found")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refusal("permission_denied", f"cannot run {shown}: {describe(error)}")
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return refuse_resources(error, f"cannot run {shown}")
    return Refusal("invalid_argument", f"cannot run {shown}: {describe(error)}")
