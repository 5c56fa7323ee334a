"""How a process ended, in words."""

from __future__ import annotations

import os

_SIGNAL_WORDS = {
    1: "hangup",
    2: "interrupt",
    3: "quit",
    4: "illegal instruction",
    5: "trace/breakpoint trap",
    6: "aborted",
    7: "bus error",
    8: "floating point exception",
    9: "killed",
    10: "user defined signal 1",
    11: "segmentation fault",
    12: "user defined signal 2",
    13: "broken pipe",
    14: "alarm clock",
    15: "terminated",
}


def describe_end(status: int) -> dict[str, object]:
    """Say how a process ended, as E2B's envd (that is, Go's os/exec) says it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        words = f"signal: {_SIGNAL_WORDS.get(number, f'signal {number}')}"
        if os.WCOREDUMP(status):
            words += " (core dumped)"
        return {"exit_code": -1, "exited": False, "status": words, "error": words}
    code = os.WEXITSTATUS(status)
    words = f"exit status {code}"
    return {"exit_code": code, "exited": True, "status": words, "error": words if code else None}
