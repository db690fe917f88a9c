"""A candidate before it serves: its turn, its test, its approvals, its activation."""

from dataclasses import replace

import pytest

from graft_api.ledger import GateState, LedgerVersion
from graft_operator.promotion import machine, testing


def digest(letter):
    return "sha256:" + letter * 64


def another(letter):
    return LedgerVersion(adapter=f"adapter-{letter}", digest=digest("f"), uri="s3://adapters/f", size_bytes=10)


def test_the_whole_way_of_a_candidate(world):
    world.serves("a").adapter("a").adapter("c").step()
    gate = world.gate
    assert (world.state, gate.version.adapter, gate.number) == ("Testing", "adapter-c", 1)
    assert machine.test_wanted(world.seen(), world.entry) == gate
    world.test().step()
    assert machine.test_wanted(world.seen(), world.entry) is None
    assert world.gate.test_uid == world.tests[gate.test].uid
    world.later(hours=1).test("Passed").step()
    assert world.state == "AwaitingApproval"
    assert world.gate.evidence_digest == world.evidence()
    world.approve("alice").later(hours=1).step()
    assert (world.state, world.gate.approvals) == ("AwaitingApproval", [])
    world.approve("bob").later(seconds=3).step()
    assert (world.state, world.active(), world.entry.previous.adapter) == ("Watching", "c", "adapter-a")
    switch = world.entry.history[-1]
    assert (switch.reason, switch.before, switch.after) == ("Promoted", "adapter-a", "adapter-c")
    assert "approved by alice, bob (2 of 2 needed)" in switch.message
    assert [approval.author for approval in world.gate.approvals] == ["alice", "bob"]
    world.observe(7200, clusters=20).step()
    assert (world.state, world.active(), world.entry.previous, world.last) == (None, "c", None, "Confirmed")
    assert "2 of 2 hours observed; 20 conversations on it and 20 held back, of at least 20" in world.entry.ended[-1].message
    assert world.entry.history[-1] == switch, "nothing else serves than before"


@pytest.mark.parametrize(
    ("prepare", "begins"),
    [
        pytest.param(lambda w: w.adapter("c"), "c", id="a candidate that is loaded"),
        pytest.param(lambda w: w.adapter("c", loaded=False), None, id="not loaded everywhere"),
        pytest.param(lambda w: w.adapter("c", promote=False), None, id="its author does not want it"),
        pytest.param(lambda w: w.adapter("c", deleting=True), None, id="it is being deleted"),
        pytest.param(lambda w: w.adapter("c").serves("c"), None, id="it serves already"),
        pytest.param(lambda w: w.adapter("c").ask(paused=True), None, id="paused"),
        pytest.param(lambda w: w.adapter("c").ask(policy=None), None, id="no policy"),
        pytest.param(lambda w: w.adapter("c").ask(pin={"base": True}), None, id="pinned to the base model"),
        pytest.param(lambda w: w.adapter("c").ask(pin={"adapter": "adapter-c"}), None, id="pinned to it: that is followed elsewhere"),
        pytest.param(lambda w: w.adapter("b").later(hours=1).adapter("a"), "b", id="the oldest first, not the first by name"),
        pytest.param(lambda w: w.adapter("b").adapter("a"), "a", id="of the same second the first by name"),
        pytest.param(lambda w: w.adapter("b", loaded=False).later(hours=1).adapter("c"), "c", id="the oldest is not ready"),
        pytest.param(lambda w: w.policy(onNewer="Supersede").adapter("b").later(hours=1).adapter("c"), "c", id="the newest, by policy"),
        pytest.param(lambda w: w.adapter("c").reject("alice", "c"), None, id="rejected before its turn"),
        pytest.param(lambda w: w.adapter("c").reject("mallory", "c"), "c", id="rejected by somebody who may not"),
    ],
)
def test_which_candidate_begins(world, prepare, begins):
    prepare(world)
    world.step()
    assert (world.gate.version.adapter[-1] if world.gate else None) == begins


