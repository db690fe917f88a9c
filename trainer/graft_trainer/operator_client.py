"""
Reports to the operator: claim, progress, result.

401, 403 and 409 mean stop, whatever the call; a leader that is away is asked again until a deadline.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import urllib3

from graft_api.reports import ClaimGrant, ClaimRequest, ProgressReport, Reason, TerminalResult
from graft_api.run import Reporting, RunIdentity
from graft_api.schema import Model, canonical_json
from graft_trainer.errors import EnvironmentFailureError, FencedError

STOP = frozenset({401, 403, 409})
AWAY = frozenset({429, 500, 502, 503, 504})
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0


class OperatorClient:
    """One job's reports. The token is read again for every call: kubelet rotates it."""

    def __init__(self, job: RunIdentity, reporting: Reporting, token: Path, ca: Path) -> None:
        self._job = job
        self._token = token
        self._reporting = reporting
        self._base = f"{reporting.url.rstrip('/')}/v1/namespaces/{job.namespace}/finetunejobs/{job.name}"
        self._http = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=10),
            ca_certs=str(ca) if ca.is_file() else None,
            cert_reqs="CERT_REQUIRED",
        )

    def claim(self, timeout_seconds: float | None = None) -> int:
        """Ask to work; return the attempt's number. Waits for an operator that is away, then raises `EnvironmentFailureError`."""
        limit = self._reporting.claim_timeout_seconds if timeout_seconds is None else timeout_seconds
        body = self._until(limit, lambda: self._post("claim", ClaimRequest(job_uid=self._job.uid)))
        return ClaimGrant.model_validate_json(body).attempt

    def progress(self, report: ProgressReport) -> None:
        """Report once. A `FencedError` means stop; anything else that goes wrong is the caller's to ignore."""
        self._post("progress", report)

    def result(self, result: TerminalResult) -> None:
        """Report the end, for as long as the manifest allows; then raise `EnvironmentFailureError`."""
        self._until(self._reporting.result_timeout_seconds, lambda: self._post("result", result))

    def _until(self, limit: float, call: Callable[[], bytes]) -> bytes:
        deadline = time.monotonic() + limit
        for pause in _pauses():
            try:
                return call()
            except _AwayError as away:
                wait = max(pause, away.retry_after)
                if time.monotonic() + wait > deadline:
                    message = (
                        f"the operator at {self._reporting.url} did not answer for {limit:.0f} s ({away}); is it running and reachable?"
                    )
                    raise EnvironmentFailureError(Reason.OPERATOR_UNAVAILABLE, message) from away
                time.sleep(wait)
        raise AssertionError("pauses never end")

    def _post(self, what: str, body: Model) -> bytes:
        headers = {"Authorization": f"Bearer {self._read_token()}", "Content-Type": "application/json"}
        try:
            response = self._http.request("POST", f"{self._base}/{what}", body=canonical_json(body.to_json()), headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise _AwayError(type(error).__name__) from error
        if response.status in STOP:
            raise FencedError(f"the operator answered {response.status} to {what}: this pod is not, or no longer, the one that works")
        if response.status in AWAY:
            raise _AwayError(f"status {response.status}", _seconds(response.headers.get("Retry-After")))
        if response.status not in {200, 204}:
            raise RuntimeError(f"the operator answered {response.status} to {what}")
        return response.data

    def _read_token(self) -> str:
        try:
            return self._token.read_text().strip()
        except OSError as error:
            raise _AwayError(f"no token: {error.strerror}") from error


class _AwayError(Exception):
    """The operator, or its leader, is not there right now."""

    def __init__(self, what: str, retry_after: float = 0.0) -> None:
        super().__init__(what)
        self.retry_after = retry_after


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE)


def _seconds(header: str | None) -> float:
    return min(float(header), 60.0) if header and header.isdigit() else 0.0
