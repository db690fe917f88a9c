"""The life of a FineTuneJob as a truth table: what is observed -> what is done and said."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from graft_api import health, resolve
from graft_api.finetunejob import Budget, Claim, FineTuneJob, FineTuneJobStatus, JobReference, Outcome, Progress
from graft_api.reports import Result, TerminalResult
from graft_api.run import RunIdentity, RunManifest
from graft_api.schema import Invalid, parse
from graft_operator.finetunejob import decide as decisions
from graft_operator.finetunejob.children import Parent
from graft_operator.finetunejob.decide import CreateAdapter, DeleteJob, ExpireJob, StartJob, StartReport, StartRun, decide
from graft_operator.finetunejob.observed import ContainerEnd, Job, Observed, Pod, Settings

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
LATER = "2026-11-21T11:50:00Z"
SETTINGS = Settings(trainer_image="trainer:1", pull_policy="IfNotPresent", reports_url="https://reports:8443")
SAMPLE = yaml.safe_load((Path(__file__).parents[2] / "data/finetunejob/good/minimal.yaml").read_text())
SPEC = parse(FineTuneJob, SAMPLE).spec
WITH_ADAPTER = parse(FineTuneJob, SAMPLE | {"spec": SAMPLE["spec"] | {"adapter": {"endpointRef": {"name": "prod"}}}}).spec
DIGEST = "sha256:" + "d" * 64

NEW = Observed(
    parent=Parent("team", "minimal", "uid-1"),
    generation=1,
    spec=SPEC,
    status=FineTuneJobStatus(observed_generation=-1),
    run_uid=None,
)
JOB = Job(
    "minimal-train", "job-1", 1, None, "", "", suspended=False, deleting=False, failures=0, has_ttl=False, started_at=LATER, ended_at=None
)
POD = Pod("minimal-train-abc", "pod-1", "job-1", "Running", LATER, (), "trainer", "")
RUN_URI = resolve.run_uri(resolve.resolve(SPEC), "team", "minimal")
RESULT = parse(
    Result,
    {
        "artifact": {"uri": f"{RUN_URI}/attempt-1/artifact", "digest": DIGEST, "sizeBytes": 10},
        "baseModelDigest": DIGEST,
        "dataset": {"train": 90, "validation": 5, "holdout": 5, "digest": DIGEST},
        "evaluation": [
            {
                "suite": "compile",
                "metric": "error_rate",
                "examples": 5,
                "base": {"estimate": 0.4, "low": 0.3, "high": 0.5},
                "adapter": {"estimate": 0.0, "low": 0.0, "high": 0.01},
                "difference": {"estimate": -0.4, "low": -0.5, "high": -0.3},
                "accepted": True,
            }
        ],
        "accepted": True,
    },
)


def frozen(observed=NEW):
    """With its run manifest."""
    resolved = resolve.resolve(observed.spec)
    manifest = RunManifest(
        job=RunIdentity(namespace="team", name="minimal", uid="uid-1"),
        spec_hash=resolve.spec_hash(resolved),
        source_hash=resolve.source_hash(observed.spec),
        run_uri=resolve.run_uri(resolved, "team", "minimal"),
        spec=resolved,
    )
    return replace(observed, run_uid="cm-1", frozen=manifest)


def started(observed=NEW):
    """After a first pass: frozen, Job created."""
    observed = replace(frozen(observed), jobs=(JOB,))
    return replace(observed, status=decide(observed, SETTINGS, NOW).status)


def with_status(observed, **changes):
    return replace(observed, status=observed.status.model_copy(update=changes))


def claimed(observed):
    claim = Claim(attempt=1, pod_uid="pod-1", pod_name=POD.name, pod_created_at=LATER, claimed_at=LATER)
    return with_status(replace(observed, pods=(POD,)), claim=claim, attempt=1, progress=Progress(stage="train", step=3))


def ended_pod(exit_code, word, name="publish", reason="Completed"):
    end = ContainerEnd(name, exit_code, reason, word.model_dump_json(by_alias=True, exclude_none=True) if word else "")
    return replace(POD, phase="Failed" if exit_code else "Succeeded", ends=(end,), running=None)


def failed_word(reason, **extra):
    return parse(TerminalResult, {"attempt": 1, "failed": {"exitCode": 10, "reason": reason, "message": "it says why", **extra}})


def condition(decision, kind):
    return next(c for c in decision.status.conditions if c.type == kind)


def test_a_new_job_first_freezes_its_spec():
    assert decide(NEW, SETTINGS, NOW).before == StartRun()


def test_with_its_spec_frozen_a_job_launches_within_its_budget():
    start = decide(frozen(), SETTINGS, NOW)
    assert start.before == StartJob(decisions.Launch(1, 3, 86400, "trainer:1", "IfNotPresent"))
    assert start.status.run.uri.startswith("s3://adapters/runs/team/minimal/")


def test_once_the_job_exists_the_status_shows_what_was_resolved():
    status = started().status
    assert status.phase == "Pending"
    assert status.resolved.lora.rank == 64
    assert status.resolved.min_examples == 5000
    assert status.resolved.thresholds == ["compile: error_rate <= 0.01, on at least 500 examples (point estimate)"]
    assert status.job.uid == "job-1"


def test_a_second_look_changes_nothing():
    observed = started()
    again = decide(observed, SETTINGS, NOW)
    assert again == decisions.Decision(observed.status)


@pytest.mark.parametrize(
    ("pods", "job", "phase", "reason"),
    [
        pytest.param((), JOB, "Pending", "Launched", id="no pod yet is pending"),
        pytest.param((), replace(JOB, suspended=True), "Queued", "Queued", id="suspended by its queue is queued"),
        pytest.param(
            (replace(POD, phase="Pending", running=None, waiting="Unschedulable: 0/1 nodes"),),
            JOB,
            "Queued",
            "WaitingForPod",
            id="no room is queued",
        ),
        pytest.param(
            (replace(POD, phase="Pending", running=None, waiting="ImagePullBackOff: x"),),
            JOB,
            "Queued",
            "WaitingForPod",
            id="no image is queued",
        ),
        pytest.param((replace(POD, phase="Pending", running=None),), JOB, "Queued", "Starting", id="starting is queued"),
        pytest.param((POD,), JOB, "Queued", "Starting", id="a pod that has not claimed is starting"),
    ],
)
def test_a_live_job_says_what_it_waits_for(pods, job, phase, reason):
    said = decide(replace(started(), pods=pods, jobs=(job,)), SETTINGS, NOW)
    assert (said.status.phase, condition(said, "Ready").reason) == (phase, reason)
    assert said.before is None
    assert said.after == ()


@pytest.mark.parametrize("running", ["trainer", None], ids=["in a container", "between two containers"])
def test_a_pod_that_has_claimed_is_running(running):
    said = decide(replace(claimed(started()), pods=(replace(POD, running=running),)), SETTINGS, NOW)
    assert (said.status.phase, condition(said, "Ready").message) == ("Running", "attempt 1, train")


def test_a_result_in_the_termination_message_of_the_claiming_pod_is_recorded():
    pod = ended_pod(0, TerminalResult(attempt=1, result=RESULT))
    done = decide(replace(claimed(started()), pods=(pod,)), SETTINGS, NOW)
    assert done.status.phase == "Succeeded"
    assert done.status.artifact.digest == DIGEST
    assert condition(done, "Accepted").status == "True"


def test_a_result_of_a_superseded_pod_is_not():
    pod = replace(ended_pod(0, TerminalResult(attempt=1, result=RESULT)), uid="pod-0")
    said = decide(replace(claimed(started()), pods=(pod,)), SETTINGS, NOW)
    assert said.status.artifact is None


def test_a_missed_threshold_is_a_result_without_adapter():
    refused = RESULT.model_copy(update={"accepted": False})
    pod = ended_pod(0, TerminalResult(attempt=1, result=refused))
    done = decide(replace(claimed(started(replace(NEW, spec=WITH_ADAPTER))), pods=(pod,)), SETTINGS, NOW)
    assert (done.status.phase, done.before) == ("Succeeded", None)
    assert condition(done, "Accepted").status == "False"


def recorded(spec=WITH_ADAPTER):
    observed = claimed(started(replace(NEW, spec=spec)))
    return replace(observed, status=decisions.record(observed.status, RESULT), jobs=(replace(JOB, end="Complete", ended_at=LATER),))


def test_the_adapter_is_created_before_the_job_calls_itself_done():
    assert decide(recorded(), SETTINGS, NOW).before == CreateAdapter()


def test_an_adapter_of_the_same_digest_is_found_again():
    adapter = {"metadata": {"name": "minimal-dddddddd"}, "spec": {"artifact": {"digest": DIGEST}}}
    done = decide(replace(recorded(), adapter=adapter), SETTINGS, NOW)
    assert done.status.adapter_ref.name == "minimal-dddddddd"
    assert done.after == (ExpireJob("minimal-train", 605400),)


def test_an_adapter_of_another_digest_is_a_name_conflict():
    adapter = {"metadata": {"name": "minimal-dddddddd"}, "spec": {"artifact": {"digest": "sha256:" + "e" * 64}}}
    done = decide(replace(recorded(), adapter=adapter), SETTINGS, NOW)
    assert (done.status.phase, done.status.failure.reason) == ("Failed", "NameConflict")


def test_a_deleted_adapter_is_never_created_again():
    done = decide(with_status(recorded(), phase="Succeeded"), SETTINGS, NOW)
    assert done.before is None


def test_bad_input_ends_the_job_with_the_pods_own_words_and_the_line():
    pod = ended_pod(10, failed_word("InvalidData", line=17), "trainer", "Error")
    job = replace(JOB, end="Failed", end_reason="PodFailurePolicy", failures=1, ended_at=LATER)
    done = decide(replace(claimed(started()), pods=(pod,), jobs=(job,)), SETTINGS, NOW)
    assert done.status.phase == "Failed"
    assert (done.status.failure.reason, done.status.failure.line) == ("InvalidData", 17)
    assert condition(done, "Stalled").reason == "InvalidData"
    assert done.after == (ExpireJob("minimal-train", 605400),)


def test_a_container_killed_for_memory_is_not_tried_again():
    pod = ended_pod(137, None, "trainer", "OOMKilled")
    done = decide(replace(claimed(started()), pods=(pod,)), SETTINGS, NOW)
    assert (done.status.failure.reason, done.after) == ("OutOfMemory", (DeleteJob("minimal-train", "job-1"),))


@pytest.mark.parametrize(
    ("job", "stage", "before"),
    [
        pytest.param(replace(JOB, end="Complete"), "train", StartReport(), id="a complete job without a result is read"),
        pytest.param(
            replace(JOB, end="Failed", end_reason="BackoffLimitExceeded"),
            "publish",
            StartReport(),
            id="one that died while publishing, too",
        ),
        pytest.param(replace(JOB, end="Failed", end_reason="DeadlineExceeded"), "train", StartReport(), id="one that ran out of time, too"),
        pytest.param(replace(JOB, end="Failed", end_reason="PodFailurePolicy"), "train", None, id="bad input never got that far"),
    ],
)
def test_the_run_folder_is_read_where_it_may_know_more(job, stage, before):
    observed = with_status(replace(claimed(started()), jobs=(job,), pods=()), progress=Progress(stage=stage))
    assert decide(observed, SETTINGS, NOW).before == before


def test_the_report_pods_word_counts_as_a_result():
    report = replace(JOB, name="minimal-report", uid="job-r", launch=0, end="Complete")
    pod = replace(ended_pod(0, TerminalResult(attempt=1, result=RESULT), "report"), uid="pod-r", job_uid="job-r")
    observed = replace(claimed(started()), jobs=(replace(JOB, end="Complete"), report), pods=(pod,))
    assert decide(observed, SETTINGS, NOW).status.phase == "Succeeded"


SUSPENDED = SPEC.model_copy(update={"suspend": True})


def test_suspending_counts_what_was_used_before_the_job_is_deleted():
    observed = replace(claimed(started()), spec=SUSPENDED, jobs=(replace(JOB, failures=1),))
    said = decide(observed, SETTINGS, NOW)
    assert said.status.budget == Budget(through_launch=1, failures=1, active_seconds=600)
    assert said.after == (DeleteJob("minimal-train", "job-1"),)
    assert said.status.phase == "Suspended"


def test_suspending_twice_counts_once():
    observed = replace(claimed(started()), spec=SUSPENDED, jobs=(replace(JOB, failures=1),))
    first = decide(observed, SETTINGS, NOW)
    second = decide(replace(observed, status=first.status, jobs=(replace(JOB, failures=1, deleting=True),)), SETTINGS, NOW)
    assert second.status.budget == first.status.budget
    assert second.after == ()


def test_resuming_launches_with_what_is_left_of_the_budget():
    budget = Budget(through_launch=1, failures=1, active_seconds=600)
    observed = with_status(replace(started(), jobs=()), budget=budget, job=JobReference(name="j", uid="job-1", launch=1))
    assert decide(observed, SETTINGS, NOW).before == StartJob(decisions.Launch(2, 2, 85800, "trainer:1", "IfNotPresent"))


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(through_launch=1, failures=4), "BackoffLimitExceeded"),
        (Budget(through_launch=1, active_seconds=86400), "DeadlineExceeded"),
    ],
    ids=["no failures left", "no time left"],
)
def test_a_spent_budget_ends_the_job(budget, reason):
    observed = with_status(replace(started(), jobs=()), budget=budget)
    assert decide(observed, SETTINGS, NOW).status.failure.reason == reason


def test_a_job_that_somebody_deleted_is_launched_again_and_counted():
    said = decide(replace(started(), jobs=()), SETTINGS, NOW)
    assert said.before.launch.number == 2
    assert said.before.launch.backoff_limit == 2


def test_an_invalid_spec_creates_nothing():
    done = decide(replace(NEW, spec=Invalid(["spec.domain: wrong"])), SETTINGS, NOW)
    assert (done.status.phase, done.status.failure.message, done.before) == ("Failed", "spec.domain: wrong", None)


def test_an_invalid_spec_that_was_corrected_starts():
    refused = decide(replace(NEW, spec=Invalid(["spec.domain: wrong"])), SETTINGS, NOW).status
    assert decide(replace(NEW, status=refused, generation=2), SETTINGS, NOW).before == StartRun()


def test_what_this_version_cannot_do_is_said_with_the_field():
    spec = SPEC.model_copy(update={"method": "full"})
    done = decide(replace(NEW, spec=spec), SETTINGS, NOW)
    assert done.status.failure.reason == "Unsupported"
    assert done.status.failure.message.startswith("spec.method")


def test_without_the_admission_policies_nothing_starts_and_nothing_counts():
    pod = ended_pod(0, TerminalResult(attempt=1, result=RESULT))
    for observed in (NEW, replace(claimed(started()), pods=(pod,))):
        said = decide(replace(observed, policies_missing=("graft-pods",), policies_missing_seconds=600), SETTINGS, NOW)
        assert (said.before, said.after, said.status.artifact) == (None, (), None)
        assert condition(said, "Stalled").reason == "PolicyMissing"
        assert said.requeue_after == decisions.POLICY_RETRY


def test_an_upgrade_that_replaces_policies_is_not_worth_a_word():
    pod = ended_pod(0, TerminalResult(attempt=1, result=RESULT))
    observed = replace(claimed(started()), pods=(pod,), policies_missing=("graft-pods",), policies_missing_seconds=20)
    assert decide(observed, SETTINGS, NOW) == decisions.Decision(observed.status, requeue_after=decisions.POLICY_RETRY)


def test_an_edit_after_the_start_is_shown_and_not_obeyed():
    changed = SPEC.model_copy(update={"domain": "governance"})
    said = decide(replace(started(), spec=changed, generation=2), SETTINGS, NOW)
    assert condition(said, "SpecChangedAfterStart").status == "True"
    assert said.before is None


def test_a_finished_job_stays_finished_whatever_happens():
    done = decide(recorded(SPEC), SETTINGS, NOW).status
    later = replace(recorded(SPEC), status=done, jobs=(), pods=())
    assert decide(later, SETTINGS, NOW) == decisions.Decision(done)


def test_a_finished_job_answers_an_edit_with_the_same_words():
    done = decide(recorded(SPEC), SETTINGS, NOW).status
    edited = SPEC.model_copy(update={"domain": "governance"})
    later = decide(replace(recorded(SPEC), status=done, spec=edited, generation=9, jobs=(), pods=()), SETTINGS, NOW)
    assert (later.status.phase, later.status.observed_generation, later.before) == ("Succeeded", 9, None)
    assert condition(later, "Ready").reason == "Published"
    assert condition(later, "SpecChangedAfterStart").status == "True"


def test_a_spec_that_became_unreadable_does_not_end_a_run():
    said = decide(replace(claimed(started()), spec=Invalid(["spec.new: not known"]), generation=2), SETTINGS, NOW)
    assert said.status.phase == "Running"
    assert condition(said, "SpecChangedAfterStart").reason == "InvalidSpec"


def test_children_come_from_the_frozen_spec_but_for_what_may_change():
    edited = SPEC.model_copy(update={"domain": "governance", "suspend": True, "backoff_limit": 7})
    running = replace(started(), spec=edited).running_spec()
    assert (running.domain, running.suspend, running.backoff_limit) == ("dsl", True, 7)


def test_without_its_manifest_a_changed_run_cannot_go_on():
    lost = replace(started(), frozen=None, run_uid=None, jobs=())
    assert decide(lost, SETTINGS, NOW).before == StartRun()
    changed = replace(lost, spec=SPEC.model_copy(update={"domain": "governance"}))
    assert decide(changed, SETTINGS, NOW).status.failure.reason == "RunManifestMissing"


def test_a_result_of_another_run_folder_is_none():
    status = started().status
    elsewhere = RESULT.artifact.model_copy(update={"uri": "s3://somewhere/else"})
    assert decisions.record(status, RESULT.model_copy(update={"artifact": elsewhere})).outcome is None


def test_file_uris_and_an_unjudged_adapter_are_refused_before_anything_starts():
    local = SPEC.model_copy(update={"output": SPEC.output.model_copy(update={"uri": "file:///tmp/x"})})
    assert "spec.output.uri" in decide(replace(NEW, spec=local), SETTINGS, NOW).status.failure.message
    unjudged = WITH_ADAPTER.model_copy(update={"domain": "support"})
    assert "spec.adapter" in decide(replace(NEW, spec=unjudged), SETTINGS, NOW).status.failure.message


@pytest.mark.parametrize("phase", health.FINETUNEJOB)
def test_kstatus_of_each_phase_follows_from_its_conditions(phase):
    row = health.FINETUNEJOB[phase]
    computed = "Failed" if row.stalled == "True" else "InProgress" if row.reconciling == "True" or row.ready != "True" else "Current"
    assert computed == row.kstatus


def test_an_outcome_is_recorded_once():
    status = decisions.record(started().status, RESULT)
    other = RESULT.model_copy(update={"accepted": False})
    assert decisions.record(status, other).outcome == Outcome(accepted=True, base_model_digest=DIGEST)
