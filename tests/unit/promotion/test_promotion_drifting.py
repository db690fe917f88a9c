"""What drift makes of a candidate: before it serves, and once it does; attempts that fail, and words that count for nothing."""

import pytest

from graft_api.drift import Drifted, DriftPolicy, Moment
from graft_api.ledger import DriftMoment
from graft_api.schema import parse
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.promotion import drifting, machine
from graft_operator.promotion.endings import without_previous
from graft_operator.promotion.naming import drift_job_name

DRIFT = {"principles": "principles", "embeddings": {"url": "http://embeddings:8000/v1", "model": "small"}, "attempts": 3, "limit": "0.3"}
OTHER = "sha256:" + "9" * 64


@pytest.fixture
def checking(make):
    """`checking(policy changes)`: a candidate with a quorum, and the first attempt to measure its drift under way."""
    return lambda **changes: make(**({"drift": DRIFT} | changes)).checking()


@pytest.fixture
def watching(make):
    return lambda **changes: make(**({"drift": DRIFT} | changes)).watching()


def words(world):
    return machine.words_of(world.seen(), world.entry, world.now)


# before it serves


def test_it_is_activated_in_the_write_that_says_that_it_is_near(checking):
    world = checking()
    assert (world.active(), world.moment, world.known.attempt()) == (None, Moment.BEFORE, 1)
    assert "attempt 1 of 3 is under way" in words(world)
    world.measured(high=0.3)
    assert (world.state, world.active()) == ("Watching", "c")
    assert [reading.contrast for reading in world.gate.drift.before.measured.readings] == ["Versions"], "what decides is kept"
    assert world.entry.history[-1].message.endswith("approved by alice, bob (2 of 2 needed)")
    assert world.jobs == {}


def test_beyond_the_limit_it_is_blocked_and_not_rejected(checking):
    world = checking().measured(high=0.31)
    assert (world.last, world.active(), world.entry.rejected) == ("Drifted", None, [])
    told = world.entry.ended[-1]
    assert ("honest" in told.message, "0.31" in told.message, "0.3" in told.message, told.served) == (True, True, True, False)
    assert told.had_its_turn()
    assert world.later(days=400).step().gate is None


def test_without_a_policy_of_drift_nobody_asks(make):
    world = make().activated()
    assert (world.state, world.gate.drift, world.moment) == ("Watching", None, None)


def test_a_job_is_begun_in_the_ledger_then_known_by_its_uid(checking):
    world = checking()
    assert (world.known.begun, world.known.job) == (rfc3339(world.now), None)
    world.job().step()
    (job,) = world.jobs.values()
    assert (world.known.job, world.known.begun) == (job.uid, rfc3339(world.now))
    assert len(job.name) <= 52


OUT = [
    pytest.param(lambda world: world.reject("bob"), "Rejected", id="a veto"),
    pytest.param(lambda world: world.ask(pin={"base": True}), "Overridden", id="a pin"),
    pytest.param(lambda world: world.change("c", deleting=True), "Deleted", id="its deletion"),
    pytest.param(lambda world: world.policy(drift=DRIFT | {"limit": "0.9"}), "PolicyChanged", id="a change of the policy"),
    pytest.param(lambda world: world.ask(policy=None), "PolicyChanged", id="the end of the policy"),
]


@pytest.mark.parametrize(("happens", "reason"), OUT)
def test_what_ends_it_while_it_is_checked(checking, happens, reason):
    world = checking()
    world.later(seconds=1)
    happens(world)
    world.step()
    assert reason in [told.reason for told in world.entry.ended]
    assert world.active() is None


def test_a_newer_candidate_supersedes_one_that_is_checked_where_the_policy_says_so(checking):
    world = checking(onNewer="Supersede").later(seconds=1).adapter("d")
    world.step()
    assert (world.last, world.gate.version.adapter) == ("Superseded", "adapter-d")


def test_an_approval_that_expires_meanwhile_still_counts(checking):
    world = checking().later(days=30).job()
    world.report(0.1).step()
    assert (world.state, world.active()) == ("Watching", "c")


