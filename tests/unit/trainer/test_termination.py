import json
from typing import get_args

import pytest

from graft_api.finetunejob import ArtifactReference, DatasetSummary, Interval, Stage, SuiteResult
from graft_api.reports import Failed, Result, TerminalResult
from graft_trainer.termination import message


def result(suites: int, words: int = 0) -> TerminalResult:
    interval = Interval(estimate=1 / 3, low=1 / 7, high=2 / 3)
    suite = SuiteResult(
        suite="s", metric="error_rate", examples=3, base=interval, adapter=interval, difference=interval, message="x" * words
    )
    return TerminalResult(
        attempt=2,
        result=Result(
            artifact=ArtifactReference(uri="s3://a/b", digest="sha256:" + "0" * 64, size_bytes=1),
            base_model_digest="sha256:" + "0" * 64,
            dataset=DatasetSummary(train=1, validation=1, holdout=1, digest="sha256:" + "0" * 64),
            evaluation=[suite] * suites,
            accepted=True,
            stage_seconds=dict.fromkeys(get_args(Stage), 12345.67),
        ),
    )


@pytest.mark.parametrize("ended", [result(1), result(16, 512), result(16), result(4, 300)])
def test_a_result_fits_and_keeps_what_decides(ended: TerminalResult) -> None:
    content = message(ended)

    assert len(content) <= 4096
    read = TerminalResult.model_validate_json(content)
    assert read.result is not None
    assert ended.result is not None
    assert (read.attempt, read.result.artifact, read.result.accepted) == (2, ended.result.artifact, True)


def test_what_fits_is_whole() -> None:
    assert TerminalResult.model_validate_json(message(result(2, 100))) == result(2, 100)


@pytest.mark.parametrize("text", ["x" * 1024, "ü" * 1024, "\u0001" * 1024, "漢" * 1024])
def test_a_failure_fits_whatever_the_letters(text: str) -> None:
    content = message(TerminalResult(attempt=0, failed=Failed(exit_code=10, reason="InvalidData", message=text, line=7)))

    assert len(content) <= 4096
    assert json.loads(content)["failed"]["line"] == 7
