"""What is noted of each transition: who, what, by which evidence, and how long it took."""

from functools import partial

import pytest

from graft_operator.promotion import machine, transitions


def step(world):
    """Decide as the operator does; what was noted since, as (before, after, who)."""
    known = world.entry.transitions
    note = partial(transitions.noted, now=world.now, names={one.version.digest: one.name for one in world.candidates.values()})
    world.entry = machine.advance(world.seen(), world.entry, world.now, world.reader, note=note)
    assert machine.advance(world.seen(), world.entry, world.now, world.reader, note=note) == world.entry, "the same again notes nothing"
    return [one for one in world.entry.transitions if one not in known]


def told(noted):
    return [(one.before, one.after, one.who) for one in noted]


def test_each_step_of_a_pass_is_noted_in_its_order(world):
    world.serves("a").adapter("c")
    (began,) = step(world)
    assert (began.before, began.after, began.adapter, began.seconds) == ("None", "Testing", "adapter-c", None)
    world.test()
    step(world)
    world.later(hours=1).test("Passed")
    (passed,) = step(world)
    assert (passed.before, passed.after, passed.seconds, passed.evidence) == (
        "Testing",
        "AwaitingApproval",
        3600,
        world.gate.evidence_digest,
    )
    assert "1.2 % against a bound of 1 %" in passed.message
    world.later(minutes=5).approve("alice").later(minutes=5).approve("bob")
    switch, activated = step(world)
    assert (switch.before, switch.after, switch.adapter, switch.who) == ("Promoted", "Switched", "adapter-c", ["alice", "bob"])
    assert (activated.before, activated.after, activated.who, activated.seconds) == ("AwaitingApproval", "Watching", ["alice", "bob"], 600)
    assert [one.ordinal for one in world.entry.transitions] == [1, 2, 3, 4]


def test_what_passes_and_is_approved_in_one_pass_leaves_no_state_out(world):
    world.serves("a").testing("c")
    evidence = world.evidence()
    world.approve("alice", evidence=evidence).approve("bob", evidence=evidence).test("Passed")
    assert told(step(world)) == [
        ("Testing", "AwaitingApproval", []),
        ("Promoted", "Switched", ["alice", "bob"]),
        ("AwaitingApproval", "Watching", ["alice", "bob"]),
    ]


def test_what_its_watch_confirms_is_confirmed_by_graft(world):
    world.serves("a").activated("c").observe(7200, clusters=20)
    assert told(step(world)) == [("Watching", "Confirmed", [])]


def test_what_people_confirm_names_them(world):
    world.serves("a").activated("c").later(hours=7)
    assert told(step(world)) == [("Watching", "Unconfirmed", [])]
    world.later(minutes=1).approve("bob").later(minutes=1).approve("alice")
    assert told(step(world)) == [("Unconfirmed", "Confirmed", ["bob", "alice"])]


def test_a_rollback_by_what_was_seen_is_grafts(world):
    world.serves("a").activated("c").trip()
    switch, ended = step(world)
    assert told([switch, ended]) == [("RolledBack", "Switched", []), ("Watching", "RolledBack", [])]
    assert (switch.adapter, ended.adapter, "bound 0.1" in ended.message) == ("adapter-a", "adapter-c", True)


def test_a_rollback_by_hand_is_its_authors(world):
    world.serves("a").activated("c").later(minutes=1).reject("bob", reason="wrong tone")
    noted = step(world)
    assert told(noted) == [("RolledBack", "Switched", ["bob"]), ("Watching", "RolledBack", ["bob"])]
    assert "wrong tone" in noted[-1].message


def test_a_rejection_of_what_is_on_its_way_is_told_by_its_end_alone(world):
    world.serves("a").testing("c").reject("bob")
    assert told(step(world)) == [("Testing", "Rejected", ["bob"])]


def test_where_it_takes_more_than_one_all_are_named(make):
    world = make(approval={"veto": False}).serves("a").testing("c").reject("alice").later(minutes=1)
    assert step(world) == [], "one of two"
    world.reject("bob")
    assert told(step(world)) == [("Testing", "Rejected", ["alice", "bob"])]


def test_a_rejection_of_what_is_on_no_way_is_noted(world):
    """It waits for its turn behind another, or has not been loaded yet."""
    world.serves("a").testing("c").adapter("d").reject("bob", "d", evidence=None, reason="no")
    (noted,) = step(world)
    assert (noted.before, noted.after, noted.adapter, noted.who) == ("None", "Rejected", "adapter-d", ["bob"])
    assert (noted.digest, noted.message) == ("sha256:" + "d" * 64, f"AdapterApproval {next(iter(world.words))}: no")


def test_a_rejection_of_what_serves_and_nobody_knows_as_an_adapter_is_noted(world):
    world.serves("b").reject("bob", "b")
    assert told(step(world)) == [("RolledBack", "Switched", ["bob"]), ("None", "Rejected", ["bob"])]


def test_a_rejection_that_is_lifted_names_the_quorum(world):
    world.serves("a").adapter("c", loaded=False).reject("bob", "c")
    step(world)
    world.withdraw("bob").later(minutes=1).approve("alice", "c").later(minutes=1).approve("bob", "c")
    (noted,) = step(world)
    assert (noted.before, noted.after, noted.adapter, noted.who) == ("Rejected", "RejectionLifted", "adapter-c", ["alice", "bob"])
    assert noted.message == "it was rejected by bob"


def test_a_watch_that_begins_anew_is_no_new_candidate(world):
    world.adapter("a").serves("a").activated("c").later(minutes=1).reject("bob", "a")
    rejected, anew = step(world)
    assert told([rejected, anew]) == [("None", "Rejected", ["bob"]), ("Watching", "Watching", [])]
    assert (anew.seconds, "anew as number 2" in anew.message) == (None, True)


def test_the_list_is_bounded_and_goes_on_counting(world):
    for _ in range(transitions.HISTORY + 3):
        before = world.entry
        world.entry = transitions.noted(before, world.serves("a").entry, world.now, {})
    last = world.entry.transitions
    assert [one.ordinal for one in last] == list(range(4, transitions.HISTORY + 4))


@pytest.mark.parametrize("marked", [0, 3], ids=["none was told", "all were told, and are forgotten"])
def test_ordinals_are_not_used_twice(world, marked):
    world.entry = world.entry.model_copy(update={"told": marked})
    world.adapter("c")
    (began,) = step(world)
    assert (began.ordinal, world.entry.untold()) == (marked + 1, [began])
