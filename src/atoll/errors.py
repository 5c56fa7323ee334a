"""Every error that Atoll raises on purpose.

    AtollError
    ├── InvalidInput          the request is malformed or asks for something impossible
    │   ├── TooLarge          the request is bigger than the server takes
    │   └── RequestMismatch   the idempotency key was used for another request
    ├── Unauthenticated       no key or token, or a wrong one
    ├── Forbidden             the key or token is good, but not for this
    ├── NotFound
    │   ├── SandboxNotFound   also for another team's sandbox: both answer alike
    │   ├── TemplateNotFound
    │   ├── ProcessNotFound
    │   ├── PathNotFound
    │   └── WatcherNotFound
    ├── Conflict              the thing is in a state that excludes the request
    │   └── PathExists
    ├── Exhausted             a limit of the sandbox or the server was reached
    │   ├── NoSpace           the sandbox's disk is full
    │   ├── RateLimited       too many requests in too short a time; `retry_after` says how long
    │   └── Overloaded        the server can take no more now; trying later is right
    ├── EventsLost            a watch could not keep up with what happened
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


class RequestMismatch(InvalidInput):
    """The idempotency key was used for another request before."""


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

    def __init__(self, template: str, *, remedy: str | None = None) -> None:
        super().__init__(f"template {template!r} was not found", remedy=remedy)
        self.template = template


class ProcessNotFound(NotFound):
    """No such process in the sandbox."""


class PathNotFound(NotFound):
    """No such file or directory in the sandbox."""


class WatcherNotFound(NotFound):
    """No such watcher in the sandbox, or not any more."""

    def __init__(self, watcher_id: str) -> None:
        super().__init__(f"watcher with id {watcher_id} not found")


class Conflict(AtollError):
    """The thing is in a state that excludes the request."""


class PathExists(Conflict):
    """The path is taken."""


class Exhausted(AtollError):
    """A limit of the sandbox or of the server was reached."""


class NoSpace(Exhausted):
    """The sandbox's disk is full."""


class RateLimited(Exhausted):
    """Too many requests in too short a time."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, remedy=f"try again in {retry_after} s")
        self.retry_after = retry_after


class Overloaded(Exhausted):
    """The server can take no more now; trying later is right."""


class EventsLost(AtollError):
    """A watch could not keep up with what happened in its directory."""


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
