"""Signals without the signal module, which would bring in enum."""

from __future__ import annotations

from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIGCHLD,
    SIGINT,
    SIGKILL,
    set_wakeup_fd,
    signal,
)

__all__ = ["SIGCHLD", "SIGINT", "SIGKILL", "SIG_DFL", "set_wakeup_fd", "signal"]
