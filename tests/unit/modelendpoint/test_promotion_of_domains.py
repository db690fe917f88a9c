"""A candidate's way through an endpoint's passes: what is written, made, routed, measured and said, one pass after the other."""

from dataclasses import replace
from datetime import timedelta

import pytest
from lettered import BASE, METRIC, NOW, PARENT, PLATFORM, digest, kept, version

from graft_api.adapter import AdapterSpec
from graft_api.collect import CollectorReport
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.ledger import Ended, Gate, Ledger, LedgerDomain, Rejected
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.promotion import Promotion
from graft_api.routes import Routes
from graft_api.schema import canonical_json, parse
from graft_api.shadowtest import ShadowTestStatus
from graft_operator.engine.clock import rfc3339
from graft_operator.modelendpoint import audit, candidates, decide, gates, ledgers
from graft_operator.modelendpoint.observed import AdapterView, CollectorPod, GatewayPod, Observed, ServerPod
from graft_operator.promotion import arms
from graft_operator.promotion.naming import fingerprint
from graft_operator.promotion.seen import Word
from graft_operator.promotion.testing import spec_of
from graft_operator.shadowtest.turns import TestView

POLICY = {
    "shadow": {"duration": "24h", "metrics": [{"measure": "ServerError", "metric": METRIC}]},
    "approval": {"users": ["anna", "bert"], "required": 2},
    "ramp": [{"share": "0.1", "duration": "10m"}, {"share": "0.5", "duration": "20m"}],
    "watch": {"window": "24h", "minClusters": 20},
}
EVIDENCE = "sha256:" + "e" * 64


def spec(policy=None, pin=None, paused=False, **changes):
    domain = {"name": "dsl", "promotion": policy or POLICY, "paused": paused} | ({"pin": pin} if pin else {})
    body = {"baseModel": {"uri": "s3://models/base", "digest": BASE}, "gateway": {"anonymous": True}, "domains": [domain]}
    return parse(ModelEndpointSpec, body | {"collector": {"store": "s3://measured"}} | changes)


def adapter(letter, created="2026-11-01T00:00:00Z", **changes):
    body = {
        "artifact": {"uri": f"s3://adapters/{letter}", "digest": digest(letter), "sizeBytes": 10},
        "domain": "dsl",
        "baseModelDigest": BASE,
        "endpointRef": {"name": "prod"},
    }
    view = AdapterView(f"adapter-{letter}", f"uid-{letter}", parse(AdapterSpec, body), created, deleting=False, failed=False)
    return replace(view, **changes)


def server(*letters):
    said = [{"name": version(letter), "digest": digest(letter), "state": "Ready"} for letter in letters]
    body = {"boot": "1", "sequence": 1, "epoch": 1, "revision": 99, "server": "Serving", "baseDigest": BASE, "versions": said}
    return ServerPod("s0", "uid-s0", ready=True, terminating=False, report=parse(AgentReport, body))


def gateway(*trips, running=True):
    body = {"boot": "1", "sequence": 1, "epoch": 9, "revision": 99, "trips": list(trips)}
    return GatewayPod("g0", "uid-g0", ready=True, running=running, terminating=False, report=parse(GatewayReport, body))


def trip(letter="c", domain="dsl", held_back=0.01):
    known = {"domain": domain, "version": version(letter), "metric": "errors", "value": 0.4, "bound": 0.1, "heldBack": held_back}
    return known | {"requests": 50, "at": "2026-11-21T12:00:00Z"}


def word(author, letter="c", approves=True, created="2026-11-21T12:30:00Z", **changes):
    found = Word(
        name=f"{author}-{letter}-{approves}".lower(),
        uid=f"uid-{author}-{letter}-{approves}",
        adapter=f"adapter-{letter}",
        digest=digest(letter),
        evidence_digest=EVIDENCE if approves else None,
        approves=approves,
        username=author,
        groups=frozenset(),
        created_at=created,
    )
    return replace(found, **changes)