def test_without_its_quorum_it_awaits_approval_again_and_the_attempt_counts(checking):
    world = checking().job()
    world.step()
    world.withdraw("bob").step()
    assert (world.state, world.gate.approvals, world.moment, world.gate.drift.before.failed) == ("AwaitingApproval", [], None, 1)
    world.later(seconds=1).approve("bob").step()
    assert (world.state, world.moment) == ("Checking", None), "not before the pause is over"
    world.later(minutes=1).step()
    assert (world.moment, world.known.attempt()) == (Moment.BEFORE, 2)


def test_paused_nothing_begins_and_nothing_is_activated(checking):
    world = checking()
    world.ask(paused=True).measured()
    assert (world.state, world.active(), world.known.measured is not None) == ("Checking", None, True)
    assert "once spec.domains[].paused is false" in words(world)
    world.ask(paused=None).step()
    assert world.active() == "c"


def test_paused_no_further_attempt_begins(checking):
    world = checking().failed().ask(paused=True).later(hours=1)
    world.step()
    assert world.moment is None
    assert "paused" in words(world)
    world.ask(paused=None).step()
    assert world.moment is Moment.BEFORE


def test_no_attempt_begins_while_it_is_not_loaded(checking):
    world = checking().failed().change("c", loaded=False).later(hours=1)
    assert world.step().gate.drift.before.begun is None
    world.change("c", loaded=True).step()
    assert world.moment is Moment.BEFORE


def test_while_policies_are_missing_nobodys_word_about_drift_counts(checking):
    world = checking().job()
    world.step()
    world.report(0.1).words_count = False
    assert world.step().gate.drift.before.measured is None
    world.words_count = True
    world.step()
    assert world.active() == "c"


# the trial


@pytest.fixture
def testing(make):
    """A candidate in its test, and the trial of its drift under way."""
    return lambda **changes: make(**({"drift": DRIFT} | changes)).testing()


def tried(world, **said):
    """Let the trial that is under way say what it has found."""
    world.job().step()
    found = world.drifted(0.0, readings=[], document=None) if not said else None
    world.report(measured=found, **said).step()
    return world.tidy()


def test_when_a_test_begins_its_drift_is_tried_and_what_was_tried_is_not_tried_again(testing):
    world = testing()
    assert (world.state, world.moment, world.known.attempt()) == ("Testing", Moment.TRIAL, 1)
    tried(world)
    assert (world.moment, world.known.measured.document, drifting.problem(world.gate)) == (None, None, None)
    assert world.later(days=3).step().gate.drift.trial.failed == 0
    assert world.moment is None
    assert "drift" not in words(world)


def test_a_trial_that_fails_is_said_and_repeated_and_the_test_goes_on(testing):
    world = tried(testing(), problem="tokenEnv: the service answered 401")
    assert world.state == "Testing"
    assert words(world).endswith("could not be measured as it is: tokenEnv: the service answered 401; " + next_of(world))
    assert drifting.problem(world.gate) == "trial of drift: tokenEnv: the service answered 401"
    world.later(minutes=1).step()
    assert (world.moment, world.known.attempt()) == (Moment.TRIAL, 2)
    assert "attempt 2 of 3 is under way" in words(world)
    tried(world)
    assert (drifting.problem(world.gate), "drift" in words(world)) == (None, False), "somebody has mended it"


def next_of(world):
    return f"attempt {world.known.attempt()} of 3 begins at {rfc3339(drifting.due(world.gate.policy.drift, world.known))}"


def test_a_trial_never_blocks(testing):
    world = testing()
    for _ in range(3):
        tried(world, problem="401")
        world.later(hours=1).step()
    assert (world.moment, world.known.failed) == (None, 3), "attempts are bounded"
    assert "401 (last tried at" in words(world)
    world.test("Passed").step()
    assert (world.state, "401 (last tried at" in words(world)) == ("AwaitingApproval", True), "who approves knows it, too"
    assert drifting.problem(world.gate) == "trial of drift: 401"
    world.approve("alice").approve("bob").step()
    assert (world.state, world.moment, world.known.attempt()) == ("Checking", Moment.BEFORE, 1)
    assert world.measured().active() == "c"


