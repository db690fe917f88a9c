"""The one way in which a version does not come to serve: a reason for programs, a sentence for people."""

from graft_api.fleet import LoadFailure

MESSAGE_LENGTH = 512
"""Of `VersionReport.message`."""


class VersionRefusedError(Exception):
    """Says which file or field, which value, and which bound it broke. Never content of data."""

    def __init__(self, reason: LoadFailure, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message[:MESSAGE_LENGTH]

    def __str__(self) -> str:
        return self.message


def invalid(message: str) -> VersionRefusedError:
    """Return the refusal of a package that is not what a package must be."""
    return VersionRefusedError(LoadFailure.INVALID_ARTIFACT, message)


def unsupported(message: str) -> VersionRefusedError:
    """Return the refusal of an adapter that vLLM could not or would silently not serve as it was trained."""
    return VersionRefusedError(LoadFailure.UNSUPPORTED_ADAPTER, message)