def collector(boot, seconds, clusters=0, gate=1, turn=0, **changes):
    side = {"clusters": clusters, "values": clusters, "valuesSquared": clusters}
    sums = [{"name": "server-errors", "new": side, "heldBack": side}]
    watched = [{"domain": "dsl", "gate": gate, "turn": turn, "count": {"observedSeconds": seconds, "metrics": sums}}]
    body = {"boot": boot, "sequence": 1, "mode": "Observe", "watched": watched}
    pod = CollectorPod(f"c-{boot}", f"uid-{boot}", ready=True, terminating=False, report=parse(CollectorReport, body))
    return replace(pod, **changes)


def served(letter="a"):
    return Ledger(endpoint="prod", epoch=1, base_digest=BASE, domains=[LedgerDomain(name="dsl", salt="s", active=kept(letter))])


class World:
    """An endpoint whose records and status are kept from pass to pass, as the API server does."""

    def __init__(self, **facts):
        known = {"ledger": served(), "adapters": [adapter("a"), adapter("c")], "servers": [server("a", "c")], "gateways": [gateway()]}
        self.observed = Observed(PARENT, 1, spec(), ModelEndpointStatus(), **(known | facts))
        self.now = NOW
        self.events = []
        self.told = []

    def step(self, after=timedelta(), **facts):
        self.now += after
        self.observed = replace(self.observed, **facts)
        made = decide.decide(self.observed, PLATFORM, 1, lambda domain: domain, self.now)
        noted = self.noted
        self.observed = replace(self.observed, ledger=made.ledger, routes=made.routes, status=made.status)
        self.told += (new := [one for one in self.noted if one not in noted])
        happened = [audit.happening_of("dsl", one) for one in new]
        self.events += [one.reason for one in happened if one and one.reason != "Switched"]
        return made

    @property
    def noted(self):
        return self.entry.transitions if self.entry else []

    @property
    def entry(self):
        return self.observed.ledger.domain("dsl")

    @property
    def route(self):
        return self.observed.routes.routes[0]

    @property
    def status(self):
        return self.observed.status.domains[0]

    def arms(self):
        return [(arm.version, arm.weight) for arm in self.route.arms]

    def test(self, phase="Running", incumbent="a", name=None, uid="uid-test"):
        """As the ShadowTest of the gate is, once it was made."""
        resolved = {
            "endpoint": "prod",
            "endpointUid": "uid-1",
            "domain": "dsl",
            "incumbent": {"version": version(incumbent), "digest": digest(incumbent)} if incumbent else {"version": "base"},
            "candidate": {"version": version("c"), "adapter": "adapter-c", "digest": digest("c")},
            "store": "s3://measured/t",
            "seed": 7,
            "maxDuration": "48h",
            "endpointSpecDigest": digest("d"),
        }
        verdict = {"outcome": phase, "sentence": f"{phase}: errors", "readAt": rfc3339(NOW), "observedHours": 24.0, "commit": 1}
        status = {"phase": phase, "resolved": resolved, "attempt": 1}
        if phase != "Running":
            status |= {"verdict": verdict | {"evidenceDigest": EVIDENCE}, "endedAt": rfc3339(NOW)}
        gate = self.entry.gate
        return TestView(name or gate.test, uid, rfc3339(NOW), spec_of(gate), parse(ShadowTestStatus, status))

    def with_test(self, phase="Running", owner="uid-c", **changes):
        made = self.test(phase, **changes)
        return {"tests": [made], "test_owners": {made.name: owner}}


def a_candidate():
    world = World()
    world.step()
    assert world.entry.gate.state == "Testing"
    return world


def awaiting():
    world = a_candidate()
    world.step(**world.with_test())
    world.step(**world.with_test("Passed"))
    return world


def ramping(policy=None):
    world = World() if policy is None else World(ledger=served())
    if policy is not None:
        world.observed = replace(world.observed, spec=spec(policy))
    world.step()
    world.step(**world.with_test())
    world.step(**world.with_test("Passed"))
    world.step(timedelta(hours=1), words=[word("anna"), word("bert")])
    return world


def watching():
    world = ramping()
    world.step(timedelta(minutes=10), collectors=[collector("1", 600.0)])
    world.step(timedelta(minutes=20), collectors=[collector("1", 1800.0)])
    return world


