"""ShadowTests against the real API server, with the operator crashing after any of its writes: same end state, one verdict."""

import hashlib
import uuid

import pytest
from killing import Everything, Killable, killed_after, same_ends
from waking import Woken, bring

from graft_api.collect import CollectorReport
from graft_api.dataplane import ledger_name, version_name
from graft_api.fleet import AgentReport
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointStatus
from graft_api.schema import Invalid, parse
from graft_api.shadowtest import EVIDENCE_KEY, evidence_record
from graft_operator.adapter.index import AdapterIndex
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, EVENTS, MODEL_ENDPOINTS, NAMESPACES, PODS, SERVICE_ACCOUNTS, SHADOW_TESTS
from graft_operator.main import Wake, watches
from graft_operator.modelendpoint import tested
from graft_operator.modelendpoint.children import Parent, ledger_config_map
from graft_operator.modelendpoint.observe import Hearsay, read_ledger
from graft_operator.modelendpoint.observed import Observed
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.sink import FleetCaller
from graft_operator.shadowtest.index import ShadowIndex
from graft_operator.shadowtest.reconcile import ShadowTests
from graft_operator.shadowtest.turns import TestView

BASE = "sha256:" + "b" * 64
KEY = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
METRIC = {"name": "compile-errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary", "detectable": 0.05}
ENDPOINT = {
    "baseModel": {"uri": "s3://models/base"},
    "gateway": {"anonymous": True},
    "domains": [{"name": "dsl"}],
    "trustedKeys": [{"name": "ci", "pem": KEY}],
    "collector": {"store": "s3://measured/prod"},
}


def digest(letter):
    return "sha256:" + letter * 64


def version(letter):
    return version_name("dsl", digest(letter))


class Recording(Kube):
    """Counts the verdicts that are written."""

    verdicts = 0

    async def merge_patch(self, resource, namespace, name, patch, *, subresource=None):
        done = await super().merge_patch(resource, namespace, name, patch, subresource=subresource)
        self.verdicts += "verdict" in patch.get("status", {})
        return done


