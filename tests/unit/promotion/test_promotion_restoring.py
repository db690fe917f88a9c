"""
Adapters that are made anew: by a restore, which goes on with what the ledger knows, or by somebody who wants another turn.

Whose deletion was seen is another one; what has vanished unseen is the same when it is there again.
"""

from dataclasses import replace

import pytest

from graft_operator.promotion import machine, turns
from graft_operator.promotion.naming import fingerprint

DRIFT = {"principles": "principles", "embeddings": {"url": "http://embeddings:8000/v1", "model": "small"}, "attempts": 3}
RAMP = [{"share": "0.2", "duration": "30m"}]


def states(make):
    """Return a world for each state of a gate, by its name."""
    return {
        "Testing": make().testing(),
        "AwaitingApproval": make().awaiting(),
        "Checking": make(drift=DRIFT).checking(),
        "Ramping": make(ramp=RAMP).activated(),
        "Watching": make().activated(),
        "Unconfirmed": make().unconfirmed(),
    }


STATES = ["Testing", "AwaitingApproval", "Checking", "Ramping", "Watching", "Unconfirmed"]
GOES_ON = {"Checking": "AwaitingApproval"}
"""Its quorum is gone with the approvals, which no backup has: it is said again."""


@pytest.mark.parametrize("looked", [True, False], ids=["the operator looks in between", "nobody looks in between"])
@pytest.mark.parametrize("state", STATES)
def test_a_restored_adapter_goes_on_where_it_was(make, state, looked):
    world = states(make)[state]
    before = world.gate
    assert world.state == state
    world.lost("c")
    if looked:
        world.step()
        world.later(minutes=59).step()
    world.restored("c").step()
    after = world.gate
    assert world.state == GOES_ON.get(state, state)
    kept = ("number", "version", "adapter_uid", "policy", "began", "test", "evidence_digest", "verdict", "watch", "step", "switch")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert state in GOES_ON or after.since == before.since, "no deadline moves"
    assert (after.missing, world.entry.ended) == (None, [])


def test_one_that_was_tested_is_made_its_test_anew_under_its_name_and_for_its_new_object(world):
    name = world.testing().gate.test
    world.lost("c").step()
    assert machine.test_wanted(world.seen(), world.entry) is None, "no test without its Adapter"
    world.restored("c").step()
    assert machine.test_wanted(world.seen(), world.entry).test == name
    assert world.seen().own(world.gate).uid != world.gate.adapter_uid
    world.test("Passed").step()
    assert world.state == "AwaitingApproval"


def test_what_was_proven_is_approved_again_by_the_same_evidence_and_not_tested_again(world):
    world.awaiting().ask(paused=True).approve("alice").approve("bob").step()
    evidence = world.gate.evidence_digest
    assert len(world.gate.approvals) == 2
    world.lost("c").restored("c").step()
    assert (world.state, world.gate.approvals, world.gate.evidence_digest) == ("AwaitingApproval", [], evidence)
    world.ask(paused=None).approve("alice").approve("bob").step()
    assert (world.state, world.active()) == ("Watching", "c")


def test_what_was_checked_is_checked_in_the_next_attempt(make):
    world = make(drift=DRIFT).checking()
    world.job().step()
    world.lost("c").restored("c").step()
    assert (world.state, world.gate.drift.before.failed) == ("AwaitingApproval", 1)
    world.approve("alice").approve("bob").later(minutes=2).step()
    assert world.state == "Checking"
    world.measured()
    assert world.state == "Watching"


@pytest.mark.parametrize("looks", [7000, 7200])
def test_what_was_observed_is_neither_lost_nor_doubled(world, looks):
    world.activated().observe(4000, clusters=15).step()
    world.lost("c").later(minutes=3).step()
    world.restored("c").step()
    world.observe(looks - 4000, clusters=15).step()
    assert (world.state, world.last) == ((None, "Confirmed") if looks == 7200 else ("Watching", None))
    if world.gate:
        assert world.gate.watch.count().observed_seconds == looks


def test_a_collector_that_went_on_counts_the_same_watch(world):
    """Only the Adapters were restored: the task of the watch is the same, word for word."""
    world.activated().observe(4000, clusters=15).step()
    world.remove("c").restored("c").step()
    world.observe(3200, clusters=15).step()
    assert world.last == "Confirmed"


