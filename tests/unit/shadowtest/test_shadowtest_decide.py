"""What a ShadowTest does next and what it says: one row a situation."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from graft_api import health
from graft_api.adapter import AdapterSpec
from graft_api.collect import CollectorReport, Reported
from graft_api.comparison import Metric
from graft_api.dataplane import version_name
from graft_api.fleet import AgentReport
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.schema import Invalid, parse
from graft_api.shadowtest import ShadowTestSpec, ShadowTestStatus
from graft_operator.engine.clock import rfc3339
from graft_operator.modelendpoint.observed import ServerPod
from graft_operator.shadowtest.decide import Refusal, decide, refused
from graft_operator.shadowtest.observed import Candidate, Observed, Production, ShadowView
from graft_operator.shadowtest.resolve import resolve
from graft_operator.shadowtest.summarize import happenings
from graft_operator.shadowtest.turns import REPORT_PATIENCE, TestView

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE = "sha256:" + "b" * 64
KEY = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
METRIC = {"name": "compile-errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary", "detectable": 0.1}


def digest(letter):
    return "sha256:" + letter * 64


OLD, NEW, OTHER = (version_name("dsl", digest(letter)) for letter in "ace")


def spec(**changes):
    body = {"adapterRef": {"name": "new"}, "metrics": [{"metric": METRIC, "scorer": {"cel": {}}}], "standardGuardrails": False}
    return parse(ShadowTestSpec, body | changes)


def adapter(phase="Loaded", said="on all 2 ready replicas", deleting=False, letter="c", domain="dsl"):
    artifact = {"uri": "s3://adapters/c", "digest": digest(letter), "sizeBytes": 10}
    body = {"artifact": artifact, "domain": domain, "baseModelDigest": BASE, "endpointRef": {"name": "prod"}}
    return Candidate("new", parse(AdapterSpec, body), phase, said, deleting)


COUNTED = {"digest": digest("c"), "count": 3, "test": "t", "uids": ["former-uid", "12345678-uid"]}


def ledger(letter="a", switches=0, counted=(COUNTED,)):
    active = {"adapter": f"adapter-{letter}", "digest": digest(letter), "uri": "s3://adapters/a", "sizeBytes": 10}
    history = [{"ordinal": one + 1, "at": "2026-03-01T00:00:00Z", "reason": "Pinned"} for one in range(switches)][-32:]
    domain = {"name": "dsl", "salt": "s", "history": history, "tests": list(counted)} | ({"active": active} if letter else {})
    return parse(Ledger, {"endpoint": "prod", "baseDigest": BASE, "domains": [domain]})


def endpoint(letter="a", uid="prod-uid", deleting=False, switches=0, **changes):
    body = {
        "baseModel": {"uri": "s3://models/base"},
        "gateway": {"anonymous": True},
        "domains": [{"name": "dsl"}],
        "trustedKeys": [{"name": "ci", "pem": KEY}],
        "collector": {"store": "s3://measured/prod/"},
    }
    body = {key: value for key, value in (body | changes).items() if value is not None}
    return Production("prod", uid, parse(ModelEndpointSpec, body), deleting, ledger(letter, switches))


EXISTING = {"server": {"existing": {"deployment": "vllm"}}, "baseModel": {"uri": "s3://models/base", "digest": BASE}}
SHADOW = {"shadow": {"endpoint": "elsewhere", "versions": []}, "gateway": {"anonymous": True, "replicas": 0}, "collector": None}


def observed(phase=None, status=None, **facts):
    known = Observed("shop", "t", "12345678-uid", 1, spec(), status or ShadowTestStatus(phase=phase), adapter(), endpoint())
    return replace(known, **facts)


RESOLVED = resolve(observed(), spec())


def begun(phase, since=NOW, **facts):
    """A test that was frozen, with the conditions that its earlier passes have left."""
    known = observed(status=decide(observed("Queued"), since).status)
    status = known.status.model_copy(update={"phase": phase})
    return replace(known, status=status, shadow=ours(), **facts) if "shadow" not in facts else replace(known, status=status, **facts)


def ours(*names, **changes):
    known = ShadowView("shadow-uid", ours=True, deleting=False, versions=frozenset(names or {OLD, NEW}), asking="graft-collector-prod")
    return replace(known, **changes)


def pod(name="s0", ready=True, old="Ready", new="Ready", reason=None, **changes):
    entry = {"name": NEW, "digest": digest("c"), "state": new} | ({"reason": reason, "message": "says no"} if reason else {})
    versions = [{"name": OLD, "digest": digest("a"), "state": old}, entry]
    body = {"boot": "1", "sequence": 1, "epoch": 1, "revision": 2, "server": "Serving", "versions": versions}
    return replace(ServerPod(name, f"uid-{name}", ready, terminating=False, report=parse(AgentReport, body)), **changes)


def estimate(improvement, half=0.02):
    ends = {"low": improvement - half, "high": improvement + half, "incumbent": 0.2, "candidate": 0.2 - improvement}
    return {"improvement": improvement, **ends, "pairs": 900, "method": "Bootstrap"}


def contrast(name, improvement, clusters=300, harm=False, hours=90.5):
    reading = {"metric": METRIC, "clusters": clusters, "pairs": 900, "overall": estimate(improvement), "hoursToDetect": hours}
    if harm:
        reading["harm"] = {"clusters": 80, "high": -0.04, "limit": 0.0, "shown": True}
    reading = {key: value for key, value in reading.items() if value is not None}
    return {"name": name, "pairs": 900, "clusters": clusters, "metrics": [reading]}


def said(hours=168.0, improvement=0.1, uid="12345678-uid", **changes):
    harm, clusters = changes.pop("harm", False), changes.pop("clusters", 300)
    forecast = changes.pop("hours_to_detect", 90.5)
    comparison = {
        "contrasts": [contrast("production", improvement, clusters, harm, forecast)],
        "instrument": contrast("instrument", 0.0, clusters),
        "broken": changes.pop("broken", []),
    }
    body = {"boot": "1", "sequence": 1, "mode": "Compare", "test": "t", "testUid": uid, "observedHours": hours, "commit": 41}
    return parse(CollectorReport, body | {"comparison": comparison} | changes)


def of(decision, kind):
    return next(((c.status, c.reason) for c in decision.status.conditions or [] if c.type == kind), None)


def message(decision):
    return next(c.message for c in decision.status.conditions if c.type == "Ready")


DOCUMENT = {"jsonSchema": {"document": '{"const":"' + "x" * 65_000 + '"}'}}
LARGE = [{"metric": METRIC | {"name": f"schema-{number}"}, "scorer": DOCUMENT} for number in range(16)]
SCORES = [{"name": f"score-{number}", "scorer": DOCUMENT} for number in range(8)]
OBSERVING = endpoint(collector={"store": "s3://measured", "observe": [{"domain": "dsl", "scores": SCORES}]})
TOKEN = {"llmJudge": {"url": "https://judge/v1", "model": "j", "tokenEnv": "JUDGE"}}
JUDGED = spec(metrics=[{"metric": METRIC | {"kind": "Mean", "direction": "HigherIsBetter", "worst": 0.0}, "scorer": TOKEN}])
PAID = endpoint(collector={"store": "s3://measured", "env": [{"name": "JUDGE", "value": "x"}]})


@pytest.mark.parametrize(
    ("facts", "reason", "stalled"),
    [
        pytest.param({"candidate": None}, "AdapterNotFound", False, id="there is no adapter"),
        pytest.param({"candidate": adapter(deleting=True)}, "AdapterNotFound", True, id="the adapter is being deleted"),
        pytest.param({"candidate": replace(adapter(), spec=Invalid(["x: bad"]))}, "AdapterInvalid", True, id="the adapter is unreadable"),
        pytest.param({"production": None}, "EndpointNotFound", False, id="there is no endpoint"),
        pytest.param({"production": endpoint(deleting=True)}, "EndpointNotFound", False, id="the endpoint is being deleted"),
        pytest.param({"production": replace(endpoint(), spec=Invalid(["x: bad"]))}, "EndpointInvalid", True, id="the endpoint is invalid"),
        pytest.param({"production": endpoint(collector=None)}, "NoCollector", True, id="the endpoint measures nothing"),
        pytest.param({"production": endpoint(**EXISTING)}, "ExistingServer", True, id="the servers are the user's own"),
        pytest.param({"production": endpoint(**SHADOW)}, "EndpointIsShadow", True, id="the endpoint is itself a shadow"),
        pytest.param({"candidate": adapter(domain="governance")}, "DomainNotServed", True, id="the adapter is for another domain"),
        pytest.param({"production": replace(endpoint(), ledger=None)}, "LedgerNotRead", False, id="nobody can tell what serves"),
        pytest.param({"candidate": adapter("Failed", "no effect")}, "AdapterFailed", True, id="the adapter failed"),
        pytest.param({"candidate": adapter("Loading", "on 1 of 2")}, "AdapterNotLoaded", False, id="the adapter is not loaded yet"),
        pytest.param({"candidate": adapter(None, "")}, "AdapterNotLoaded", False, id="the adapter is new"),
        pytest.param({"spec": JUDGED}, "MetricCannotBeMeasured", True, id="the judge's token is nowhere"),
        pytest.param({"shadow": ours(ours=False)}, "NameConflict", True, id="the shadow's name is taken"),
        pytest.param({"spec": spec(metrics=LARGE)}, "TooLarge", True, id="more scorers than a ConfigMap holds"),
        pytest.param({"production": OBSERVING, "spec": spec(metrics=LARGE[:8])}, "TooLarge", True, id="with what is observed anyway"),
    ],
)
def test_a_test_that_cannot_be_carried_out_takes_no_turn_and_says_what_to_do(facts, reason, stalled):
    decision = decide(observed(**facts), NOW)
    assert (decision.status.phase, of(decision, "Ready")) == ("Pending", ("False", reason))
    assert (of(decision, "Stalled")[0], of(decision, "Reconciling")[0]) == (("True", "False") if stalled else ("False", "True"))
    assert decision.status.resolved is None
    assert (decision.create, decision.remove) == (None, None)
    assert message(decision)


def test_who_loses_what_it_queued_with_lets_go_of_it():
    queued = decide(observed(), NOW).status
    decision = decide(observed(status=queued, candidate=adapter("Failed")), NOW)
    assert (decision.status.phase, decision.status.resolved) == ("Pending", None)


def test_what_it_would_use_is_shown_while_it_queues():
    decision = decide(observed(), NOW)
    resolved = decision.status.resolved
    assert (decision.status.phase, of(decision, "Ready")) == ("Queued", ("True", "Next"))
    assert (resolved.incumbent.version, resolved.candidate.version) == (OLD, NEW)
    assert resolved.store == "s3://measured/prod/shadowtests/t-12345678"
    assert resolved.max_duration == "336h"
    assert (decision.create, decision.remove) == (None, None)


def test_a_judge_whose_token_the_collector_has_can_be_asked():
    assert decide(observed(spec=JUDGED, production=PAID), NOW).status.phase == "Queued"


def other(phase, created="2026-02-01T00:00:00Z", name="other", uid="prod-uid", **changes):
    status = ShadowTestStatus(phase=phase, resolved=RESOLVED.model_copy(update={"endpoint_uid": uid}))
    return replace(TestView(name, "other-uid", created, spec(), status), **changes)


ME = other("Queued", "2026-02-15T00:00:00Z", "t")


@pytest.mark.parametrize(
    ("others", "phase", "reason"),
    [
        pytest.param([], "Starting", "Starting", id="alone it starts"),
        pytest.param([other("Queued")], "Queued", "Queued", id="who queues for longer goes first"),
        pytest.param([other("Queued", "2026-02-20T00:00:00Z")], "Starting", "Starting", id="who came later waits"),
        pytest.param([other("Starting", "2026-02-20T00:00:00Z")], "Queued", "Queued", id="who starts is not overtaken"),
        pytest.param([other("Running", "2026-02-20T00:00:00Z")], "Queued", "Queued", id="who runs is not overtaken"),
        pytest.param([other("Passed")], "Starting", "Starting", id="who has ended without a report to write is done"),
        pytest.param([other("Pending")], "Starting", "Starting", id="who cannot be carried out holds nothing"),
        pytest.param([other("Running", uid="another")], "Starting", "Starting", id="another endpoint's collector is another's"),
        pytest.param([other("Running", deleting=True)], "Starting", "Starting", id="who is being deleted is gone"),
    ],
)
def test_tests_take_turns(others, phase, reason):
    status = decide(observed(), NOW).status
    decision = decide(observed(status=status, tests=[ME, *others]), NOW)
    assert (decision.status.phase, of(decision, "Ready")[1]) == (phase, reason)
    assert decision.create is None, "made by the next pass, when it is written that it may"


def test_a_shadow_server_that_is_left_from_before_goes_first():
    status = decide(observed(), NOW).status
    decision = decide(observed(status=status, tests=[ME], shadow=ours()), NOW)
    assert (decision.status.phase, decision.remove) == ("Queued", "shadow-uid")


ELSEWHERE = endpoint(domains=[{"name": "governance"}])
STARTED = replace(ME, status=ME.status.model_copy(update={"phase": "Starting"}))


@pytest.mark.parametrize(
    ("facts", "phase", "reason", "does"),
    [
        pytest.param({"shadow": None}, "Starting", "Starting", "create", id="the shadow server is made"),
        pytest.param({"shadow": ours(deleting=True)}, "Starting", "Starting", None, id="an old one is going"),
        pytest.param({"shadow": ours(OTHER)}, "Starting", "Starting", "remove", id="an old one holds other versions"),
        pytest.param({"shadow": ours(ours=False)}, "Pending", "NameConflict", None, id="somebody took its name"),
        pytest.param({}, "Starting", "Starting", None, id="no pod yet"),
        pytest.param({"servers": [pod(ready=False)]}, "Starting", "Starting", None, id="the pod is not ready"),
        pytest.param({"servers": [pod(new="Loading")]}, "Starting", "Starting", None, id="the candidate is not loaded"),
        pytest.param({"servers": [pod(old="Probing")]}, "Starting", "Starting", None, id="the incumbent is not loaded"),
        pytest.param({"servers": [pod(report=None)]}, "Starting", "Starting", None, id="the pod says nothing"),
        pytest.param({"servers": [pod(), pod("s1", new="Loading")]}, "Starting", "Starting", None, id="one of two ready pods has it"),
        pytest.param({"servers": [pod(), pod("s1", ready=False)]}, "Running", "Running", None, id="as many as are wanted are ready"),
        pytest.param(
            {"servers": [pod(new="Failed", reason="NoEffect")]}, "Error", "NoEffect", None, id="the candidate is refused for good"
        ),
        pytest.param(
            {"servers": [pod(new="Failed", reason="StoreUnavailable")]}, "Starting", "Starting", None, id="the candidate may still come"
        ),
        pytest.param({"shadow": ours(stalled=("Forbidden", "quota"))}, "Starting", "Starting", None, id="a quota is in the way"),
        pytest.param({"shadow": ours(stalled=("InvalidSpec", "memory"))}, "Error", "InvalidSpec", None, id="its pods are refused"),
        pytest.param({"production": endpoint("e")}, "Queued", "BeginsAnew", "remove", id="the incumbent was switched before a pair"),
        pytest.param({"production": endpoint(switches=2)}, "Queued", "BeginsAnew", "remove", id="switched and back before a pair"),
        pytest.param({"production": endpoint(collector=None)}, "Queued", "BeginsAnew", "remove", id="nothing is measured any more"),
        pytest.param({"production": ELSEWHERE}, "Queued", "BeginsAnew", "remove", id="the domain is not served any more"),
        pytest.param({"shadow": ours(asking="former")}, "Starting", "Starting", "remove", id="an old one lets in another collector"),
        pytest.param(
            {"production": endpoint(server={"dtype": "float16"}), "shadow": None},
            "Queued",
            "BeginsAnew",
            None,
            id="the endpoint was edited before the shadow was made",
        ),
        pytest.param(
            {"production": endpoint(server={"dtype": "float16"}), "servers": [pod()]}, "Running", "Running", None, id="edited after"
        ),
        pytest.param({"production": None}, "Error", "EndpointGone", None, id="the endpoint is gone"),
        pytest.param({"production": endpoint(uid="anew")}, "Error", "EndpointGone", None, id="the endpoint was made anew"),
        pytest.param({"candidate": None}, "Error", "AdapterGone", None, id="the adapter is gone"),
        pytest.param({"candidate": adapter(letter="e")}, "Error", "AdapterGone", None, id="the adapter is another artifact"),
        pytest.param({"candidate": adapter("Loading"), "servers": [pod()]}, "Running", "Running", None, id="production scales up"),
        pytest.param({"tests": [STARTED, other("Running")]}, "Queued", "BeginsAnew", "remove", id="another one was faster"),
        pytest.param({"production": replace(endpoint(), ledger=None)}, "Starting", "LedgerNotRead", None, id="the ledger is away"),
    ],
)
def test_how_a_test_starts(facts, phase, reason, does):
    decision = decide(begun("Starting", **({"tests": [STARTED]} | facts)), NOW)
    assert (decision.status.phase, of(decision, "Ready")[1]) == (phase, reason)
    assert ("create" if decision.create else "remove" if decision.remove else None) == does
    if phase in {"Pending", "Queued"}:
        assert decision.status.resolved is None


def test_what_keeps_the_shadow_server_is_said_with_numbers():
    stuck = pod(ready=False, problem=("Unschedulable", "0/3 nodes have nvidia.com/gpu"))
    decision = decide(begun("Starting", tests=[STARTED], servers=[stuck]), NOW)
    assert message(decision) == (
        "0 of 1 shadow servers are ready, 0 of them with both versions; s0: Unschedulable 0/3 nodes have nvidia.com/gpu"
    )
    assert decision.status.shadow == message(decision)
    assert of(decision, "ShadowReady") == ("False", "Starting")


def test_a_shadow_server_that_does_not_come_ends_the_test_so_that_others_get_their_turn():
    late = begun("Starting", since=NOW - timedelta(hours=6), tests=[STARTED])
    assert decide(late, NOW - timedelta(seconds=1)).status.phase == "Starting"
    ends = decide(late, NOW)
    assert (ends.status.phase, of(ends, "Stalled")) == ("Error", ("True", "ShadowNotReady"))
    forbidden = refused(late, Refusal("Forbidden", "exceeded quota", final=False), NOW)
    assert (forbidden.status.phase, of(forbidden, "Ready")[1]) == ("Error", "Forbidden")


@pytest.mark.parametrize(
    ("final", "phase"), [pytest.param(True, "Error", id="it never will be"), pytest.param(False, "Starting", id="it may be later")]
)
def test_a_shadow_server_that_is_refused_is_said(final, phase):
    decision = refused(begun("Starting", shadow=None, tests=[STARTED]), Refusal("Forbidden", "exceeded quota", final=final), NOW)
    assert (decision.status.phase, of(decision, "Stalled")) == (phase, ("True", "Forbidden"))
    assert (decision.create, decision.remove) == (None, None)


SWITCHED = endpoint("e")
NOT_HEARD = {"report": None, "servers": [pod()]}


@pytest.mark.parametrize(
    ("facts", "phase", "ready", "measuring"),
    [
        pytest.param({"report": said(12.0)}, "Running", "Running", ("True", "Comparing"), id="pairs are made"),
        pytest.param({"report": said(167.9)}, "Running", "Running", ("True", "Comparing"), id="just before the horizon"),
        pytest.param({"report": said(168.0)}, "Passed", "Passed", ("False", "Ended"), id="better, at the horizon"),
        pytest.param({"report": said(168.0, -0.1)}, "Failed", "Failed", ("False", "Ended"), id="worse, at the horizon"),
        pytest.param({"report": said(168.0, 0.01)}, "Inconclusive", "Inconclusive", ("False", "Ended"), id="not shown, at the horizon"),
        pytest.param({"report": said(168.0, clusters=40)}, "Running", "Running", ("True", "Comparing"), id="too little is extended"),
        pytest.param({"report": said(336.0, clusters=40)}, "Inconclusive", "Inconclusive", ("False", "Ended"), id="too little for good"),
        pytest.param({"report": said(2.0, harm=True)}, "Failed", "Failed", ("False", "Ended"), id="harm ends it early"),
        pytest.param({"report": said(2.0, broken=["no cel"])}, "Error", "Error", ("False", "Ended"), id="a broken scorer ends it early"),
        pytest.param(
            {"report": said(2.0), "production": SWITCHED},
            "Inconclusive",
            "Inconclusive",
            ("False", "Ended"),
            id="the incumbent was switched",
        ),
        pytest.param(
            NOT_HEARD | {"production": SWITCHED}, "Inconclusive", "IncumbentSwitched", ("False", "Ended"), id="switched before any pair"
        ),
        pytest.param(
            {"report": said(2.0), "production": endpoint(switches=2)},
            "Inconclusive",
            "Inconclusive",
            ("False", "Ended"),
            id="the incumbent was switched and switched back",
        ),
        pytest.param(
            {"report": said(168.0), "production": endpoint(collector=None)}, "Error", "CollectorGone", ("False", "Ended"), id="no collector"
        ),
        pytest.param(NOT_HEARD | {"production": ELSEWHERE}, "Error", "CollectorGone", ("False", "Ended"), id="the domain is gone"),
        pytest.param({"report": said(200.0, comparison=None)}, "Running", "NoPairs", ("False", "NoPairs"), id="no request has come"),
        pytest.param(NOT_HEARD, "Running", "CollectorSilent", ("False", "CollectorSilent"), id="the collector is silent"),
        pytest.param({"report": said(12.0, shadowAway="refused")}, "Running", "ShadowAway", ("False", "ShadowAway"), id="shadow away"),
        pytest.param({"report": said(12.0, storeAway=True)}, "Running", "StoreAway", ("False", "StoreAway"), id="the store is away"),
        pytest.param(
            {"report": said(168.0), "production": replace(endpoint(), ledger=None)},
            "Running",
            "LedgerNotRead",
            ("False", "LedgerNotRead"),
            id="nobody can tell whether the incumbent serves",
        ),
        pytest.param({"report": said(168.0), "production": None}, "Error", "EndpointGone", ("False", "Ended"), id="the endpoint is gone"),
        pytest.param({"report": said(168.0), "candidate": None}, "Error", "AdapterGone", ("False", "Ended"), id="the adapter is gone"),
        pytest.param(
            {"servers": [pod(new="Failed", reason="NoEffect")]},
            "Error",
            "NoEffect",
            ("False", "Ended"),
            id="no server can have it any more",
        ),
        pytest.param(
            {"servers": [pod(), pod("s1", ready=False, new="Failed", reason="NoEffect")], "report": said(12.0)},
            "Running",
            "Running",
            ("True", "Comparing"),
            id="one of two servers refuses it",
        ),
        pytest.param({"shadow": ours(ours=False)}, "Error", "ShadowLost", ("False", "Ended"), id="the shadow is somebody else's"),
        pytest.param(
            {"shadow": None, "production": endpoint(server={"dtype": "float16"})},
            "Error",
            "ShadowLost",
            ("False", "Ended"),
            id="the shadow was deleted and cannot be made again",
        ),
    ],
)
def test_how_a_test_runs(facts, phase, ready, measuring):
    decision = decide(begun("Running", **({"servers": [pod()]} | facts)), NOW)
    assert (decision.status.phase, of(decision, "Ready")[1], of(decision, "Measuring")) == (phase, ready, measuring)
    row = health.SHADOWTEST[phase]
    assert [of(decision, kind)[0] for kind in ("Ready", "Reconciling", "Stalled", "Succeeded")] == [
        row.ready,
        row.reconciling,
        row.stalled,
        row.succeeded,
    ]
    assert (decision.status.verdict is not None) == (phase in health.SHADOW_TERMINAL and ready == phase)
    assert (decision.status.ended_at is not None) == (phase in health.SHADOW_TERMINAL)


def running_on(known, since, **facts):
    """The same test in a later pass, perhaps of another operator: all it knows of before is its status."""
    return replace(known, status=decide(known, since).status, **facts)


SILENT = begun("Running", servers=[pod()])
HEARD = begun("Running", servers=[pod()], report=said(12.0))


def test_a_collector_that_stays_silent_ends_the_test():
    silent = running_on(SILENT, NOW)
    assert silent.status.silent_since == rfc3339(NOW)
    silent = running_on(silent, NOW + timedelta(hours=5))
    assert (silent.status.phase, silent.status.silent_since) == ("Running", rfc3339(NOW))
    assert decide(silent, NOW + timedelta(hours=6, seconds=-1)).status.phase == "Running"
    ends = decide(silent, NOW + timedelta(hours=6))
    assert (ends.status.phase, of(ends, "Ready")[1], ends.create) == ("Error", "CollectorGone", None)
    assert "has said nothing of this test for 6 hours" in message(ends)


def test_a_collector_that_is_heard_again_begins_anew():
    silent = running_on(SILENT, NOW)
    heard = running_on(replace(silent, report=said(12.0)), NOW + timedelta(hours=5))
    assert heard.status.silent_since is None
    again = running_on(replace(heard, report=None), NOW + timedelta(hours=7))
    assert decide(again, NOW + timedelta(hours=12)).status.phase == "Running"


def test_an_operator_that_was_away_hears_first_and_ends_then():
    silent = running_on(SILENT, NOW)
    assert decide(replace(silent, listening=True), NOW + timedelta(hours=9)).status == silent.status
    assert decide(silent, NOW + timedelta(hours=9)).status.phase == "Error"
    assert decide(replace(silent, report=said(12.0)), NOW + timedelta(hours=9)).status.phase == "Running"


def test_a_switched_test_waits_for_its_numbers_and_not_for_hours():
    silent = running_on(running_on(HEARD, NOW), NOW, report=None, production=SWITCHED)
    silent = running_on(silent, NOW)
    assert decide(silent, NOW + timedelta(minutes=14)).status.phase == "Running"
    ends = decide(silent, NOW + timedelta(minutes=15))
    assert (ends.status.phase, of(ends, "Ready")[1]) == ("Inconclusive", "IncumbentSwitched")
    numbers = decide(replace(silent, report=said(12.0)), NOW + timedelta(minutes=14))
    assert (numbers.status.phase, numbers.status.verdict is not None) == ("Inconclusive", True)


@pytest.mark.parametrize(
    ("facts", "read"),
    [
        pytest.param({"report": said(100.0)}, True, id="the collector was away for most of it"),
        pytest.param({"report": said(100.0, comparison=None)}, False, id="nothing ever came"),
        pytest.param({"report": None}, False, id="the collector has just fallen silent"),
        pytest.param({"report": said(168.0), "production": replace(endpoint(), ledger=None)}, True, id="the ledger cannot be read"),
        pytest.param({"report": said(9.0), "production": replace(endpoint(), spec=Invalid(["x"]))}, True, id="the endpoint cannot be read"),
    ],
)
def test_wall_time_ends_a_test_that_observed_time_does_not(facts, read):
    known = replace(begun("Running", servers=[pod()]), **facts)
    known = replace(known, status=known.status.model_copy(update={"started_at": rfc3339(NOW)}))
    longest = 2 * timedelta(hours=336)
    assert decide(known, NOW + longest - timedelta(seconds=1)).status.phase == "Running"
    ends = decide(known, NOW + longest)
    assert (ends.status.phase, of(ends, "Ready")[1]) == ("Inconclusive", "OutOfTime")
    assert "28 days are over since it started, 2 times its longest duration" in message(ends)
    assert (ends.status.verdict is not None) == read, "what was compared is in a report"
    if read:
        assert (ends.status.verdict.outcome, ends.status.verdict.metrics) == ("Inconclusive", [])


def test_a_test_of_an_older_operator_knows_its_incumbent_by_the_version_alone():
    known = begun("Running", servers=[pod()], report=said(12.0), production=endpoint(switches=5))
    older = known.status.resolved.model_copy(update={"incumbent_switch": None})
    known = replace(known, status=known.status.model_copy(update={"resolved": older}))
    assert decide(known, NOW).status.phase == "Running"


@pytest.mark.parametrize("switches", [0, 3, 40])
def test_the_last_switch_is_frozen(switches):
    known = observed(production=endpoint(switches=switches))
    resolved = resolve(known, known.spec)
    assert resolved.incumbent_switch == switches
    assert not known.switched(resolved)
    assert replace(known, production=endpoint(switches=switches + 1)).switched(resolved)


def test_a_collector_that_the_shadow_does_not_know_is_said_and_what_to_do():
    writer = endpoint(collector={"store": "s3://measured/prod/", "credentials": {"serviceAccountName": "writer"}})
    away = said(12.0, shadowAway="403")
    decision = decide(begun("Running", servers=[pod()], report=away, production=writer), NOW)
    assert (decision.status.phase, of(decision, "Measuring")) == ("Running", ("False", "EndpointChanged"))
    assert of(decision, "Stalled") == ("True", "EndpointChanged")
    assert "runs as service account writer by now, and the shadow server lets in graft-collector-prod alone" in message(decision)
    known = decide(begun("Running", servers=[pod()], report=said(12.0), production=writer, shadow=ours(asking="writer")), NOW)
    assert of(known, "Measuring") == ("True", "Comparing")


def test_what_a_status_holds_is_small_whatever_scorers_there_are():
    known = observed(spec=spec(metrics=LARGE[:12], standardGuardrails=True))
    status = decide(known, NOW).status
    assert [one.metric.name for one in status.resolved.guardrails] == ["server-errors", "refusals", "latency-p95", "first-token-p95"]
    assert len(str(status.to_json())) < 16_384


def test_while_it_runs_no_metrics_number_is_shown():
    decision = decide(begun("Running", servers=[pod()], report=said(12.34, lost={"queue-full": 7})), NOW)
    status = decision.status
    assert (status.elapsed, status.pairs, status.conversations, status.lost) == ("12.3h", 900, 300, {"queue-full": 7})
    assert status.hours_to_detect == 90.5
    assert status.verdict is None
    assert "0.1" not in str(status.to_json()["conditions"])
    assert "12.3 of 168 hours, 900 pairs of 300 conversations" in message(decision)


def test_what_extends_it_is_said():
    decision = decide(begun("Running", servers=[pod()], report=said(170.0, clusters=40)), NOW)
    assert "40 conversations, at least 100 are needed; extended to at most 14 days" in message(decision)


def test_a_primary_without_forecast_leaves_none():
    decision = decide(begun("Running", servers=[pod()], report=said(12.0, hours_to_detect=None)), NOW)
    assert decision.status.hours_to_detect is None


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([({"role": "Guardrail", "margin": 0.02}, 200.0)], 200.0, id="the slowest of those that decide"),
        pytest.param([({"role": "Guardrail", "margin": 0.02}, None)], None, id="one of them is not foreseen yet"),
        pytest.param([({"role": "Guardrail"}, None), ({"detectable": None}, None)], 90.5, id="nothing is in question of these"),
        pytest.param([({"role": "Informational", "detectable": 0.1}, 200.0)], 90.5, id="it decides nothing"),
    ],
)
def test_the_forecast_is_of_all_that_decide(others, expected):
    (first,) = said().comparison.contrasts[0].metrics
    more = [first.model_copy(update={"metric": parse(Metric, metric_of(changes)), "hours_to_detect": hours}) for changes, hours in others]
    report = said(12.0)
    report.comparison.contrasts[0].metrics.extend(more)
    assert decide(begun("Running", servers=[pod()], report=report), NOW).status.hours_to_detect == expected


def metric_of(changes):
    return {name: value for name, value in (METRIC | {"name": "other"} | changes).items() if value is not None}


def test_a_deleted_shadow_server_is_made_again_as_it_was():
    decision = decide(begun("Running", shadow=None, report=said(12.0)), NOW)
    assert (decision.status.phase, of(decision, "ShadowReady")[0]) == ("Running", "False")
    assert decision.create["metadata"]["name"] == "t-shadow"


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"report": None, "servers": [pod()]}, id="the collector"),
        pytest.param({"report": said(12.0), "servers": [pod(report=None)]}, id="a shadow server"),
    ],
)
def test_a_new_operator_takes_no_silence_for_an_answer(facts):
    running = begun("Running", listening=True, **facts)
    decision = decide(running, NOW)
    assert decision.status == running.status
    assert decision.requeue_after is not None


def ended_with(report=None, **facts):
    status = decide(
        begun("Running", servers=[pod()], report=report or said(168.0), production=facts.get("production", endpoint())), NOW
    ).status
    return replace(begun("Running"), **({"status": status, "servers": []} | facts))


def gated(letter="a", test="t"):
    """Production whose ledger has a candidate on its way, with this test."""
    known = endpoint(letter)
    shadow = {"metrics": [{"metric": METRIC, "scorer": {"cel": {}}}]}
    gate = {
        "number": 1,
        "version": {"adapter": "new", "digest": digest("c"), "uri": "s3://adapters/c", "sizeBytes": 10},
        "adapterUid": "new-uid",
        "policy": {"shadow": shadow, "approval": {"required": 0}},
        "state": "Testing",
        "since": "2026-03-01T00:00:00Z",
        "began": "2026-03-01T00:00:00Z",
        "test": test,
    }
    body = known.ledger.to_json()
    body["domains"][0]["gate"] = gate
    return replace(known, ledger=parse(Ledger, body))


@pytest.mark.parametrize("phase", ["Queued", "Starting", "Running"])
@pytest.mark.parametrize(
    ("facts", "over"),
    [
        pytest.param({"promotes": True, "production": endpoint()}, True, id="there is no gate any more"),
        pytest.param({"promotes": True, "production": gated(test="another")}, True, id="the gate has another test"),
        pytest.param({"promotes": True, "production": gated()}, False, id="the gate waits for it"),
        pytest.param({"promotes": True, "production": replace(endpoint(), ledger=None)}, False, id="nobody can tell"),
        pytest.param({"production": endpoint()}, False, id="somebody's own test"),
    ],
)
def test_a_test_whose_candidate_is_not_on_its_way_any_more_makes_room_for_the_next(phase, facts, over):
    decision = decide(begun(phase, servers=[pod()], report=said(12.0), **facts), NOW)
    ended = (decision.status.phase, of(decision, "Ready")[1]) == ("Inconclusive", "GateEnded")
    assert ended == over
    assert not over or decision.status.ended_at is not None


def test_a_store_that_was_changed_behind_the_collector_ends_the_test_without_a_verdict():
    digest_of = {"commitDigest": "d" * 64}
    running = begun("Running", servers=[pod()], report=said(12.0, **digest_of))
    status = decide(running, NOW).status
    assert (status.phase, status.last_commit.commit) == ("Running", 41)
    later = replace(running, status=status, report=said(168.0, commit=40, **digest_of))
    decision = decide(later, NOW)
    assert (decision.status.phase, of(decision, "Ready")[1], decision.status.verdict) == ("Error", "StoreChanged", None)
    assert "commit 41 was there, and now the last one is 40" in message(decision)


def test_the_verdict_is_written_once_whatever_comes_later():
    before = ended_with()
    verdict = before.status.verdict
    assert (verdict.outcome, verdict.commit, verdict.observed_hours, verdict.read_at) == ("Passed", 41, 168.0, "2026-03-01T12:00:00Z")
    assert verdict.metrics[0].name == "compile-errors"
    assert len(verdict.evidence_digest) == 71
    for report in (said(200.0, -0.3, harm=True), said(200.0, broken=["no cel"]), None):
        later = decide(replace(before, report=report, production=None, candidate=None), NOW + timedelta(hours=1))
        assert (later.status.phase, later.status.verdict) == ("Passed", verdict)
        assert of(later, "Ready") == ("True", "Passed")


def test_what_a_verdict_was_read_from_is_kept_where_its_digest_can_be_checked():
    numbers = said(168.0)
    decision = decide(begun("Running", servers=[pod()], report=numbers), NOW)
    kept = decision.evidence
    assert kept["metadata"]["name"] == "t-evidence-12345678"
    assert kept["metadata"]["labels"]["graft.dev/record"] == "evidence"
    assert [owner["uid"] for owner in kept["metadata"]["ownerReferences"]] == ["12345678-uid"]
    content = kept["data"]["evidence.json"]
    assert decision.status.verdict.evidence_digest == f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    found = json.loads(content)
    assert found["comparison"] == numbers.comparison.to_json()
    assert (found["outcome"], found["resolved"]["seed"]) == ("Passed", decision.status.resolved.seed)
    ended = replace(begun("Running"), status=decision.status)
    assert decide(ended, NOW).evidence is None, "written once"
    assert decide(begun("Running", servers=[pod()], report=said(12.0)), NOW).evidence is None
    late = NOW + timedelta(hours=672)
    known = begun("Running", servers=[pod()], report=said(100.0))
    started = replace(known, status=known.status.model_copy(update={"started_at": rfc3339(NOW)}))
    out_of_time = decide(started, late)
    assert out_of_time.status.phase == "Inconclusive"
    assert json.loads(out_of_time.evidence["data"]["evidence.json"])["outcome"] == "Inconclusive"


UNCOUNTED = replace(endpoint(), ledger=ledger(counted=()))


@pytest.mark.parametrize("numbers", [said(168.0), said(2.0, harm=True)])
def test_no_verdict_is_read_of_a_test_that_nobody_counts(numbers):
    decision = decide(begun("Running", servers=[pod()], report=numbers, production=UNCOUNTED), NOW)
    assert (decision.status.phase, decision.status.verdict, of(decision, "Measuring")) == ("Running", None, ("False", "NotCounted"))


def test_how_manieth_test_it_is_is_shown():
    starting = decide(begun("Starting", tests=[STARTED]), NOW)
    assert starting.status.attempt == 3
    passed = ended_with()
    assert (passed.status.attempt, passed.status.verdict.attempt) == (3, 3)
    told = next(c.message for c in passed.status.conditions if c.type == "Ready")
    assert told.endswith("; it is test 3 of this digest for domain dsl")
    first = ended_with(production=replace(endpoint(), ledger=ledger(counted=[COUNTED | {"count": 1, "uids": ["12345678-uid"]}])))
    assert (first.status.verdict.attempt, "this digest" in str(first.status.conditions)) == (1, False)


def test_a_test_keeps_its_number_when_the_ledger_is_lost_and_not_for_another_artifact():
    known = begun("Running", servers=[pod()], report=said(168.0), production=UNCOUNTED)
    numbered = replace(known, status=known.status.model_copy(update={"attempt": 3}))
    assert decide(numbered, NOW).status.verdict.attempt == 3
    known = begun("Starting", tests=[STARTED], production=endpoint("e"))
    anew = decide(replace(known, status=known.status.model_copy(update={"attempt": 3})), NOW).status
    assert (anew.phase, anew.attempt) == ("Queued", None)


def test_the_evidence_is_another_for_another_number():
    passed, other_numbers = ended_with().status.verdict, ended_with(said(168.0, 0.11)).status.verdict
    assert passed.evidence_digest != other_numbers.evidence_digest
    assert passed.evidence_digest == ended_with().status.verdict.evidence_digest


@pytest.mark.parametrize(
    ("keep", "remove", "told"),
    [pytest.param(False, "shadow-uid", "Removing", id="removed"), pytest.param(True, None, "Kept", id="kept as asked")],
)
def test_what_becomes_of_the_shadow_server(keep, remove, told):
    decision = decide(ended_with(spec=spec(shadow={"keep": keep})), NOW)
    assert (decision.remove, of(decision, "ShadowReady")[1], decision.create) == (remove, told, None)
    assert decide(ended_with(shadow=ours(ours=False)), NOW).remove is None
    gone = decide(ended_with(shadow=None), NOW)
    assert (gone.remove, of(gone, "ShadowReady")) == (None, ("False", "Removed"))


WRITTEN = Reported(test_uid="12345678-uid", html_digest=digest("1"), json_digest=digest("2"))


@pytest.mark.parametrize(
    ("reported", "later", "condition", "waits"),
    [
        pytest.param(None, timedelta(minutes=1), ("False", "Writing"), True, id="awaited"),
        pytest.param(WRITTEN, timedelta(minutes=1), ("True", "Written"), False, id="written"),
        pytest.param(WRITTEN, timedelta(hours=9), ("True", "Written"), False, id="written late"),
        pytest.param(
            Reported(test_uid="12345678-uid", problem="403"), timedelta(minutes=1), ("False", "NotWritten"), False, id="could not be"
        ),
        pytest.param(None, REPORT_PATIENCE, ("False", "NotWritten"), False, id="never came"),
    ],
)
def test_what_becomes_of_the_report(reported, later, condition, waits):
    decision = decide(ended_with(reported=reported, shadow=None), NOW + later)
    assert (of(decision, "Reported"), decision.requeue_after is not None) == (condition, waits)
    view = TestView("t", "12345678-uid", "2026-02-01T00:00:00Z", spec(), decision.status)
    assert view.reports(NOW + later) == waits, "the next test waits no longer than this one"
    if condition[0] == "True":
        assert decision.status.report.html == "s3://measured/prod/shadowtests/t-12345678/report.html"
        assert decision.status.report.json_digest == digest("2")


def test_a_report_that_nobody_waits_for_any_more_stays_so_for_an_operator_that_knows_nothing():
    gone = decide(ended_with(reported=Reported(test_uid="12345678-uid", problem="403"), shadow=None), NOW)
    later = decide(ended_with(status=gone.status, shadow=None), NOW + timedelta(minutes=2))
    assert of(later, "Reported") == ("False", "NotWritten")
    assert later.status == gone.status


def test_an_edit_of_the_endpoint_is_shown_and_the_shadow_stays_as_it_was_made():
    edited = endpoint(server={"dtype": "float16"})
    decision = decide(begun("Running", servers=[pod()], report=said(12.0), production=edited), NOW)
    assert of(decision, "SpecChangedAfterStart") == ("True", "EndpointChanged")
    assert (decision.create, decision.remove, decision.status.phase) == (None, None, "Running")
    scaled = endpoint(replicas=7, gateway={"anonymous": True, "replicas": 9})
    decision = decide(begun("Running", servers=[pod()], report=said(12.0), production=scaled), NOW)
    assert of(decision, "SpecChangedAfterStart") == ("False", "Unchanged")


@pytest.mark.parametrize("phase", [None, "Queued", "Starting", "Running"])
def test_nothing_counts_while_policies_are_missing(phase):
    known = begun(phase, report=said(168.0), servers=[pod()]) if phase in {"Starting", "Running"} else observed(phase)
    decision = decide(replace(known, policies_missing=["graft-records is absent"], policies_missing_seconds=200.0), NOW)
    assert (decision.status.phase, of(decision, "Stalled")) == (phase or "Pending", ("True", "PolicyMissing"))
    assert (decision.status.verdict, decision.create, decision.remove) == (None, None, None)
    assert decision.requeue_after is not None


def test_an_upgrade_of_the_chart_stalls_no_test_that_runs():
    known = begun("Running", report=said(168.0), servers=[pod()], policies_missing=["one"], policies_missing_seconds=20.0)
    assert decide(known, NOW).status == known.status


def test_a_spec_that_cannot_be_read_is_said_in_whatever_phase():
    for phase in (None, "Running"):
        decision = decide(observed(phase, spec=Invalid(["spec.duration: bad"])), NOW)
        assert (decision.status.phase, of(decision, "Stalled")) == (phase or "Pending", ("True", "InvalidSpec"))


def test_events_tell_transitions_and_nothing_twice():
    queued = decide(observed(), NOW).status
    starting = decide(observed(status=queued, tests=[ME]), NOW).status
    running = decide(begun("Starting", tests=[STARTED], servers=[pod()]), NOW).status
    passed = ended_with().status
    told = [[one.reason for one in happenings(*pair)] for pair in ((ShadowTestStatus(), queued), (starting, running), (running, passed))]
    assert told == [["Queued"], ["Started"], ["Passed"]]
    assert happenings(passed, passed) == []
    stalled = decide(observed(production=endpoint(collector=None)), NOW).status
    assert [(one.type, one.reason) for one in happenings(ShadowTestStatus(), stalled)] == [("Warning", "NoCollector")]
    failed = ended_with(said(2.0, harm=True)).status
    assert [(one.type, one.reason) for one in happenings(running, failed)] == [("Warning", "Failed")]
    assert rfc3339(NOW) == failed.ended_at
