"""Against a real HTTP server that plays the operator."""

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graft_api.finetunejob import Progress
from graft_api.reports import Failed, ProgressReport, TerminalResult
from graft_api.run import Reporting, RunIdentity
from graft_trainer import operator_client
from graft_trainer.errors import EnvironmentFailureError, FencedError
from graft_trainer.operator_client import OperatorClient


class Operator(ThreadingHTTPServer):
    """Answers with what the test put into `answers`, the last one for ever; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Operator

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        status, headers, content = self.server.answers[0] if len(self.server.answers) == 1 else self.server.answers.pop(0)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def operator(in_thread: Callable[[Operator], Operator]) -> Operator:
    return in_thread(Operator())


@pytest.fixture
def client(operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OperatorClient:
    monkeypatch.setattr(operator_client, "FIRST_PAUSE", 0.01)
    (tmp_path / "token").write_text("first\n")
    reporting = Reporting(url=f"http://127.0.0.1:{operator.server_port}", claim_timeout_seconds=1, result_timeout_seconds=1)
    return OperatorClient(RunIdentity(namespace="ns", name="job", uid="u1"), reporting, tmp_path / "token", tmp_path / "ca.crt")


GRANTED = (200, {}, b'{"attempt": 3}')


def test_a_claim_names_the_job_and_brings_the_token(operator: Operator, client: OperatorClient) -> None:
    operator.answers = [GRANTED]

    assert client.claim() == 3
    assert operator.asked == [("/v1/namespaces/ns/finetunejobs/job/claim", "Bearer first", {"jobUid": "u1"})]


def test_the_token_is_read_again_for_every_call(operator: Operator, client: OperatorClient, tmp_path: Path) -> None:
    operator.answers = [GRANTED]
    client.claim()
    (tmp_path / "token").write_text("second\n")
    client.claim()

    assert [token for _, token, _ in operator.asked] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("status", [401, 403, 409])
def test_a_refusal_fences_whatever_was_asked(operator: Operator, client: OperatorClient, status: int) -> None:
    operator.answers = [(status, {}, b"")]

    for call in (
        client.claim,
        lambda: client.progress(ProgressReport(attempt=1, progress=Progress(stage="train"))),
        lambda: client.result(TerminalResult(attempt=1, failed=Failed(exit_code=1, reason="x", message="y"))),
    ):
        with pytest.raises(FencedError):
            call()


def test_no_leader_is_asked_again_after_the_time_it_says(operator: Operator, client: OperatorClient) -> None:
    operator.answers = [(503, {"Retry-After": "1"}, b""), GRANTED]
    began = time.monotonic()

    assert client.claim(timeout_seconds=5) == 3
    assert time.monotonic() - began >= 1


def test_an_operator_that_stays_away_is_the_environments_fault(operator: Operator, client: OperatorClient) -> None:
    operator.answers = [(503, {}, b"")]

    with pytest.raises(EnvironmentFailureError, match="did not answer for 0 s"):
        client.claim(timeout_seconds=0.1)
    assert len(operator.asked) > 1


def test_a_closed_door_is_knocked_at_again(client: OperatorClient, operator: Operator, tmp_path: Path) -> None:
    reporting = Reporting(url="http://127.0.0.1:9", result_timeout_seconds=1)
    nobody = OperatorClient(RunIdentity(namespace="ns", name="job", uid="u1"), reporting, tmp_path / "token", tmp_path / "ca.crt")

    with pytest.raises(EnvironmentFailureError):
        nobody.result(TerminalResult(attempt=1))