@pytest.mark.parametrize("harm", ["trip", "reject", "breach"])
def test_a_restored_version_can_be_taken_out(world, harm):
    world.serves("a").adapter("a").activated().lost("a", "c").restored("a", "c").later(minutes=1).step()
    if harm == "breach":
        world.observe(60, clusters=30, errors=30)
    else:
        world.trip("c") if harm == "trip" else world.reject("alice", "c")
    world.step()
    assert (world.state, world.active(), world.last) == (None, "a", "RolledBack")


def test_an_unconfirmed_one_is_confirmed_by_words_that_came_after_its_watch_ended(world):
    world.unconfirmed().lost("c").later(minutes=1).restored("c").step()
    world.approve("alice").approve("bob").later(minutes=1).step()
    assert world.last == "Confirmed"


BACK = [
    pytest.param(lambda w: None, "Deleted", id="an hour is over"),
    pytest.param(lambda w: w.restored("c"), None, id="restored at the last moment"),
    pytest.param(lambda w: w.restored("c", deleting=True), "Deleted", id="it is there, and is being deleted"),
    pytest.param(lambda w: w.restored("c", uid="uid-c-1"), None, id="it was there all the time"),
    pytest.param(lambda w: w.policy(watch={"window": "3h"}), "PolicyChanged", id="the policy was changed"),
    pytest.param(lambda w: w.ask(pin={"base": True}), "Overridden", id="a pin"),
]


@pytest.mark.parametrize("state", ["testing", "awaiting"])
@pytest.mark.parametrize(("happens", "ended"), BACK)
def test_how_long_a_candidate_waits_for_its_adapter(world, state, happens, ended):
    getattr(world, state)().remove("c").step()
    since = world.gate.missing
    world.later(minutes=59).step()
    assert world.gate.missing == since, "it is noted once"
    assert f"is not there since {since}" in machine.words_of(world.seen(), world.entry)
    happens(world)
    if ended == "Deleted":
        world.later(minutes=1)
    world.step()
    assert world.last == ended
    assert ended is not None or world.gate.missing is None


def test_while_it_is_not_there_it_is_approved_but_not_activated(world):
    world.awaiting().remove("c").step()
    world.approve("alice").approve("bob").step()
    assert (world.state, len(world.gate.approvals)) == ("AwaitingApproval", 2)
    world.restored("c").step()
    assert world.state == "Watching"


@pytest.mark.parametrize("anew", ["lost", "recreated"])
@pytest.mark.parametrize("outcome", ["Failed", "Rejected", "RolledBack", "Confirmed", "Overridden"])
def test_who_had_its_turn_has_none_after_a_restore_and_another_one_if_it_was_deleted(world, outcome, anew):
    if outcome == "Failed":
        world.testing().test("Failed").step()
    elif outcome == "Rejected":
        world.awaiting().reject("alice").step()
    else:
        world.activated()
        {
            "RolledBack": lambda: world.trip("c"),
            "Confirmed": lambda: world.observe(7200, clusters=30),
            "Overridden": lambda: world.serves("b"),
        }[outcome]()
        world.step()
    world.serves("b").adapter("b")
    world.trips.clear()
    world.lost("c").restored("c").step() if anew == "lost" else world.recreated("c").step()
    begins = anew == "recreated" and outcome not in {"Rejected", "RolledBack"}
    assert (world.state == "Testing") is begins
    if anew == "lost":
        own = world.candidates["adapter-c"]
        assert world.entry.ends_of(own.name, own.version.digest, own.uid), "its own status knows how it ended"


def test_a_second_turn_that_ended_is_restored_too(world):
    world.testing().test("Failed").step()
    world.recreated("c").step()
    world.test().step()
    world.test("Failed").step()
    world.lost("c").restored("c").step()
    assert (world.gate, [told.number for told in world.entry.ended], world.entry.gone) == (None, [1, 2], [1])


def test_a_restore_does_not_make_others_newer_than_a_candidate(make):
    """All that is restored is as old as the restore: the younger of two by seconds came first once."""
    world = make(onNewer="Supersede").adapter("b", loaded=False).later(hours=1).awaiting("c")
    world.lost("b", "c").restored("c").later(seconds=2).restored("b").step()
    assert (world.state, world.gate.version.adapter) == ("AwaitingApproval", "adapter-c")
    world.later(hours=1).adapter("d").step()
    assert world.gate.version.adapter == "adapter-d"


def test_a_restore_does_not_pass_over_who_waits(make):
    """Those that are restored are made in the order of their names: who waits seems to be the older one."""
    world = make(onNewer="Supersede").adapter("b", loaded=False).awaiting("c")
    world.lost("b", "c").restored("b").later(seconds=2).restored("c").change("b", loaded=True).step()
    assert (world.state, world.gate.version.adapter) == ("AwaitingApproval", "adapter-c")
    assert not [told for told in world.entry.ended if told.adapter == "adapter-b"]


