"""
Why a request is not answered as asked, and the body that says so in the client's own dialect.

Messages name fields, numbers, bounds and what to do; never what a client wrote, except the model's name that it asked for.
"""

from enum import StrEnum
from typing import Any

import orjson


class Dialect(StrEnum):
    """The two shapes of error bodies."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Cause(StrEnum):
    """Why there is no (whole) answer; label of metrics and field of the access log."""

    NO_ROUTES = "no-routes"
    """The gateway has not seen any routes yet."""
    NOT_FOUND = "not-found"
    METHOD = "method"
    UNAUTHENTICATED = "unauthenticated"
    RATE = "rate"
    CONCURRENCY = "concurrency"
    TOO_LARGE = "too-large"
    MEMORY = "memory"
    """As many bytes of requests are under way as this process may hold."""
    BODY_TIMEOUT = "body-timeout"
    """The client did not send its body in time."""
    INVALID = "invalid"
    STATEFUL = "stateful"
    """/v1/responses with stored state."""
    UNKNOWN_MODEL = "unknown-model"
    NO_POD = "no-pod"
    """The version is on no pod, and the domain falls back to nothing."""
    UNREACHABLE = "unreachable"
    """No connection, and nobody else to ask."""
    DOOR_REFUSED = "door-refused"
    """A pod's door does not take this gateway's token."""
    VERSION_MISSING = "version-missing"
    """vLLM does not know the version that its agent announced."""
    NOT_STARTED = "not-started"
    """The door says that vLLM never saw the request."""
    BROKEN = "broken"
    """The connection broke after something was sent."""
    FIRST_BYTE_TIMEOUT = "first-byte-timeout"
    IDLE_TIMEOUT = "idle-timeout"
    ABORTED = "aborted"
    """The version was rolled back with `inFlight: Abort`."""
    CLIENT_GONE = "client-gone"
    UPSTREAM_ERROR = "upstream-error"
    """vLLM answered 5xx; its answer was passed on."""
    INTERNAL = "internal"


class Refusal(Exception):  # noqa: N818 - says what happened
    """The gateway answers by itself."""

    def __init__(
        self, status: int, cause: Cause, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after


_OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(dialect: Dialect, refusal: Refusal) -> bytes:
    """Return the JSON body of an error answer."""
    return orjson.dumps(error_object(dialect, refusal))


def error_object(dialect: Dialect, refusal: Refusal) -> dict[str, Any]:
    """Return the error in the client's dialect."""
    if dialect is Dialect.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(refusal.status, _kind(refusal.status))
        return {"type": "error", "error": {"type": kind, "message": refusal.message}}
    kind = _OPENAI_TYPES.get(refusal.status, _kind(refusal.status))
    code = refusal.code or refusal.cause.replace("-", "_")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": code}}


def _kind(status: int) -> str:
    return "api_error" if status >= 500 else "invalid_request_error"
