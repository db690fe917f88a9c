"""The S3 side of `store`: who must act on what goes wrong, and transfers that are tried again."""

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from graft_api.reports import Reason
from graft_runtime.s3 import S3Folder, S3Limits
from graft_runtime.store import Problem, read_credentials
from graft_trainer.errors import BadInputError, EnvironmentFailureError, RunEndedError

LIMITS = S3Limits(retries=5, pause=0.5, longest_pause=20, obey_retry_after=True, connect=10, read=60, connections=16)
TRANSFERS = 3


def run_failure(problem: Problem, message: str) -> RunEndedError:
    """Return how a problem with a store ends a run."""
    if problem is Problem.NO_BUCKET:
        return BadInputError(Reason.BUCKET_NOT_FOUND, message)
    if problem is Problem.REFUSED:
        return BadInputError(Reason.CREDENTIALS_REFUSED, message)
    return EnvironmentFailureError(Reason.STORE_UNAVAILABLE, message)


class S3Store(S3Folder):
    """Objects below `s3://bucket/prefix`. `credentials`: the folder of the Secret's files."""

    def __init__(self, uri: str, credentials: Path) -> None:
        super().__init__(uri, read_credentials(credentials, run_failure), LIMITS, run_failure)

    def check_writable(self) -> bool:
        """See `Store`. The probe has a name of its own, so that two pods do not meet in it."""
        probe = f".probe-{secrets.token_hex(8)}"
        # A listing, not bucket_exists(): the answer to a HEAD has no body, so a refused key looks like a missing bucket.
        self.list(probe)
        self.write(probe, b"graft")
        try:
            return self.put_if_absent(probe, b"again") is False
        finally:
            self.delete(probe)

    def create(self, path: str, content: bytes) -> bool:
        """See `Store`. Where the store knows no conditions, look and then write: preflight has seen that and does not rely on it."""
        written = self.put_if_absent(path, content)
        if written is not None:
            return written
        if self.stat(path) is not None:
            return False
        self.write(path, content)
        return True

    def upload(self, source: Path, path: str) -> None:
        """See `Store`."""
        _transfer(partial(super().upload, source, path))

    def download(self, path: str, target: Path) -> None:
        """See `Store`."""
        _transfer(partial(super().download, path, target))

    def local(self, path: str) -> Path | None:
        """See `Store`."""
        del path
        return None


def _transfer(copy: Callable[[], None]) -> None:
    # urllib3 retries requests, not a body that broke off half way nor the completion of a multipart upload.
    for tries_left in reversed(range(TRANSFERS)):
        try:
            copy()
            return
        except EnvironmentFailureError:
            if not tries_left:
                raise