# who has had a turn, beyond what is remembered of it


def test_what_is_replaced_bars_nobody_who_never_had_a_turn(world):
    world.adapter("b", loaded=False).later(hours=1).adapter("a", promote=True).serves("a").later(hours=1)
    world.activated("c").observe(7200, clusters=30).step()
    assert world.last == "Confirmed"
    assert world.state is None, "what was replaced is not the next to be tested against its successor"
    world.change("b", loaded=True).step()
    assert world.gate.version.adapter == "adapter-b"


@pytest.mark.parametrize(("anew", "begins"), [("lost", False), ("recreated", True)])
def test_what_was_replaced_is_known_again(world, anew, begins):
    world.serves("a").adapter("a").activated("c").observe(7200, clusters=30).step()
    world.lost("a").restored("a").step() if anew == "lost" else world.recreated("a").step()
    assert (world.state == "Testing") is begins


def many(world, count):
    """Let so many adapters be there, each a minute older than the next."""
    for n in range(count):
        world.adapter("c").later(minutes=1)
        made = world.candidates.pop("adapter-c")
        body = made.version.model_copy(update={"adapter": f"adapter-{n}", "digest": f"sha256:{n:064x}"})
        world.candidates[body.adapter] = replace(made, name=body.adapter, uid=f"uid-{n}", version=body)
    return world


def all_fail(world):
    """Let one after the other have its turn; who had one."""
    had = []
    for _ in range(4 * len(world.candidates)):
        world.later(minutes=1).step()
        if world.gate is None:
            return had
        had.append(world.gate.version.adapter)
        world.test("Failed").step()
    raise AssertionError("for ever")


def test_what_is_forgotten_bars_nobody_who_never_had_a_turn(world):
    many(world, 40)
    late = world.candidates["adapter-0"] = replace(world.candidates["adapter-0"], loaded=False)
    assert all_fail(world) == [f"adapter-{n}" for n in range(1, 40)]
    assert (len(world.entry.ended), len(world.entry.spent), world.entry.settled) == (32, 7, None)
    world.candidates[late.name] = replace(late, loaded=True)
    assert all_fail(world) == ["adapter-0"], "however old it is"


def test_beyond_that_who_is_older_counts_as_having_had_its_turn_and_it_is_said(world, monkeypatch):
    monkeypatch.setattr(turns, "MOST_ENDED", 3)
    monkeypatch.setattr(turns, "MOST_SPENT", 2)
    many(world, 9)
    late = world.candidates["adapter-0"] = replace(world.candidates["adapter-0"], loaded=False)
    assert all_fail(world) == [f"adapter-{n}" for n in range(1, 9)]
    assert world.entry.settled == world.candidates["adapter-3"].created_at
    world.candidates[late.name] = replace(late, loaded=True)
    assert all_fail(world) == []
    words = machine.words_of(world.seen(), world.entry)
    assert "Adapter adapter-0, adapter-1, adapter-2, adapter-3, created by" in words, "of the others it is known"
    assert "deleted and created again has another one" in words
    assert "so it counts as having had one" in turns.had(world.entry, late)
    world.candidates[late.name] = replace(late, loaded=True, created_at=world.created(), uid="uid-anew")
    assert all_fail(world) == ["adapter-0"]


def test_a_restore_gives_nobody_a_turn_again_whose_end_is_forgotten(world, monkeypatch):
    monkeypatch.setattr(turns, "MOST_ENDED", 3)
    all_fail(many(world, 9))
    for name, made in world.candidates.items():
        world.candidates[name] = replace(made, uid=f"{made.uid}-restored", created_at=world.created())
    assert all_fail(world) == []
    made = world.candidates["adapter-0"]
    assert fingerprint(made.name, made.version.digest) in world.entry.spent
    world.candidates[made.name] = replace(made, deleting=True)
    world.step()
    assert fingerprint(made.name, made.version.digest) not in world.entry.spent
    world.candidates[made.name] = replace(made, uid="uid-anew")
    assert all_fail(world) == ["adapter-0"]


def test_what_the_ledger_would_take_for_a_restored_one_is_not_let_go_before_its_deletion_is_noted(world):
    made = world.awaiting().candidates["adapter-c"]
    assert turns.knows(world.entry, made.name, made.version.digest)
    world.test("Failed").change("c", deleting=True).step()
    assert not turns.knows(world.entry, made.name, made.version.digest)
    assert world.entry.gone == [1]