def test_a_test_has_exactly_the_spec_that_the_frozen_policy_asks(world):
    world.adapter("c").step()
    spec = testing.spec_of(world.gate)
    assert spec.adapter_ref.name == "adapter-c"
    asked = world.gate.policy.shadow
    assert all(getattr(spec, name) == getattr(asked, name) for name in type(asked).model_fields)


@pytest.mark.parametrize(
    ("phase", "outcome", "state", "ended"),
    [
        pytest.param("Pending", None, "Testing", None, id="it waits"),
        pytest.param("Running", None, "Testing", None, id="it runs"),
        pytest.param("Passed", "Passed", "AwaitingApproval", None, id="it passed"),
        pytest.param("Failed", "Failed", None, "NotProven", id="it failed"),
        pytest.param("Inconclusive", "Inconclusive", None, "NotProven", id="nothing was shown"),
        pytest.param("Error", "Error", None, "NotProven", id="a scorer is broken"),
        pytest.param("Passed", "Failed", None, "NotProven", id="the verdict says otherwise than the phase"),
    ],
)
def test_what_a_test_comes_to(world, phase, outcome, state, ended):
    world.testing().test(phase, outcome).step()
    assert (world.state, world.last) == (state, ended)
    if ended:
        assert "1.2 % against a bound of 1 %" in world.entry.ended[-1].message


def test_a_candidate_has_one_turn(world):
    world.testing().test("Failed").step()
    world.later(days=400).step()
    assert world.gate is None
    world.recreated("c").step()
    assert world.gate.number == 2, "an Adapter that was made anew is another candidate"


def test_a_test_that_was_deleted_is_made_anew_and_only_the_new_one_counts(world):
    world.testing()
    name, first = world.gate.test, world.gate.test_uid
    world.test(deleting=True).step()
    assert machine.test_wanted(world.seen(), world.entry) is None, "its name is still taken"
    del world.tests[name]
    assert machine.test_wanted(world.seen(), world.entry) == world.gate
    world.test("Passed").step()
    assert world.state == "AwaitingApproval"
    assert world.gate.test_uid != first


def test_a_test_of_wide_margins_under_the_right_name_is_not_taken(world):
    world.testing()
    known = world.tests[world.gate.test]
    metrics = [known.spec.metrics[0].model_copy(update={"metric": known.spec.metrics[0].metric.model_copy(update={"margin": 0.9})})]
    forged = known.spec.model_copy(update={"metrics": metrics})
    world.test("Passed", spec=forged).step()
    assert world.state == "Testing"
    assert machine.test_wanted(world.seen(), world.entry) is None
    assert "NameConflict" in machine.words_of(world.seen(), world.entry)


def test_a_foreign_test_of_the_name_is_waited_out(world):
    world.adapter("c").step()
    world.taken = frozenset({world.gate.test})
    world.step()
    assert machine.test_wanted(world.seen(), world.entry) is None
    assert "NameConflict" in machine.words_of(world.seen(), world.entry)
    world.taken = frozenset()
    assert machine.test_wanted(world.seen(), world.entry) == world.gate


@pytest.mark.parametrize(
    "resolved",
    [
        pytest.param({"letter": "d"}, id="another artifact was tested"),
        pytest.param({"incumbent": None}, id="it was held against another version than what serves"),
    ],
)
def test_a_pass_of_something_else_proves_nothing(world, resolved):
    world.serves("a").testing()
    status = world.test_status("Passed", "Passed", **resolved)
    world.test(status=status).step()
    assert world.last == "NotProven"


CHANGES = [
    pytest.param(lambda w: (w.remove("c").step(), w.later(hours=1)), "Deleted", id="its Adapter is gone, and nobody restores it"),
    pytest.param(lambda w: w.change("c", deleting=True), "Deleted", id="its Adapter is going"),
    pytest.param(lambda w: w.recreated("c", loaded=False), "Deleted", id="its Adapter was made anew"),
    pytest.param(lambda w: w.remove("c").adapter("c", version=another("c")), "Deleted", id="its Adapter is another artifact by now"),
    pytest.param(lambda w: w.policy(watch={"window": "3h"}), "PolicyChanged", id="the policy changed"),
    pytest.param(lambda w: w.ask(policy=None), "PolicyChanged", id="the policy went"),
    pytest.param(lambda w: w.ask(pin={"adapter": "adapter-a"}), "Overridden", id="a pin to what serves"),
    pytest.param(lambda w: w.ask(pin={"base": True}), "Overridden", id="a pin to the base model"),
    pytest.param(lambda w: w.serves("b"), "Overridden", id="something else serves by now"),
    pytest.param(lambda w: w.reject("alice", "c"), "Rejected", id="somebody who may approve rejects it"),
]


