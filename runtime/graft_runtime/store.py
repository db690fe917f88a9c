"""What the parts say of a store, whatever is behind it: its objects, how it is signed in to, and what can go wrong."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
CHUNK_BYTES = 1024 * 1024


class Problem(Enum):
    """Why a store did not do what it was asked, by who must act."""

    ABSENT = auto()
    """There is no such object. Only said of one that was there a moment ago; a look for one returns None."""
    NO_BUCKET = auto()
    """The user must create it."""
    REFUSED = auto()
    """The user must correct the credentials or their rights."""
    UNAVAILABLE = auto()
    """Another try may help."""


Failure = Callable[[Problem, str], Exception]
"""Makes the caller's own error of a problem and a sentence that says which store; every part knows others who must act."""


@dataclass(frozen=True)
class Entry:
    """One object of a store."""

    path: str
    """Relative to the store's URI."""
    size_bytes: int
    version: str = ""
    """etag; empty for files."""


@dataclass(frozen=True)
class S3Credentials:
    """How to reach and sign in to a store. Without keys the environment's workload identity is used."""

    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    endpoint: str | None = None
    region: str | None = None


def read_credentials(folder: Path, failure: Failure, environment: Mapping[str, str] = os.environ) -> S3Credentials:
    """Read the Secret's files; a variable that has none is taken from the environment (local runs)."""
    values = {}
    for name in VARIABLES:
        file = folder / name
        values[name] = (file.read_text().strip() if file.is_file() else environment.get(name)) or None
    if (values["AWS_ACCESS_KEY_ID"] is None) != (values["AWS_SECRET_ACCESS_KEY"] is None):
        missing = "AWS_SECRET_ACCESS_KEY" if values["AWS_SECRET_ACCESS_KEY"] is None else "AWS_ACCESS_KEY_ID"
        raise failure(Problem.REFUSED, f"the credentials Secret has no key {missing}; add it")
    return S3Credentials(*(values[name] for name in VARIABLES))
