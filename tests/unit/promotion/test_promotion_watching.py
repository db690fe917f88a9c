"""A candidate that serves: ramp, watch, and how it ends."""

from datetime import timedelta

import pytest

from graft_api.schema import seconds_of
from graft_operator.promotion import machine, watching

RAMP = [{"share": "0.1", "duration": "1h"}, {"share": "0.5", "duration": "2h"}]


def digest(letter):
    return "sha256:" + letter * 64


def test_a_ramp_goes_on_by_observed_time_alone(make):
    world = make(ramp=RAMP).activated()
    world.later(hours=3).step()
    assert (world.state, world.gate.step) == ("Ramping", 0), "nobody looked"
    world.observe(3599).step()
    assert world.gate.step == 0
    world.observe(1).step()
    assert (world.state, world.gate.step) == ("Ramping", 1)
    world.observe(7200).step()
    assert (world.state, world.gate.step) == ("Watching", 2)


def test_after_a_pause_a_ramp_goes_on_step_by_step(make):
    world = make(ramp=RAMP).activated().ask(paused=True)
    world.observe(4 * 3600).step()
    assert world.gate.step == 0
    world.ask(paused=None).step()
    assert world.gate.step == 1, "the hours of the pause are not the next step's"
    world.observe(7199).step()
    assert world.gate.step == 1


def test_the_window_is_counted_from_when_all_conversations_are_on_it(make):
    world = make(ramp=[{"share": "0.5", "duration": "1h"}]).activated()
    world.observe(7200, clusters=50).step()
    assert world.state == "Watching"
    world.observe(7199, clusters=50).step()
    assert world.state == "Watching"
    world.observe(1).step()
    assert world.last == "Confirmed"


@pytest.mark.parametrize(
    ("observed", "clusters", "later", "state"),
    [
        pytest.param(7199, 100, {}, "Watching", id="a second too little was observed"),
        pytest.param(7200, 19, {}, "Watching", id="a conversation too few"),
        pytest.param(7200, 20, {}, None, id="enough of both"),
        pytest.param(0, 0, {"hours": 5.9}, "Watching", id="nobody looked, and there is time left"),
        pytest.param(0, 0, {"hours": 6.1}, "Unconfirmed", id="nobody looked until the time was over"),
        pytest.param(7199, 100, {"hours": 6.1}, "Unconfirmed", id="too little was observed until the time was over"),
        pytest.param(7200, 20, {"days": 30}, None, id="enough, and the operator was away past the deadline"),
    ],
)
def test_when_a_watch_ends(world, observed, clusters, later, state):
    world.activated().observe(observed, clusters).later(**later).step()
    assert world.state == state
    assert (world.last == "Confirmed") is (state is None)


def test_every_metric_needs_its_conversations(make):
    world = make(watch={"metrics": [{"name": "score", "kind": "Mean"}]}).activated()
    world.observe(7200, clusters=20)
    told = world.counts[world.task]
    world.counts[world.task] = told.model_copy(update={"metrics": [sums for sums in told.metrics if sums.name != "score"]})
    world.step()
    assert world.state == "Watching"
    assert "score: 0 new and 0 held-back conversations of 20" in machine.words_of(world.seen(), world.entry, world.now)


def test_what_collectors_before_have_seen_is_added_up_and_a_late_word_of_theirs_is_not(world):
    world.activated().observe(3000, clusters=15).step()
    first = world.seen().watched
    world.restart_collector().observe(3000, clusters=3).step()
    second = world.gate.watch
    assert second.count().observed_seconds == 6000
    assert watching.heard(replace_watched(world, first), world.entry, world.gate) == world.gate
    world.restart_collector().observe(1200, clusters=2)
    assert world.gate.watch.count().metrics[0].new.clusters == 18
    world.step()
    assert world.last == "Confirmed"


def replace_watched(world, watched):
    known = world.seen()
    return type(known)(**{**vars(known), "watched": watched})


def test_a_report_that_is_older_than_the_last_one_takes_nothing_back(world):
    world.activated().observe(3000).step()
    kept = world.gate.watch
    world.counts[world.task] = world.counts[world.task].model_copy(update={"observed_seconds": 100.0})
    world.step()
    assert world.gate.watch == kept