def test_a_test_that_ends_ends_the_trial(testing):
    world = testing().job()
    world.step()
    world.test("Passed").step()
    assert (world.state, world.moment, world.gate.drift.trial.begun, world.gate.drift.trial.job) == ("AwaitingApproval", None, None, None)


def test_a_trial_waits_neither_for_the_candidate_nor_for_a_pause_to_end(testing):
    world = tried(testing(), problem="401").change("c", loaded=False).ask(paused=True).later(minutes=1)
    assert world.step().gate.drift.trial.begun is not None


def test_what_a_trial_says_decides_nothing_later(testing):
    world = testing().job()
    world.step()
    world.report(0.9, low=0.9).step()
    assert world.test("Passed").step().gate.drift.before.measured is None
    assert drifting.beyond(world.gate, Moment.BEFORE) is None


def test_a_trial_with_other_principles_has_failed(testing):
    world = tried(testing(drift=DRIFT | {"principlesDigest": OTHER}))
    assert (world.known.failed, OTHER in drifting.problem(world.gate)) == (1, True)


def test_without_a_policy_of_drift_nothing_is_tried(make):
    assert make().testing().gate.drift is None


# attempts

FAILURES = [
    pytest.param(lambda world: world.report(problem="503 of the embeddings"), "503 of the embeddings", id="it reports a problem"),
    pytest.param(lambda world: world.job(over="its Job has failed: DeadlineExceeded"), "DeadlineExceeded", id="it failed"),
    pytest.param(lambda world: world.jobs.clear(), "its Job has vanished", id="it vanished"),
    pytest.param(lambda world: world.job(uid="another"), "its Job has vanished", id="another one has its name"),
    pytest.param(lambda world: world.later(minutes=20), "its Job does not end", id="nobody ends it"),
    pytest.param(
        lambda world: world.job(problem="ImagePullBackOff").later(minutes=20), "does not end: ImagePullBackOff", id="its image is not there"
    ),
    pytest.param(lambda world: world.report(measured=world.drifted(0.1, readings=[])), "has no reading", id="it has read nothing"),
    pytest.param(lambda world: world.report(measured=world.drifted(0.1, document=None)), "names no document", id="it has kept nothing"),
]


@pytest.mark.parametrize(("happens", "problem"), FAILURES)
def test_what_fails_an_attempt(checking, happens, problem):
    world = checking().job()
    world.step()
    happens(world)
    world.step()
    assert (world.known.failed, world.known.begun, world.known.job, world.known.failed_at) == (1, None, None, rfc3339(world.now))
    assert problem in world.known.problem
    assert problem in words(world)
    assert (world.state, world.active()) == ("Checking", None)


def test_a_job_that_is_never_made_fails_its_attempt_too(checking):
    world = checking().later(minutes=19)
    assert world.step().gate.drift.before.failed == 0
    world.later(minutes=1).step()
    assert (world.known.failed, world.known.problem) == (1, "its Job was not made in time")


def test_a_name_that_somebody_elses_job_has_fails_the_attempt_at_once_and_the_next_has_another(checking):
    world = checking()
    name = drifting.job_name(world.seen(), world.gate, world.moment)
    world.names_taken = frozenset({name})
    world.step()
    assert (world.state, world.known.failed) == ("Checking", 1)
    assert f"NameConflict: there is a Job {name} that is not of this endpoint; delete it" in words(world)
    world.later(minutes=1).step()
    assert (world.moment, drifting.job_name(world.seen(), world.gate, world.moment) != name) == (Moment.BEFORE, True)


def test_principles_that_are_not_those_of_the_policy_are_no_result(checking):
    world = checking(drift=DRIFT | {"principlesDigest": OTHER}).measured()
    assert (world.state, world.known.failed, OTHER in world.known.problem) == ("Checking", 1, True)


def test_of_the_policys_own_digest_they_are(checking):
    assert checking(drift=DRIFT | {"principlesDigest": "sha256:" + "5" * 64}).measured().active() == "c"


