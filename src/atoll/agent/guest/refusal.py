"""Why the agent refuses a request, in words that the host maps to its own errors."""

from __future__ import annotations

import errno
import os


class Refusal(Exception):
    """A request that fails for a reason its sender should see."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def reply(self) -> dict[str, object]:
        """Make the closing message of the operation."""
        return {"error": {"code": self.code, "message": self.message}}


_CODES = {
    errno.ENOENT: "not_found",
    errno.EEXIST: "already_exists",
    errno.ENOTEMPTY: "already_exists",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.EBUSY: "permission_denied",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EAGAIN: "resource_exhausted",
    errno.ENOMEM: "resource_exhausted",
    errno.EMFILE: "resource_exhausted",
    errno.ENFILE: "resource_exhausted",
    errno.ENOTDIR: "invalid_argument",
    errno.EISDIR: "invalid_argument",
    errno.EINVAL: "invalid_argument",
    errno.ELOOP: "invalid_argument",
    errno.ENAMETOOLONG: "invalid_argument",
    errno.ENXIO: "invalid_argument",
    errno.EFBIG: "invalid_argument",
    errno.E2BIG: "invalid_argument",
    errno.ENOTSUP: "invalid_argument",
}


def refuse_path(error: OSError, path: str) -> Refusal:
    """Explain a failed system call on a path."""
    code = _CODES.get(error.errno or 0, "internal")
    shown = quote(path)
    if error.errno == errno.ENOENT:
        return Refusal(code, f"path {shown} does not exist")
    if error.errno == errno.EEXIST:
        return Refusal(code, f"path {shown} already exists")
    if error.errno == errno.EISDIR:
        return Refusal(code, f"path {shown} is a directory")
    if code == "no_space":
        return Refusal(code, f"not enough disk space for {shown}")
    return Refusal(code, f"path {shown}: {describe(error)}")


def refuse_resources(error: OSError, what: str) -> Refusal:
    """Explain that the kernel would not give a process, a descriptor or memory."""
    code = _CODES.get(error.errno or 0, "internal")
    if error.errno == errno.EAGAIN:
        return Refusal(code, f"{what}: the sandbox's limit of processes is reached")
    if error.errno == errno.ENOMEM:
        return Refusal(code, f"{what}: the sandbox's memory is used up")
    return Refusal(code, f"{what}: {describe(error)}")


def describe(error: OSError) -> str:
    """Say in a few words what the kernel said."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def quote(text: str) -> str:
    """Show a name that may hold anything, in the form of the E2B messages: in single quotes."""
    printable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if len(printable) > 512:
        printable = f"{printable[:512]}…"
    return f"'{printable}'"
