"""Where an adapter is, and when its object may go: one row a situation."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from graft_api.adapter import AdapterSpec, AdapterStatus
from graft_api.dataplane import version_name
from graft_api.fleet import AgentReport
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.routes import Routes
from graft_api.schema import Invalid, parse
from graft_operator.adapter.decide import decide, happenings
from graft_operator.adapter.observed import Endpoint, Observed, Unreadable
from graft_operator.modelendpoint.observed import ServerPod

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE, DIGEST = "sha256:" + "b" * 64, "sha256:" + "a" * 64
VERSION = version_name("dsl", DIGEST)
KEY = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"

SPEC = parse(
    AdapterSpec,
    {
        "artifact": {"uri": "s3://adapters/a", "digest": DIGEST, "sizeBytes": 10},
        "domain": "dsl",
        "baseModelDigest": BASE,
        "endpointRef": {"name": "prod"},
    },
)


def endpoint_spec(domain="dsl", keys=True):
    body = {
        "baseModel": {"uri": "s3://models/base"},
        "gateway": {"anonymous": True},
        "domains": [{"name": domain}],
        "trustedKeys": [{"name": "ci", "pem": KEY}] if keys else [],
    }
    return parse(ModelEndpointSpec, body)


def routes(*, wanted=True, routed=False, others=0):
    entry = {"name": VERSION, "domain": "dsl", "adapter": "a", "digest": DIGEST, "uri": "s3://adapters/a", "sizeBytes": 10}
    body = {
        "endpoint": {"namespace": "shop", "name": "prod", "uid": "u"},
        "epoch": 1,
        "revision": 2,
        "maxLoras": 3,
        "maxLoraRank": 64,
        "signingKeys": [KEY],
        "versions": ([entry] if wanted else []) + [entry | {"name": f"dsl-{number:016x}"} for number in range(others)],
        "routes": [{"domain": "dsl", "revision": 1, "salt": "s", "arms": [{"version": VERSION} if routed else {}]}],
    }
    return parse(Routes, body)


def pod(name, state=None, reason=None, ready=True, revision=2, **said):
    versions = [{"name": VERSION, "digest": DIGEST, "state": state, "reason": reason, **said}] if state else []
    versions = [{key: value for key, value in version.items() if value is not None} for version in versions]
    body = {"boot": "1", "sequence": 1, "epoch": 1, "revision": revision, "server": "Serving", "versions": versions}
    return ServerPod(name, f"uid-{name}", ready, terminating=False, report=parse(AgentReport, body))


def observed(**facts):
    known = Observed("shop", "a", "uid-a", 1, SPEC, AdapterStatus(), None, True, Endpoint(endpoint_spec(), BASE, deleting=False), routes())
    return replace(known, **facts)


def said(decision, kind):
    return next(((c.status, c.reason) for c in decision.status.conditions or [] if c.type == kind), None)


DROPPED = routes(wanted=False)
READY = {"state": "Ready", "seconds": {"fetch": 1.0, "load": 0.5}}


@pytest.mark.parametrize(
    ("facts", "phase", "reason"),
    [
        pytest.param({"endpoint": None}, "Pending", "EndpointNotFound", id="no endpoint"),
        pytest.param({"endpoint": Endpoint(Invalid(["spec.x: bad"]), BASE, False)}, "Pending", "EndpointInvalid", id="its spec is invalid"),
        pytest.param({"endpoint": Endpoint(endpoint_spec("other"), BASE, False)}, "Failed", "DomainNotServed", id="domain not served"),
        pytest.param({"endpoint": Endpoint(endpoint_spec(), DIGEST, False)}, "Failed", "WrongBase", id="another base model"),
        pytest.param({"endpoint": Endpoint(endpoint_spec(keys=False), BASE, False)}, "Failed", "NoTrustedKeys", id="no key is trusted"),
        pytest.param({"routes": None}, "Pending", "Waiting", id="no routes yet"),
        pytest.param({"routes": routes(wanted=False, others=2)}, "Pending", "Waiting", id="not in the routes yet"),
        pytest.param({"routes": routes(wanted=False, others=3)}, "Pending", "NoSlot", id="no slot"),
        pytest.param({"servers": []}, "Loading", "Loading", id="no replica"),
        pytest.param({"servers": [pod("s0", "Fetching")]}, "Loading", "Loading", id="fetching"),
        pytest.param({"servers": [pod("s0", **READY), pod("s1", "Probing")]}, "Loading", "Loading", id="one of two is ready"),
        pytest.param({"servers": [pod("s0", **READY), pod("s1")]}, "Loading", "Loading", id="one of two has not heard of it"),
        pytest.param({"servers": [pod("s0", **READY), pod("s1", **READY)]}, "Loaded", "Loaded", id="ready everywhere"),
        pytest.param({"servers": [pod("s0", **READY), pod("s1", ready=False)]}, "Loaded", "Loaded", id="a starting replica does not count"),
        pytest.param({"servers": [pod("s0", **READY)], "routes": routes(routed=True)}, "Serving", "Serving", id="routed"),
        pytest.param({"servers": [pod("s0", "Failed", "NoEffect")]}, "Failed", "NoEffect", id="no effect"),
        pytest.param(
            {"servers": [pod("s0", **READY), pod("s1", "Failed", "SignatureInvalid")]}, "Failed", "SignatureInvalid", id="one refuses"
        ),
        pytest.param({"servers": [pod("s0", "Failed", "StoreUnavailable")]}, "Loading", "StoreUnavailable", id="the store is away"),
    ],
)
def test_where_it_is(facts, phase, reason):
    decision = decide(observed(**facts), NOW)
    assert (decision.status.phase, said(decision, "Ready")[1]) == (phase, reason)
    assert decision.finalizer


def test_what_is_ready_everywhere_says_so_with_its_figures():
    decision = decide(observed(servers=[pod("s0", **READY), pod("s1", **READY)]), NOW)
    assert said(decision, "Loaded") == ("True", "Loaded")
    assert said(decision, "EffectProven") == ("True", "Probed")
    assert (decision.status.replicas.ready, decision.status.replicas.total) == (2, 2)
    assert decision.status.load_seconds == 1.5
    assert decision.status.loaded_at == "2026-03-01T12:00:00Z"
    assert decision.requeue_after is None


def test_a_package_without_references_is_loaded_but_not_proven():
    decision = decide(observed(servers=[pod("s0", "Ready", weak=True)]), NOW)
    assert said(decision, "EffectProven") == ("Unknown", "ProbeWeak")


def test_a_refusal_is_kept_when_the_adapter_loses_its_slot():
    failed = decide(observed(servers=[pod("s0", "Failed", "NoEffect", message="no effect")]), NOW).status
    later = decide(observed(status=failed, routes=routes(wanted=False)), NOW)
    assert (later.status.phase, said(later, "Ready")[1]) == ("Failed", "NoEffect")


def silent(name, **changes):
    return replace(pod(name), report=None, **changes)


LONG_AGO, JUST_NOW = "2026-03-01T11:00:00Z", "2026-03-01T11:59:30Z"


@pytest.mark.parametrize(
    ("facts", "held"),
    [
        pytest.param({"routes": routes()}, True, id="the agents are still asked for it"),
        pytest.param({"routes": DROPPED, "servers": [pod("s0", **READY)]}, True, id="a replica still has it"),
        pytest.param({"routes": DROPPED, "servers": [pod("s0"), pod("s1", "Unloading")]}, True, id="a replica is unloading it"),
        pytest.param(
            {"routes": DROPPED, "servers": [pod("s0"), pod("s1", "Unloading", ready=False)]}, True, id="one that is not ready, too"
        ),
        pytest.param({"routes": DROPPED, "servers": [pod("s0", revision=1)]}, True, id="a replica has not seen that it is dropped"),
        pytest.param({"routes": DROPPED, "servers": [pod("s0"), silent("s1")]}, True, id="a replica says nothing"),
        pytest.param({"routes": DROPPED, "servers": [silent("s0", ready=False)]}, True, id="one that is not ready says nothing"),
        pytest.param({"routes": DROPPED, "servers": [silent("s0", ready=False, running=False)]}, False, id="a pod that does not run"),
        pytest.param({"routes": DROPPED, "servers": [pod("s0")]}, False, id="nobody has it"),
        pytest.param({"routes": None, "servers": [pod("s0")]}, False, id="nobody has it, and there are no routes"),
        pytest.param({"endpoint": None}, False, id="its endpoint is gone"),
        pytest.param({"endpoint": Endpoint(endpoint_spec(), BASE, deleting=True)}, False, id="its endpoint is going"),
        pytest.param({"deleting_since": LONG_AGO}, False, id="five minutes are over"),
        pytest.param({"deleting_since": LONG_AGO, "servers": [pod("s0", "Unloading")]}, False, id="five minutes are over, for it is stuck"),
    ],
)
def test_when_a_deleted_one_is_released(facts, held):
    decision = decide(observed(**({"deleting_since": JUST_NOW} | facts)), NOW)
    assert decision.finalizer is held
    assert (decision.status.phase == "Retiring") is held


def test_while_it_is_unloaded_the_status_says_on_how_many():
    decision = decide(observed(deleting_since=JUST_NOW, routes=DROPPED, servers=[pod("s0", "Unloading"), pod("s1"), silent("s2")]), NOW)
    ready = next(c for c in decision.status.conditions if c.type == "Ready")
    assert (ready.reason, ready.message) == (
        "Draining",
        "1 of 3 replicas still have it, 1 have not said yet; released after 300 s at the latest",
    )
    assert decision.requeue_after == timedelta(seconds=10)


def test_a_replica_that_unloads_it_does_not_count_as_having_it():
    """Wanted again before it was gone."""
    decision = decide(observed(servers=[pod("s0", **READY), pod("s1", "Unloading")]), NOW)
    assert (decision.status.phase, decision.status.replicas.ready) == ("Loading", 1)


INVALID = Invalid(["spec.artifact.uri: must be s3://bucket/folder"])


def unreadable(**facts):
    return replace(Unreadable(3, INVALID, AdapterStatus(), None, has_finalizer=True), **facts)


def test_one_whose_spec_cannot_be_read_says_so():
    decision = decide(unreadable(), NOW)
    assert decision.status.phase == "Failed"
    assert said(decision, "Stalled") == ("True", "InvalidSpec")
    assert next(c.message for c in decision.status.conditions if c.type == "Ready") == str(INVALID)
    assert decision.status.observed_generation == 3
    assert decision.requeue_after is None


@pytest.mark.parametrize("has_finalizer", [True, False])
def test_one_whose_spec_cannot_be_read_keeps_its_finalizer_until_it_is_deleted(has_finalizer):
    assert decide(unreadable(has_finalizer=has_finalizer), NOW).finalizer is has_finalizer
    assert decide(unreadable(has_finalizer=has_finalizer, deleting_since=JUST_NOW), NOW).finalizer is False


def test_every_transition_is_said_once():
    first = decide(observed(servers=[pod("s0", **READY)]), NOW).status
    assert [happening.reason for happening in happenings(AdapterStatus(), first)] == ["Loaded"]
    assert happenings(first, decide(observed(status=first, servers=[pod("s0", **READY)]), NOW).status) == []


def test_one_replica_that_refuses_it_does_not_end_what_serves():
    decision = decide(observed(servers=[pod("s0", **READY), pod("s1", "Failed", "LoadRefused")], routes=routes(routed=True)), NOW)
    assert (decision.status.phase, said(decision, "Ready")) == ("Serving", ("True", "ServingPartly"))
    assert [problem.pod for problem in decision.status.failing] == ["s1"]


def test_a_starting_replica_that_refuses_it_does_not_undo_what_is_loaded():
    decision = decide(observed(servers=[pod("s0", **READY), pod("s1", "Failed", "LoadRefused", ready=False)]), NOW)
    assert decision.status.phase == "Loaded"


def test_an_operator_that_has_just_begun_to_listen_says_nothing_new():
    serving = decide(observed(servers=[pod("s0", **READY)], routes=routes(routed=True)), NOW).status
    unheard = [replace(pod("s0"), report=None)]
    later = decide(observed(status=serving, servers=unheard, routes=routes(routed=True), listening=True), NOW)
    assert later.status == serving
    assert later.requeue_after is not None
    assert decide(observed(status=serving, servers=unheard, routes=routes(routed=True)), NOW).status.phase == "Loading"
