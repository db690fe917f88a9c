"""How far an adapter's promotion is: one row a situation, by its endpoint's ledger and by where the adapter is."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from graft_api import health
from graft_api.adapter import AdapterSpec, AdapterStatus
from graft_api.dataplane import version_name
from graft_api.fleet import AgentReport
from graft_api.ledger import LedgerDomain
from graft_api.modelendpoint import DomainStatus, ModelEndpointSpec
from graft_api.routes import Routes
from graft_api.schema import parse
from graft_operator.adapter.decide import decide, happenings
from graft_operator.adapter.observed import Endpoint, Observed
from graft_operator.engine.clock import rfc3339
from graft_operator.modelendpoint.observed import ServerPod
from graft_operator.promotion.naming import fingerprint

NOW, AT = datetime(2026, 11, 21, 12, tzinfo=UTC), "2026-11-21T11:00:00Z"
BASE, DIGEST, EVIDENCE = ("sha256:" + letter * 64 for letter in "bae")
VERSION = version_name("dsl", DIGEST)
POLICY = {
    "shadow": {
        "metrics": [
            {
                "measure": "ServerError",
                "metric": {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"},
            }
        ]
    },
    "approval": {"users": ["anna"]},
}
KEPT = {"adapter": "a", "digest": DIGEST, "uri": "s3://adapters/a", "sizeBytes": 10}
GATE = {"number": 3, "version": KEPT, "adapterUid": "uid-a", "policy": POLICY, "since": AT, "began": AT, "test": "a-12345678"}
ENDED = {"number": 3, "adapter": "a", "adapterUid": "uid-a", "digest": DIGEST, "at": AT, "message": "errors of 40 %, bound 10 %"}
WATCH = {"watch": {"began": AT}}


def spec(**changes):
    body = {
        "artifact": {"uri": "s3://adapters/a", "digest": DIGEST, "sizeBytes": 10},
        "domain": "dsl",
        "baseModelDigest": BASE,
        "endpointRef": {"name": "prod"},
    }
    return parse(AdapterSpec, body | changes)


def endpoint(entry=None, told=None, promotion=POLICY):
    domain = {"name": "dsl"} | ({"promotion": promotion} if promotion else {})
    body = {
        "baseModel": {"uri": "s3://models/base"},
        "gateway": {"anonymous": True},
        "domains": [domain],
        "trustedKeys": [{"name": "ci", "pem": "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"}],
        "collector": {"store": "s3://measured"},
    }
    known = parse(LedgerDomain, {"name": "dsl", "salt": "s"} | (entry or {}))
    said = parse(DomainStatus, {"name": "dsl", "arms": []} | (told or {}))
    return Endpoint(parse(ModelEndpointSpec, body), BASE, deleting=False, entry=known, told=said)


def routes(*, wanted=True, routed=False):
    body = {
        "endpoint": {"namespace": "shop", "name": "prod", "uid": "u"},
        "epoch": 1,
        "revision": 2,
        "maxLoras": 3,
        "maxLoraRank": 64,
        "signingKeys": [],
        "versions": [{"name": VERSION, "domain": "dsl"} | KEPT] if wanted else [],
        "routes": [{"domain": "dsl", "revision": 1, "salt": "s", "arms": [{"version": VERSION} if routed else {}]}],
    }
    return parse(Routes, body)


def server(state="Ready"):
    versions = [{"name": VERSION, "digest": DIGEST, "state": state}] if state else []
    body = {"boot": "1", "sequence": 1, "epoch": 1, "revision": 2, "server": "Serving", "versions": versions}
    return ServerPod("s0", "uid-s0", ready=True, terminating=False, report=parse(AgentReport, body))


def observed(entry=None, **facts):
    known = Observed("shop", "a", "uid-a", 1, spec(), AdapterStatus(), None, True, endpoint(entry), routes(), [server()])
    return replace(known, **facts)


def condition(status, kind):
    return next(((c.status, c.reason) for c in status.conditions or [] if c.type == kind), None)


ROUTED = {"routes": routes(routed=True)}
NO_SLOT = {"routes": routes(wanted=False)}
SERVING = {"active": KEPT}


@pytest.mark.parametrize(
    ("entry", "facts", "phase", "promoted"),
    [
        pytest.param({}, {}, "Loaded", ("False", "Waiting"), id="waits for its turn"),
        pytest.param({}, {"spec": spec(promote=False)}, "Loaded", ("False", "NotWanted"), id="is not to be promoted"),
        pytest.param({"gate": GATE | {"state": "Testing"}}, {}, "Testing", ("False", "Testing"), id="is tested"),
        pytest.param(
            {"gate": GATE | {"state": "Testing"}}, {"servers": [server("Loading")]}, "Loading", ("False", "Testing"), id="is reloaded"
        ),
        pytest.param(
            {"gate": GATE | {"state": "AwaitingApproval"}}, {}, "AwaitingApproval", ("False", "AwaitingApproval"), id="awaits approval"
        ),
        pytest.param(SERVING | {"gate": GATE | WATCH | {"state": "Ramping"}}, ROUTED, "Serving", ("True", "Ramping"), id="ramps"),
        pytest.param(SERVING | {"gate": GATE | WATCH | {"state": "Watching"}}, ROUTED, "Serving", ("True", "Watching"), id="is watched"),
        pytest.param(
            SERVING | {"gate": GATE | WATCH | {"state": "Unconfirmed"}}, ROUTED, "Serving", ("True", "Unconfirmed"), id="unconfirmed"
        ),
        pytest.param(SERVING | {"ended": [ENDED | {"reason": "Confirmed"}]}, ROUTED, "Serving", ("True", "Confirmed"), id="confirmed"),
        pytest.param({"ended": [ENDED | {"reason": "Confirmed"}]}, {}, "Loaded", ("False", "Replaced"), id="another one took its place"),
        pytest.param(SERVING, ROUTED, "Serving", ("False", "Pinned"), id="serves by a pin"),
        pytest.param({"ended": [ENDED | {"reason": "RolledBack"}]}, {}, "RolledBack", ("False", "RolledBack"), id="rolled back"),
        pytest.param({"ended": [ENDED | {"reason": "RolledBack"}]}, NO_SLOT, "RolledBack", ("False", "RolledBack"), id="and has no slot"),
        pytest.param(
            {"ended": [ENDED | {"reason": "RolledBack"}]},
            {"servers": [server("Failed")]},
            "Failed",
            ("False", "RolledBack"),
            id="and refused",
        ),
        pytest.param({"ended": [ENDED | {"reason": "NotProven"}]}, {}, "NotProven", ("False", "NotProven"), id="not proven"),
        pytest.param({"ended": [ENDED | {"reason": "Rejected"}]}, {}, "Rejected", ("False", "Rejected"), id="rejected"),
        pytest.param(
            {"rejected": [{"digest": DIGEST, "at": AT, "author": "anna"}]}, {}, "Rejected", ("False", "Rejected"), id="before its turn came"
        ),
        pytest.param({"ended": [ENDED | {"reason": "Superseded"}]}, {}, "Loaded", ("False", "Superseded"), id="a newer one was there"),
        pytest.param(
            {"ended": [ENDED | {"reason": "RolledBack"}], "gate": GATE | {"number": 4, "state": "Testing"}},
            {},
            "Testing",
            ("False", "Testing"),
            id="a newer quorum let it in again",
        ),
        pytest.param(
            {"gate": GATE | {"adapterUid": "uid-before", "state": "AwaitingApproval"}},
            {},
            "AwaitingApproval",
            ("False", "AwaitingApproval"),
            id="it was restored",
        ),
        pytest.param(
            {"ended": [ENDED | {"adapterUid": "uid-before", "reason": "NotProven"}]},
            {},
            "NotProven",
            ("False", "NotProven"),
            id="it was restored after its turn",
        ),
        pytest.param(
            {"ended": [ENDED | {"adapterUid": "uid-before", "reason": "NotProven"}], "gone": [3]},
            {},
            "Loaded",
            ("False", "Waiting"),
            id="the one before it was deleted",
        ),
        pytest.param({"spent": [fingerprint("a", DIGEST)]}, {}, "Loaded", ("False", "HadItsTurn"), id="was replaced"),
        pytest.param({"settled": AT}, {"created_at": AT}, "Loaded", ("False", "HadItsTurn"), id="counts as having had its turn"),
        pytest.param({"settled": AT}, {"created_at": rfc3339(NOW)}, "Loaded", ("False", "Waiting"), id="came after that"),
    ],
)
def test_phase_and_condition(entry, facts, phase, promoted):
    status = decide(observed(entry, **facts), NOW).status
    assert (status.phase, condition(status, "Promoted")) == (phase, promoted)
    assert condition(status, "Ready")[0] == health.ADAPTER[phase].ready


@pytest.mark.parametrize(
    ("entry", "facts", "held"),
    [
        pytest.param({"gate": GATE | {"state": "Testing"}}, {}, True, id="it is on its way"),
        pytest.param({"ended": [ENDED | {"reason": "NotProven"}]}, {}, True, id="it had its turn"),
        pytest.param({"spent": [fingerprint("a", DIGEST)]}, {}, True, id="it was replaced"),
        pytest.param({"ended": [ENDED | {"reason": "NotProven"}], "gone": [3]}, {}, False, id="its deletion is noted"),
        pytest.param({"ended": [ENDED | {"reason": "NotProven", "digest": BASE}]}, {}, False, id="its namesake had a turn"),
        pytest.param({}, {}, False, id="it never had a turn"),
        pytest.param({"gate": GATE | {"state": "Testing"}}, {"endpoint": None}, False, id="there is no endpoint to note it"),
        pytest.param({"spent": [fingerprint("a", DIGEST)]}, {"deleting_since": AT}, False, id="five minutes are over"),
    ],
)
def test_it_is_not_let_go_before_its_endpoint_has_noted_it(entry, facts, held):
    """Or another one that is made anew under its name would be taken for it, restored from a backup."""
    gone = {"deleting_since": rfc3339(NOW), "routes": routes(wanted=False), "servers": []}
    decision = decide(observed(entry, **(gone | facts)), NOW)
    assert decision.finalizer is held
    if held:
        assert "its endpoint has not noted it yet" in next(c.message for c in decision.status.conditions if c.type == "Ready")


def test_without_a_policy_there_is_nothing_to_say():
    status = decide(observed(endpoint=endpoint(promotion=None)), NOW).status
    assert (status.phase, condition(status, "Promoted"), status.promotion) == ("Loaded", None, None)
    before = decide(observed(), NOW).status
    later = decide(observed(endpoint=endpoint(promotion=None), status=before), NOW).status
    assert condition(later, "Promoted") == ("False", "NoPolicy")


def test_the_endpoints_words_are_taken_where_they_are_about_the_same_state():
    words = {"state": "AwaitingApproval", "since": AT, "number": 3, "adapter": "a", "digest": DIGEST, "message": "1 of 2 approvals"}
    words |= {"approvals": ["anna"], "approvalsNeeded": 2, "evidenceDigest": EVIDENCE}
    entry = {"gate": GATE | {"state": "AwaitingApproval"}}
    status = decide(observed(endpoint=endpoint(entry, {"promotion": words})), NOW).status
    assert (status.promotion.approvals, status.promotion.message) == (["anna"], "1 of 2 approvals")
    assert next(c.message for c in status.conditions if c.type == "Ready") == "1 of 2 approvals"
    behind = decide(observed(endpoint=endpoint(entry, {"promotion": words | {"state": "Testing"}})), NOW).status
    assert (behind.promotion.state, behind.promotion.approvals_needed, behind.promotion.message) == ("AwaitingApproval", 1, None)


def test_how_it_ended_is_said_with_number_and_bound():
    status = decide(observed({"ended": [ENDED | {"reason": "RolledBack", "evidenceDigest": EVIDENCE, "test": "a-12345678"}]}), NOW).status
    told = status.promotion
    assert (told.state, told.since, told.evidence_digest, told.test) == ("RolledBack", AT, EVIDENCE, "a-12345678")
    assert next(c.message for c in status.conditions if c.type == "Ready") == "errors of 40 %, bound 10 %"
    (event,) = happenings(AdapterStatus(phase="Serving"), status)
    assert (event.type, event.reason) == ("Warning", "RolledBack")


def test_whose_turn_it_is_is_said():
    told = {"promotion": {"state": "Testing", "since": AT, "number": 4, "adapter": "other", "digest": BASE}}
    status = decide(observed(endpoint=endpoint({}, told)), NOW).status
    assert next(c.message for c in status.conditions if c.type == "Promoted") == "it is Adapter other's turn"


def test_every_phase_is_in_the_table():
    assert set(health.ADAPTER) == set(AdapterStatus.model_fields["phase"].annotation.__args__[0].__args__)
    assert all(health.ADAPTER[phase].ready == "True" for phase in health.FIT)