def test_the_shadow_test_of_a_candidate_is_made_once_and_belongs_to_its_adapter():
    world = World()
    (made,) = world.step().create
    gate = world.entry.gate
    assert (made["metadata"]["name"], gate.test_uid) == (gate.test, None)
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Adapter", "adapter-c", "uid-c", True)
    assert made["metadata"]["labels"]["graft.dev/modelendpoint"] == "prod"
    assert (made["spec"]["adapterRef"]["name"], made["spec"]["duration"]) == ("adapter-c", "24h")
    again = world.step()
    assert again.create == [made], "it was not seen yet"
    assert world.step(**world.with_test()).create == []
    assert world.entry.gate.test_uid == "uid-test"
    assert world.arms() == [(version("a"), 10_000)]
    assert len(world.step(tests=[], test_owners={}).create) == 1, "deleted by hand"


@pytest.mark.parametrize("owner", ["", "uid-of-somebody-else"])
def test_a_test_of_the_name_that_is_not_the_adapters_is_neither_taken_nor_written_over(owner):
    world = a_candidate()
    made = world.step(**world.with_test("Passed", owner=owner))
    assert made.create == []
    assert (world.entry.gate.state, world.entry.gate.test_uid) == ("Testing", None)
    assert "NameConflict" in world.status.promotion.message


def test_one_of_the_name_that_cannot_be_read_is_in_the_way_too():
    world = a_candidate()
    assert world.step(test_owners={world.entry.gate.test: "uid-c"}).create == []
    assert "NameConflict" in world.status.promotion.message


RESTORED = [adapter("a"), adapter("c", uid="uid-restored")]


def test_a_candidate_whose_adapter_was_restored_is_tested_for_the_new_object():
    world = a_candidate()
    world.step(**world.with_test())
    gate = world.entry.gate
    without = world.step(adapters=[adapter("a")])
    assert (without.create, world.entry.gate.missing) == ([], rfc3339(world.now))
    assert "is not there since" in world.status.promotion.message
    assert version("c") in [one.name for one in world.observed.routes.versions], "it stays loaded"
    assert world.step(adapters=RESTORED).create == [], "the garbage collector has not taken the one of the former object yet"
    (made,) = world.step(tests=[], test_owners={}).create
    (owner,) = made["metadata"]["ownerReferences"]
    assert (made["metadata"]["name"], owner["uid"]) == (gate.test, "uid-restored")
    world.step(**world.with_test("Passed", owner="uid-restored", uid="uid-test-2"))
    assert (world.entry.gate.state, world.entry.gate.number, world.entry.ended) == ("AwaitingApproval", gate.number, [])


@pytest.mark.parametrize("adapters", [RESTORED, [adapter("a")]], ids=["restored", "not there yet"])
@pytest.mark.parametrize(("phase", "state"), [("Passed", "AwaitingApproval"), ("Running", "Testing")])
def test_of_the_test_of_the_former_object_the_verdict_counts_alone(adapters, phase, state):
    """It ends with an error where its Adapter is not there, and goes with it: that says nothing of the candidate."""
    world = a_candidate()
    world.step(**world.with_test())
    world.step(adapters=adapters, **world.with_test(phase))
    assert world.entry.gate.state == state


def test_a_watch_is_the_same_task_after_a_restore():
    world = watching()
    task = arms.watch_task("dsl", world.entry)
    world.step(adapters=[])
    world.step(adapters=RESTORED)
    assert arms.watch_task("dsl", world.entry) == task
    assert world.arms() == [(version("c"), 9500), (version("a"), 500)]


def test_it_awaits_approval_and_shows_who_has_approved():
    world = awaiting()
    told = world.status.promotion
    assert (told.state, told.test, told.evidence_digest, told.verdict) == (
        "AwaitingApproval",
        world.entry.gate.test,
        EVIDENCE,
        "Passed: errors",
    )
    assert (told.approvals, told.approvals_needed) == (None, 2)
    world.step(timedelta(hours=1), words=[word("anna"), word("carol")])
    assert world.status.promotion.approvals == ["anna"]
    assert world.arms() == [(version("a"), 10_000)]
    assert world.observed.routes.tee is None