class World(Killable):
    """A namespace with an endpoint, and the parts that an API tier does not run, played by hand: kubelet, agents, collector."""

    def __init__(self, kube):
        self.kube = kube
        self.namespace = f"sht-{uuid.uuid4().hex[:8]}"
        self.clock = SystemClock()
        self.verdicts = 0
        self.sequence = 0
        self.said = {}
        self.start()

    def start(self):
        """A new operator process: it knows nothing but what is in the API server."""
        if hasattr(self, "operator"):
            self.verdicts += self.operator.verdicts
        self.operator = Recording(self.kube.credentials, before_write=self.count_write, session=self.kube._session)
        self.fleet = Fleet(self.clock, lambda _: None)
        events = EventRecorder(self.operator, self.clock, "test")
        self.tests = ShadowTests(self.operator, self.clock, events, Everything(), Hearsay(self.fleet, self.clock))

    def verdicts_written(self):
        return self.verdicts + self.operator.verdicts

    async def begin(self):
        await self.kube.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        endpoint = await self.kube.create(MODEL_ENDPOINTS, {"metadata": self.named("prod"), "spec": ENDPOINT})
        self.parent = Parent.of(endpoint)
        await self.kube.create(SERVICE_ACCOUNTS, {"metadata": self.named("pods")})
        await self.kube.create(CONFIG_MAPS, ledger_config_map(self.parent, ledger("a")))
        await self.add_adapter("c")

    def named(self, name, **more):
        return {"name": name, "namespace": self.namespace, **more}

    async def add_adapter(self, letter):
        artifact = {"uri": f"s3://adapters/{letter}", "digest": digest(letter), "sizeBytes": 10}
        spec = {"artifact": artifact, "domain": "dsl", "baseModelDigest": BASE, "endpointRef": {"name": "prod"}}
        name = f"adapter-{letter}"
        await self.kube.create(ADAPTERS, {"metadata": self.named(name), "spec": spec})
        await self.kube.merge_patch(ADAPTERS, self.namespace, name, {"status": {"phase": "Loaded"}}, subresource="status")

    async def add_test(self, name="t", **spec):
        metrics = [{"metric": METRIC, "scorer": {"cel": {}}}]
        body = {"adapterRef": {"name": "adapter-c"}, "metrics": metrics, "duration": "24h", "standardGuardrails": False}
        await self.kube.create(SHADOW_TESTS, {"metadata": self.named(name), "spec": body | spec})

    async def count(self):
        """As the endpoint's reconciler does when it sees a test begin."""
        record = await self.kube.get(CONFIG_MAPS, self.namespace, ledger_name("prod"))
        found, _ = read_ledger(record, "prod")
        tests = [TestView.of(item) for item in await self.kube.list(SHADOW_TESTS, Selection(self.namespace))]
        seen = Observed(self.parent, 1, Invalid(["not read"]), ModelEndpointStatus(), tests=tests)
        counted = found.model_copy(update={"domains": [tested.count(domain, seen) for domain in found.domains]})
        patch = {"data": ledger_config_map(self.parent, counted)["data"]}
        await self.kube.merge_patch(CONFIG_MAPS, self.namespace, ledger_name("prod"), patch)

    async def switch(self, letter):
        record = await self.kube.get(CONFIG_MAPS, self.namespace, ledger_name("prod"))
        before, _ = read_ledger(record, "prod")
        domains = [domain.model_copy(update={"active": ledger(letter).domain("dsl").active}) for domain in before.domains]
        patch = {"data": ledger_config_map(self.parent, before.model_copy(update={"domains": domains}))["data"]}
        await self.kube.merge_patch(CONFIG_MAPS, self.namespace, ledger_name("prod"), patch)

    async def run_shadow(self, name="t", **states):
        """The kubelet's, the agent's and the endpoint's part. `states`: of versions that are not Ready."""
        await self.count()
        pod = f"{name}-shadow-0"
        if await self.kube.get(PODS, self.namespace, pod) is None:
            labels = {"graft.dev/modelendpoint": f"{name}-shadow", "graft.dev/component": "server"}
            spec = {"serviceAccountName": "pods", "containers": [{"name": "c", "image": "i"}]}
            await self.kube.create(PODS, {"metadata": self.named(pod, labels=labels), "spec": spec})
            status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            await self.kube.merge_patch(PODS, self.namespace, pod, {"status": status}, subresource="status")
        endpoint = await self.shadow(name)
        held = endpoint["spec"]["shadow"]["versions"]
        versions = [{"name": one["name"], "digest": one["digest"], "state": "Ready"} | states.get(one["adapter"][-1], {}) for one in held]
        body = {"epoch": 1, "revision": 1, "server": "Serving", "baseDigest": BASE, "versions": versions}
        self.said[pod] = (pod, f"{name}-shadow", endpoint, "server"), parse(AgentReport, body | self.envelope())
        await self.say_again(pod)

    async def collector_says(self, hours, improvement=0.1, name="t", **said):
        test = await self.test(name)
        harm, reported = said.pop("harm", False), said.pop("reported", None)
        body = {"mode": "Compare", "test": name, "testUid": test["metadata"]["uid"], "observedHours": hours, "commit": int(hours * 60)}
        body["comparison"] = comparison(improvement, harm)
        if reported is not None:
            body = {"mode": "Observe", "reported": {"testUid": test["metadata"]["uid"], **reported}}
        self.said["collector"] = ("collector-0", "prod", None, "collector"), parse(CollectorReport, body | said | self.envelope())
        await self.say_again("collector")

    async def say_again(self, *names):
        """Every report is a whole picture, and comes again every ten seconds."""
        for name in names or self.said:
            (pod, endpoint, resource, role), report = self.said[name]
            hear = self.fleet.heard_collector if role == "collector" else self.fleet.heard_agent
            hear(await self.caller(pod, endpoint, resource, role), report)

    def envelope(self):
        self.sequence += 1
        return {"boot": "1", "sequence": self.sequence}

    async def caller(self, pod, endpoint, resource, role):
        found = await self.kube.get(PODS, self.namespace, pod)
        return FleetCaller(
            pod_name=pod,
            pod_uid=found["metadata"]["uid"] if found else "collector-uid",
            pod_created_at="2026-03-01T00:00:00Z",
            namespace=self.namespace,
            service_account=f"graft-{role}-{endpoint}",
            role=role,
            endpoint_name=endpoint,
            endpoint_uid=resource["metadata"]["uid"] if resource else self.parent.uid,
        )

    async def settle(self):
        """Reconcile as the watches would: again after every change, until nothing changes."""
        before = None
        while (now := await self.versions()) != before:
            before = now
            for test in await self.kube.list(SHADOW_TESTS, Selection(self.namespace)):
                await self.tests.reconcile(Key(self.namespace, test["metadata"]["name"]))

    async def versions(self):
        kinds = (SHADOW_TESTS, MODEL_ENDPOINTS)
        return [item["metadata"]["resourceVersion"] for kind in kinds for item in await self.kube.list(kind, Selection(self.namespace))]

    async def test(self, name="t"):
        return await self.kube.get(SHADOW_TESTS, self.namespace, name)

    async def status(self, name="t"):
        return (await self.test(name))["status"]

    async def phase(self, name="t"):
        return (await self.status(name))["phase"]

    async def condition(self, kind, name="t"):
        found = next(c for c in (await self.status(name))["conditions"] if c["type"] == kind)
        return found["status"], found["reason"]

    async def shadow(self, name="t"):
        return await self.kube.get(MODEL_ENDPOINTS, self.namespace, f"{name}-shadow")

    async def events(self):
        return {event["reason"] for event in await self.kube.list(EVENTS, Selection(self.namespace))}