@pytest.mark.parametrize("state", ["testing", "awaiting"])
@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_what_ends_a_candidate_that_does_not_serve_yet(world, state, change, reason):
    getattr(world.serves("a"), state)()
    served = world.active()
    before = world.gate
    change(world)
    world.step()
    ended = world.entry.ended[-1]
    assert (ended.reason, ended.number, ended.digest) == (reason, before.number, before.version.digest)
    assert ended.message
    assert world.entry.gate is None or world.entry.gate.number > before.number
    assert world.active() in {served, "b"}, "what serves goes on serving"
    assert [known.digest for known in world.entry.rejected] == ([digest("c")] if reason == "Rejected" else [])


@pytest.mark.parametrize("state", ["testing", "awaiting"])
def test_a_changed_policy_begins_the_gate_anew_with_a_test_of_its_own(world, state):
    getattr(world, state)()
    before = world.gate
    world.policy(approval={"required": 1}).step()
    assert (world.state, world.gate.number, world.gate.policy.approval.required) == ("Testing", 2, 1)
    assert world.gate.test != before.test
    assert world.last == "PolicyChanged"


def test_an_approval_of_the_evidence_of_an_earlier_gate_counts_for_nothing(world):
    world.awaiting().approve("alice").approve("bob").policy(watch={"window": "3h"}).step()
    world.test().step()
    world.test("Passed").step()
    world.later(minutes=1).step()
    assert world.state == "AwaitingApproval"


HOLD = [
    pytest.param(lambda w: w.ask(paused=True), lambda w: w.ask(paused=None), id="paused"),
    pytest.param(lambda w: w.change("c", loaded=False), lambda w: w.change("c", loaded=True), id="a replica has not loaded it"),
    pytest.param(
        lambda w: setattr(w, "words_count", False), lambda w: setattr(w, "words_count", True), id="admission policies are missing"
    ),
]


@pytest.mark.parametrize(("hold", "release"), HOLD)
def test_an_activation_waits(world, hold, release):
    world.awaiting().approve("alice").approve("bob")
    hold(world)
    world.later(seconds=1).step()
    assert world.state == "AwaitingApproval"
    release(world)
    world.step()
    assert world.state == "Watching"


def test_a_quorum_that_was_reached_does_not_expire_while_the_activation_waits_but_may_be_withdrawn(world):
    world.awaiting().ask(paused=True).approve("alice").approve("bob").later(hours=1).step()
    assert [approval.author for approval in world.gate.approvals] == ["alice", "bob"]
    world.later(days=3).step()
    assert len(world.gate.approvals) == 2
    world.withdraw("bob").step()
    assert world.gate.approvals == []
    world.ask(paused=None).step()
    assert world.state == "AwaitingApproval"
    world.approve("bob").step()
    assert world.state == "AwaitingApproval", "alice's has expired meanwhile"
    world.approve("alice").step()
    assert world.state == "Watching"


def test_approvals_that_never_made_a_quorum_expire(world):
    world.awaiting().approve("alice").later(hours=25).approve("bob").step()
    assert world.state == "AwaitingApproval"


def test_where_nobody_is_asked_a_passed_test_activates(make):
    world = make(approval={"required": 0, "users": []}).awaiting()
    assert world.state == "Watching"
    assert "no approval needed" in world.entry.history[-1].message


def test_without_veto_a_candidate_is_rejected_by_as_many_as_the_quorum(make):
    world = make(approval={"veto": False, "users": ["alice", "bob", "carol"]}).awaiting()
    world.reject("alice").step()
    assert world.state == "AwaitingApproval"
    world.reject("carol").step()
    assert (world.state, world.last) == (None, "Rejected")