@pytest.mark.parametrize(
    ("stale", "counted"),
    [
        pytest.param({}, True, id="this watch"),
        pytest.param({"gate": 7}, False, id="another gate"),
        pytest.param({"domain": "other"}, False, id="another domain"),
        pytest.param({"adapter_uid": "of-another-adapter"}, False, id="a restored ledger gave the number to another adapter"),
        pytest.param({"new": "dsl-another"}, False, id="another new version"),
        pytest.param({"held_back": "dsl-former"}, False, id="held back is another"),
        pytest.param({"adapter_uid": None, "new": None, "held_back": None}, True, id="a collector that does not say it yet"),
    ],
)
def test_what_is_said_of_another_watch_is_not_counted(world, stale, counted):
    world.activated().observe(3000)
    said = world.seen().watched
    told = replace_watched(world, type(said)(said.boot, said.told.model_copy(update=stale)))
    assert (watching.heard(told, world.entry, world.gate) != world.gate) == counted


def test_after_a_restore_counts_of_another_pair_under_the_same_number_neither_confirm_nor_harm(make, monkeypatch):
    restored = make().activated("d")
    for errors in (0, 100):
        world = make().activated("c").observe(7300, clusters=100, errors=errors)
        stale = world.seen().watched
        assert (stale.told.gate, stale.told.adapter_uid) == (restored.gate.number, world.gate.adapter_uid)
        monkeypatch.setattr(restored, "watched", lambda stale=stale: stale)
        before = restored.entry
        assert restored.step() == before
        assert world.step().gate is None, "of its own watch the same counts decide"


def test_counts_alone_are_written_once_a_minute(world):
    world.activated().observe(1, clusters=1).step()
    assert world.gate.watch.count().observed_seconds == 1, "a new collector is written down at once"
    writes = 0
    for _ in range(600):
        before = world.entry
        world.observe(1, clusters=1).step()
        writes += world.entry != before
    assert writes == 10


def test_what_is_not_written_down_yet_decides_for_all_that(world):
    world.activated().observe(7190, clusters=100).step()
    world.observe(10).step()
    assert world.last == "Confirmed"


HARM = [
    pytest.param(lambda w: w.observe(100, clusters=50, errors=50), "server-errors: 1 against 0, bound -0.01", id="a metric is worse"),
    pytest.param(lambda w: w.trip(), "errors of 0.4 of 50 requests, bound 0.1, 0 on what was held back", id="a gateway took it out"),
    pytest.param(lambda w: w.trip(held_back=None), "errors of 0.4 of 50 requests, bound 0.1", id="a gateway, with too few held back"),
    pytest.param(lambda w: w.reject("alice", "c", reason="smells"), "AdapterApproval word-", id="somebody who may rejects it"),
]


def ramping(world):
    return world.policy(ramp=RAMP).serves("a").activated()


STATES = [
    pytest.param(ramping, id="Ramping"),
    pytest.param(lambda w: w.serves("a").activated(), id="Watching"),
    pytest.param(lambda w: w.serves("a").unconfirmed(), id="Unconfirmed"),
]


