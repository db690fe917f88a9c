"""Reject comes before pin and promotion; what is rejected stays so until a newer quorum."""

import pytest

from graft_api.ledger import Rejected
from graft_operator.promotion import machine


def digest(letter):
    return "sha256:" + letter * 64


def rejected(world):
    return {known.digest[7] for known in world.entry.rejected if machine.rejected(world.entry, known.digest)}


def test_a_rejection_of_what_serves_is_a_rollback_by_hand_to_what_was_before(world):
    world.adapter("a").serves("a").serves("b").adapter("b")
    world.reject("bob", "b", reason="wrong tone").step()
    assert (world.active(), world.entry.previous, world.last) == ("a", None, "RolledBack")
    assert "of bob: wrong tone" in world.entry.history[-1].message
    assert rejected(world) == {"b"}
    world.reject("alice", "a").step()
    assert world.active() is None, "there is nothing before it: the base model"
    assert rejected(world) == {"a", "b"}


@pytest.mark.parametrize("held_back", [False, True], ids=["what serves", "what is held back"])
def test_without_veto_one_is_enough_for_what_serves(make, held_back):
    world = make(approval={"veto": False}).serves("a").activated("c")
    world.later(minutes=1).reject("bob", "a" if held_back else "c").step()
    assert rejected(world) == {"a" if held_back else "c"}
    assert (world.active(), world.entry.previous) == ("c" if held_back else "a", None)


def test_a_rejection_stays_when_its_word_is_withdrawn(world):
    world.serves("b").reject("bob", "b").step()
    world.withdraw("bob").step()
    assert rejected(world) == {"b"}


def test_what_serves_can_be_rejected_while_its_object_is_gone(world):
    world.serves("b").reject("bob", "b").step()
    assert world.active() is None
    assert world.entry.ended == [], "nobody knows which Adapter it was"


def test_without_a_policy_nobody_may_reject(world):
    world.serves("b").ask(policy=None).reject("bob", "b").step()
    assert world.active() == "b"


def test_a_rejection_of_what_serves_ends_a_test_against_it_and_the_candidate_begins_anew_against_what_serves_then(world):
    world.serves("b").testing("c").reject("bob", "b").step()
    assert (world.active(), world.last) == (None, "Overridden")
    assert (world.gate.version.adapter, world.gate.number, world.state) == ("adapter-c", 2, "Testing")


def test_a_rejection_of_what_is_held_back_takes_it_out_and_begins_the_watch_anew(world):
    world.adapter("a").serves("a").activated("c").observe(7000, clusters=100).step()
    world.reject("bob", "a").step()
    assert (world.active(), world.entry.previous, world.state) == ("c", None, "Watching")
    assert (world.gate.number, world.gate.watch.count().observed_seconds) == (2, 0)
    world.observe(7200, clusters=20).step()
    assert world.last == "Confirmed"


def test_a_rollback_never_goes_to_a_rejected_version(world):
    world.serves("a").activated("c")
    world.entry = world.entry.model_copy(update={"rejected": [Rejected(digest=digest("a"), at="2026-03-01T00:00:00Z", author="bob")]})
    world.trip().step()
    assert world.active() is None


def test_a_rejected_digest_in_service_goes_whoever_brought_it_back(world):
    world.serves("b").reject("bob", "b").step()
    world.serves("b").step()
    assert world.active() is None


def rolled_back(world):
    world.serves("a").activated("c")
    evidence = world.gate.evidence_digest
    world.later(hours=1).trip().step()
    world.trips.clear()
    return evidence


def test_a_newer_quorum_lets_a_rejected_digest_begin_again_and_it_is_tested_anew(world):
    evidence = rolled_back(world)
    world.later(hours=1).approve("alice", "c", evidence=evidence).step()
    assert (world.gate, rejected(world)) == (None, {"c"})
    world.approve("bob", "c", evidence=evidence).step()
    assert (world.state, world.gate.number, rejected(world)) == ("Testing", 2, set())
    assert [approval.author for approval in world.entry.rejected[0].lifted_by] == ["alice", "bob"]
    world.test().step()
    world.test("Passed").step()
    world.later(minutes=1).step()
    assert world.state == "AwaitingApproval", "what lifted the rejection was said of other evidence"
    world.approve("alice").approve("bob").step()
    assert (world.state, world.active()) == ("Watching", "c")
    world.trip().step()
    assert (world.active(), rejected(world)) == ("a", {"c"})


def test_what_was_confirmed_before_it_was_rejected_begins_again_too(world):
    world.serves("a").adapter("a").activated()
    evidence = world.gate.evidence_digest
    world.observe(7200, clusters=30).step()
    assert world.last == "Confirmed"
    world.later(days=20).reject("bob", "c").step()
    assert (world.last, rejected(world), world.active()) == ("RolledBack", {"c"}, None)
    world.later(hours=1).approve("alice", "c", evidence=evidence).approve("bob", "c", evidence=evidence).step()
    assert (world.state, world.gate.version.adapter, rejected(world)) == ("Testing", "adapter-c", set())
    world.test("Failed").step()
    assert (world.state, world.last) == (None, "NotProven"), "it has had its turn again"


