"""What serves, step by step: ledger and routes as the fleet reports, pins change and adapters come and go."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from graft_api.adapter import AdapterSpec
from graft_api.dataplane import version_name
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.schema import canonical_json, parse
from graft_operator.modelendpoint import children, ledgers, routing
from graft_operator.modelendpoint.children import Parent
from graft_operator.modelendpoint.observed import AdapterView, GatewayPod, Observed, ServerPod

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BASE = "sha256:" + "b" * 64
PARENT = Parent("shop", "prod", "uid-1")


def digest(letter):
    return "sha256:" + letter * 64


def version(letter, domain="dsl"):
    return version_name(domain, digest(letter))


def spec(pin=None, domains=("dsl",), **changes):
    entries = [{"name": name} for name in domains]
    if pin:
        entries[0]["pin"] = pin
    body = {"baseModel": {"uri": "s3://models/base", "digest": BASE}, "gateway": {"anonymous": True}, "domains": entries}
    return parse(ModelEndpointSpec, body | changes)


def adapter(letter, domain="dsl", created="2026-01-01T00:00:00Z", **changes):
    body = {
        "artifact": {"uri": f"s3://adapters/{letter}", "digest": digest(letter), "sizeBytes": 10},
        "domain": domain,
        "baseModelDigest": BASE,
        "endpointRef": {"name": "prod"},
    }
    view = AdapterView(f"adapter-{letter}", f"uid-{letter}", parse(AdapterSpec, body), created, deleting=False, failed=False)
    return replace(view, **changes)


def server(name, *versions, ready=True, failed=()):
    said = [{"name": one, "digest": digest("a"), "state": "Ready"} for one in versions]
    said += [{"name": one, "digest": digest("a"), "state": "Failed", "reason": "NoEffect"} for one in failed]
    body = {"boot": "1", "sequence": 1, "epoch": 1, "revision": 1, "server": "Serving", "baseDigest": BASE, "versions": said}
    return ServerPod(name, f"uid-{name}", ready, terminating=False, report=parse(AgentReport, body))


def gateway(name, revision, in_flight=None, epoch=1, **changes):
    body = {"boot": "1", "sequence": 1, "epoch": epoch, "revision": revision, "inFlight": in_flight or {}}
    return replace(GatewayPod(name, f"uid-{name}", True, True, False, parse(GatewayReport, body)), **changes)


class World:
    """An endpoint that remembers what was decided, as the ConfigMaps do."""

    def __init__(self, **facts):
        self.observed = Observed(PARENT, 1, spec(), ModelEndpointStatus(), **facts)

    def step(self, epoch=1, **facts):
        self.observed = replace(self.observed, **facts)
        ledger = ledgers.advance(self.observed, self.observed.spec, lambda domain: f"salt-{domain}", NOW)
        routes = routing.build(self.observed, self.observed.spec, ledger, epoch)
        ledger = ledger.model_copy(update={"revision": routes.revision})
        self.observed = replace(self.observed, ledger=ledger, routes=routes)
        return routes

    def serving(self, domain="dsl"):
        return next(route for route in self.observed.routes.routes if route.domain == domain).arms[0].version

    def loaded(self):
        return [one.name for one in self.observed.routes.versions]


def served_by_a():
    world = World(adapters=[adapter("a")])
    world.step(spec=spec(pin={"adapter": "adapter-a"}), servers=[server("s0", version("a"))], gateways=[gateway("g0", 0)])
    assert world.serving() == version("a")
    return world


def test_a_new_endpoint_routes_every_domain_to_the_base():
    routes = World().step(spec=spec(domains=("dsl", "governance")))
    assert [(route.domain, route.arms[0].version) for route in routes.routes] == [("dsl", None), ("governance", None)]
    assert routes.revision == 1


def test_nothing_new_keeps_the_revision_also_under_a_new_leader():
    world = World()
    first = world.step(epoch=1)
    assert world.step(epoch=2) == first


def test_a_candidate_is_loaded_but_not_routed():
    world = World(adapters=[adapter("a")])
    world.step()
    assert world.loaded() == [version("a")]
    assert world.serving() is None


PINNED = {"adapter": "adapter-a"}


@pytest.mark.parametrize(
    ("servers", "serves"),
    [
        pytest.param([], False, id="no replica is ready"),
        pytest.param([server("s0")], False, id="the only replica has not loaded it"),
        pytest.param([server("s0", version("a")), server("s1")], False, id="one of two has loaded it"),
        pytest.param([server("s0", version("a")), server("s1", failed=[version("a")])], False, id="one of two refuses it"),
        pytest.param([server("s0", version("a")), server("s1", version("a"))], True, id="both have loaded it"),
        pytest.param([server("s0", version("a")), server("s1", ready=False)], True, id="a replica that is not ready does not count"),
    ],
)
def test_a_pin_is_followed_once_every_ready_replica_has_it(servers, serves):
    world = World(adapters=[adapter("a")], servers=servers)
    world.step(spec=spec(pin=PINNED))
    assert (world.serving() == version("a")) is serves


def test_a_switch_is_recorded_before_and_after():
    world = served_by_a()
    world.step(spec=spec(pin={"base": True}))
    entry = world.observed.ledger.domain("dsl")
    assert (entry.active, entry.previous.adapter) == (None, "adapter-a")
    assert [(switch.ordinal, switch.before, switch.after, switch.reason) for switch in entry.history] == [
        (1, None, "adapter-a", "Pinned"),
        (2, "adapter-a", None, "Pinned"),
    ]


def test_removing_the_pin_changes_nothing():
    world = served_by_a()
    before = world.observed.routes
    assert world.step(spec=spec()) == before


def test_the_previous_version_stays_loaded_for_a_rollback():
    world = served_by_a()
    both = [server("s0", version("a"), version("c"))]
    world.step(spec=spec(pin={"adapter": "adapter-c"}), adapters=[adapter("a"), adapter("c")], servers=both)
    assert world.serving() == version("c")
    assert world.loaded() == [version("c"), version("a")]


def test_what_serves_survives_its_replicas_and_its_adapter_object():
    world = served_by_a()
    before = world.observed.routes
    assert world.step(spec=spec(), servers=[], adapters=[]) == before


def test_an_empty_status_with_a_ledger_is_adopted():
    world = served_by_a()
    restored = World(ledger=world.observed.ledger)
    routes = restored.step()
    assert restored.serving() == version("a")
    assert routes.revision > world.observed.routes.revision


def test_a_lost_ledger_is_made_again_from_the_routes():
    world = served_by_a()
    world.step(ledger=None, servers=[])
    assert world.serving() == version("a")
    assert world.observed.ledger.domain("dsl").salt == "salt-dsl"


def test_a_deleted_adapter_serves_no_more_and_is_unloaded_only_when_drained():
    world = served_by_a()
    world.step(adapters=[adapter("a", deleting=True)])
    assert world.serving() is None
    switched = world.observed.routes.revision
    assert world.loaded() == [version("a")]
    world.step(gateways=[gateway("g0", switched, {version("a"): 1}), gateway("g1", switched)])
    assert world.loaded() == [version("a")], "a request is still in flight"
    world.step(gateways=[gateway("g0", switched), gateway("g1", switched - 1)])
    assert world.loaded() == [version("a")], "a gateway has not acknowledged"
    world.step(gateways=[gateway("g0", switched), gateway("g1", 0, report=None)])
    assert world.loaded() == [version("a")], "a gateway is silent"
    world.step(gateways=[gateway("g0", switched), gateway("g1", 0, report=None, running=False)])
    assert world.loaded() == [], "a gateway that is gone delays nothing"


def test_a_lower_epoch_never_acknowledges():
    world = served_by_a()
    routes = world.step(epoch=3, adapters=[adapter("a", deleting=True)])
    world.step(gateways=[gateway("g0", routes.revision + 5, epoch=routes.epoch - 1)])
    assert world.loaded() == [version("a")]


def test_slots_go_to_what_serves_then_to_the_newest_candidates_and_last_to_the_failed():
    world = served_by_a()
    others = [
        adapter("c", created="2026-01-02T00:00:00Z"),
        adapter("d", created="2026-01-04T00:00:00Z", failed=True),
        adapter("e", created="2026-01-03T00:00:00Z"),
        adapter("f", created="2025-01-03T00:00:00Z"),
    ]
    world.step(adapters=[adapter("a"), *others])
    assert world.loaded() == [version("a"), version("e"), version("c")]


def test_a_candidate_waits_for_the_slot_of_a_version_that_drains():
    world = served_by_a()
    candidates = [adapter(letter, created=f"2026-01-0{n}T00:00:00Z") for n, letter in enumerate("cde", start=2)]
    world.step(adapters=[adapter("a", deleting=True), *candidates])
    assert world.loaded() == [version("e"), version("d"), version("a")]
    world.step(gateways=[gateway("g0", world.observed.routes.revision)])
    assert world.loaded() == [version("e"), version("d"), version("c")]


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(adapter("c", domain="other"), id="a domain that the endpoint does not serve"),
        pytest.param(adapter("c", deleting=True), id="one that is being deleted"),
    ],
)
def test_never_loaded(candidate):
    world = World(adapters=[candidate])
    world.step()
    assert world.loaded() == []


def test_only_a_route_that_changes_gets_a_new_revision():
    world = World(adapters=[adapter("a")], servers=[server("s0", version("a"))])
    world.step(spec=spec(domains=("dsl", "governance")))
    world.step(spec=spec(pin=PINNED, domains=("dsl", "governance")))
    revisions = {route.domain: route.revision for route in world.observed.routes.routes}
    assert revisions["governance"] < revisions["dsl"] == world.observed.routes.revision


def test_a_write_of_the_ledger_alone_is_completed_later():
    """The process died after the ledger and before the routes: the next pass does what was recorded, whatever is reported by then."""
    world = served_by_a()
    ahead = world.observed
    world = World(adapters=[adapter("a")])
    world.step()
    world.step(ledger=ahead.ledger, servers=[])
    assert world.serving() == version("a")
    assert world.observed.routes.revision > ahead.ledger.revision


def test_the_base_digest_is_what_the_pods_agree_on():
    body = {"baseModel": {"uri": "s3://models/base"}, "gateway": {"anonymous": True}, "domains": [{"name": "dsl"}]}
    world = World(servers=[server("s0"), server("s1")])
    assert world.step(spec=parse(ModelEndpointSpec, body)).base_digest == BASE
    assert isinstance(world.observed.ledger, Ledger)


def test_nothing_that_requests_may_still_reach_loses_its_slot_to_a_newcomer():
    """Three slots: c serves, b and a still have requests in flight, and d is pinned."""
    world = served_by_a()
    slow = {version("a"): 1, version("b"): 1}
    for letter in "bc":
        adapters = [adapter(one) for one in "abc"]
        loaded = [server("s0", *(version(one) for one in "abc"))]
        world.step(spec=spec(pin={"adapter": f"adapter-{letter}"}), adapters=adapters, servers=loaded, gateways=[gateway("g0", 99, slow)])
    assert sorted(world.loaded()) == sorted(version(one) for one in "abc")
    world.step(spec=spec(pin={"adapter": "adapter-d"}), adapters=[*(adapter(one) for one in "abc"), adapter("d")])
    assert sorted(world.loaded()) == sorted(version(one) for one in "abc")
    world.step(gateways=[gateway("g0", 999, {version("b"): 1})])
    assert sorted(world.loaded()) == sorted(version(one) for one in "bcd")


def test_with_gateways_unheard_nothing_is_dropped():
    """An operator that was just restarted knows of no gateway's requests."""
    world = served_by_a()
    both = [server("s0", version("a"), version("b"))]
    world.step(spec=spec(pin={"adapter": "adapter-b"}), adapters=[adapter("a"), adapter("b"), adapter("c")], servers=both)
    before = world.loaded()
    world.step(spec=spec(pin={"adapter": "adapter-d"}), adapters=[adapter(one) for one in "abcd"], gateways=[gateway("g0", 0, report=None)])
    assert world.loaded()[:2] == before[:2] == [version("b"), version("a")]


