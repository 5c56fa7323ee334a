"""Every error that Atoll raises on purpose.

    AtollError
    ├── InvalidInput          the request is malformed or asks for something impossible
    │   └── TooLarge          the request is bigger than the server takes
    ├── Unauthenticated       no key or token, or a wrong one
    ├── Forbidden             the key or token is good, but not for this
    ├── NotFound
    │   ├── SandboxNotFound   also for another team's sandbox: both answer alike
    │   ├── TemplateNotFound
    │   ├── ProcessNotFound
    │   └── PathNotFound
    ├── Conflict              the thing is in a state that excludes the request
    │   └── PathExists
    ├── Exhausted             a limit of the sandbox or the server was reached
    │   ├── NoSpace           the sandbox's disk is full
    │   └── Overloaded        the server can take no more now; trying later is right
    ├── SandboxGone           the sandbox ended while (or before) it was being used
    ├── PortClosed            nothing listens on that port in the sandbox
    ├── AgentFailed           the agent in the sandbox broke its protocol or refused
    └── HostError             the machine lacks something; `remedy` says what to do
        └── ConfigurationError

Each door has one table that maps these to its protocol. A message names the cause; `remedy`, where
there is one, says what the reader can do about it.
"""

from __future__ import annotations


class AtollError(Exception):
    """The root of the hierarchy."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InvalidInput(AtollError):
    """The request is malformed or asks for something impossible."""


class TooLarge(InvalidInput):
    """The request is bigger than the server takes."""


class Unauthenticated(AtollError):
    """No key or token was given, or a wrong one."""


class Forbidden(AtollError):
    """The key or token is good, but not for this."""


class NotFound(AtollError):
    """The thing named does not exist, as far as the asker may know."""


class SandboxNotFound(NotFound):
    """No such sandbox in the asker's team."""

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"sandbox {sandbox_id!r} was not found")
        self.sandbox_id = sandbox_id


class TemplateNotFound(NotFound):
    """No such template."""

    def __init__(self, template: str) -> None:
        super().__init__(f"template {template!r} was not found")
        self.template = template


class ProcessNotFound(NotFound):
    """No such process in the sandbox."""


class PathNotFound(NotFound):
    """No such file or directory in the sandbox."""


class Conflict(AtollError):
    """The thing is in a state that excludes the request."""


class PathExists(Conflict):
    """The path is taken."""


class Exhausted(AtollError):
    """A limit of the sandbox or of the server was reached."""


class NoSpace(Exhausted):
    """The sandbox's disk is full."""


class Overloaded(Exhausted):
    """The server can take no more now; trying later is right."""


class SandboxGone(AtollError):
    """The sandbox ended while, or before, it was being used."""


class PortClosed(AtollError):
    """Nothing listens on that port in the sandbox."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is not open in the sandbox")
        self.port = port


class AgentFailed(AtollError):
    """The agent in the sandbox broke its protocol, or refused for a reason without a class."""


class HostError(AtollError):
    """The machine lacks something that Atoll needs."""


class ConfigurationError(HostError):
    """A setting is wrong."""
