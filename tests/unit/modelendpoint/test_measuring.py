"""What is measured, step by step: whom gateways tell of, what the collector is told, and what is said of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from graft_api.collect import OBSERVED_HOURS, CollectorReport
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.ledger import Ledger, LedgerDomain, TestedDigest
from graft_api.modelendpoint import Collector, ModelEndpointSpec, ModelEndpointStatus
from graft_api.schema import parse
from graft_api.shadowtest import AddedGuardrail, ShadowTestSpec, ShadowTestStatus
from graft_operator.modelendpoint import decide, measuring
from graft_operator.modelendpoint.children import Parent, Platform
from graft_operator.modelendpoint.observed import CollectorPod, GatewayPod, Observed, ServerPod
from graft_operator.shadowtest.turns import REPORT_PATIENCE, TestView

DATA = Path(__file__).parents[1] / "data" / "modelendpoint"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PARENT = Parent("team", "measured", "11111111-2222-3333-4444-555555555555")
PLATFORM = Platform("serving:1", "vllm:1", "https://reports:8443")
UID = "66666666-7777-8888-9999-000000000000"
COUNTED = TestedDigest(digest=f"sha256:{'2' * 64}", count=1, test="first", uids=[UID])
LEDGER = Ledger(
    endpoint="measured",
    domains=[LedgerDomain(name="dsl", salt="salt of dsl", tests=[COUNTED]), LedgerDomain(name="governance", salt="salt of governance")],
)
OBSERVED = [{"domain": "governance", "scores": [{"name": "refusals", "measure": "Refusal"}]}]
BOTH = [{**OBSERVED[0], "domain": "dsl"}, *OBSERVED]
VERDICT = {"outcome": "Passed", "sentence": "better", "readAt": "2026-11-21T11:59:00Z", "observedHours": 168.0, "commit": 7}
VERDICT |= {"evidenceDigest": f"sha256:{'0' * 64}"}
ENDED = {"phase": "Passed", "verdict": VERDICT, "endedAt": "2026-11-21T11:59:00Z"}


def spec(observe=(), **changes):
    body = {
        "baseModel": {"uri": "s3://models/base", "digest": f"sha256:{'b' * 64}"},
        "gateway": {"anonymous": True, "replicas": 1},
        "domains": [{"name": "dsl"}, {"name": "governance"}],
        "collector": {"store": "s3://measured/prod", "queueBytes": 2**20, "observe": list(observe)},
    }
    return parse(ModelEndpointSpec, {key: value for key, value in (body | changes).items() if value is not None})


def a_test(share="1", **status):
    resource = yaml.safe_load((DATA / "measured" / "shadowtest.yaml").read_text())
    view = TestView.of({**resource, "spec": resource["spec"] | {"share": share}})
    changed = view.status.to_json() | status
    return replace(view, status=parse(ShadowTestStatus, {key: value for key, value in changed.items() if value is not None}))


def plan(wanted, *tests, now=NOW):
    return measuring.plan(Observed(PARENT, 1, wanted, ModelEndpointStatus(), tests=tests), wanted, LEDGER, now)


def tapped(planned):
    return {one.domain: one.share for one in planned.tee.domains} if planned.tee else None


def told(planned):
    settings = planned.settings
    return settings and {name for name in ("observe", "compare", "report") if getattr(settings, name) is not None}


REPORTED = {
    "html": "s3://m/report.html",
    "json": "s3://m/report.json",
    "htmlDigest": f"sha256:{'1' * 64}",
    "jsonDigest": f"sha256:{'1' * 64}",
}


@pytest.mark.parametrize(
    ("observe", "tests", "collector", "tee"),
    [
        pytest.param((), [], None, None, id="nothing is asked for"),
        pytest.param(OBSERVED, [], {"observe"}, {"governance": 10_000}, id="a domain is observed"),
        pytest.param((), [a_test()], {"compare"}, {"dsl": 10_000}, id="a test runs"),
        pytest.param((), [a_test("0.25")], {"compare"}, {"dsl": 2500}, id="of a share of conversations"),
        pytest.param(OBSERVED, [a_test("0.25")], {"observe", "compare"}, {"dsl": 2500, "governance": 10_000}, id="beside another domain"),
        pytest.param(BOTH, [a_test("0.25")], {"observe", "compare"}, {"dsl": 10_000, "governance": 10_000}, id="of an observed domain"),
        pytest.param(OBSERVED, [a_test(phase="Starting")], {"observe"}, {"governance": 10_000}, id="its servers are not there yet"),
        pytest.param((), [a_test(phase="Queued")], None, None, id="it waits for its turn"),
        pytest.param((), [replace(a_test(), deleting=True)], None, None, id="it is being deleted"),
        pytest.param((), [a_test(**ENDED)], {"report"}, None, id="its report is to be written"),
        pytest.param(OBSERVED, [a_test(**ENDED)], {"observe", "report"}, {"governance": 10_000}, id="while a domain is observed"),
        pytest.param((), [a_test(**ENDED, report=REPORTED)], None, None, id="its report is written"),
        pytest.param((), [a_test(phase="Error", endedAt="2026-11-21T11:59:00Z")], None, None, id="it ended without a verdict"),
    ],
)
def test_what_is_measured(observe, tests, collector, tee):
    planned = plan(spec(observe), *tests)
    assert (told(planned), tapped(planned)) == (collector, tee)
    assert planned.test == ("first" if collector and collector & {"compare", "report"} else None)


def test_without_a_collector_in_the_spec_a_test_changes_nothing():
    assert plan(spec(collector=None), a_test()) == measuring.Plan()


def test_a_test_that_the_ledger_does_not_count_has_no_collector():
    forgetful = Ledger(endpoint="measured", domains=[LedgerDomain(name="dsl", salt="salt of dsl")])
    for test, has in ((a_test(), None), (a_test(attempt=2), None), (a_test(**ENDED), {"report"})):
        assert told(measuring.plan(Observed(PARENT, 1, spec(), ModelEndpointStatus(), tests=[test]), spec(), forgetful, NOW)) == has
    assert told(plan(spec(), a_test(attempt=1))) == {"compare"}


def test_the_test_of_another_endpoint_of_the_same_name_is_not_ours():
    resolved = a_test().status.resolved.model_copy(update={"endpoint_uid": "another"})
    other = replace(a_test(), status=a_test().status.model_copy(update={"resolved": resolved}))
    assert told(plan(spec(), other)) is None


def test_one_test_at_a_time_and_a_report_before_the_next():
    first, second = a_test(**ENDED), replace(a_test(phase="Starting"), name="second", uid="u-2", created_at="2026-11-20T11:00:00Z")
    assert (plan(spec(), second, first).test, told(plan(spec(), second, first))) == ("first", {"report"})
    assert told(plan(spec(), second, first, now=NOW + REPORT_PATIENCE)) is None, "it starts, and the other's report is given up"
    both = plan(spec(), a_test(), first, replace(a_test(), name="later", uid="u-3", created_at="2026-11-20T13:00:00Z"))
    assert (both.test, told(both)) == ("first", {"compare"})


@pytest.mark.parametrize("share", ["1", "0.25", "0.12345", "0.00001", "1e-9", "0.99999", "3.3e-1"])
def test_what_gateways_and_collector_choose_of_is_the_tests_share(share):
    planned = plan(spec(), a_test(share))
    gateways, collector = tapped(planned)["dsl"], planned.settings.compare.share
    assert gateways / 10_000 * float(collector) == pytest.approx(float(share), rel=1e-12)
    assert 1 <= gateways <= 10_000
    assert gateways / 10_000 < float(share) + 1e-4, "gateways send nothing that nobody looks at"
    parse(type(planned.settings), planned.settings.to_json())


def test_what_is_observed_is_chosen_by_the_collector_alone():
    assert plan(spec(BOTH), a_test("0.25")).settings.compare.share == "0.25"


def test_the_smallest_share_is_still_one():
    planned = plan(spec(), a_test("1e-300"))
    parse(type(planned.settings), planned.settings.to_json())
    assert tapped(planned) == {"dsl": 1}


def test_gateways_are_told_where_by_which_salt_and_how_much_to_hold():
    tee = plan(spec(OBSERVED), a_test()).tee
    assert (tee.collector, tee.queue_bytes) == ("measured-collector.team.svc:8000", 2**20)
    assert {one.domain: one.salt for one in tee.domains} == {"dsl": "salt of dsl", "governance": "salt of governance"}


def test_the_collector_is_told_where_to_write_and_what_the_shadow_may_fetch():
    resolved = a_test().status.resolved
    begun = a_test(resolved=resolved.to_json() | {"allowedMediaHosts": ["as-it-began.example"]})
    settings = plan(spec(OBSERVED), begun).settings
    assert settings.observe.store == "s3://measured/prod/observe"
    assert settings.compare.store == resolved.store
    assert settings.compare.allowed_media_hosts == ["as-it-began.example"], "an edit of the endpoint does not replace the collector"


def test_a_status_that_makes_no_sense_stops_neither_endpoint_nor_observing():
    resolved = a_test().status.resolved
    twice = [AddedGuardrail(metric=one.metric, measure=one.measure) for one in a_test().spec.metrics]
    resolved = resolved.model_copy(update={"guardrails": twice})
    forged = replace(a_test(), status=a_test().status.model_copy(update={"resolved": resolved}))
    planned = plan(spec(OBSERVED), forged)
    assert (told(planned), tapped(planned)) == ({"observe"}, {"governance": 10_000})
    status, reason, message = measuring.condition(Observed(PARENT, 1, spec(OBSERVED), ModelEndpointStatus()), spec(OBSERVED), planned)
    assert (status, reason) == ("False", "TestUnusable")
    assert message.startswith("ShadowTest first: ")


def collector(ready=True, problem=None, terminating=False, silent=False, name="c-0", **said):
    body = {"boot": "1", "sequence": 1, "mode": "Compare", "testUid": UID} | said
    report = None if silent else parse(CollectorReport, {key: value for key, value in body.items() if value is not None})
    return CollectorPod(name, f"uid of {name}", ready, terminating, report, problem)


OBSERVING = {"mode": "Observe", "testUid": None}


def broke(broken, answers):
    """What was observed within the last hour; before, all went well."""
    many = len(OBSERVED_HOURS) - 1
    counts = {"domain": "governance", "score": "refusals", "wrong": [0] * (many + 1)}
    counts |= {"answers": [answers] + [100_000] * many, "broken": [broken] * (many + 1)}
    return {"observed": {"at": 1, "covered": [1.0] * (many + 1), "counts": [counts]}}


CRASHED = ("CrashLoopBackOff", "collector: /graft/collector/collector.json: no such file")


@pytest.mark.parametrize(
    ("tests", "pods", "expected"),
    [
        pytest.param([a_test()], [], ("False", "CollectorNotReady"), id="there is no pod"),
        pytest.param([a_test()], [collector(ready=False, silent=True)], ("False", "CollectorNotReady"), id="it starts"),
        pytest.param([a_test()], [collector(ready=False, silent=True, problem=CRASHED)], ("False", "CrashLoopBackOff"), id="it crashes"),
        pytest.param([a_test()], [collector(silent=True)], ("Unknown", "NotHeard"), id="it says nothing"),
        pytest.param([a_test()], [collector(**OBSERVING)], ("Unknown", "CollectorChanges"), id="it does not compare yet"),
        pytest.param([a_test()], [collector(testUid="another")], ("Unknown", "CollectorChanges"), id="it still compares another test"),
        pytest.param([], [collector()], ("Unknown", "CollectorChanges"), id="it still compares"),
        pytest.param([a_test()], [collector(storeAway=True)], ("False", "StoreAway"), id="the store is away"),
        pytest.param([a_test()], [collector(ready=False, storeAway=True)], ("False", "StoreAway"), id="and was never there"),
        pytest.param([a_test()], [collector(shadowAway="refused")], ("False", "ShadowAway"), id="the shadow is away"),
        pytest.param([a_test()], [collector()], ("True", "Comparing"), id="a test is compared"),
        pytest.param([a_test(**ENDED)], [collector(**OBSERVING)], ("True", "Reporting"), id="a report is written"),
        pytest.param([a_test(**ENDED)], [collector(mode="Observe")], ("True", "Reporting"), id="by one that names its test"),
        pytest.param([], [collector(**OBSERVING)], ("True", "Observing"), id="production is observed"),
        pytest.param([], [collector(**OBSERVING, **broke(10, 90))], ("True", "Observing"), id="a scorer fails now and then"),
        pytest.param([], [collector(**OBSERVING, **broke(11, 89))], ("False", "ScorerBroken"), id="a scorer fails too often"),
        pytest.param([a_test()], [collector(**broke(20, 0))], ("False", "ScorerBroken"), id="and always, beside a test"),
        pytest.param([], [collector(**OBSERVING, **broke(5, 0))], ("True", "Observing"), id="a scorer fails on next to nothing"),
        pytest.param(
            [a_test()], [collector(terminating=True, ready=False, silent=True, name="a"), collector(name="b")], ("True", "Comparing"),
            id="one has taken another's place",
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_the_measuring(tests, pods, expected):
    observed = Observed(PARENT, 1, spec(OBSERVED), ModelEndpointStatus(), tests=tests, collectors=pods)
    said = measuring.condition(observed, observed.spec, measuring.plan(observed, observed.spec, LEDGER, NOW))
    assert said[:2] == expected


def test_which_scorer_fails_is_said_without_a_number_that_changes_with_every_report():
    first, second = (
        measuring.condition(known, known.spec, measuring.plan(known, known.spec, LEDGER, NOW))
        for known in (
            Observed(PARENT, 1, spec(OBSERVED), ModelEndpointStatus(), collectors=[collector(**OBSERVING, **broke(count, 1))])
            for count in (27, 28)
        )
    )
    assert first == second
    assert "the scorer of refusals of domain governance fails on more than 10% of the answers" in first[2]


JUDGE = {"http": {"url": "https://judge.example", "tokenEnv": "JUDGE_TOKEN"}}
METRIC = {"name": "judged", "kind": "Proportion", "direction": "HigherIsBetter", "role": "Primary"}
PROMOTED = {"shadow": {"duration": "24h", "metrics": [{"scorer": JUDGE, "metric": METRIC}]}, "approval": {"users": ["anna"]}}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param(
            {"observe": [{"domain": "dsl", "scores": [{"name": "a", "measure": "Refusal"}, {"name": "judged", "scorer": JUDGE}]}]},
            "spec.collector.observe[0].scores[1].scorer.http.tokenEnv",
            id="observed",
        ),
        pytest.param(
            {"observe": OBSERVED, "domains": [{"name": "governance"}, {"name": "dsl", "promotion": PROMOTED}]},
            "spec.domains[1].promotion.shadow.metrics[0].scorer.http.tokenEnv",
            id="of promotion",
        ),
    ],
)
def test_a_scorer_whose_token_the_collector_does_not_get_is_said(changes, field):
    def said(env):
        wanted = spec(**changes)
        wanted = wanted.model_copy(update={"collector": wanted.collector.model_copy(update={"env": parse_env(env)})})
        known = Observed(PARENT, 1, wanted, ModelEndpointStatus(), collectors=[collector(**OBSERVING)])
        return measuring.condition(known, wanted, measuring.plan(known, wanted, LEDGER, NOW))

    status, reason, message = said(["OTHER_TOKEN"])
    assert (status, reason) == ("False", "MetricCannotBeMeasured")
    assert message == f"{field} names JUDGE_TOKEN, which is not among spec.collector.env: add it there, with a secretKeyRef"
    assert said(["JUDGE_TOKEN"])[0] == "True"


def parse_env(names):
    secret = {"secretKeyRef": {"name": "judge", "key": "token"}}
    return parse(Collector, {"store": "s3://m", "env": [{"name": name, "valueFrom": secret} for name in names]}).env


def test_what_the_status_shows():
    observed = Observed(
        PARENT, 1, spec(), ModelEndpointStatus(), tests=[a_test()], collectors=[collector(waiting=3, lost={"overload": 4, "queue-full": 1})]
    )
    found = measuring.collection(observed, measuring.plan(observed, observed.spec, LEDGER, NOW))
    assert found.to_json() == {"ready": True, "test": "first", "waiting": 3, "lost": 5, "storeAway": False}
    assert measuring.collection(observed, measuring.Plan()) is None


def agent(name="s-0"):
    body = {"boot": "1", "sequence": 1, "epoch": 1, "revision": 1, "server": "Serving", "baseDigest": f"sha256:{'b' * 64}"}
    return ServerPod(name, f"uid of {name}", ready=True, terminating=False, report=parse(AgentReport, body))


def gateway(revision=1):
    report = parse(GatewayReport, {"boot": "1", "sequence": 1, "epoch": 1, "revision": revision})
    return GatewayPod("g-0", "uid of g-0", ready=True, running=True, terminating=False, report=report)


class World:
    """An endpoint whose Deployments and records are as they were decided last."""

    def __init__(self, wanted, **facts):
        self.observed = Observed(PARENT, 1, wanted, ModelEndpointStatus(), servers=[agent()], gateways=[gateway()], **facts)

    def step(self, platform=PLATFORM, **facts):
        self.observed = replace(self.observed, **facts)
        decided = decide.decide(self.observed, platform, 1, lambda domain: f"salt of {domain}", NOW)
        applied = {m["metadata"]["name"]: m for m in decided.apply if m["kind"] == "Deployment"}
        removed = {m["metadata"]["name"] for m in decided.remove if m["kind"] == "Deployment"}
        kept = {
            field: None if (name := f"measured-{field}") in removed else applied.get(name, getattr(self.observed, field))
            for field in ("server", "gateway", "collector")
        }
        self.observed = replace(self.observed, ledger=decided.ledger, routes=decided.routes, status=decided.status, **kept)
        return decided

    def condition(self, kind):
        return next((one for one in self.observed.status.conditions if one.type == kind), None)

    def templates(self):
        return [manifest and manifest["spec"]["template"] for manifest in (self.observed.server, self.observed.gateway)]


def kinds(manifests):
    return {(m["kind"], m["metadata"]["name"]) for m in manifests if "collector" in m["metadata"]["name"]}


COLLECTORS = {
    ("ServiceAccount", "graft-collector-measured"),
    ("RoleBinding", "graft-collector-measured"),
    ("NetworkPolicy", "measured-collector"),
    ("Service", "measured-collector"),
    ("Deployment", "measured-collector"),
}


def test_a_test_comes_and_goes_and_restarts_neither_servers_nor_gateways():
    world = World(spec())
    decided = world.step()
    assert (kinds(decided.apply), kinds(decided.remove), decided.routes.tee) == (set(), set(), None)
    before = world.templates()
    decided = world.step(tests=[a_test()])
    assert kinds(decided.apply) == COLLECTORS | {("ConfigMap", "measured-collector"), ("Role", "graft-collector-measured")}
    assert decided.routes.tee is not None
    assert world.observed.status.collector.test == "first"
    decided = world.step(tests=[])
    assert (kinds(decided.apply), kinds(decided.remove), decided.routes.tee) == (set(), COLLECTORS, None)
    assert world.observed.status.collector is None
    assert (world.condition("Measuring").status, world.condition("Measuring").reason) == ("False", "NothingToMeasure")
    assert world.templates() == before
    assert kinds(world.step().remove) == set()


def test_routes_change_with_what_is_measured_and_not_with_how_it_goes():
    world = World(spec(OBSERVED))
    first = world.step().routes
    assert world.step(collectors=[collector(**OBSERVING)]).routes == first
    second = world.step(tests=[a_test()]).routes
    assert second.revision == first.revision + 1
    assert [route.revision for route in second.routes] == [route.revision for route in first.routes]


def test_a_newer_chart_waits_with_the_collector_too_and_another_task_does_not():
    world, newer = World(spec(OBSERVED)), replace(PLATFORM, serving_image="serving:2")
    world.step()
    held = world.step(newer)
    assert ("Deployment", "measured-collector") not in kinds(held.apply)
    assert world.condition("UpgradeAvailable").status == "True"
    assert ("Deployment", "measured-collector") in kinds(world.step(newer, tests=[a_test()]).apply)


def test_what_is_wrong_with_the_collector_degrades_nothing_else():
    world = World(spec(OBSERVED))
    world.step(gateways=[gateway(1)], collectors=[collector(ready=False, problem=CRASHED, silent=True)])
    assert world.observed.status.phase == "Ready"
    assert world.condition("Measuring").message == f"c-0: {CRASHED[1]}"


@pytest.mark.parametrize(
    ("observe", "pods", "again"),
    [
        pytest.param((), [], None, id="nothing is measured"),
        pytest.param(OBSERVED, [collector(**OBSERVING)], decide.LISTEN_AGAIN, id="a silence would be no event"),
        pytest.param(OBSERVED, [collector(silent=True)], decide.LOOK_AGAIN, id="it should say something at any moment"),
    ],
)
def test_when_to_look_again(observe, pods, again):
    world = World(spec(observe))
    acknowledged = gateway(world.step().routes.revision)
    assert world.step(collectors=pods, gateways=[acknowledged]).requeue_after == again
    assert decide.LOOK_AGAIN < decide.LISTEN_AGAIN < timedelta(minutes=5)


def test_a_collector_that_is_taken_out_of_the_spec_is_said_to_be_gone():
    world = World(spec(OBSERVED))
    world.step()
    world.step(spec=spec(collector=None))
    assert world.condition("Measuring").reason == "NoCollector"
    never = World(spec(collector=None))
    never.step()
    assert never.condition("Measuring") is None


HELD = parse(ModelEndpointSpec, yaml.safe_load((DATA / "shadow" / "input.yaml").read_text())["spec"])
NAMES = [version.name for version in HELD.shadow.versions]


def holding(name, *versions, ready=True):
    said = [{"name": one, "digest": f"sha256:{'1' * 64}", "state": "Ready"} for one in versions]
    body = {"boot": "1", "sequence": 1, "epoch": 1, "revision": 1, "server": "Serving", "versions": said}
    return ServerPod(
        name, f"uid of {name}", ready, terminating=False, report=parse(AgentReport, body | {"baseDigest": f"sha256:{'a' * 64}"})
    )


class TestShadow:
    """An endpoint that a ShadowTest made."""

    def decided(self, wanted=HELD, **facts):
        observed = Observed(Parent("team", "first-shadow", "uid-s"), 1, wanted, ModelEndpointStatus(), **facts)
        return decide.decide(observed, PLATFORM, 3, lambda domain: "salt", NOW)

    def test_its_routes_are_what_it_holds_all_of_them_arms(self):
        decided = self.decided()
        (route,) = decided.routes.routes
        assert [version.name for version in decided.routes.versions] == [arm.version for arm in route.arms] == NAMES
        assert ({arm.weight for arm in route.arms}, route.fallback) == ({5000}, "Error")
        assert decided.routes.routed() == set(NAMES)
        assert (decided.routes.base_digest, decided.routes.tee, decided.routes.max_loras) == (HELD.base_model.digest, None, 3)

    def test_without_a_version_it_holds_the_base_alone(self):
        decided = self.decided(HELD.model_copy(update={"shadow": HELD.shadow.model_copy(update={"versions": []})}))
        (route,) = decided.routes.routes
        assert ([arm.version for arm in route.arms], decided.routes.versions) == ([None], [])

    def test_it_has_no_ledger_whatever_lies_there(self):
        decided = self.decided(ledger=Ledger(endpoint="first-shadow", base_digest=f"sha256:{'f' * 64}"))
        assert decided.ledger is None
        assert decided.routes.base_digest == HELD.base_model.digest

    def test_nothing_new_keeps_the_revision(self):
        first = self.decided().routes
        assert self.decided(routes=first, servers=[holding("s-0", *NAMES)]).routes == first

    def test_the_base_models_digest_is_what_its_servers_say_and_is_not_forgotten(self):
        unsaid = HELD.model_copy(update={"base_model": HELD.base_model.model_copy(update={"digest": None})})
        assert self.decided(unsaid).routes.base_digest is None
        found = self.decided(unsaid, servers=[holding("s-0")]).routes
        assert found.base_digest == f"sha256:{'a' * 64}"
        assert self.decided(unsaid, routes=found).routes.base_digest == found.base_digest

    def test_of_deployments_it_has_servers_alone(self):
        decided = self.decided()
        assert [m["metadata"]["name"] for m in decided.apply if m["kind"] == "Deployment"] == ["first-shadow-server"]
        assert decided.remove == [m for m in decided.remove if m["kind"] == "PodDisruptionBudget"]

    @pytest.mark.parametrize(
        ("servers", "phase", "reason", "settled"),
        [
            pytest.param([], "Starting", "Starting", False, id="no server is there"),
            pytest.param([holding("s-0", *NAMES, ready=False)], "Starting", "Starting", False, id="it is not ready"),
            pytest.param([holding("s-0", NAMES[0])], "Ready", "Waiting", False, id="one of two versions is loaded"),
            pytest.param([holding("s-0", *NAMES)], "Ready", "Serving", True, id="both are loaded"),
        ],
    )
    def test_how_it_is_waits_for_no_gateway(self, servers, phase, reason, settled):
        decided = self.decided(servers=servers)
        conditions = {one.type: (one.status, one.reason) for one in decided.status.conditions}
        assert (decided.status.phase, conditions["Ready"][1], decided.requeue_after is None) == (phase, reason, settled)
        assert "Routed" not in conditions
        assert "Measuring" not in conditions

    def test_what_its_status_shows(self):
        status = self.decided(servers=[holding("s-0", NAMES[1])]).status.to_json()
        assert "url" not in status
        assert status["selector"].endswith(",graft.dev/shadow-of=measured")
        (domain,) = status["domains"]
        assert [(arm["version"], arm["adapter"], arm["replicas"]) for arm in domain["arms"]] == [
            (NAMES[0], "incumbent", 0),
            (NAMES[1], "candidate", 1),
        ]

    def test_a_refusal_is_said_beside_what_is_true_nevertheless(self):
        observed = Observed(Parent("team", "first-shadow", "uid-s"), 1, HELD, ModelEndpointStatus(), servers=[holding("s-0", *NAMES)])
        decided = decide.decide(observed, PLATFORM, 3, lambda domain: "salt", NOW)
        refused = decide.refused(observed, decided, decide.Refusal("Forbidden", "exceeded quota"), NOW, recorded=True)
        assert (refused.status.phase, refused.status.ready_replicas) == ("Failed", 1)


DOCUMENT = {"jsonSchema": {"document": '{"const":"' + "x" * 65_000 + '"}'}}


def scores(count):
    return [{"name": f"score-{number}", "scorer": DOCUMENT} for number in range(count)]


def large_test(count):
    metric = {"kind": "Proportion", "direction": "LowerIsBetter", "role": "Guardrail"}
    metrics = [{"metric": metric | {"name": f"metric-{number}"}, "scorer": DOCUMENT} for number in range(count)]
    return replace(a_test(), spec=parse(ShadowTestSpec, a_test().spec.to_json() | {"metrics": metrics}))


@pytest.mark.parametrize(
    ("observe", "metrics", "collector", "reason", "words"),
    [
        pytest.param(0, 16, None, "TestUnusable", ["ShadowTest first make 10", "at most 900 KiB"], id="a test alone"),
        pytest.param(8, 8, {"observe"}, "TestUnusable", ["spec.collector.observe and ShadowTest first make"], id="beside what is observed"),
        pytest.param(16, 0, None, "TooLarge", ["spec.collector.observe make 10"], id="what is observed, alone"),
        pytest.param(8, 4, {"observe", "compare"}, None, [], id="what fits"),
    ],
)
def test_what_no_config_map_holds_is_said_and_fails_nothing_else(observe, metrics, collector, reason, words):
    wanted = spec([{"domain": "governance", "scores": scores(observe)}] if observe else [])
    known = Observed(PARENT, 1, wanted, ModelEndpointStatus(), tests=[large_test(metrics)] if metrics else [])
    planned = measuring.plan(known, wanted, LEDGER, NOW)
    assert told(planned) == collector
    assert bool(tapped(planned)) == bool(collector)
    if reason:
        found = measuring.condition(known, wanted, planned)
        assert found[:2] == ("False", reason)
        assert all(word in found[2] for word in words), found[2]
        assert planned.test is None