def test_the_pause_doubles_to_an_hour_and_by_default_they_bridge_a_day():
    policy, at = parse(DriftPolicy, {key: value for key, value in DRIFT.items() if key != "attempts"}), "2026-01-01T00:00:00Z"
    due = [drifting.due(policy, DriftMoment(failed=failed, failed_at=at)) for failed in range(1, policy.attempts + 1)]
    assert due.pop() is None, "it was the last"
    pauses = [round((when - parse_rfc3339(at)).total_seconds() / 60) for when in due]
    assert pauses == [1, 2, 4, 8, 16, 32, *[60] * 23]
    assert 24 <= sum(pauses) / 60 < 25


def test_an_outage_of_hours_loses_no_candidate_and_the_state_says_when_the_next_attempt_is(checking):
    world = checking(drift={key: value for key, value in DRIFT.items() if key != "attempts"}).failed()
    for _ in range(11):
        assert f"of 30 begins at {rfc3339(drifting.due(world.gate.policy.drift, world.known))}; the last one failed: 503" in words(world)
        world.later(hours=1).step()
        world.failed()
    assert (world.state, world.known.failed) == ("Checking", 12)
    world.later(hours=1).step()
    assert world.measured().active() == "c"


def test_the_pause_doubles_from_a_minute_and_after_the_last_attempt_it_is_not_proven(checking):
    world = checking(drift=DRIFT | {"attempts": 4})
    for minutes in (1, 2, 4):
        world.failed()
        world.later(seconds=60 * minutes - 1).step()
        assert world.moment is None
        world.later(seconds=1).step()
        assert world.moment is Moment.BEFORE
    world.failed("the model calls itself other")
    assert (world.last, world.active(), world.entry.rejected) == ("NotProven", None, [])
    assert "drift could not be measured: the model calls itself other (attempt 4 of 4)" in world.entry.ended[-1].message


def test_a_clock_that_was_set_back_puts_nothing_off(checking):
    world = checking().failed().later(days=-30)
    world.step()
    assert world.moment is Moment.BEFORE


def test_what_it_found_counts_although_its_job_is_over(checking):
    world = checking().job()
    world.step()
    world.report(0.1).job(over="its Job has failed: DeadlineExceeded").step()
    assert world.active() == "c"


def test_a_job_that_goes_is_waited_for(checking):
    world = checking().job()
    world.step()
    world.job(deleting=True).step()
    assert world.known.failed == 0
    world.jobs.clear()
    assert world.step().gate.drift.before.failed == 1


WRONG = {"gate": 7, "adapterUid": "uid-of-another", "moment": "After", "attempt": 2, "domain": "other"}


@pytest.mark.parametrize("field", WRONG)
def test_a_word_about_something_else_counts_for_nothing(checking, field):
    world = checking().job()
    world.step()
    world.report(0.1, **{field: WRONG[field]}).step()
    assert (world.state, world.known.measured, world.known.failed) == ("Checking", None, 0)
    world.report(0.9, **{field: WRONG[field]}).step()
    assert world.state == "Checking"


def test_a_word_of_the_job_of_another_attempt_counts_for_nothing(checking):
    world = checking().job()
    world.step()
    world.report(0.1)
    (job,) = world.jobs.values()
    world.jobs.clear()
    world.step()
    world.later(minutes=1).step()
    assert world.known.attempt() == 2
    world.jobs[job.name] = job
    world.job().step()
    assert (world.state, world.known.measured) == ("Checking", None)


def test_every_attempt_has_a_name_of_its_own():
    ways = [("prod", "dsl", 1, Moment.BEFORE, 1), ("prod", "dsl", 1, Moment.BEFORE, 2), ("prod", "dsl", 1, Moment.AFTER, 1)]
    ways += [("prod", "dsl", 2, Moment.BEFORE, 1), ("prod", "sql", 1, Moment.BEFORE, 1), ("a" * 40, "dsl", 1, Moment.BEFORE, 1)]
    names = {drift_job_name(*way) for way in ways}
    assert len(names) == len(ways)
    assert max(map(len, names)) <= 52


# once it serves


def test_after_the_ramp_it_is_asked_again(make):
    world = make(drift=DRIFT, ramp=[{"share": "0.5", "duration": "1h"}]).checking().measured()
    assert (world.state, world.moment) == ("Ramping", None)
    world.observe(3600, 30).step()
    assert (world.state, world.moment, world.known.attempt()) == ("Watching", Moment.AFTER, 1)


