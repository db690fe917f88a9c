"""Standard guardrails, turns, the shadow server as it is made, whom a change wakes, and what the operator imports."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from graft_api.adapter import AdapterSpec
from graft_api.collect import CollectorReport, Compare, MeasuredMetric, ReportTask
from graft_api.comparison import Comparison, Contrast, Exclusion, Metric, MetricReading, MetricVerdict, Outcome, Role, Verdict
from graft_api.dataplane import version_name
from graft_api.ledger import Ledger
from graft_api.measures import Measure
from graft_api.modelendpoint import ModelEndpoint, ModelEndpointSpec
from graft_api.schema import parse
from graft_api.shadowtest import ShadowTestSpec, ShadowTestStatus
from graft_operator.engine.queue import Key
from graft_operator.shadowtest import verdicts
from graft_operator.shadowtest.children import shadow_server
from graft_operator.shadowtest.guardrails import STANDARD, added, with_added
from graft_operator.shadowtest.index import ShadowIndex, adapter_of, production_of
from graft_operator.shadowtest.observed import Candidate, Observed, Production
from graft_operator.shadowtest.resolve import endpoint_spec_digest, resolve
from graft_operator.shadowtest.settings import compare_settings, report_task
from graft_operator.shadowtest.turns import NOT_WRITTEN, TestView, ahead, holder

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE = "sha256:" + "b" * 64
KEY = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
ERRORS = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}


def digest(letter):
    return "sha256:" + letter * 64


def measured(name="errors", measure="ToolCallValidity", **metric):
    return parse(MeasuredMetric, {"metric": ERRORS | {"name": name} | metric, "measure": measure})


SECONDS = {"kind": "Quantile", "quantile": 0.5, "unit": "s"}


@pytest.mark.parametrize(
    ("metrics", "control", "names"),
    [
        pytest.param([measured()], True, ["server-errors", "refusals", "latency-p95", "first-token-p95"], id="none of them is there"),
        pytest.param([measured()], False, ["refusals"], id="without a control share nothing of the hardware"),
        pytest.param(
            [measured("slow", "Latency", **SECONDS)], True, ["server-errors", "refusals", "first-token-p95"], id="latency is the user's own"
        ),
        pytest.param(
            [measured("no", "Refusal", role="Informational")],
            True,
            ["server-errors", "latency-p95", "first-token-p95"],
            id="refusals decide nothing, as the user wants",
        ),
        pytest.param(
            [measured("refusals")],
            False,
            ["standard-refusals"],
            id="another metric has the name",
        ),
        pytest.param(
            [measured("first", "TimeToFirstToken", **SECONDS)], True, ["server-errors", "refusals", "latency-p95"], id="production streams"
        ),
    ],
)
def test_which_guardrails_are_added(metrics, control, names):
    found = added(metrics, control=control)
    assert [one.metric.name for one in found] == names
    whole = with_added(metrics, found)
    assert whole[: len(metrics)] == metrics
    assert [(one.metric, one.measure, one.scorer) for one in whole[len(metrics) :]] == [(one.metric, one.measure, None) for one in found]


def test_the_standard_guardrails_are_what_the_reference_says():
    said = {one.measure: (one.metric.role, one.metric.margin, str(one.metric.scale), one.metric.quantile) for one in STANDARD}
    assert said == {
        Measure.SERVER_ERROR: (Role.GUARDRAIL, 0.005, "Absolute", None),
        Measure.REFUSAL: (Role.GUARDRAIL, 0.02, "Absolute", None),
        Measure.LATENCY: (Role.GUARDRAIL, 0.1, "Relative", 0.95),
        Measure.FIRST_TOKEN: (Role.INFORMATIONAL, 0.0, "Relative", 0.95),
    }
    assert [parse(MeasuredMetric, one.to_json()) for one in with_added([], STANDARD)] == with_added([], STANDARD), "they satisfy every rule"


def spec(**changes):
    return parse(ShadowTestSpec, {"adapterRef": {"name": "new"}, "metrics": [{"metric": ERRORS, "scorer": {"cel": {}}}]} | changes)


def ledger(letter):
    active = {"adapter": "old", "digest": digest("a"), "uri": "s3://adapters/a", "sizeBytes": 10}
    return parse(
        Ledger, {"endpoint": "prod", "baseDigest": BASE, "domains": [{"name": "dsl", "salt": "s"} | ({"active": active} if letter else {})]}
    )


TEMPLATE = {
    "nodeSelector": {"gpu": "h100"},
    "priorityClassName": "production",
    "resources": {"requests": {"cpu": "8"}},
    "labels": {"team": "x"},
}


def observed(letter="a", own=None, **endpoint):
    body = {
        "baseModel": {"uri": "s3://models/base"},
        "replicas": 9,
        "server": {"gpus": 2, "args": ["--max-model-len=8192"], "podTemplate": TEMPLATE},
        "gateway": {"apiKeys": {"secretRef": {"name": "keys"}}, "baseAlias": "raw"},
        "domains": [{"name": "dsl", "pin": {"base": True}}, {"name": "base"}],
        "trustedKeys": [{"name": "ci", "pem": KEY}],
        "credentials": {"secretRef": {"name": "s3"}},
        "collector": {"store": "s3://measured/prod", "credentials": {"serviceAccountName": "writer"}},
    }
    artifact = {"uri": "s3://adapters/c", "digest": digest("c"), "sizeBytes": 10}
    adapter = {"artifact": artifact, "domain": "dsl", "baseModelDigest": BASE, "endpointRef": {"name": "prod"}}
    candidate = Candidate("new", parse(AdapterSpec, adapter), "Loaded", "", deleting=False)
    production = Production("prod", "prod-uid", parse(ModelEndpointSpec, body | endpoint), deleting=False, ledger=ledger(letter))
    return Observed("shop", "t", "12345678-uid", 1, own or spec(), ShadowTestStatus(), candidate, production)


def made(letter="a", own=None, **endpoint):
    known = observed(letter, own, **endpoint)
    return shadow_server(known, known.spec, resolve(known, known.spec))


def test_the_shadow_server_is_production_without_gateways_and_for_its_collector_alone():
    manifest = made()
    assert manifest["metadata"] == {
        "name": "t-shadow",
        "namespace": "shop",
        "labels": {"app.kubernetes.io/managed-by": "graft", "graft.dev/shadowtest": "t"},
        "ownerReferences": [
            {
                "apiVersion": "graft.dev/v1alpha1",
                "kind": "ShadowTest",
                "name": "t",
                "uid": "12345678-uid",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    body = manifest["spec"]
    assert (body["baseModel"], body["replicas"]) == ({"uri": "s3://models/base", "digest": BASE}, 1)
    assert (body["gateway"]["replicas"], body["gateway"]["anonymous"], body["gateway"]["baseAlias"]) == (0, True, "raw")
    assert body["domains"] == [{"name": "dsl", "paused": False, "fallback": "Base"}]
    assert body["server"]["podTemplate"] == TEMPLATE
    assert (body["server"]["gpus"], body["server"]["args"]) == (2, ["--max-model-len=8192"])
    assert (body["server"]["maxLoras"], body["server"]["maxLoraRank"]) == (5, 64), "as many slots as production's kernels have"
    assert (body["trustedKeys"], body["credentials"]) == ([{"name": "ci", "pem": KEY}], {"secretRef": {"name": "s3"}})
    assert "collector" not in body
    assert (body["shadow"]["endpoint"], body["shadow"]["account"]) == ("prod", "writer")
    assert [one["name"] for one in body["shadow"]["versions"]] == [version_name("dsl", digest(letter)) for letter in "ac"]
    assert parse(ModelEndpoint, {"apiVersion": "graft.dev/v1alpha1", "kind": "ModelEndpoint", **manifest}).spec.slots() == 5


@pytest.mark.parametrize(
    ("letter", "names"),
    [pytest.param("a", ["old", "new"], id="an adapter serves"), pytest.param(None, ["new"], id="the base model serves")],
)
def test_the_shadow_server_holds_both_sides(letter, names):
    assert [one["adapter"] for one in made(letter)["spec"]["shadow"]["versions"]] == names


def test_an_adapter_is_held_against_itself_once():
    known = observed()
    same = known.production.ledger.domain("dsl").active.model_copy(update={"digest": digest("c")})
    domain = known.production.ledger.domains[0].model_copy(update={"active": same})
    known = replace(known, production=replace(known.production, ledger=known.production.ledger.model_copy(update={"domains": [domain]})))
    assert len(shadow_server(known, known.spec, resolve(known, known.spec))["spec"]["shadow"]["versions"]) == 1


def test_the_shadow_has_its_own_place_and_size_where_the_test_says_so():
    own = spec(shadow={"replicas": 3, "nodeSelector": {"gpu": "l4"}, "resources": {"limits": {"memory": "8Gi"}}, "tolerations": []})
    body = made(own=own)["spec"]
    template = body["server"]["podTemplate"]
    assert (body["replicas"], template["nodeSelector"], template["resources"]) == (3, {"gpu": "l4"}, {"limits": {"memory": "8Gi"}})
    assert (template["priorityClassName"], template["tolerations"]) == ("production", [])
    bare = made(own=own, server={})["spec"]["server"]["podTemplate"]
    assert bare["nodeSelector"] == {"gpu": "l4"}
    assert "podTemplate" not in made(server={})["spec"]["server"]


def test_nothing_is_made_of_what_cannot_be_told_any_more():
    known = observed()
    resolved = resolve(known, known.spec)
    assert shadow_server(observed(None), known.spec, resolved) is None, "another version serves by now"


EDITS = [
    pytest.param({"server": {"dtype": "float16"}}, True, id="the server"),
    pytest.param({"baseModel": {"uri": "s3://models/other"}}, True, id="the base model"),
    pytest.param({"trustedKeys": []}, True, id="the keys"),
    pytest.param({"credentials": {"secretRef": {"name": "other"}}}, True, id="the credentials"),
    pytest.param({"domains": [{"name": "dsl"}]}, True, id="the number of domains, and so of slots"),
    pytest.param({"domains": [{"name": "dsl"}, {"name": "other"}]}, False, id="a pin, and a domain's name"),
    pytest.param({"replicas": 2}, False, id="replicas"),
    pytest.param({"gateway": {"anonymous": True, "baseAlias": "raw", "replicas": 7}}, False, id="the gateway"),
    pytest.param({"collector": {"store": "s3://elsewhere"}}, False, id="the collector"),
]


@pytest.mark.parametrize(("edit", "matters"), EDITS)
def test_which_edits_of_the_endpoint_make_another_shadow(edit, matters):
    assert (endpoint_spec_digest(observed(**edit).production.spec) != endpoint_spec_digest(observed().production.spec)) == matters


def test_what_is_resolved_is_what_the_collector_is_told():
    known = observed(own=spec(duration="45m45s", share="0.5", store="s3://own/pairs"))
    resolved = resolve(known, known.spec)
    assert (resolved.max_duration, resolved.store) == ("1h31m30s", "s3://own/pairs/t-12345678")
    view = TestView("t", "12345678-uid", "", known.spec, ShadowTestStatus(phase="Running", resolved=resolved))
    told = compare_settings(view, "shop")
    assert parse(Compare, told.to_json()) == told
    assert (told.shadow.address, told.share) == ("t-shadow-server.shop.svc:8000", "0.5")
    assert [one.metric.name for one in told.metrics][:2] == ["errors", "server-errors"]


def test_the_report_is_of_what_the_verdict_was_read_from():
    ended = view("t", "Passed", "1")
    task = report_task(ended, "shop")
    assert (task.commit, task.verdict.outcome, task.compare) == (1, Outcome.PASSED, compare_settings(ended, "shop"))
    assert parse(ReportTask, task.to_json()) == task


def test_a_seed_follows_from_the_test_and_differs_from_the_next_ones():
    known = observed()
    assert resolve(known, known.spec).seed == resolve(observed(), known.spec).seed < 2**53
    assert resolve(known, spec(seed=0)).seed == 0
    other = replace(observed(), uid="another-uid")
    assert resolve(other, other.spec).seed != resolve(known, known.spec).seed


def test_what_vllm_may_fetch_is_frozen_with_the_test():
    gateway = {"apiKeys": {"secretRef": {"name": "keys"}}, "baseAlias": "raw", "allowedMediaHosts": ["media.example"]}
    known = observed(gateway=gateway)
    assert resolve(known, known.spec).allowed_media_hosts == ["media.example"]


def view(name, phase, created, reported=True, said=None, minutes=1):
    known = observed()
    body = {"phase": phase, "resolved": resolve(known, known.spec).to_json()}
    if phase == "Passed":
        verdict = {
            "outcome": phase,
            "sentence": "",
            "readAt": "2026-03-01T00:00:00Z",
            "observedHours": 1,
            "commit": 1,
            "evidenceDigest": BASE,
        }
        ended = (NOW - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
        body |= {"verdict": verdict, "endedAt": ended}
    if said:
        body["conditions"] = [{"type": "Reported", "status": "False", "lastTransitionTime": "2026-03-01T00:00:00Z", "reason": said}]
    return TestView(name, f"{name}-uid", created, known.spec, parse(ShadowTestStatus, body))


@pytest.mark.parametrize(
    ("tests", "has"),
    [
        pytest.param([], None, id="nobody"),
        pytest.param([("a", "Queued", "1")], None, id="who queues has not begun"),
        pytest.param([("a", "Starting", "1"), ("b", "Starting", "2")], "a", id="of two that started at once the earlier"),
        pytest.param([("a", "Starting", "1"), ("b", "Running", "2")], "b", id="who runs before who starts"),
        pytest.param([("a", "Starting", "1"), ("b", "Passed", "2")], "b", id="whose report is written before who starts"),
        pytest.param([("a", "Passed", "1", True, None, 31)], None, id="whose report is late"),
        pytest.param([("a", "Passed", "1", True, NOT_WRITTEN)], None, id="whose report could not be written"),
    ],
)
def test_who_has_the_collector(tests, has):
    found = holder([view(*one) for one in tests], "prod-uid", NOW)
    assert (found.name if found else None) == has


@pytest.mark.parametrize(
    ("tests", "first"),
    [
        pytest.param([("a", "Queued", "1"), ("t", "Queued", "2")], "a", id="who was there before"),
        pytest.param([("a", "Queued", "2"), ("t", "Queued", "2")], "a", id="of the same second the name decides"),
        pytest.param([("z", "Queued", "2"), ("t", "Queued", "2")], None, id="of the same second the name decides, otherwise"),
        pytest.param([("t", "Starting", "1")], None, id="nobody waits for itself"),
        pytest.param([("z", "Passed", "9"), ("t", "Queued", "1")], "z", id="whose report is being written"),
    ],
)
def test_who_goes_first(tests, first):
    found = ahead([view(*one) for one in tests], "t", "prod-uid", NOW)
    assert (found.name if found else None) == first


def test_a_test_that_cannot_be_read_takes_no_turn():
    metadata = {"name": "t", "namespace": "shop", "uid": "u", "creationTimestamp": "2026-03-01T00:00:00Z"}
    assert TestView.of({"metadata": metadata, "spec": spec().to_json()}).name == "t"
    assert TestView.of({"metadata": metadata, "spec": {"adapterRef": {}}}) is None
    assert TestView.of({"metadata": metadata, "spec": spec().to_json(), "status": {"phase": "Gone"}}) is None


def body(name="t", adapter="new", **status):
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"adapterRef": {"name": adapter}}, "status": status}


def test_whom_a_change_wakes():
    index, woken = ShadowIndex(), []
    assert index.seen(body()) == Key("shop", "t")
    index.seen(body("u"))
    index.seen(body("v", "other"))
    index.wake_of_adapter(Key("shop", "new"), woken.append)
    assert sorted(key.name for key in woken) == ["t", "u"]
    index.wake_of_shadow(Key("shop", "v-shadow"), woken.append)
    index.wake_of_shadow(Key("shop", "prod"), woken.append)
    index.wake_of_adapter(Key("else", "new"), woken.append)
    assert [key.name for key in woken[2:]] == ["v"]


@pytest.mark.parametrize(
    ("status", "woken"),
    [
        pytest.param({"phase": "Passed", "verdict": {}}, True, id="its report is awaited"),
        pytest.param({"phase": "Passed", "verdict": {}, "report": {}}, False, id="its report is there"),
        pytest.param({"phase": "Error"}, False, id="there is nothing to report"),
    ],
)
def test_who_has_ended_is_not_woken_by_others(status, woken):
    index, found = ShadowIndex(), []
    index.seen(body())
    index.seen(body(**status))
    index.wake_of_adapter(Key("shop", "new"), found.append)
    index.wake_of_shadow(Key("shop", "t-shadow"), found.append)
    assert bool(found) == woken


def test_where_a_test_points():
    assert adapter_of(body()) == Key("shop", "new")
    assert production_of(body(resolved={"endpoint": "prod"})) == Key("shop", "prod")
    assert (production_of(body()), adapter_of({"metadata": {"namespace": "shop"}})) == (None, None)


def test_a_verdict_beyond_what_a_status_holds_is_cut_with_a_word():
    metric = parse(Metric, ERRORS)
    one = MetricVerdict(
        contrast="production",
        name="errors",
        role=metric.role,
        outcome=Outcome.FAILED,
        sentence="it rose",
        reading=MetricReading(metric=metric),
        clusters=1,
        pairs=1,
    )
    said = Verdict(
        outcome=Outcome.FAILED,
        sentence="Failed",
        reasons=["because"] * 64,
        metrics=[one] * 100,
        exclusions=[Exclusion(cause="timeout", side="Both", count=1)] * 200,
    )
    comparison = Comparison(contrasts=[Contrast(name="production", pairs=1, clusters=1, metrics=[])])
    report = parse(CollectorReport, {"boot": "1", "sequence": 1, "mode": "Compare"})
    known = observed()
    status = verdicts.record(said, report, comparison, known.spec, resolve(known, known.spec), NOW)
    assert (len(status.reasons), len(status.metrics), len(status.exclusions)) == (64, 64, 64)
    assert status.reasons[-2:] == ["36 of 100 metrics are only in the report", "136 of 200 exclusions are only in the report"]


FORBIDDEN = (
    "numpy",
    "torch",
    "cel_expr_python",
    "re2",
    "z3",
    "lark",
    "jsonschema_rs",
    "zstandard",
    "minio",
    "graft_serving",
    "graft_trainer",
)
SCORERS = ("graft_evaluation.scorers", "graft_evaluation.pairs", "graft_evaluation.report", "graft_evaluation.sandbox")


def test_the_operator_reads_verdicts_without_what_measures_them():
    code = "import sys, graft_operator.main; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "graft_evaluation.verdict" in loaded
    assert not loaded & {*FORBIDDEN, *SCORERS}
    assert {name for name in loaded if name.startswith("graft_evaluation.")} == {
        "graft_evaluation.verdict",
        "graft_evaluation.drift",
        "graft_evaluation.paired",
        "graft_evaluation.paired.sentences",
        "graft_evaluation.paired.sequence",
        "graft_evaluation.watch",
    }