def test_activated_both_versions_serve_and_are_watched():
    world = ramping()
    assert (world.entry.active, world.entry.previous) == (kept("c"), kept("a"))
    assert world.arms() == [(version("c"), 1000), (version("a"), 9000)]
    wire = world.route.trip_wire
    assert (wire.version, wire.instead, wire.limits.error_share) == (version("c"), version("a"), "0.1")
    assert [(one.domain, one.share) for one in world.observed.routes.tee.domains] == [("dsl", 10_000)]
    assert [(arm.adapter, arm.weight, arm.replicas) for arm in world.status.arms] == [("adapter-c", 1000, 1), ("adapter-a", 9000, 1)]
    told = world.status.promotion
    assert (told.state, told.approvals, told.observed_seconds, told.window_seconds) == ("Ramping", ["anna", "bert"], 0, 86_400)
    assert world.events == ["Testing", "AwaitingApproval", "Promoted"]


def settings_of(made):
    return next(one for one in made.apply if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "prod-collector")["data"]


def collector_of(made):
    return next(one for one in made.apply if one["kind"] == "Deployment" and one["metadata"]["name"] == "prod-collector")


def test_no_step_of_the_ramp_is_another_task_for_the_collector():
    world = ramping()
    first = world.step()
    steps = [
        world.step(timedelta(minutes=10), collectors=[collector("1", 600.0)]),
        world.step(timedelta(minutes=20), collectors=[collector("1", 1800.0)]),
    ]
    assert [world.entry.gate.state, *(made.routes.routes[0].arms[0].weight for made in (first, *steps))] == ["Watching", 1000, 5000, 9500]
    for made in steps:
        assert settings_of(made) == settings_of(first)
        assert collector_of(made)["spec"]["template"] == collector_of(first)["spec"]["template"]
    assert len({made.routes.routes[0].salt for made in (first, *steps)}) == 1


def test_what_the_collector_counts_reaches_ledger_and_status_and_confirms():
    world = watching()
    world.step(timedelta(hours=24), collectors=[collector("1", 1800.0 + 86_000, 30)])
    assert (world.entry.gate.state, world.status.promotion.observed_seconds) == ("Watching", 87_800)
    world.step(timedelta(hours=1), collectors=[collector("1", 1800.0 + 86_400, 30)])
    assert (world.entry.gate, world.entry.previous, world.entry.ended[-1].reason) == (None, None, "Confirmed")
    assert world.arms() == [(version("c"), 10_000)]
    assert (world.route.trip_wire, world.observed.routes.tee) == (None, None)
    assert world.status.promotion.state == "Confirmed"
    assert world.events[-2:] == ["Watching", "Confirmed"]
    assert (world.told[-1].before, world.told[-1].after) == ("Watching", "Confirmed")


def test_of_two_collectors_the_one_that_goes_is_not_heard():
    world = ramping()
    going = collector("0", 900.0, terminating=True)
    world.step(collectors=[going, collector("1", 60.0)])
    assert (world.entry.gate.watch.boot, world.entry.gate.watch.count().observed_seconds) == ("1", 60.0)


MISSING = {"policies_missing": ["ValidatingAdmissionPolicy graft-approvals: it is absent; run helm upgrade"]}
REJECTED = {"words": [word("anna"), word("bert"), word("bert", approves=False, created="2026-11-21T14:00:00Z")]}


