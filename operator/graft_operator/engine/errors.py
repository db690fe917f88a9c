"""What can go wrong, by who has to do something about it."""

# ruff: noqa: N818 -- named after the API server's own reasons, which is how its users know them.

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


class UserMustAct(Exception):
    """A bad spec or bad data: say field, value, bound and what to do. Not retried; the next change of the object is."""


class NotYet(Exception):
    """Nothing is wrong, something is only not there yet. Tried again after `delay`; not logged as an error."""

    def __init__(self, message: str, delay: timedelta) -> None:
        super().__init__(message)
        self.delay = delay


@dataclass(frozen=True)
class Cause:
    """One complaint of the API server about an object: the field's path and what is wrong with it."""

    field: str
    message: str
    reason: str = ""


class KubeError(Exception):
    """The API server said no, or nothing. `code` is the HTTP status, 0 if there was none."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "", causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.causes = causes


class NotFound(KubeError):
    """404 of anything but a get or a delete: the object or the resource is not there."""


class Conflict(KubeError):
    """409: the object has changed since it was read, or a precondition does not hold. Read it again."""


class AlreadyExists(KubeError):
    """409 on create: an object of this name is there already."""


class Gone(KubeError):
    """410: the resourceVersion or continue token is too old."""


class Invalid(KubeError):
    """422 or 400: the object is refused; `causes` names the fields."""

    def told(self) -> str:
        """What its author must change, or all that the API server has said."""
        return "; ".join(f"{cause.field}: {cause.message}" for cause in self.causes) or str(self)


class Forbidden(KubeError):
    """403: no right to do this, or an admission policy refused it."""


class Unauthorized(KubeError):
    """401, also with a token read afresh."""


class Unavailable(KubeError):
    """5xx, 429, no connection or no answer in time. `retry_after` is what the server asked for."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message, code=code, reason=reason)
        self.retry_after = retry_after


class LeadershipLost(Exception):
    """Another replica may be leading: this process must not write any more."""