def ledger(letter):
    active = {"adapter": f"adapter-{letter}", "digest": digest(letter), "uri": f"s3://adapters/{letter}", "sizeBytes": 10}
    return parse(Ledger, {"endpoint": "prod", "baseDigest": BASE, "domains": [{"name": "dsl", "salt": "s", "active": active}]})


def comparison(improvement, harm):
    said = {"harm": {"clusters": 80, "high": -0.04, "limit": 0.0, "shown": True}} if harm else {}
    return {"contrasts": [contrast("production", improvement, **said)], "instrument": contrast("instrument", 0.0)}


def contrast(name, better, **said):
    ends = {"low": better - 0.02, "high": better + 0.02, "incumbent": 0.2, "candidate": 0.2 - better}
    overall = {"improvement": better, **ends, "pairs": 900, "method": "Bootstrap"}
    reading = {"metric": METRIC, "clusters": 300, "pairs": 900, "hoursToDetect": 20.0, "overall": overall, **said}
    return {"name": name, "pairs": 900, "clusters": 300, "metrics": [reading]}


REPORTED = {"htmlDigest": digest("1"), "jsonDigest": digest("2")}


@pytest.fixture
def world(kube, definitions):
    return World(kube)


async def running(world, name="t"):
    await world.begin()
    await world.add_test(name)
    await world.settle()
    await world.run_shadow(name)
    await world.settle()


async def test_from_creation_to_the_report(world):
    await world.kube.create(NAMESPACES, {"metadata": {"name": world.namespace}})
    await world.add_test()
    await world.settle()
    assert (await world.phase(), await world.condition("Ready")) == ("Pending", ("False", "AdapterNotFound"))
    await world.kube.delete(SHADOW_TESTS, world.namespace, "t")
    world.namespace += "-2"
    await world.begin()
    await world.add_test()
    await world.tests.reconcile(Key(world.namespace, "t"))
    status = await world.status()
    assert (status["phase"], status["resolved"]["incumbent"]["version"]) == ("Queued", version("a"))
    await world.tests.reconcile(Key(world.namespace, "t"))
    assert (await world.phase(), await world.shadow()) == ("Starting", None)

    await world.settle()
    shadow = await world.shadow()
    assert shadow["metadata"]["ownerReferences"][0]["uid"] == (await world.test())["metadata"]["uid"]
    assert (shadow["spec"]["gateway"]["replicas"], shadow["spec"]["baseModel"]["digest"]) == (0, BASE)
    await world.run_shadow(c={"state": "Loading"})
    await world.settle()
    assert "1 of 1 shadow servers are ready, 0 of them with both versions" in (await world.status())["shadow"]
    await world.run_shadow()
    await world.settle()
    assert (await world.phase(), await world.condition("ShadowReady")) == ("Running", ("True", "Ready"))

    await world.collector_says(12.0)
    await world.settle()
    status = await world.status()
    assert (status["phase"], status["elapsed"], status["pairs"], status["hoursToDetect"]) == ("Running", "12.0h", 900, 20.0)
    assert await world.condition("Measuring") == ("True", "Comparing")
    assert "verdict" not in status

    await world.collector_says(24.0)
    await world.settle()
    status = await world.status()
    assert (status["phase"], status["verdict"]["outcome"], status["verdict"]["commit"]) == ("Passed", "Passed", 1440)
    assert status["verdict"]["sentence"].startswith("Passed: compile errors fell by 10.0 points [8.0, 12.0]")
    assert (await world.condition("Succeeded"), await world.condition("Reported")) == (("True", "Passed"), ("False", "Writing"))
    assert await world.shadow() is None

    await world.collector_says(0, reported=REPORTED)
    await world.settle()
    status = await world.status()
    assert status["report"]["html"] == f"{status['resolved']['store']}/report.html"
    assert await world.condition("Reported") == ("True", "Written")
    assert {"Queued", "Starting", "Started", "Passed"} <= await world.events()
    await world.collector_says(30.0, -0.2, harm=True)
    await world.settle()
    assert await world.status() == status
    assert world.verdicts_written() == 1