def test_what_was_confirmed_and_replaced_before_it_was_rejected_begins_again_too(world):
    world.serves("a").adapter("a").activated("c").observe(7200, clusters=30).step()
    evidence = next(told.evidence_digest for told in world.entry.ended if told.reason == "Confirmed")
    world.later(days=2).activated("d").observe(7200, clusters=30).step()
    assert (world.last, world.active()) == ("Confirmed", "d")
    world.reject("bob", "c").step()
    assert rejected(world) == {"c"}
    world.later(hours=1).approve("alice", "c", evidence=evidence).approve("bob", "c", evidence=evidence).step()
    assert (world.state, world.gate.version.adapter, rejected(world)) == ("Testing", "adapter-c", set())
    world.test("Failed").step()
    assert (world.state, world.last) == (None, "NotProven"), "it has had its turn again"


def test_what_was_replaced_before_it_was_rejected_begins_when_a_newer_quorum_wants_it(world):
    world.serves("a").adapter("a").activated().observe(7200, clusters=30).step()
    world.reject("bob", "a").step()
    assert (world.gate, rejected(world)) == (None, {"a"})
    world.later(hours=1).approve("alice", "a", evidence=digest("e")).approve("bob", "a", evidence=digest("e")).step()
    assert (world.state, world.gate.version.adapter) == ("Testing", "adapter-a")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda w, e: w.approve("alice", "c", evidence=e), id="one of two"),
        pytest.param(lambda w, e: w.approve("alice", "c", evidence=e).approve("mallory", "c", evidence=e), id="one who may not"),
        pytest.param(lambda w, e: w.approve("alice", "c", evidence=digest("0")).approve("bob", "c", evidence=e), id="other evidence"),
        pytest.param(lambda w, e: w.approve("alice", "c", evidence=e).approve("bob", "c", evidence=e).later(days=2), id="expired"),
        pytest.param(
            lambda w, e: w.approve("alice", "c", evidence=e).approve("bob", "c", evidence=e).reject("alice", "c"),
            id="one changed their mind",
        ),
    ],
)
def test_what_lifts_no_rejection(world, said):
    evidence = rolled_back(world)
    said(world.later(hours=1), evidence)
    world.step()
    assert (world.gate, rejected(world)) == (None, {"c"})


def test_approvals_from_before_a_rollback_lift_nothing_although_the_clock_jumped_back(make):
    world = make(approval={"required": 1}).activated("c")
    world.later(minutes=10).approve("bob")
    world.now -= world.now - world.now.replace(hour=11)
    world.trip().step()
    world.trips.clear()
    world.later(hours=5).step()
    assert (world.gate, rejected(world)) == (None, {"c"})


def test_where_nobody_is_asked_nothing_lifts_a_rollback_by_itself(make):
    world = make(approval={"required": 0}).awaiting("c")
    evidence = world.gate.evidence_digest
    world.trip().step()
    world.trips.clear()
    world.later(days=3).step()
    assert (world.gate, rejected(world)) == (None, {"c"})
    world.approve("alice", "c", evidence=evidence).step()
    assert world.state == "Testing"


def test_the_old_no_of_who_was_outvoted_does_not_come_back_after_the_lift(world):
    world.testing("c").reject("bob").step()
    assert rejected(world) == {"c"}
    world.later(hours=1).approve("alice", "c", evidence=digest("0"))
    world.policy(approval={"users": ["alice", "bob", "dora"]}).approve("dora", "c", evidence=digest("0")).step()
    assert (world.state, rejected(world)) == ("Testing", set())
    world.later(hours=1).reject("bob", "c").step()
    assert (world.gate, rejected(world)) == (None, {"c"}), "a new no counts"


def test_a_rejected_adapter_that_is_made_anew_does_not_begin(world):
    rolled_back(world)
    world.remove("c").adapter("c").step()
    assert world.gate is None


def crowd(world, count):
    known = [Rejected(digest=f"sha256:{n:064x}", at="2026-02-01T00:00:00Z", author="graft") for n in range(count)]
    world.entry = world.entry.model_copy(update={"rejected": known})
    return world


def test_what_nobody_can_choose_any_more_is_forgotten_first(world):
    crowd(world, 64).adapter("d").later(hours=1)
    kept = world.entry.rejected[0].model_copy(update={"digest": digest("d")})
    world.entry = world.entry.model_copy(update={"rejected": [kept, *world.entry.rejected[1:]]})
    world.activated("c").trip().step()
    assert len(world.entry.rejected) == 64
    assert {digest("c"), digest("d")} <= {known.digest for known in world.entry.rejected}
    assert f"sha256:{1:064x}" not in {known.digest for known in world.entry.rejected}, "the oldest of the others"


def test_no_candidate_begins_while_there_is_no_room_to_reject_it(world):
    crowd(world, 63)
    for n, known in enumerate(world.entry.rejected):
        world.adapter("e")
        made = world.candidates.pop("adapter-e")
        changed = made.version.model_copy(update={"digest": known.digest, "adapter": f"old-{n}"})
        world.candidates[f"old-{n}"] = type(made)(**{**vars(made), "name": f"old-{n}", "version": changed})
    world.adapter("c").step()
    assert world.gate is None
    assert "room for 64 rejected digests" in machine.words_of(world.seen(), world.entry)
    del world.candidates["old-0"]
    world.step()
    assert world.gate is not None
