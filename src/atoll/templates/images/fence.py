"""A process that can touch one directory, and nothing else of the machine.

Archives of strangers are unpacked in it. The directory is its root, in a mount namespace that has
nothing else; it has no network, sees no other process, and is nobody on the host: its ids are
those of sandboxes. So a mistake in what it does, or in the interpreter, stays in the directory.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from atoll.isolation.bundle import ID_BASE, ID_COUNT
from atoll.isolation.namespaces import MS_NODEV, MS_NOSUID, MS_REC, MS_SLAVE, mount, unshare

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_MOVE = 0x8, 0x20, 0x1000, 0x2000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

# linux/capability.h: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP
_CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31
_CAPABILITY_VERSION = 0x20080522

_MEMORY_BYTES = 1 << 30
_LIMITS = {
    resource.RLIMIT_AS: _MEMORY_BYTES,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NOFILE: 64,
}

_libc = ctypes.CDLL(None, use_errno=True)


def run_fenced(directory: Path, work: Callable[[], None]) -> int:
    """Call `work` in such a process, with `directory` as `/`; returns its exit status.

    It keeps standard input, output and error. All that it needs has to be imported by now. The
    calling process is root, has one thread, and is not good for much else afterwards.
    """
    _end_with_parent()
    inner, outer = os.pipe(), os.pipe()
    unshare(_CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(inner[0])
            os.close(outer[1])
            _enter(directory, say=inner[1], hear=outer[0])
            work()
            status = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(inner[1])
    os.close(outer[0])
    if os.read(inner[0], 1):
        for kind in ("uid", "gid"):
            Path(f"/proc/{child}/{kind}_map").write_text(f"0 {ID_BASE} {ID_COUNT}\n")
        os.write(outer[1], b"+")
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _enter(directory: Path, *, say: int, hear: int) -> None:
    _end_with_parent()
    unshare(_CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS)
    mount("none", "/", "none", MS_REC | MS_SLAVE)
    path = str(directory)
    mount(path, path, "none", _MS_BIND)
    mount("none", path, "none", _MS_REMOUNT | _MS_BIND | MS_NODEV | MS_NOSUID | _MS_NOEXEC)
    os.chdir(path)
    mount(".", "/", "none", _MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    os.setgroups([])
    # Last of all: what was set up until now belongs to the host's root, and can't be undone.
    unshare(_CLONE_NEWUSER)
    os.write(say, b"+")
    if not os.read(hear, 1):
        os._exit(1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _drop_capabilities()
    for kind, most in _LIMITS.items():
        resource.setrlimit(kind, (most, most))
    os.closerange(3, 1 << 16)
    os.umask(0)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def _drop_capabilities() -> None:
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    # Effective, permitted and inheritable, of the lower and of the upper 32.
    data = struct.pack("=6I", _CAPABILITIES, _CAPABILITIES, 0, 0, 0, 0)
    if _libc.capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "capset")
