"""When a TuningPolicy launches, and why not, as a truth table; and what its status says of it."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from graft_api import health
from graft_api.launches import LaunchedDomain, Launches, job_name
from graft_api.schema import DNS_LABEL_PATTERN, Invalid, parse
from graft_operator.engine.clock import rfc3339, rfc3339_micro
from graft_operator.modelendpoint.observed import Record as Written
from graft_operator.tuningpolicy import children
from graft_operator.tuningpolicy.decide import Create, Record, Refusal, decide, refused
from graft_operator.tuningpolicy.observed import JobView, adopt
from graft_operator.tuningpolicy.reading import Measured
from graft_operator.tuningpolicy.summarize import decisions, happenings

DAY = timedelta(days=1)


def domain_of(status, name="dsl"):
    return next(domain for domain in status.domains if domain.name == name)


def condition(status, kind):
    return next(one for one in status.conditions if one.type == kind)


def through(build, observed, now=None):
    """Do all steps as the reconciler does; what was done counts as observed."""
    for _ in range(20):
        decision = decide(observed, now or build.now)
        match decision.step:
            case None:
                return observed, decision
            case Record(launches=launches):
                observed = observed.with_record(launches, Written("uid", "8"))
            case Create(launch=launch, domain=domain):
                observed = observed.with_job(build.job(launch.ordinal, domain=domain.name))
    raise AssertionError("it never ends")


class TestWrittenAhead:
    def test_first_the_intent_then_the_job_then_that_it_is_there(self, build):
        observed = build.observed()
        intent = decide(observed, build.now)
        (launch,) = intent.step.launches.domain("dsl").launches
        assert (launch.ordinal, launch.state, launch.at) == (1, "Intended", rfc3339(build.now))
        assert "5 % [4.59 %, 5.44 %] of 10,000 over 168h: the lower end is above 3 %" in launch.why
        observed = observed.with_record(intent.step.launches, Written("uid", "1"))
        create = decide(observed, build.now)
        assert create.step == Create(observed.spec.domains[0], launch)
        observed = observed.with_job(build.job(1))
        created = decide(observed, build.now)
        assert created.step.launches.domain("dsl").launches[0].state == "Created"

    def test_an_intent_is_completed_whatever_the_criteria_say_by_then(self, build):
        observed = build.observed(measured=Measured(events=0, total=10_000, coverage=1), **build.recorded(build.launch(3, "Intended")))
        step = decide(observed, build.now).step
        assert (type(step), step.launch.ordinal) == (Create, 3)

    def test_an_intent_whose_job_is_there_is_not_done_again(self, build):
        observed = build.observed(jobs=[build.job(3)], **build.recorded(build.launch(3, "Intended")))
        observed, decision = through(build, observed)
        assert [launch.state for launch in observed.launches.domain("dsl").launches] == ["Created"]
        assert domain_of(decision.status).decision == "Cooldown"

    @pytest.mark.parametrize("change", ["disabled", "domain left out"])
    def test_a_policy_that_is_switched_off_withdraws_what_has_no_job(self, build, change):
        spec = build.spec(enabled=False) if change == "disabled" else build.spec("governance")
        observed, decision = through(build, build.observed(spec, measured=build.good, **build.recorded(build.launch(1, "Intended"))))
        assert observed.launches.domain("dsl").launches[0].state == "Withdrawn"
        assert decision.status.launches == 0
        assert not observed.jobs

    def test_a_launch_that_was_withdrawn_begins_no_cooldown_and_its_ordinal_is_used_up(self, build):
        observed, _ = through(build, build.observed(**build.recorded(build.launch(4, "Withdrawn", ago=timedelta(hours=1)))))
        assert [launch.ordinal for launch in observed.launches.domain("dsl").launches] == [4, 5]

    def test_both_domains_are_launched_in_one_pass_if_there_is_room_for_both(self, build):
        observed, decision = through(
            build, build.observed(build.spec("dsl", "governance", maxConcurrent=2), Measured(4000, 10_000, coverage=1))
        )
        assert {job.domain for job in observed.jobs} == {"dsl", "governance"}
        assert decision.status.launches == 2
        observed, decision = through(build, build.observed(build.spec("dsl", "governance"), Measured(4000, 10_000, coverage=1)))
        assert [job.domain for job in observed.jobs] == ["dsl"]
        assert domain_of(decision.status, "governance").decision == "Busy"

    def test_the_job_is_the_template_with_the_domains_minimum_and_the_policys_endpoint(self, build):
        observed = build.observed(build.spec("governance"), Measured(4000, 10_000, coverage=1))
        observed = observed.with_record(decide(observed, build.now).step.launches, Written("uid", "1"))
        step = decide(observed, build.now).step
        body = children.job("team", "policy", step.domain.job_template, step.domain.job("prod"), step.launch)
        assert body["spec"]["dataset"]["minExamples"] == 1000
        assert body["spec"]["adapter"] == {"endpointRef": {"name": "prod"}, "promote": True}
        assert body["spec"]["domain"] == "governance"
        assert "ownerReferences" not in body["metadata"]
        assert body["metadata"]["labels"]["graft.dev/tuningpolicy"] == "policy"
        assert len(body["metadata"]["name"]) <= 63


REASONS = {
    "the lower end is not above the threshold": ({"measured": "good"}, "NotMet", "not above 3 %"),
    "too few samples": ({"measured": Measured(100, 400, coverage=1)}, "Unknown", "minSamples is 500"),
    "a gap": ({"measured": Measured(900, 1000, coverage=0.89)}, "Unknown", "data of 89 % of the 168h, at least 90 % are needed"),
    "nothing known": ({"measured": Measured(trouble="it is away", fault=True)}, "Unknown", "it is away"),
    "switched off": ({"spec": {"enabled": False}}, "Disabled", "spec.enabled is false"),
    "another job runs": ({"jobs": [9]}, "Busy", "spec.maxConcurrent is 1"),
    "a candidate is in the gate": ({"candidates": {"dsl": "Adapter a is Testing"}}, "CandidateInGate", "Adapter a is Testing"),
    "approved, but a candidate is in the gate": (
        {"candidates": {"dsl": "Adapter a is Testing"}, "spec": {"dsl": {"approval": "Manual", "launchApproved": 1}}},
        "CandidateInGate",
        "would wait behind it",
    ),
    "approval is awaited": ({"spec": {"dsl": {"approval": "Manual"}}}, "AwaitingApproval", "launch 1 waits for approval"),
    "an older launch is approved": ({"spec": {"dsl": {"approval": "Manual", "launchApproved": 2}}}, "AwaitingApproval", "launch 1"),
    "no endpoint": ({"endpoint": None}, "Refused", "there is no ModelEndpoint prod"),
    "the endpoint lacks the domain": ({"endpoint": frozenset({"legal"})}, "Refused", "has no domain dsl"),
    "another policy is older": ({"rivals": {"dsl": "first"}}, "Refused", "TuningPolicy first, which is older"),
}


class TestNotLaunched:
    @pytest.mark.parametrize("given", REASONS.values(), ids=REASONS)
    def test_every_reason_is_said_with_its_number(self, build, given):
        more, verdict, words = dict(given[0]), given[1], given[2]
        spec = build.spec(**more.pop("spec", {}))
        if more.get("measured") == "good":
            more["measured"] = build.good
        if "jobs" in more:
            more["jobs"] = [build.job(more["jobs"][0], domain="governance")]
            more |= build.recorded(build.launch(9, domain="governance"), domain="governance")
        decision = decide(build.observed(spec, **more), build.now)
        assert decision.step is None
        told = domain_of(decision.status)
        assert (told.decision, told.decisions[-1].decision) == (verdict, verdict)
        assert words in told.decisions[-1].message

    @pytest.mark.parametrize(
        ("ago", "verdict"),
        [
            (timedelta(minutes=-4), "Cooldown"),
            (timedelta(seconds=1), "Cooldown"),
            (60 * DAY - timedelta(seconds=1), "Cooldown"),
            (60 * DAY, "Launched"),
            (400 * DAY, "Launched"),
        ],
        ids=["a clock was set back", "just now", "a second too early", "after 60 days", "the operator was down past the deadline"],
    )
    def test_the_cooldown_counts_from_the_launch_in_the_record(self, build, ago, verdict):
        recorded = build.recorded(build.launch(1, ago=ago))
        observed, decision = through(build, build.observed(jobs=[build.job(1, ended=True)], **recorded))
        assert domain_of(decision.status).decision == verdict
        assert len(observed.launches.domain("dsl").launches) == (2 if verdict == "Launched" else 1)

    def test_a_template_that_could_not_run_is_refused_before_it_begins_a_cooldown(self, build):
        spec = build.spec(dsl={"jobTemplate": {"spec": build.template | {"method": "full"}}})
        decision = decide(build.observed(spec), build.now)
        assert decision.step is None
        assert decision.status.phase == "Failed"
        assert "full fine-tuning is not available" in condition(decision.status, "Stalled").message

    def test_the_candidate_of_another_domain_keeps_nothing_and_neither_does_one_from_before(self, build):
        _, decision = through(build, build.observed(candidates={"governance": "Adapter g is Watching"}))
        assert domain_of(decision.status).decision == "Launched"
        intended = build.recorded(build.launch(3, "Intended"))
        assert decide(build.observed(candidates={"dsl": "Adapter a is Testing"}, **intended), build.now).step.launch.ordinal == 3

    def test_the_approved_launch_is_done_and_the_next_one_waits_again(self, build):
        spec = build.spec(dsl={"approval": "Manual", "launchApproved": 1, "cooldown": "1m"})
        observed, decision = through(build, build.observed(spec))
        assert domain_of(decision.status).decision == "Launched"
        later = build.now + timedelta(hours=1)
        observed = replace(
            build.observed(spec, at=later, **build.recorded(*observed.launches.domain("dsl").launches)), jobs=[build.job(1, ended=True)]
        )
        decision = decide(observed, later)
        assert (domain_of(decision.status).decision, domain_of(decision.status).awaiting) == ("AwaitingApproval", 2)
        assert condition(decision.status, "AwaitingLaunchApproval").status == "True"

    def test_nothing_is_said_before_anybody_was_heard(self, build):
        decision = decide(build.observed(evaluation=None), build.now)
        assert (decision.step, decision.status.phase, decision.requeue_after) == (None, "Pending", timedelta(seconds=5))


class TestRecord:
    def test_without_a_record_it_is_counted_from_the_jobs_and_written_first(self, build):
        observed = build.observed(jobs=[build.job(2, ended=True), build.job(1, ended=True)])
        step = decide(observed, build.now).step
        assert step == Record(adopt("prod", observed.jobs))
        assert [launch.ordinal for launch in step.launches.domain("dsl").launches] == [1, 2]
        _, decision = through(build, observed)
        assert domain_of(decision.status).decision == "Cooldown"

    def test_a_status_that_was_lost_launches_nothing(self, build):
        """A restore brings the record and no status."""
        decision = decide(build.observed(**build.recorded(build.launch(7))), build.now)
        assert decision.step is None
        assert domain_of(decision.status).last_launch.ordinal == 7

    @pytest.mark.parametrize(
        ("known", "reason"),
        [
            ({"record": Written("uid", "1", foreign=True)}, "NameConflict"),
            ({"record": Written("uid", "1", problem="no JSON")}, "RecordUnreadable"),
            ({"taken": frozenset({"policy-dsl-1"})}, "NameConflict"),
            ({"policies_missing": ("graft-records: it is absent",), "policies_missing_seconds": 999.0}, "PolicyMissing"),
            ({"spec": Invalid(["spec.domains: too many"])}, "InvalidSpec"),
        ],
        ids=["somebody else's record", "a record that cannot be read", "somebody else's job", "a policy is missing", "a bad spec"],
    )
    def test_nothing_is_launched_where_the_record_cannot_be_relied_on(self, build, known, reason):
        decision = decide(replace(build.observed(), **known), build.now)
        assert decision.step is None
        assert condition(decision.status, "Stalled").reason == reason

    def test_while_the_chart_replaces_policies_nothing_is_done_and_nothing_is_said(self, build):
        observed = build.observed()
        known = replace(
            observed,
            status=decide(build.observed(measured=build.good), build.now).status,
            policies_missing=("x",),
            policies_missing_seconds=5.0,
        )
        decision = decide(known, build.now)
        assert (decision.step, decision.status) == (None, known.status)

    def test_many_launches_are_remembered_by_the_newest(self, build):
        known = build.launches(build.launch(1, ago=90 * DAY)).domain("dsl")
        for ordinal in range(2, 50):
            known = known.with_launch(build.launch(ordinal))
        assert (len(known.launches), known.next_ordinal()) == (32, 50)
        assert known.with_launch(build.launch(49, state="Withdrawn")).last().ordinal == 48


HOUR = timedelta(hours=1)
INTENTS = {
    "its policy is there": ({"beside": frozenset({"first"})}, HOUR, None),
    "its policy was deleted just now": ({}, timedelta(minutes=14), None),
    "its policy is gone, and there is no job": ({}, HOUR, "Withdrawn"),
    "its policy is gone, and the job is there": ({"others": "first"}, HOUR, "Created"),
    "its policy is there, and so is the job": ({"beside": frozenset({"first"}), "others": "first"}, HOUR, None),
    "its policy is gone, and a job of that name is somebody else's": ({"others": "third"}, HOUR, "Withdrawn"),
}


class TestOfTheEndpoint:
    def test_the_cooldown_is_the_domains_whichever_policy_launched(self, build):
        recorded = build.recorded(build.launch(6, ago=DAY, policy="first"))
        decision = decide(build.observed(**recorded), build.now)
        told = domain_of(decision.status)
        assert (decision.step, told.decision, told.last_launch.policy, told.last_launch.ordinal) == (None, "Cooldown", "first", 6)
        assert "since launch 6 of TuningPolicy first at 2026-11-20T12:00:00Z ends at 2027-01-19T12:00:00Z" in told.decisions[-1].message
        assert (told.not_before, decision.status.launches) == ("2027-01-19T12:00:00Z", 6)

    def test_its_own_launch_is_told_without_a_name(self, build):
        told = domain_of(decide(build.observed(**build.recorded(build.launch(6))), build.now).status)
        assert "since launch 6 at 2026-11-20T12:00:00Z ends at" in told.decisions[-1].message

    def test_after_it_the_ordinals_go_on_and_the_job_has_a_name_of_its_own(self, build):
        observed, _ = through(build, build.observed(**build.recorded(build.launch(6, ago=61 * DAY, policy="first"))))
        first, ours = observed.launches.domain("dsl").launches
        assert [(one.policy, one.ordinal, one.state) for one in (first, ours)] == [("first", 6, "Created"), ("policy", 7, "Created")]
        assert ours.job == job_name("prod", "policy", "dsl", 7)

    def test_of_another_domain_it_keeps_nothing(self, build):
        recorded = build.recorded(build.launch(6, policy="first", domain="governance"), domain="governance")
        observed, _ = through(build, build.observed(**recorded))
        assert observed.launches.domain("dsl").last().ordinal == 1

    @pytest.mark.parametrize("given", INTENTS.values(), ids=INTENTS)
    def test_what_another_policy_has_begun(self, build, given):
        more, ago, state = dict(given[0]), given[1], given[2]
        launch = build.launch(6, "Intended", ago=ago, policy="first")
        if "others" in more:
            more["others"] = [replace(build.job(6, policy="first"), policy=more["others"])]
        decision = decide(build.observed(measured=build.good, **more, **build.recorded(launch)), build.now)
        found = None if decision.step is None else decision.step.launches.domain("dsl").launches
        assert found == (None if state is None else [launch.model_copy(update={"state": state})])

    def test_an_intent_of_another_policy_counts_until_it_is_known_to_be_none(self, build):
        """Its job may be made in this very moment."""
        recorded = build.recorded(build.launch(6, "Intended", ago=timedelta(minutes=1), policy="first"))
        observed, decision = through(build, build.observed(**recorded))
        assert (observed.jobs, domain_of(decision.status).decision) == ((), "Cooldown")
        observed, decision = through(build, observed, build.now + HOUR)
        assert [one.state for one in observed.launches.domain("dsl").launches] == ["Withdrawn", "Created"]

    def test_the_same_reading_of_another_policy_is_not_its_own_launch(self, build):
        """Time has microseconds, and clocks of tests have less."""
        launch = build.launch(6, policy="first").model_copy(update={"read_at": rfc3339_micro(build.now)})
        assert domain_of(decide(build.observed(**build.recorded(launch)), build.now).status).decision == "Cooldown"

    def test_who_is_refused_for_an_older_policy_is_told_when_that_launched(self, build):
        recorded = build.recorded(build.launch(6, policy="first"))
        told = domain_of(decide(build.observed(rivals={"dsl": "first"}, **recorded), build.now).status)
        assert told.decision == "Refused"
        assert "the last one is launch 6 of TuningPolicy first at 2026-11-20T12:00:00Z" in told.decisions[-1].message
        assert (told.last_launch.policy, told.not_before) == ("first", "2027-01-19T12:00:00Z")

    def test_no_event_tells_of_another_policys_launch(self, build):
        before = decide(build.observed(measured=build.good), build.now).status
        after = decide(build.observed(measured=build.good, **build.recorded(build.launch(1, policy="first"))), build.now).status
        assert happenings("policy", before, after) == []
        assert [one.reason for one in happenings("first", before, after)] == ["Launched"]

    def test_without_a_record_the_jobs_of_all_policies_count_and_those_of_other_endpoints_do_not(self, build):
        jobs = [build.job(9, ended=True, endpoint="elsewhere"), build.job(2, ended=True)]
        observed = build.observed(jobs=jobs, others=[build.job(3, policy="first")])
        launches = decide(observed, build.now).step.launches
        assert [(one.ordinal, one.policy) for one in launches.domain("dsl").launches] == [(2, "policy"), (3, "first")]

    def test_a_spec_that_cannot_be_read_forgets_no_launches(self, build):
        status = decide(build.observed(**build.recorded(build.launch(7))), build.now).status
        broken = replace(build.observed(), spec=Invalid(["spec.domains: none"]), status=status)
        assert decide(broken, build.now).status.launches == 7

    def test_what_a_job_says_of_itself(self):
        metadata = {"name": "j", "uid": "u", "creationTimestamp": "2026-11-20T12:00:00Z"}
        marks = {"labels": {"graft.dev/tuningpolicy": "first"}, "annotations": {"graft.dev/launch-ordinal": "3"}}
        spec = {"domain": "dsl", "adapter": {"endpointRef": {"name": "prod"}}}
        view = JobView.of({"metadata": metadata | marks, "spec": spec, "status": {"phase": "Succeeded"}})
        assert (view.policy, view.endpoint, view.domain, view.ordinal, view.ended) == ("first", "prod", "dsl", 3, True)
        forged = [{"annotations": {"graft.dev/launch-ordinal": ordinal}} for ordinal in ("²", "0", "-1", "1000000", "")]
        forged += [{"labels": {"graft.dev/tuningpolicy": name}} for name in ("", "An_Other", "a.b")]
        for lacking in ({"labels": {}}, {"annotations": {}}, *forged):
            assert JobView.of({"metadata": metadata | marks | lacking, "spec": spec}) is None
        assert JobView.of({"metadata": metadata | marks, "spec": {"domain": "dsl"}}) is None


def test_a_full_record_fits_into_a_config_map(build):
    """With the longest words and names; the API server takes 1 MiB."""
    launches = Launches(endpoint="e" * 40)
    for number in range(40):
        domain = LaunchedDomain(name=f"{number:02}" + "d" * 61)
        for ordinal in range(1_000_000, 1_000_040):
            launch = build.launch(ordinal, policy="p" * 40, domain=domain.name).model_copy(update={"why": "w" * 512})
            domain = domain.with_launch(launch)
        launches = launches.with_domain(domain)
    parse(Launches, launches.to_json())
    assert len(children.record("team", launches)["data"]["launches.json"]) < 1_000_000


class TestHistory:
    def test_jobs_that_have_ended_are_removed_beyond_the_limit_the_oldest_first(self, build):
        launches = [build.launch(ordinal, ago=DAY) for ordinal in range(1, 6)]
        jobs = [build.job(ordinal, ended=ordinal != 2, created=build.now - (10 - ordinal) * DAY) for ordinal in range(1, 6)]
        observed = build.observed(build.spec(historyLimit=2), jobs=jobs, **build.recorded(*launches))
        assert [job.ordinal for job in decide(observed, build.now).remove] == [1, 3]

    def test_a_job_that_is_in_no_record_is_not_removed(self, build):
        jobs = [build.job(ordinal, ended=True) for ordinal in (1, 2)]
        observed = build.observed(build.spec(historyLimit=0), jobs=jobs, **build.recorded(build.launch(2)))
        assert [job.ordinal for job in decide(observed, build.now).remove] == [2]


class TestStatus:
    @pytest.mark.parametrize("phase", health.TUNINGPOLICY)
    def test_conditions_follow_the_truth_table(self, build, phase):
        given = {
            "Pending": build.observed(evaluation=None),
            "Disabled": build.observed(build.spec(enabled=False)),
            "Watching": build.observed(measured=build.good),
            "AwaitingApproval": build.observed(build.spec(dsl={"approval": "Manual"})),
            "Degraded": build.observed(measured=Measured(trouble="away", fault=True)),
            "Failed": replace(build.observed(), spec=Invalid(["spec.domains: none"])),
        }[phase]
        status, row = decide(given, build.now).status, health.TUNINGPOLICY[phase]
        assert status.phase == phase
        told = {one.type: one.status for one in status.conditions}
        assert (told["Ready"], told["Reconciling"], told["Stalled"]) == (row.ready, row.reconciling, row.stalled)

    def test_too_little_data_is_as_designed_and_a_fault_is_not(self, build):
        assert decide(build.observed(measured=Measured(1, 2, coverage=1)), build.now).status.phase == "Watching"
        assert decide(build.observed(measured=Measured(trouble="x", fault=True)), build.now).status.phase == "Degraded"

    def test_the_same_decision_is_counted_once_a_reading_and_not_once_a_pass(self, build):
        first = decide(build.observed(measured=build.good), build.now).status
        again = decide(replace(build.observed(measured=build.good), status=first), build.now + timedelta(seconds=9)).status
        assert again == first
        at = build.now + timedelta(minutes=5)
        second = decide(replace(build.observed(measured=build.good, at=at), status=first), at).status
        (entry,) = domain_of(second).decisions
        assert (entry.count, entry.since, entry.at) == (2, rfc3339(build.now), rfc3339(at))

    def test_the_list_of_decisions_is_bounded(self, build):
        told, verdicts = [], ("NotMet", "Unknown")
        one = _judged(build)
        for number in range(40):
            told = decisions(told, replace(one, verdict=verdicts[number % 2]), build.now, read_anew=True)
        assert len(told) == 16
        assert told[-1].decision == "Unknown"

    def test_what_a_job_would_use_is_shown_with_the_missions_defaults(self, build):
        status = decide(build.observed(build.spec("dsl", "governance", "multimodal"), build.good), build.now).status
        shown = {name: domain_of(status, name).resolved for name in ("dsl", "governance", "multimodal")}
        assert {name: (one.min_examples, one.training.epochs) for name, one in shown.items()} == {
            "dsl": (5000, 3),
            "governance": (1000, 5),
            "multimodal": (10000, 2),
        }
        assert {(one.lora.rank, one.lora.alpha, one.training.learning_rate) for one in shown.values()} == {(64, 128, "2e-4")}
        assert "compile: error_rate <= 0.01, on at least 500 examples (point estimate)" in shown["dsl"].thresholds

    def test_the_missions_criteria_are_what_counts_where_none_are_given(self, build):
        spec = build.spec("dsl", "governance", "multimodal")
        told = {
            (domain.name, one.observed.score, one.observed.metric, one.window, one.above or f"<{one.below}")
            for domain in spec.domains
            for one in domain.judged_by()
        }
        assert told == {
            ("dsl", "compile", "error_rate", "168h", "0.03"),
            ("governance", "tautologies", "error_rate", "720h", "0.35"),
            ("multimodal", "deepfake-fpr", "error_rate", "720h", "0.03"),
            ("multimodal", "watermark", "accuracy", "720h", "<0.95"),
        }

    def test_events_tell_of_launches_and_phases_once(self, build):
        observed, decision = through(build, build.observed())
        told = happenings("policy", build.observed().status, decision.status)
        assert [one.reason for one in told] == ["Launched", "Watching"]
        assert "launch 1, FineTuneJob policy-dsl-1-" in told[0].note
        assert happenings("policy", decision.status, decide(replace(observed, status=decision.status), build.now).status) == []

    def test_a_launch_that_nobody_was_told_of_is_told_from_the_record(self, build):
        """The operator died before its status; the next reading finds the cooldown."""
        later = build.now + timedelta(hours=1)
        before = decide(build.observed(measured=build.good), build.now).status
        launched = build.observed(status=before, at=later, **build.recorded(build.launch(1, "Created")))
        status = decide(launched, later).status
        known = domain_of(status).decisions
        assert [(one.decision, one.ordinal) for one in known] == [("NotMet", None), ("Launched", 1), ("Cooldown", None)]
        assert "FineTuneJob policy-dsl-1-" in known[1].message
        assert [one.reason for one in happenings("policy", before, status)] == ["Launched"]
        again = decide(replace(launched, status=status), later).status
        assert domain_of(again).decisions == known, "once"

    def test_a_refusal_of_the_api_server_is_said_and_the_launch_stays_recorded(self, build):
        observed = build.observed(**build.recorded(build.launch(1, "Intended")))
        decision = refused(observed, Refusal("Forbidden", "a quota"), build.now)
        assert (decision.status.phase, decision.requeue_after) == ("Failed", timedelta(minutes=1))
        assert condition(decision.status, "Stalled").message == "a quota"


def _judged(build):
    from graft_operator.tuningpolicy.domains import judged

    observed = build.observed(measured=build.good)
    return judged(observed, observed.spec, observed.spec.domains[0], observed.evaluation, build.now)


def test_a_launch_of_the_same_second_is_not_taken_for_this_readings_own(build):
    """A record that is restored right after it was written."""
    observed, _ = through(build, build.observed())
    restored = build.observed(at=build.now + timedelta(milliseconds=1), launches=observed.launches, record=observed.record)
    assert domain_of(decide(restored, build.now).status).decision == "Cooldown"


@pytest.mark.parametrize("ordinal", [1, 1_000_000])
def test_names_of_jobs_fit_and_tell_launches_apart(ordinal):
    long = job_name("prod", "p" * 40, "d" * 63, ordinal)
    assert re.fullmatch(DNS_LABEL_PATTERN, long)
    assert len(long) <= 63
    others = [("prod", "d" * 62 + "e", ordinal), ("prod", "d" * 63, ordinal + 1), ("next", "d" * 63, ordinal)]
    assert len({long, *(job_name(endpoint, "p" * 40, domain, number) for endpoint, domain, number in others)}) == 4
