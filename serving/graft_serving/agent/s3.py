"""The S3 side of `store`: what the agent makes of what goes wrong."""

from pathlib import Path

from graft_api.fleet import LoadFailure
from graft_runtime.s3 import S3Folder, S3Limits
from graft_runtime.store import Problem, read_credentials
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.store import PARALLEL

# More retries would only hold up the agent's own back-off, which says why it waits.
LIMITS = S3Limits(retries=2, pause=0.2, longest_pause=1, obey_retry_after=False, connect=5, read=30, connections=PARALLEL)
REASONS = {
    Problem.ABSENT: LoadFailure.NOT_FOUND,
    Problem.NO_BUCKET: LoadFailure.NOT_FOUND,
    Problem.REFUSED: LoadFailure.CREDENTIALS_REFUSED,
    Problem.UNAVAILABLE: LoadFailure.STORE_UNAVAILABLE,
}


def open_folder(uri: str, credentials: Path) -> S3Folder:
    """Return the objects below `s3://bucket/folder`; `credentials` is the folder of the Secret's files."""
    return S3Folder(uri, read_credentials(credentials, _refusal), LIMITS, _refusal)


def _refusal(problem: Problem, message: str) -> VersionRefusedError:
    return VersionRefusedError(REASONS[problem], message)