def test_without_veto_an_outvoted_rejection_takes_nothing_out_later(make):
    world = make(approval={"veto": False, "users": ["alice", "bob", "carol"]}).awaiting()
    world.reject("carol").later(seconds=1).approve("alice").approve("bob").step()
    assert world.state == "Watching"
    world.later(minutes=5).step()
    assert world.state == "Watching"
    world.observe(7200, clusters=30).step()
    world.later(days=50).step()
    assert (world.state, world.last, world.active()) == (None, "Confirmed", "c")


def test_a_rejection_after_the_quorum_holds_the_activation_until_a_newer_approval_answers_it(make):
    world = make(approval={"veto": False, "users": ["alice", "bob", "carol"]}).awaiting()
    world.ask(paused=True).approve("alice").approve("bob").later(minutes=1).reject("carol").later(minutes=1)
    world.ask(paused=None).step()
    assert world.state == "AwaitingApproval"
    assert "a newer approval must answer that" in machine.words_of(world.seen(), world.entry, world.now)
    world.approve("bob").step()
    assert world.state == "Watching"


def test_a_newer_adapter_waits_its_turn(world):
    world.testing("c").later(hours=1).adapter("d").step()
    assert world.gate.version.adapter == "adapter-c"
    assert "1 more waits for its turn" in machine.words_of(world.seen(), world.entry)
    world.test("Failed").step()
    assert (world.gate.version.adapter, world.gate.number) == ("adapter-d", 2)


@pytest.mark.parametrize("state", ["testing", "awaiting"])
def test_a_newer_adapter_supersedes_by_policy_what_does_not_serve_yet(make, state):
    world = make(onNewer="Supersede")
    getattr(world, state)("c").later(hours=1).adapter("d").step()
    assert (world.gate.version.adapter, world.gate.number) == ("adapter-d", 2)
    assert (world.last, world.entry.ended[-1].adapter) == ("Superseded", "adapter-c")


def test_what_serves_is_never_superseded(make):
    world = make(onNewer="Supersede").activated("c").later(hours=1).adapter("d")
    world.step()
    assert (world.state, world.gate.version.adapter) == ("Watching", "adapter-c")


def test_all_older_ones_are_given_up_at_once_by_policy(make):
    world = make(onNewer="Supersede").ask(paused=True)
    for letter in "abcde":
        world.adapter(letter).later(minutes=1)
    world.ask(paused=None).step()
    assert world.gate.version.adapter == "adapter-e"
    assert [(ended.adapter, ended.reason) for ended in world.entry.ended] == [(f"adapter-{letter}", "Superseded") for letter in "abcd"]
    assert len({ended.number for ended in world.entry.ended} | {world.gate.number}) == 5


def test_more_adapters_than_the_ledger_remembers_have_one_turn_each(world):
    letters = "0123456789abcdef"
    for n in range(40):
        name = f"adapter-{n}"
        world.adapter("c").later(minutes=1)
        made = world.candidates.pop("adapter-c")
        body = made.version.model_copy(update={"adapter": name, "digest": "sha256:" + (letters[n // 16] + letters[n % 16]) * 32})
        world.candidates[name] = replace(made, name=name, uid=f"uid-{n}", version=body)
    turns = []
    for _ in range(60):
        world.later(minutes=1).step()
        if world.gate is None:
            break
        turns.append(world.gate.version.adapter)
        world.test("Failed").step()
    assert turns == [f"adapter-{n}" for n in range(40)]
    assert len(world.entry.ended) == 32
    assert world.gate is None


def test_a_restored_ledger_adopts_the_test_that_is_there(world):
    world.adapter("c").step()
    restored = world.entry
    world.test().step()
    world.test("Passed").step()
    world.approve("alice").approve("bob").step()
    world.entry = restored
    world.step()
    assert world.state == GateState.WATCHING


def test_a_ledger_from_before_the_gate_begins_it_again_under_the_same_name(world):
    empty = world.entry
    world.testing()
    name = world.gate.test
    world.entry = empty
    world.later(days=1).step()
    assert world.gate.test == name
    assert machine.test_wanted(world.seen(), world.entry) is None