def test_an_adapter_made_anew_under_its_old_name_is_another_artifact():
    world = served_by_a()
    other = replace(adapter("f"), name="adapter-a")
    world.step(adapters=[other])
    assert world.serving() == version("a"), "it is not loaded anywhere yet"
    world.step(servers=[server("s0", version("a"), version("f"))])
    assert world.serving() == version("f")


def test_deleting_a_namesake_of_what_serves_changes_nothing():
    world = served_by_a()
    world.step(spec=spec(), adapters=[replace(adapter("f", deleting=True), name="adapter-a")])
    assert world.serving() == version("a")


def test_a_fleet_that_knows_newer_routes_gets_newer_ones_still():
    """The records were restored from yesterday's backup while the gateways went on."""
    world = served_by_a()
    routes = world.step(gateways=[gateway("g0", 50, epoch=7)])
    assert (routes.epoch, routes.revision) == (7, 51)
    assert world.step(gateways=[gateway("g0", 51, epoch=7)]) == routes


def test_a_ledger_never_outgrows_its_own_schema():
    world = served_by_a()
    for number in range(70):
        world.step(spec=spec(domains=(f"domain-{number}",)), servers=[])
    ledger = world.observed.ledger
    assert parse(Ledger, ledger.to_json()) == ledger
    assert ledger.domain("dsl").active is not None


