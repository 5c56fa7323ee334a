"""Signals without the signal module, which would bring in enum."""

from __future__ import annotations

from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGQUIT,
    SIGTERM,
    set_wakeup_fd,
    signal,
)

__all__ = [
    "SIGCHLD",
    "SIGHUP",
    "SIGINT",
    "SIGKILL",
    "SIGQUIT",
    "SIGTERM",
    "SIG_DFL",
    "set_wakeup_fd",
    "signal",
]