@pytest.mark.parametrize("seconds", [5.0, 600.0])
@pytest.mark.parametrize("harm", [{"gateways": [gateway(trip())]}, REJECTED], ids=["trip", "rejection"])
def test_while_policies_are_missing_harm_is_taken_out_and_nothing_else_changes(harm, seconds):
    world = watching()
    before, widened = world.observed.routes, spec()
    domain = widened.domains[0].model_copy(update={"fallback": "Error"})
    widened = widened.model_copy(update={"trusted_keys": [], "domains": [domain]})
    made = world.step(**MISSING, policies_missing_seconds=seconds, spec=widened, **harm)
    assert (world.arms(), world.route.trip_wire, world.entry.active) == ([(version("a"), 10_000)], None, kept("a"))
    assert world.entry.rejected[-1].digest == digest("c")
    assert (made.apply, made.create, made.remove, made.scale) == ((), (), (), None)
    assert (world.observed.routes.signing_keys, world.route.fallback) == (before.signing_keys, before.routes[0].fallback)
    assert world.observed.routes.revision == before.revision + 1
    assert (world.status.promotion.state, [arm.adapter for arm in world.status.arms]) == ("RolledBack", ["adapter-a"])
    stalled = next(one for one in world.observed.status.conditions if one.type == "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "PolicyMissing")
    assert "only what does harm or is rejected is taken out" in stalled.message
    again = decide.decide(world.observed, PLATFORM, 1, lambda domain: domain, world.now)
    assert (again.ledger, again.routes) == (None, None), "once"


def test_a_retreat_whose_routes_were_not_written_is_completed():
    world = watching()
    served = world.observed.routes
    world.step(**MISSING, gateways=[gateway(trip())])
    ledger = world.observed.ledger
    made = world.step(routes=served, gateways=[gateway()])
    assert (made.ledger.domains, world.arms()) == (ledger.domains, [(version("a"), 10_000)])


@pytest.mark.parametrize("seconds", [5.0, 600.0])
def test_while_policies_are_missing_nothing_is_counted_confirmed_or_activated(seconds):
    for world, facts in (
        (watching(), {"collectors": [collector("1", 1800.0 + 90_000, 30)]}),
        (awaiting(), {"words": [word("anna"), word("bert")]}),
    ):
        made = decide.decide(
            replace(world.observed, **MISSING, policies_missing_seconds=seconds, **facts), PLATFORM, 1, lambda domain: domain, world.now
        )
        assert (made.ledger, made.routes, made.apply) == (None, None, ())


def test_what_one_process_counts_under_two_turns_is_added_up():
    world = ramping()
    for boot, turn, seconds, expected in (("1", 0, 300.0, 300.0), ("1", 3, 100.0, 400.0), ("1", 3, 200.0, 500.0), ("1", 0, 310.0, 500.0)):
        world.step(collectors=[collector(boot, seconds, turn=turn)])
        assert world.entry.gate.watch.count().observed_seconds == expected


def test_the_measuring_says_which_watch_the_collector_has_not_taken_over():
    world = ramping()

    def measuring():
        return next((one.status, one.reason, one.message) for one in world.observed.status.conditions if one.type == "Measuring")

    world.step(collectors=[collector("1", 0.0, gate=9)])
    assert measuring() == ("Unknown", "CollectorChanges", "c-1 does not watch dsl yet")
    world.step(collectors=[collector("1", 0.0)])
    assert measuring()[:2] == ("True", "Watching")


@pytest.mark.parametrize(
    ("facts", "rolled_back"),
    [
        pytest.param({"gateways": [gateway(trip())]}, True, id="a gateway has tripped"),
        pytest.param({"gateways": [gateway(trip(), running=False)]}, False, id="a gateway that is gone had"),
        pytest.param({"gateways": [gateway(trip("a"))]}, False, id="of another version"),
        pytest.param({"gateways": [gateway(trip(domain="other"))]}, False, id="in another domain"),
        pytest.param({"gateways": [gateway(trip(held_back=0.5))]}, False, id="what was held back is as bad"),
        pytest.param(
            {"words": [word("anna"), word("bert"), word("bert", approves=False, created="2026-11-21T14:00:00Z")]}, True, id="rejected"
        ),
    ],
)
def test_it_is_taken_out_again(facts, rolled_back):
    world = watching()
    made = world.step(timedelta(minutes=1), **facts)
    assert (world.entry.gate is None) is rolled_back
    if not rolled_back:
        return
    assert (world.entry.active, world.entry.previous) == (kept("a"), None)
    assert world.arms() == [(version("a"), 10_000)]
    assert (world.route.trip_wire, world.route.aborted) == (None, [])
    assert (world.status.promotion.state, world.status.last_switch.reason) == ("RolledBack", "RolledBack")
    assert world.events[-1] == "RolledBack"
    assert [(one.before, one.after) for one in world.told[-2:]] == [("RolledBack", "Switched"), ("Watching", "RolledBack")]
    assert made.requeue_after is None or made.requeue_after > timedelta()
    world.step(timedelta(days=1), gateways=[gateway()], words=[])
    assert world.arms() == [(version("a"), 10_000)], "it never comes back by itself"


def test_in_flight_requests_are_ended_where_the_policy_says_so():
    world = ramping(POLICY | {"watch": {"window": "24h", "inFlight": "Abort"}})
    world.step(gateways=[gateway(trip())])
    assert world.route.aborted == [version("c")]


def test_an_end_is_told_although_the_next_candidate_has_begun():
    world = watching()
    adapters = [adapter("a"), adapter("c"), adapter("d", created="2026-11-02T00:00:00Z")]
    world.step(adapters=adapters, servers=[server("a", "c", "d")])
    world.step(timedelta(minutes=1), gateways=[gateway(trip())])
    assert (world.entry.gate.version.adapter, world.entry.gate.number) == ("adapter-d", 2)
    assert world.events[-2:] == ["RolledBack", "Testing"]


def test_deleted_while_it_is_watched_the_one_before_it_serves_again():
    world = watching()
    world.step(adapters=[adapter("a"), adapter("c", deleting=True)])
    assert (world.entry.active, world.entry.previous, world.entry.gate) == (kept("a"), None, None)
    assert (world.entry.ended[-1].reason, world.entry.history[-1].reason) == ("Deleted", "Deleted")


def test_where_what_was_held_back_is_deleted_the_base_model_is_held_back_and_counted_from_zero():
    world = watching()
    world.step(timedelta(minutes=1), adapters=[adapter("a", deleting=True), adapter("c")], collectors=[collector("1", 1900.0, 30)])
    gate = world.entry.gate
    assert (world.entry.previous, gate.number, gate.state) == (None, 2, "Watching")
    assert gate.watch.count().observed_seconds == 0.0
    assert [arm for arm, _ in world.arms()] == [version("c"), None]
    world.step(timedelta(minutes=1), collectors=[collector("2", 60.0, gate=2)])
    assert world.entry.gate.watch.count().observed_seconds == 60.0
    assert world.events[-1] == "Watching", "it was promoted once"


def test_a_pin_comes_before_promotion_and_a_rejection_before_the_pin():
    world = watching()
    world.step(spec=spec(pin={"base": True}))
    assert (world.entry.active, world.entry.gate, world.entry.ended[-1].reason) == (None, None, "Overridden")
    rejection = word("bert", approves=False, created="2026-11-21T14:00:00Z")
    world.step(spec=spec(pin={"adapter": "adapter-c"}))
    assert world.entry.active == kept("c")
    world.step(timedelta(hours=2), words=[rejection])
    assert world.entry.active != kept("c")
    world.step(timedelta(minutes=1), words=[])
    assert world.entry.active != kept("c")
    assert "adapter-c was rejected by bert" in world.status.waiting_for
    assert "newer approvals" in world.status.waiting_for


def test_a_pin_to_what_is_watched_ends_the_watch_and_holds_nothing_back():
    world = ramping()
    world.step(spec=spec(pin={"adapter": "adapter-c"}))
    assert (world.arms(), world.route.trip_wire) == ([(version("c"), 10_000)], None)
    assert (world.entry.ended[-1].reason, world.entry.gate, world.entry.previous) == ("Overridden", None, None)
    before = world.observed.ledger
    world.step()
    assert world.observed.ledger == before


def test_what_is_held_back_and_what_is_on_its_way_keep_their_slots():
    """Three slots."""
    others = [adapter(letter, created=f"2026-11-0{n}T00:00:00Z") for n, letter in enumerate("def", start=2)]
    world = a_candidate()
    world.step(adapters=[adapter("a"), adapter("c"), *others])
    assert [one.name for one in world.observed.routes.versions][:2] == [version("a"), version("c")]
    world = watching()
    world.step(adapters=[adapter("a"), adapter("c"), *others])
    assert [one.name for one in world.observed.routes.versions][:2] == [version("c"), version("a")]


def test_a_rejected_candidate_gives_its_slot_to_others():
    entry = served().domains[0].model_copy(update={"rejected": [Rejected(digest=digest("f"), at=rfc3339(NOW), author="anna")]})
    others = [adapter(letter, created=f"2026-11-0{n}T00:00:00Z") for n, letter in enumerate("def", start=2)]
    world = World(ledger=served().model_copy(update={"domains": [entry]}), adapters=[adapter("a"), *others], servers=[server("a")])
    world.step()
    assert [one.name for one in world.observed.routes.versions] == [version("a"), version("e"), version("d")]


def test_a_held_back_version_on_no_pod_is_lost_too():
    world = watching()
    world.step(servers=[server("c")])
    assert world.observed.status.phase == "Degraded"
    ready = next(one for one in world.observed.status.conditions if one.type == "Ready")
    assert f"dsl ({version('a')})" in ready.message


def test_routes_without_a_ledger_are_adopted_with_what_was_before():
    world = watching()
    adopted = ledgers.adopt(parse(Routes, world.observed.routes.to_json()), "prod").domain("dsl")
    assert (adopted.active, adopted.previous, adopted.gate) == (kept("c"), kept("a"), None)
    ramped = ledgers.adopt(ramping().observed.routes, "prod").domain("dsl")
    assert (ramped.active, ramped.previous) == (kept("a"), None), "most conversations were on it"


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        pytest.param({"state": "Testing"}, 60, id="it is tested"),
        pytest.param({"state": "AwaitingApproval"}, 60, id="approvals expire"),
        pytest.param({"state": "Ramping", "step": 0}, 10, id="a long step"),
        pytest.param({"state": "Ramping", "step": 1}, 2.5, id="a short step"),
        pytest.param({"state": "Watching", "step": 2}, 10, id="a long watch"),
    ],
)
def test_how_soon_it_is_looked_at_again(state, seconds):
    policy = POLICY | {"ramp": [{"share": "0.1", "duration": "10m"}, {"share": "0.5", "duration": "20s"}]}
    began = {"number": 1, "version": kept("c").to_json(), "adapterUid": "u", "policy": policy, "since": rfc3339(NOW), "began": rfc3339(NOW)}
    gate = parse(Gate, began | {"test": "t"} | state)
    entry = LedgerDomain(name="dsl", salt="s", active=kept("c"), gate=gate)
    assert gates.pace(spec(policy), Ledger(endpoint="prod", domains=[entry])) == timedelta(seconds=seconds)