MEBIBYTE = 1024 * 1024
"""What Kubernetes lets the data of a ConfigMap have."""
WIDE = "\N{GOTHIC LETTER AHSA}"
"""Four bytes."""


def fullest_ledger(character=WIDE, history=32, tests=64):
    """A ledger at every limit of its schema, with this character where any are allowed."""
    longest = "a" * 253
    kept = {"adapter": longest, "digest": digest("f"), "uri": "s3://" + character * 1019, "sizeBytes": 2**63 - 1}
    switch = {"at": "2" * 40, "reason": character * 64, "message": character * 512, "before": longest, "after": longest}
    tested = {"count": 2**63 - 1, "test": longest, "uids": [character * 64] * 4, "outcome": "Inconclusive"}
    domains = [
        {
            "name": f"{number:063}",
            "salt": character * 64,
            "active": kept,
            "previous": kept,
            "since": "2" * 40,
            "history": [switch | {"ordinal": ordinal} for ordinal in range(10**9, 10**9 + history)],
            "tests": [tested | {"digest": f"sha256:{number:064x}"} for number in range(tests)],
        }
        for number in range(64)
    ]
    counted = {"epoch": 2**63 - 1, "revision": 2**63 - 1}
    return parse(Ledger, {"endpoint": "a" * 253, "baseDigest": digest("f"), "domains": domains} | counted)