async def test_harm_ends_it_early(world):
    await running(world)
    await world.collector_says(2.0, -0.2, harm=True)
    await world.settle()
    status = await world.status()
    assert (status["phase"], await world.condition("Ready"), await world.condition("Succeeded")) == (
        "Failed",
        ("True", "Failed"),
        ("False", "Failed"),
    )
    assert status["verdict"]["reasons"][0].startswith("harm: compile errors got worse by at least 4.0 points")
    assert await world.shadow() is None


async def test_another_incumbent_ends_it_inconclusive(world):
    await running(world)
    await world.collector_says(2.0)
    await world.settle()
    await world.switch("e")
    await world.settle()
    status = await world.status()
    assert (status["phase"], status["resolved"]["incumbent"]["version"]) == ("Inconclusive", version("a"))
    assert "incumbent was switched" in status["verdict"]["sentence"]


async def test_another_incumbent_before_any_pair_begins_it_anew(world):
    await world.begin()
    await world.add_test()
    await world.settle()
    first = await world.shadow()
    await world.switch("e")
    await world.settle()
    again = await world.shadow()
    assert (await world.phase(), (await world.status())["resolved"]["incumbent"]["version"]) == ("Starting", version("e"))
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    assert [one["name"] for one in again["spec"]["shadow"]["versions"]] == [version("e"), version("c")]


async def test_a_candidate_that_the_shadow_refuses_ends_it(world):
    await world.begin()
    await world.add_test()
    await world.settle()
    await world.run_shadow(c={"state": "Failed", "reason": "WrongBase", "message": "made for another base model"})
    await world.settle()
    status = await world.status()
    assert (status["phase"], await world.condition("Stalled")) == ("Error", ("True", "WrongBase"))
    assert "verdict" not in status
    assert await world.shadow() is None


async def test_a_report_about_another_test_of_the_name_decides_nothing(world):
    await running(world)
    await world.collector_says(24.0, testUid="of-the-one-before")
    await world.settle()
    status = await world.status()
    assert (status["phase"], "pairs" in status) == ("Running", False)


async def test_two_tests_take_turns(world):
    await world.begin()
    await world.add_test("first")
    await world.add_test("second")
    await world.settle()
    assert (await world.phase("first"), await world.phase("second")) == ("Starting", "Queued")
    assert await world.shadow("second") is None
    await world.run_shadow("first")
    await world.settle()
    await world.collector_says(24.0, name="first")
    await world.settle()
    assert (await world.phase("first"), await world.phase("second")) == ("Passed", "Queued"), "its report is written first"
    await world.collector_says(0, name="first", reported=REPORTED)
    await world.settle()
    assert await world.phase("second") == "Starting"
    await world.kube.delete(SHADOW_TESTS, world.namespace, "second")
    await world.settle()


async def test_a_shadow_name_that_is_taken_is_said_and_left_alone(world):
    await world.begin()
    theirs = await world.kube.create(MODEL_ENDPOINTS, {"metadata": world.named("t-shadow"), "spec": ENDPOINT})
    await world.add_test()
    await world.add_test("other")
    await world.settle()
    assert (await world.phase(), await world.condition("Stalled")) == ("Pending", ("True", "NameConflict"))
    assert await world.shadow() == theirs
    assert await world.phase("other") == "Starting", "it holds nobody up"
    await world.kube.delete(MODEL_ENDPOINTS, world.namespace, "t-shadow")
    await world.settle()
    assert await world.phase() == "Queued"


async def test_a_shadow_server_is_kept_on_request(world):
    await world.begin()
    await world.add_test(shadow={"keep": True})
    await world.settle()
    await world.run_shadow()
    await world.settle()
    await world.collector_says(24.0)
    await world.settle()
    assert (await world.phase(), await world.condition("ShadowReady")) == ("Passed", ("True", "Kept"))
    assert await world.shadow() is not None


async def test_restored_without_status_it_measures_again(world):
    await running(world)
    await world.collector_says(24.0)
    await world.settle()
    body = await world.test()
    await world.kube.delete(SHADOW_TESTS, world.namespace, "t")
    await world.kube.create(SHADOW_TESTS, {"metadata": world.named("t"), "spec": body["spec"]})
    world.start()
    await world.say_again("collector")
    await world.settle()
    status = await world.status()
    assert (status["phase"], "verdict" in status) == ("Starting", False)
    assert status["resolved"]["store"] != body["status"]["resolved"]["store"]
    await world.run_shadow()
    await world.settle()
    await world.collector_says(24.0)
    await world.settle()
    assert await world.phase() == "Passed"