def test_without_a_candidate_nobody_looks_again_for_its_sake():
    assert gates.pace(spec(), served()) is None


def test_why_no_candidate_begins():
    world = World(adapters=[adapter("a")])
    world.step()
    assert world.status.none_begins == "waits for an Adapter with spec.promote that has not had its turn"
    paused = World()
    paused.step(spec=spec(paused=True))
    assert (paused.entry.gate, paused.status.none_begins.split(":")[0]) == (None, "paused")


def test_no_candidate_begins_that_the_ledger_has_no_room_for(monkeypatch):
    monkeypatch.setattr(ledgers, "ROOM", len(canonical_json(parse(Promotion, POLICY).to_json())))
    world = World()
    world.step()
    assert world.entry.gate is None
    assert "no candidate begins: with this policy the ledger would have" in world.status.none_begins


def test_a_ledger_that_is_too_large_loses_its_past_but_neither_its_candidate_nor_who_had_its_turn(monkeypatch):
    world = watching()
    approvals = [
        {"name": "n" * 200, "uid": f"u{number}", "author": "a" * 250, "at": rfc3339(NOW + timedelta(seconds=number))} for number in range(9)
    ]
    ends = [
        {"number": number, "adapter": f"adapter-{number}", "adapterUid": f"u{number}", "digest": digest("f"), "reason": "NotProven"}
        | {"message": "m" * 500, "at": rfc3339(NOW + timedelta(minutes=number)), "approvals": approvals}
        for number in range(1, 31)
    ]
    rejected = [Rejected(digest=digest("f"), at=rfc3339(NOW), author="anna", reason="r" * 500)]
    ended = [parse(Ended, one) for one in ends]
    entry = world.entry.model_copy(update={"ended": ended, "rejected": rejected})
    full = world.observed.ledger.model_copy(update={"domains": [entry]})
    size = len(canonical_json(full.to_json()))

    monkeypatch.setattr(ledgers, "MOST_BYTES", size // 3)
    (short,) = ledgers.bounded(full).domains
    assert (short.gate, short.rejected, short.ended[-1]) == (entry.gate, rejected, ended[-1])
    assert [one.number for one in short.ended] == [one.number for one in ended]
    assert short.ended[0].approvals == ended[0].approvals[-1:], "older rejections were answered until then"

    monkeypatch.setattr(ledgers, "MOST_BYTES", size // 30)
    (least,) = ledgers.bounded(full).domains
    assert (least.gate, [one.digest for one in least.rejected]) == (entry.gate, [digest("f")])
    assert ([one.number for one in least.ended], least.settled) == ([30], None)
    assert least.spent == [*entry.spent, *(fingerprint(one.adapter, one.digest) for one in ended[:-1])]
    assert parse(LedgerDomain, least.to_json()) == least


def test_what_is_said_of_other_adapters_decides_nothing_here():
    world = watching()
    found = candidates.seen(
        replace(world.observed, words=[word("anna"), word("anna", "x", adapter="elsewhere")]), world.observed.spec.domains[0], world.entry
    )
    assert [one.adapter for one in found.words] == ["adapter-c"]
    gone = replace(world.observed, adapters=[adapter("a")], words=[word("anna")])
    assert [one.adapter for one in candidates.seen(gone, world.observed.spec.domains[0], world.entry).words] == ["adapter-c"]


APPROVAL = {
    "metadata": {"name": "yes", "uid": "u", "creationTimestamp": "2026-11-21T12:00:00Z"},
    "spec": {
        "adapterRef": {"name": "adapter-c"},
        "digest": digest("c"),
        "evidenceDigest": EVIDENCE,
        "decision": "Approve",
        "author": {"username": "anna", "groups": ["release"]},
    },
}


def test_an_approval_is_read():
    found = candidates.word_of(APPROVAL)
    assert (found.username, found.groups, found.approves, found.evidence_digest) == ("anna", {"release"}, True, EVIDENCE)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": APPROVAL["metadata"] | {"deletionTimestamp": "2026-11-21T12:00:00Z"}}, id="it is being withdrawn"),
        pytest.param({"spec": APPROVAL["spec"] | {"decision": "Maybe"}}, id="of another version of the CRD"),
        pytest.param({"spec": None}, id="without a spec"),
    ],
)
def test_what_cannot_be_counted_is_nobodys_word(change):
    assert candidates.word_of(APPROVAL | change) is None


def test_what_is_rejected_before_its_turn_is_noted_with_the_name_of_its_adapter():
    world = a_candidate()
    world.step(adapters=[*world.observed.adapters, adapter("d")], words=[word("bert", "d", approves=False, reason="stolen data")])
    (noted,) = [one for one in world.told if one.after == "Rejected"]
    assert (noted.adapter, noted.digest, noted.who) == ("adapter-d", digest("d"), ["bert"])
    assert world.events[-1] == "Rejected"


@pytest.mark.parametrize("untold", [0, 3])
def test_what_was_told_makes_room_and_what_was_not_stays(untold):
    many = [{"ordinal": n, "at": rfc3339(NOW), "after": "Testing", "message": "m" * 512} for n in range(1, 33)]
    entries = [parse(LedgerDomain, {"name": f"d{n}", "salt": "s", "transitions": many, "told": 32 - untold}) for n in range(64)]
    ledger = ledgers.bounded(Ledger(endpoint="prod", domains=entries))
    assert ledgers.fits(ledger)
    assert all(entry.untold() == entries[0].untold() and entry.transitions[-1].ordinal == 32 for entry in ledger.domains)
    assert len(ledger.domains[0].transitions) < 32