def stored_bytes(ledger):
    return sum(len(key) + len(text.encode()) for key, text in children.ledger_config_map(PARENT, ledger)["data"].items())


def test_a_ledger_at_the_limits_of_its_schema_fits_into_a_config_map():
    full = fullest_ledger()
    assert stored_bytes(full) > MEBIBYTE
    world = World(ledger=full)
    world.step(spec=spec(domains=[domain.name for domain in full.domains[:31]]))
    ledger = world.observed.ledger
    assert stored_bytes(ledger) <= MEBIBYTE
    assert parse(Ledger, ledger.to_json()) == ledger
    for before, after in zip(full.domains, ledger.domains, strict=True):
        kept = {"history": before.history[-len(after.history) :], "tests": before.tests[-len(after.tests) :]}
        assert after == before.model_copy(update=kept), "the newest stay, and all else"
        assert min(len(after.history), len(after.tests)) >= 1
    assert world.step() is world.observed.routes, "and it stays as it is"


def test_no_more_history_is_left_out_than_must_be():
    world = World(ledger=fullest_ledger("a", tests=0))
    world.step(spec=spec(domains=[f"{0:063}"]))
    (kept,) = {len(domain.history) for domain in world.observed.ledger.domains}
    assert len(canonical_json(fullest_ledger("a", kept, 0).to_json())) <= ledgers.MOST_BYTES
    assert len(canonical_json(fullest_ledger("a", kept + 1, 0).to_json())) > ledgers.MOST_BYTES
    small = served_by_a()
    for number in range(40):
        small.step(spec=spec(pin={"base": True} if number % 2 else PINNED))
    assert [switch.ordinal for switch in small.observed.ledger.domain("dsl").history] == list(range(9, 41))
