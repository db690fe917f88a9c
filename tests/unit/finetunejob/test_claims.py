"""Who may work on a run: the truth table of claims."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from graft_api.finetunejob import Claim, FineTuneJobStatus, JobReference, Outcome
from graft_operator.engine.errors import Unavailable
from graft_operator.finetunejob.claims import check_holder, grant
from graft_operator.reports.sink import Caller, Superseded

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
CALLER = Caller(
    pod_name="train-b",
    pod_uid="pod-b",
    pod_created_at="2026-11-21T11:00:00Z",
    namespace="team",
    service_account="graft-trainer",
    job_name="train",
    job_uid="job-1",
    owner_name="minimal",
    owner_uid="uid-1",
)
FRESH = FineTuneJobStatus(job=JobReference(name="train", uid="job-1", launch=1))


def held(pod_uid="pod-a", created="2026-11-21T10:00:00Z", attempt=1):
    claim = Claim(attempt=attempt, pod_uid=pod_uid, pod_name="train-a", pod_created_at=created, claimed_at=created)
    return FRESH.model_copy(update={"claim": claim, "attempt": attempt})


def test_the_first_pod_becomes_attempt_one():
    assert grant(FRESH, CALLER, NOW).claim.attempt == 1


def test_asking_again_gives_the_same_number():
    once = grant(FRESH, CALLER, NOW)
    assert grant(once, CALLER, NOW) == once


def test_a_successor_takes_over():
    assert grant(held(), CALLER, NOW).claim == Claim(
        attempt=2, pod_uid="pod-b", pod_name="train-b", pod_created_at=CALLER.pod_created_at, claimed_at="2026-11-21T12:00:00Z"
    )


@pytest.mark.parametrize(
    ("status", "caller"),
    [
        pytest.param(held(created="2026-11-21T11:30:00Z"), CALLER, id="a pod older than the holder woke up"),
        pytest.param(FRESH, replace(CALLER, job_uid="job-0"), id="a pod of an earlier launch"),
        pytest.param(held().model_copy(update={"phase": "Failed"}), CALLER, id="the job has failed"),
        pytest.param(
            held().model_copy(update={"outcome": Outcome(accepted=True, base_model_digest="sha256:" + "a" * 64)}),
            CALLER,
            id="the result is recorded",
        ),
    ],
)
def test_who_comes_too_late_is_refused(status, caller):
    with pytest.raises(Superseded):
        grant(status, caller, NOW)


def test_a_pod_that_is_faster_than_the_record_of_its_job_asks_again():
    with pytest.raises(Unavailable):
        grant(FineTuneJobStatus(), CALLER, NOW)


@pytest.mark.parametrize("attempt", [0, 2], ids=["an earlier number", "a later number"])
def test_only_the_holder_reports(attempt):
    check_holder(held("pod-b"), CALLER, 1)
    with pytest.raises(Superseded):
        check_holder(held("pod-b"), CALLER, attempt)
    with pytest.raises(Superseded):
        check_holder(held("pod-a"), CALLER, 1)