async def test_what_a_watch_brings_wakes_the_test(world):
    """By the objects as the API server has them, in whatever order they come."""
    await running(world)
    endpoints, tests = Woken(), Woken()
    wake = Wake(AdapterIndex(), ShadowIndex(), endpoints, Woken(), tests)
    for kind in (SHADOW_TESTS, ADAPTERS):
        await bring(world.kube, world.namespace, watches(Woken(), wake), kind)
    test, prod, shadow = (Key(world.namespace, name) for name in ("t", "prod", "t-shadow"))
    assert prod in endpoints, "whose collector it has"
    for key in (prod, shadow):
        tests.clear()
        wake.all_of(key)
        assert tests == {test}
    for kind in (ADAPTERS, MODEL_ENDPOINTS, PODS, CONFIG_MAPS):
        tests.clear()
        await bring(world.kube, world.namespace, watches(Woken(), wake), kind)
        assert tests == {test}, kind.kind


async def create(world):
    await world.add_test()


async def come_up(world):
    await world.run_shadow()


async def half_way(world):
    await world.collector_says(12.0)


async def at_the_horizon(world):
    await world.collector_says(24.0)


async def report(world):
    await world.collector_says(0, reported=REPORTED)


async def do_harm(world):
    await world.collector_says(2.0, -0.2, harm=True)


async def switch_the_incumbent(world):
    await world.switch("e")


async def add_another(world):
    await world.add_test("u")


async def refuse(world):
    await world.run_shadow(c={"state": "Failed", "reason": "WrongBase", "message": "no"})


async def prepared(world):
    await world.begin()


STORIES = [
    pytest.param(prepared, [create, come_up, half_way, at_the_horizon, report], id="from creation to the report"),
    pytest.param(prepared, [create, switch_the_incumbent, come_up, do_harm], id="begun anew, then harm"),
    pytest.param(running, [half_way, switch_the_incumbent, add_another], id="the incumbent is switched"),
    pytest.param(running, [add_another, at_the_horizon, report], id="the next one's turn"),
    pytest.param(prepared, [create, refuse], id="refused by the shadow"),
]
SIDE_BY_SIDE = 6


@pytest.mark.parametrize(("begin", "steps"), STORIES)
async def test_killed_after_any_write_the_operator_reaches_the_same_end(kube, definitions, begin, steps):
    """The oracle is the run without a kill."""

    async def play(writes):
        world = World(kube)
        await begin(world)
        return await killed_after(world, steps, outcome, writes)

    await same_ends(play, SIDE_BY_SIDE)


async def outcome(world):
    """All that is there in the end, without ids and times."""
    found = await world.kube.list(SHADOW_TESTS, Selection(world.namespace))
    endpoints = await world.kube.list(MODEL_ENDPOINTS, Selection(world.namespace))
    return {
        "tests": {one["metadata"]["name"]: told(one["status"]) for one in found},
        "endpoints": [(one["metadata"]["name"], one["spec"]) for one in endpoints],
        "verdicts": world.verdicts_written(),
        "evidence": [await check_evidence(world, one) for one in found],
        "events": await world.events(),
    }


async def check_evidence(world, test):
    """What is kept is what the verdict was read from, whatever was killed in between. Returns whether there is any."""
    metadata, verdict = test["metadata"], test["status"].get("verdict")
    kept = await world.kube.get(CONFIG_MAPS, world.namespace, evidence_record(metadata["name"], metadata["uid"]))
    assert (kept is None) == (verdict is None)
    if kept is not None:
        assert f"sha256:{hashlib.sha256(kept['data'][EVIDENCE_KEY].encode()).hexdigest()}" == verdict["evidenceDigest"]
    return kept is not None


def told(status):
    conditions = {c["type"]: (c["status"], c["reason"], c["message"].split("s3://")[0]) for c in status["conditions"]}
    resolved, verdict = status.get("resolved", {}), status.get("verdict", {})
    kept = {name: status.get(name) for name in ("phase", "pairs", "elapsed", "conversations", "hoursToDetect", "shadow")}
    sides = {name: resolved.get(name) for name in ("incumbent", "candidate", "guardrails", "maxDuration", "endpointSpecDigest")}
    said = {name: verdict.get(name) for name in ("outcome", "sentence", "reasons", "metrics", "commit", "observedHours")}
    return kept, sides, said, conditions, "report" in status
