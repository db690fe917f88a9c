"""What people are told that a domain's promotion waits for."""

import pytest

from graft_operator.promotion import machine

RAMP = [{"share": "0.1", "duration": "1h"}, {"share": "0.5", "duration": "2h"}]

TOLD = [
    pytest.param(lambda w: w.ask(policy=None), "", id="nothing promotes"),
    pytest.param(lambda w: w, "waits for an Adapter with spec.promote", id="no candidate"),
    pytest.param(lambda w: w.ask(pin={"base": True}), "spec.domains[].pin says what serves", id="pinned"),
    pytest.param(lambda w: w.ask(paused=True).adapter("c"), "paused: no candidate begins", id="paused"),
    pytest.param(
        lambda w: w.adapter("c", loaded=False), "Adapter adapter-c begins once it is loaded on every ready replica", id="not loaded"
    ),
    pytest.param(lambda w: w.adapter("c"), "Adapter adapter-c waits for its ShadowTest adapter-c-", id="the test is not made"),
    pytest.param(lambda w: w.testing(), "is Running", id="it is tested"),
    pytest.param(lambda w: w.awaiting(), "awaits approval: 0 of 2 approvals; users alice, bob may; evidence sha256:", id="nobody yet"),
    pytest.param(lambda w: w.awaiting().approve("bob"), "1 of 2 approvals (bob)", id="one of two"),
    pytest.param(lambda w: w.awaiting().ask(paused=True).approve("alice").approve("bob"), "once spec.domains[].paused is false", id="held"),
    pytest.param(
        lambda w: w.awaiting().change("c", loaded=False).approve("alice").approve("bob"),
        "has 2 of 2 approvals (alice, bob), and is activated once it is loaded",
        id="approved and not loaded",
    ),
    pytest.param(lambda w: setattr(w.awaiting(), "words_count", False) or w, "nobody's word counts", id="policies are missing"),
    pytest.param(
        lambda w: w.policy(ramp=RAMP).activated().observe(1800), "step 1 of 2, 10 % of conversations, 0.5 of 1 hours", id="it ramps"
    ),
    pytest.param(lambda w: w.policy(ramp=RAMP).activated().ask(paused=True), "paused: it stays at this step", id="it ramps and is paused"),
    pytest.param(
        lambda w: w.activated().observe(1800, 7), "0.5 of 2 hours observed; server-errors: 7 new and 7 held-back", id="it is watched"
    ),
    pytest.param(lambda w: w.unconfirmed(), "a human confirms it (0 of 2 new approvals since 2026-", id="unconfirmed"),
]


@pytest.mark.parametrize(("prepare", "said"), TOLD)
def test_the_sentence_has_names_and_numbers(world, prepare, said):
    prepare(world)
    world.step()
    told = machine.words_of(world.seen(), world.entry, world.now)
    assert said in told
    assert bool(told) is bool(said)
    assert len(told) <= 512


def test_without_a_time_no_approval_is_shown_as_expired(world):
    world.awaiting().approve("alice").later(days=9).step()
    assert "1 of 2 approvals (alice)" in machine.words_of(world.seen(), world.entry)
    assert "0 of 2 approvals" in machine.words_of(world.seen(), world.entry, world.now)


def test_a_crowd_of_approvers_is_counted(make):
    world = make(approval={"users": [f"user-{n}" for n in range(60)]}).awaiting()
    told = machine.words_of(world.seen(), world.entry, world.now)
    assert "users user-0, user-1, user-2, user-3, user-4 and 55 more may" in told


def test_the_readings_of_a_watch_are_shown_as_they_are_at_this_moment(world):
    assert machine.readings(world.seen(), world.entry) == []
    world.activated().observe(10, clusters=5).step()
    world.observe(10, clusters=5)
    (reading,) = machine.readings(world.seen(), world.entry)
    assert (reading.name, reading.clusters_new, reading.clusters_held_back) == ("server-errors", 10, 10)
