"""Whether a domain has a candidate already: by the ledger, and by the Adapters that have not had their turn."""

import pytest

from graft_api.ledger import Gate, Ledger, LedgerDomain, Rejected
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.schema import parse
from graft_operator.modelendpoint.observed import Record
from graft_operator.tuningpolicy.candidates import in_gate

DIGEST = "sha256:" + "a" * 64
METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
PROMOTION = {"shadow": {"duration": "24h", "metrics": [{"measure": "ServerError", "metric": METRIC}]}, "approval": {"users": ["anna"]}}
SINCE = "2026-11-21T12:00:00Z"
WAITS = "Adapter a is loaded and has not had its turn"


def endpoint(**domain):
    dsl = {"name": "dsl", "promotion": PROMOTION} | domain
    wanted = {name: value for name, value in dsl.items() if value is not None}
    body = {
        "baseModel": {"uri": "s3://m"},
        "gateway": {"anonymous": True},
        "collector": {"store": "s3://c"},
        "domains": [wanted, {"name": "other"}],
    }
    return parse(ModelEndpointSpec, body)


def adapter(name="a", phase="Loaded", deleting=False, **changes):
    artifact = {"uri": "s3://a", "digest": DIGEST, "sizeBytes": 1}
    spec = {"artifact": artifact, "domain": "dsl", "baseModelDigest": DIGEST, "endpointRef": {"name": "prod"}} | changes
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": SINCE} | ({"deletionTimestamp": SINCE} if deleting else {})
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase}}


def ledger(**changes):
    return Ledger(endpoint="prod", domains=[LedgerDomain(name="dsl", salt="s", **changes)])


def gate(state):
    version = {"adapter": "a", "digest": DIGEST, "uri": "s3://a", "sizeBytes": 1}
    watch = {"watch": {"began": SINCE}} if state in {"Ramping", "Watching", "Unconfirmed"} else {}
    body = {"number": 1, "version": version, "adapterUid": "uid-a", "policy": PROMOTION, "state": state, "since": SINCE, "began": SINCE}
    return ledger(gate=parse(Gate, body | {"test": "t", "switch": 0} | watch))


@pytest.mark.parametrize("state", ["Testing", "AwaitingApproval", "Ramping", "Watching", "Unconfirmed"])
@pytest.mark.parametrize("promotion", [PROMOTION, None])
def test_a_gate_keeps_its_domain_until_it_has_ended_whatever_the_policy_says_by_now(state, promotion):
    assert in_gate(endpoint(promotion=promotion), gate(state), None, []) == {"dsl": f"Adapter a is {state} since {SINCE}"}


@pytest.mark.parametrize(
    ("adapters", "known", "spec", "told"),
    [
        pytest.param([], ledger(), endpoint(), None, id="none"),
        pytest.param([adapter()], ledger(), endpoint(), WAITS, id="one waits"),
        pytest.param([adapter()], None, endpoint(), WAITS, id="of a new endpoint"),
        pytest.param([adapter("b"), adapter("a")], ledger(), endpoint(), WAITS, id="two wait"),
        pytest.param([adapter()], ledger(), endpoint(paused=True), f"{WAITS} (paused)", id="paused"),
        pytest.param([adapter()], ledger(), endpoint(pin={"base": True}), f"{WAITS} (pinned)", id="pinned"),
        pytest.param([adapter()], ledger(), endpoint(promotion=None), None, id="nothing promotes"),
        pytest.param([adapter(promote=False)], ledger(), endpoint(), None, id="it is not to be promoted"),
        pytest.param([adapter(deleting=True)], ledger(), endpoint(), None, id="it is being deleted"),
        pytest.param([adapter(phase="Loading")], ledger(), endpoint(), None, id="it is not loaded"),
        pytest.param([adapter(phase="Failed")], ledger(), endpoint(), None, id="it never will be"),
        pytest.param([adapter(domain="other")], ledger(), endpoint(), None, id="of a domain that promotes nothing"),
        pytest.param([adapter(artifact={})], ledger(), endpoint(), None, id="it cannot be read"),
        pytest.param([adapter()], ledger(settled=SINCE), endpoint(), None, id="it had its turn"),
        pytest.param([adapter()], ledger(rejected=[Rejected(digest=DIGEST, at=SINCE, author="anna")]), endpoint(), None, id="rejected"),
    ],
)  # fmt: skip
def test_an_adapter_that_is_loaded_and_has_not_had_its_turn_keeps_its_domain(adapters, known, spec, told):
    assert in_gate(spec, known, None, adapters) == ({"dsl": told} if told else {})


def test_of_a_ledger_that_cannot_be_read_nobody_knows():
    found = in_gate(endpoint(), None, Record("uid", "1", problem="no JSON"), [])
    assert set(found) == {"dsl", "other"}
    assert "cannot be read" in found["dsl"]
