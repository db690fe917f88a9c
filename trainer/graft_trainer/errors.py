"""
How a run ends without a result: one exception per party that must act.

Everything else that is raised is a bug or an unknown condition and is retried within the job's backoffLimit.
"""

from typing import ClassVar

from graft_api.reports import ExitCode, Failed, Reason


class RunEndedError(Exception):
    """Carries the reason, a sentence for people (never content of the data) and, for data, the line."""

    exit_code: ClassVar[ExitCode]

    def __init__(self, reason: Reason, message: str, line: int | None = None) -> None:
        # All arguments go to Exception: an error that crosses a process boundary is rebuilt from `args`.
        super().__init__(reason, message, line)
        self.reason = reason
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return self.message

    def failed(self) -> Failed:
        """Return it as the terminal result has it."""
        return Failed(exit_code=int(self.exit_code), reason=self.reason.value, message=self.message[:1024], line=self.line)


class BadInputError(RunEndedError):
    """The user must change spec, data or Secrets. Says field or file, value, bound and what to do."""

    exit_code = ExitCode.BAD_INPUT


class OutOfMemoryError(RunEndedError):
    """Would happen again with the same settings. Says what to lower."""

    exit_code = ExitCode.OUT_OF_MEMORY


class EnvironmentFailureError(RunEndedError):
    """Store, network or operator away, or the node took the pod back: another attempt may succeed."""

    exit_code = ExitCode.ENVIRONMENT


class FencedError(RunEndedError):
    """Another pod took over: nothing more may be written or reported."""

    exit_code = ExitCode.FENCED

    def __init__(self, message: str) -> None:
        super().__init__(Reason.FENCED, message)
        self.args = (message,)