@pytest.mark.parametrize("paused", [False, True], ids=["", "paused"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("harm", "said"), HARM)
def test_what_takes_it_out_again(world, state, harm, said, paused):
    state(world)
    world.ask(paused=paused or None)
    harm(world)
    world.step()
    assert (world.state, world.active(), world.entry.previous, world.last) == (None, "a", None, "RolledBack")
    ended, switch, (rejected,) = world.entry.ended[-1], world.entry.history[-1], world.entry.rejected
    assert said in ended.message
    assert (switch.reason, switch.before, switch.after) == ("RolledBack", "adapter-c", "adapter-a")
    assert rejected.digest == digest("c")
    assert rejected.author == ("alice" if "AdapterApproval" in said else "graft")
    assert [approval.author for approval in ended.approvals] == ["alice", "bob"]
    world.ask(paused=None).trips.clear()
    world.later(days=9).step()
    assert (world.gate, world.active()) == (None, "a"), "it never comes back by itself"


@pytest.mark.parametrize(
    "harmless",
    [
        pytest.param(lambda w: w.trip(held_back=0.2), id="the held-back conversations are beyond the limit, too"),
        pytest.param(lambda w: w.trip("a"), id="a gateway took out another version"),
        pytest.param(lambda w: w.reject("mallory", "c"), id="somebody rejects it who may not"),
        pytest.param(lambda w: w.observe(100, clusters=50, errors=10), id="it is a little worse"),
        pytest.param(lambda w: w.policy(watch={"window": "1h"}), id="the policy changes: it is watched by the one that let it in"),
        pytest.param(lambda w: w.ask(policy=None), id="the policy goes"),
        pytest.param(lambda w: w.remove("c"), id="its object is not there, as in a restore"),
        pytest.param(lambda w: w.ask(pin={"adapter": "adapter-c"}), id="a pin to it"),
        pytest.param(lambda w: w.ask(pin={"adapter": "adapter-x"}), id="a pin that cannot be followed"),
        pytest.param(lambda w: w.withdraw("alice"), id="an approval is withdrawn afterwards"),
        pytest.param(lambda w: w.change("c", loaded=False), id="a new replica has not loaded it yet"),
    ],
)
def test_what_does_not(world, harmless):
    world.serves("a").activated()
    harmless(world)
    world.step()
    assert (world.state, world.active(), world.entry.previous.adapter) == ("Watching", "c", "adapter-a")


def test_what_serves_is_rejected_also_where_words_do_not_count(world):
    world.activated().reject("alice", "c").words_count = False
    world.step()
    assert world.last == "RolledBack"


def test_where_words_do_not_count_neither_a_stranger_nor_an_approval_nor_the_past_takes_it_out(world):
    world.serves("a").activated().words_count = False
    world.reject("mallory", "c").approve("alice", "a").step()
    assert (world.state, world.active()) == ("Watching", "c")


@pytest.mark.parametrize(
    ("changes", "confirmed"),
    [
        pytest.param({}, True, id="as it was"),
        pytest.param({"users": ["alice", "bob", "carol"]}, True, id="somebody has come"),
        pytest.param({"users": ["alice", "carol"]}, False, id="bob has left"),
        pytest.param({"users": ["alice"], "groups": ["leads"]}, False, id="bob is not in the group"),
        pytest.param({"users": ["alice", "carol"], "required": 1}, False, id="and fewer are asked for the next one"),
    ],
)
def test_what_is_unconfirmed_is_confirmed_by_those_who_may_still_approve(world, changes, confirmed):
    world.unconfirmed().policy(approval=changes).later(minutes=1).approve("alice").approve("bob").step()
    assert (world.state is None and world.last == "Confirmed") == confirmed


def test_a_rejection_of_somebody_who_has_left_takes_out_what_they_were_asked_about(world):
    world.activated().policy(approval={"users": ["alice", "carol"]}).later(minutes=1).reject("bob").step()
    assert world.last == "RolledBack"


LEADS_BACK = [
    pytest.param(lambda w: w.observe(60, clusters=100, errors=90), id="a breach"),
    pytest.param(lambda w: w.trip(), id="a trip"),
    pytest.param(lambda w: w.reject("alice", "c"), id="rejected"),
]
LEADS_NOWHERE = [
    pytest.param(lambda w: w, id="nothing"),
    pytest.param(lambda w: w.observe(8000, clusters=100), id="it could be confirmed"),
    pytest.param(lambda w: w.later(hours=9), id="its time is over"),
    pytest.param(lambda w: w.trip(held_back=0.5), id="what was held back is as bad"),
    pytest.param(lambda w: w.adapter("d") and w, id="another one waits"),
    pytest.param(lambda w: w.reject("alice", "d"), id="another one is rejected"),
]


@pytest.mark.parametrize("happens", LEADS_BACK)
def test_while_policies_are_missing_harm_leads_back_to_what_served_before(world, happens):
    before = world.serves("a").activated().entry
    happens(world)
    after = machine.retreat(world.seen(), before, world.now, world.reader)
    assert (after.active.adapter, after.gate, after.ended[-1].reason) == ("adapter-a", None, "RolledBack")
    assert machine.rejected(after, before.active.digest)
    assert machine.retreat(world.seen(), after, world.now, world.reader) == after


@pytest.mark.parametrize("happens", LEADS_NOWHERE)
def test_while_policies_are_missing_nothing_else_happens(world, happens):
    before = world.serves("a").activated().entry
    happens(world)
    assert machine.retreat(world.seen(), before, world.now, world.reader) == before


@pytest.mark.parametrize("where", ["tested", "awaiting"])
def test_while_policies_are_missing_a_candidate_that_does_not_serve_stays_as_it_is(world, where):
    if where == "tested":
        world.adapter("c")
        world.step()
    else:
        world.awaiting()
    before = world.entry
    assert before.gate is not None
    world.reject("alice", "c").approve("bob")
    assert machine.retreat(world.seen(), before, world.now, world.reader) == before


def test_the_first_adapter_goes_back_to_the_base_model(world):
    world.activated().trip().step()
    assert (world.active(), world.last) == (None, "RolledBack")


@pytest.mark.parametrize("state", STATES)
def test_a_switch_by_somebody_else_ends_the_gate(world, state):
    state(world)
    world.serves("b").step()
    assert (world.gate, world.last, world.active()) == (None, "Overridden", "b")
    assert "Pinned" in world.entry.ended[-1].message


@pytest.mark.parametrize("state", STATES)
def test_who_deletes_what_is_watched_gets_what_was_before(world, state):
    state(world)
    world.change("c", deleting=True).step()
    assert (world.gate, world.last, world.active()) == (None, "Deleted", "a")
    assert world.entry.history[-1].reason == "Deleted"
    assert world.entry.rejected == []


def test_what_was_taken_out_for_a_deletion_elsewhere_ended_by_it(world):
    world.serves("a").activated().serves("a").change("c", deleting=True)
    world.step()
    assert world.last == "Deleted"


def test_unconfirmed_is_confirmed_by_a_newer_quorum(world):
    world.unconfirmed()
    world.later(days=1).step()
    assert world.state == "Unconfirmed", "the approvals of the activation say nothing of the watch"
    world.approve("alice").later(minutes=1).step()
    assert world.state == "Unconfirmed"
    assert "1 of 2 new approvals (alice)" in machine.words_of(world.seen(), world.entry, world.now)
    world.approve("bob").step()
    assert (world.gate, world.active(), world.entry.previous, world.last) == (None, "c", None, "Confirmed")
    assert "by alice, bob (2 of 2 needed)" in world.entry.ended[-1].message
    world.later(days=9).step()
    assert world.active() == "c"


def test_an_approval_from_before_the_end_of_the_watch_does_not_confirm_it_whatever_the_clock_says(make):
    world = make(approval={"required": 1}).activated()
    world.later(hours=6.5).approve("bob")
    world.now -= timedelta(minutes=20)
    world.step()
    assert world.state == "Unconfirmed"
    world.step()
    assert world.state == "Unconfirmed", "bob's word was known when the watch ended"
    world.later(minutes=30).approve("bob").step()
    assert world.last == "Confirmed"


def test_unconfirmed_is_settled_by_a_pin_to_it(world):
    world.unconfirmed().ask(pin={"adapter": "adapter-c"}).step()
    assert (world.gate, world.active(), world.entry.previous, world.last) == (None, "c", None, "Overridden")


def test_where_nobody_is_asked_nobody_confirms_by_silence(make):
    world = make(approval={"required": 0, "users": []}).awaiting()
    world.later(hours=7).step()
    world.later(days=9).step()
    assert world.state == "Unconfirmed"
    assert "pin it" in machine.words_of(world.seen(), world.entry, world.now)


@pytest.mark.parametrize("minutes", [-30, -5, 5, 30])
def test_a_clock_that_jumps_confirms_nothing_and_loses_no_deadline(world, minutes):
    world.activated()
    world.observe(3600, clusters=100).step()
    world.now += timedelta(minutes=minutes)
    world.step()
    assert world.state == "Watching"
    world.now -= timedelta(minutes=minutes)
    world.later(hours=3, minutes=59).step()
    assert world.state == "Watching"
    assert "at the latest" in machine.words_of(world.seen(), world.entry, world.now)
    world.later(hours=1, minutes=2).step()
    assert world.state == "Unconfirmed"


def test_the_deadline_leaves_room_for_the_ramp(make):
    world = make(ramp=RAMP).activated()
    began = watching.deadline(world.gate)
    assert (began - world.now).total_seconds() == pytest.approx(3 * 3600 + seconds_of("6h"), abs=10)
    world.later(hours=8.9).step()
    assert world.state == "Ramping"
    world.later(hours=0.2).step()
    assert world.state == "Unconfirmed", "a ramp that nobody observes ends, too"