def test_near_or_not_known_to_be_far_it_goes_on(watching):
    world = watching().measured(high=0.6, low=0.3)
    assert (world.state, world.known.measured is not None) == ("Watching", True)
    assert {reading.contrast for reading in world.known.measured.readings} == {"Versions", "Candidate"}
    world.observe(7200, 30).step()
    assert world.last == "Confirmed"


def test_shown_to_be_far_it_is_rolled_back_and_its_digest_rejected(watching):
    world = watching()
    candidate = world.gate.version.digest
    world.measured(high=0.9, low=0.31)
    assert (world.last, world.active()) == ("RolledBack", None)
    assert [known.digest for known in world.entry.rejected] == [candidate]
    assert "drift after activation: honest" in world.entry.ended[-1].message


def test_nothing_is_confirmed_before_it_was_measured(watching):
    world = watching().job().observe(1000, 30)
    world.step()
    assert "drift after activation: attempt 1 of 3 is under way" in words(world)
    world.observe(6200).step()
    assert (world.state, world.known.failed) == ("Watching", 1)
    world.later(minutes=1).step()
    world.measured()
    assert world.last == "Confirmed"


def test_where_it_cannot_be_measured_a_human_decides(watching):
    world = watching()
    for _ in range(3):
        world.failed().later(minutes=4).step()
    world.observe(7200, 30).step()
    assert (world.state, world.moment) == ("Watching", None)
    assert "drift could not be measured: 503 of the embeddings (attempt 3 of 3)" in words(world)
    world.later(hours=6).step()
    assert (world.state, world.active()) == ("Unconfirmed", "c")
    world.later(seconds=1).approve("alice").approve("bob").step()
    assert world.last == "Confirmed"


def test_harm_that_is_shown_after_the_watch_has_ended_rolls_it_back_all_the_same(watching):
    world = watching().job().later(hours=7)
    world.entry = world.entry.model_copy(
        update={"gate": drifting.with_moment(world.gate, Moment.AFTER, world.known.model_copy(update={"begun": rfc3339(world.now)}))}
    )
    assert world.step().gate.state == "Unconfirmed"
    world.report(0.9, low=0.5).step()
    assert world.last == "RolledBack"


def test_paused_what_is_watched_is_measured(watching):
    world = watching().failed().ask(paused=True).later(minutes=1)
    world.step()
    assert world.moment is Moment.AFTER


def test_held_against_nothing_it_is_not_measured(make):
    world = make(drift=DRIFT).adapter("a").serves("a").later(seconds=1).watching()
    assert world.moment is Moment.AFTER
    world.entry = without_previous(world.entry, world.now)
    world.step()
    assert (world.state, world.moment) == ("Watching", None)
    world.observe(7200, 30).step()
    assert "the version before it is gone" in words(world)
    assert world.state == "Watching"


def test_what_was_found_is_shown(watching):
    world = watching()
    assert drifting.shown(world.gate).startswith("before activation: honest: the candidate's answers are 0.050 [0.000, 0.100]")
    world.measured(0.4)
    assert "; after activation: honest" in drifting.shown(world.gate)


def test_what_came_of_attempts_is_told_once():
    was = DriftMoment()
    begun = was.model_copy(update={"begun": "2026-01-01T00:00:00Z"})
    assert drifting.news(Moment.BEFORE, was, begun) == "drift before activation: attempt 1 begins"
    assert drifting.news(Moment.BEFORE, begun, begun.model_copy(update={"job": "uid"})) == ""
    failed = was.model_copy(update={"failed": 1, "problem": "503"})
    assert drifting.news(Moment.AFTER, begun, failed) == "drift after activation: attempt 1 failed: 503"
    assert drifting.news(Moment.AFTER, failed, failed) == ""
    worked = parse(Drifted, {"at": "2026-01-01T00:00:00Z", "principlesDigest": OTHER, "readings": []})
    assert drifting.news(Moment.TRIAL, begun, was.model_copy(update={"measured": worked})) == "trial of drift has worked in attempt 1"
