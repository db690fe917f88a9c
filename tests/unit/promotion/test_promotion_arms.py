"""What a gate means for the route and for the collector."""

import pytest

from graft_api.dataplane import version_name
from graft_api.measures import Measure
from graft_api.promotion import WatchPolicy
from graft_api.routes import Route
from graft_api.schema import parse
from graft_operator.promotion import arms, naming

RAMP = [{"share": "0.1", "duration": "1h"}, {"share": "0.5", "duration": "1h"}]


def name(letter):
    return version_name("dsl", "sha256:" + letter * 64)


def weights(entry):
    return [(arm.version, arm.weight) for arm in arms.arms("dsl", entry)]


def test_before_the_activation_all_conversations_are_on_what_serves(make):
    world = make().serves("a").awaiting("c")
    assert weights(world.entry) == [(name("a"), 10_000)]
    assert arms.trip_wire("dsl", world.entry) is None
    assert arms.watch_task("dsl", world.entry) is None


def test_a_ramp_goes_up_step_by_step_and_some_conversations_are_held_back_to_the_end(make):
    world = make(ramp=RAMP).serves("a").activated("c")
    assert weights(world.entry) == [(name("c"), 1_000), (name("a"), 9_000)]
    world.observe(3600).step()
    assert weights(world.entry) == [(name("c"), 5_000), (name("a"), 5_000)]
    world.observe(3600).step()
    assert weights(world.entry) == [(name("c"), 9_500), (name("a"), 500)]
    world.observe(7200, clusters=20).step()
    assert weights(world.entry) == [(name("c"), 10_000)]
    assert arms.trip_wire("dsl", world.entry) is None


def test_a_watch_that_ended_in_the_middle_of_a_ramp_leaves_the_shares_as_they_are(make):
    world = make(ramp=RAMP).serves("a").activated("c").later(hours=9)
    world.step()
    assert world.state == "Unconfirmed"
    assert weights(world.entry) == [(name("c"), 1_000), (name("a"), 9_000)]


def test_the_first_adapter_of_a_domain_is_held_against_the_base_model(make):
    world = make(watch={"holdback": "0.2"}).activated("c")
    assert weights(world.entry) == [(name("c"), 8_000), (None, 2_000)]
    wire, task = arms.trip_wire("dsl", world.entry), arms.watch_task("dsl", world.entry)
    assert (wire.version, wire.instead) == (name("c"), None)
    assert (task.new, task.held_back, task.gate, task.idle_seconds) == (name("c"), "base", 1, 1800)


def test_the_smallest_hold_back_still_has_an_arm(make):
    world = make(watch={"holdback": "0.000001"}).activated("c")
    assert weights(world.entry) == [(name("c"), 9_999), (None, 1)]


def test_what_a_gate_does_not_hold_any_more_has_no_hold_back(make):
    world = make().serves("a").activated("c").serves("b")
    assert weights(world.entry) == [(name("b"), 10_000)]
    assert arms.trip_wire("dsl", world.entry) is None


@pytest.mark.parametrize(("in_flight", "expected"), [("Finish", []), ("Abort", [name("c")])])
def test_what_is_under_way_is_ended_only_where_the_policy_says_so(make, in_flight, expected):
    world = make(watch={"inFlight": in_flight}).serves("a").activated("c")
    assert arms.aborted("dsl", world.entry) == []
    world.trip("c").step()
    assert arms.aborted("dsl", world.entry) == expected
    Route(domain="dsl", revision=1, salt="s", arms=arms.arms("dsl", world.entry), aborted=arms.aborted("dsl", world.entry))


def test_no_more_versions_are_ended_than_a_route_names_and_none_that_serves_again(make):
    world = make(watch={"inFlight": "Abort"}, approval={"required": 1})
    for letter in "abcdef":
        world.activated(letter).trip(letter)
        world.step()
    assert arms.aborted("dsl", world.entry) == [name(letter) for letter in "fedc"]
    assert arms.aborted("dsl", world.serves("e").entry) == [name(letter) for letter in "fdcb"]


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        pytest.param([], ["server-errors"], id="server errors are always watched"),
        pytest.param([{"name": "score"}], ["score", "server-errors"], id="beside what is asked"),
        pytest.param([{"name": "mine", "measure": "ServerError", "margin": 0.2}], ["mine"], id="unless they are asked for"),
        pytest.param([{"name": "server-errors"}], ["server-errors", "server-errors-1"], id="under a name of their own"),
    ],
)
def test_what_is_watched(metrics, names):
    watched = arms.watched_metrics(parse(WatchPolicy, {"metrics": metrics}))
    assert [metric.name for metric in watched] == names
    (errors,) = [metric for metric in watched if metric.measure is Measure.SERVER_ERROR]
    assert errors.margin == (0.2 if names == ["mine"] else 0.01)


@pytest.mark.parametrize("adapter", ["a", "dsl-2026-11", "a.b.c", "x" * 253, "a" * 21 + ".b", "a" * 21 + "-b"])
def test_the_name_of_a_test_is_short_and_tells_the_adapter(adapter):
    made = naming.test_name("prod", "dsl", 1, adapter, "uid", "sha256:" + "c" * 64)
    assert len(made) <= 33
    assert "." not in made
    assert "--" not in made
    assert made.startswith(adapter[:21].replace(".", "-").strip("-"))


def test_every_candidate_has_a_test_of_its_own():
    said = ("prod", "dsl", 1, "a", "uid", "sha256:" + "c" * 64)
    others = [
        ("prod2", *said[1:]),
        ("prod", "dsm", *said[2:]),
        (*said[:2], 2, *said[3:]),
        (*said[:4], "uid2", said[5]),
        (*said[:5], "sha256:" + "d" * 64),
    ]
    assert len({naming.test_name(*one) for one in [said, *others]}) == 6
    assert naming.test_name(*said) == naming.test_name(*said)
