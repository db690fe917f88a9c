"""A ModelEndpoint and its Adapters against the real API server, with the operator crashing after any of its writes: same end state."""

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest
from killing import Everything, Killable, behind, killed_after, same_ends
from prometheus_client import CollectorRegistry
from waking import Woken

from graft_api.collect import SETTINGS_KEY, CollectorReport, CollectorSettings
from graft_api.dataplane import LEDGER_KEY, ROUTES_KEY, ledger_name, routes_name, version_name
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.ledger import Ledger
from graft_api.routes import Routes
from graft_api.schema import parse
from graft_operator.adapter.index import AdapterIndex
from graft_operator.adapter.reconcile import Adapters
from graft_operator.engine.clock import SystemClock, rfc3339
from graft_operator.engine.controller import Controller, ReconcileMetrics
from graft_operator.engine.errors import Conflict, Forbidden
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key, WorkQueue
from graft_operator.engine.resources import (
    ADAPTERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    MODEL_ENDPOINTS,
    NAMESPACES,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
    SHADOW_TESTS,
    Resource,
)
from graft_operator.engine.watch import Watcher
from graft_operator.main import Wake, child_watches
from graft_operator.modelendpoint.children import APPLIED, Platform
from graft_operator.modelendpoint.observe import Hearsay, read_ledger
from graft_operator.modelendpoint.reconcile import ModelEndpoints
from graft_operator.reports.ca import Trust
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.sink import FleetCaller
from graft_operator.shadowtest.index import ShadowIndex

BASE = "sha256:" + "b" * 64
KEY = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
PLATFORM = Platform(serving_image="serving:1", vllm_image="vllm:1", reports_url="https://reports:8443")
SPEC = {
    "baseModel": {"uri": "s3://models/base", "digest": BASE},
    "replicas": 2,
    "gateway": {"anonymous": True, "replicas": 1},
    "domains": [{"name": "dsl"}, {"name": "governance"}],
    "trustedKeys": [{"name": "ci", "pem": KEY}],
}


METRIC = {"name": "server-errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Guardrail", "margin": 0.005}
METRICS = [{"measure": "ServerError", "metric": METRIC}]
OBSERVED = {"domain": "governance", "scores": [{"name": "refusals", "measure": "Refusal"}]}
COLLECTOR = {"store": "s3://measured"}
VERDICT = {"outcome": "Passed", "sentence": "better", "readAt": "2026-11-21T12:00:00Z", "observedHours": 168.0, "commit": 7}


def digest(letter):
    return "sha256:" + letter * 64


class World(Killable):
    """A namespace with an endpoint, and the parts that an API tier does not run, played by hand: kubelet, agents, gateways."""

    def __init__(self, kube):
        self.kube = kube
        self.namespace = f"mep-{uuid.uuid4().hex[:8]}"
        self.key = Key(self.namespace, "prod")
        self.clock = SystemClock()
        self.sequence = 0
        self.said = {}
        self.platform = PLATFORM
        self.start()

    def start(self):
        """A new operator process: it knows nothing but what is in the API server."""
        kube = self.kube.fenced(self.count_write)
        events = EventRecorder(kube, self.clock, "test")
        self.fleet = Fleet(self.clock, lambda _: None)
        hearsay = Hearsay(self.fleet, self.clock)
        trust = Trust(kube, self.clock, lambda: "a certificate")
        self.endpoints = ModelEndpoints(
            kube, self.clock, events, Everything(), self.platform, trust, hearsay, lambda: 1, lambda domain: f"salt-{domain}"
        )
        self.adapters = Adapters(kube, self.clock, events, hearsay)

    async def begin(self, **spec):
        await self.kube.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        await self.create_endpoint(**spec)

    async def create_endpoint(self, **spec):
        body = {"metadata": {"name": "prod", "namespace": self.namespace}, "spec": SPEC | spec}
        await self.kube.create(MODEL_ENDPOINTS, body)

    async def add_adapter(self, letter, domain="dsl"):
        artifact = {"uri": f"s3://adapters/{letter}", "digest": digest(letter), "sizeBytes": 10}
        spec = {"artifact": artifact, "domain": domain, "baseModelDigest": BASE, "endpointRef": {"name": "prod"}}
        await self.kube.create(ADAPTERS, {"metadata": {"name": f"adapter-{letter}", "namespace": self.namespace}, "spec": spec})

    async def change(self, **spec):
        await self.kube.merge_patch(MODEL_ENDPOINTS, self.namespace, "prod", {"spec": spec})

    async def run_pod(self, name, component):
        """The kubelet's part."""
        metadata = {
            "name": name,
            "namespace": self.namespace,
            "labels": {"graft.dev/modelendpoint": "prod", "graft.dev/component": component},
        }
        spec = {"serviceAccountName": f"graft-{component}-prod", "containers": [{"name": "c", "image": "i"}]}
        await self.kube.create(PODS, {"metadata": metadata, "spec": spec})
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await self.kube.merge_patch(PODS, self.namespace, name, {"status": status}, subresource="status")

    async def run_pods(self):
        for name in ("server-0", "server-1"):
            await self.run_pod(name, "server")
        await self.run_pod("gateway-0", "gateway")

    async def agent_says(self, name, *letters, unloading=()):
        versions = [{"name": version_name("dsl", digest(letter)), "digest": digest(letter), "state": "Ready"} for letter in letters]
        versions += [{"name": version_name("dsl", digest(one)), "digest": digest(one), "state": "Unloading"} for one in unloading]
        routes = await self.routes()
        body = {"epoch": routes.epoch, "revision": routes.revision, "server": "Serving", "baseDigest": BASE, "versions": versions}
        self.said[name] = "server", parse(AgentReport, body | self.envelope())
        await self.say_again(name)

    async def gateway_says(self, name="gateway-0", in_flight=None):
        routes = await self.routes()
        body = {"epoch": routes.epoch, "revision": routes.revision, "inFlight": in_flight or {}}
        self.said[name] = "gateway", parse(GatewayReport, body | self.envelope())
        await self.say_again(name)

    async def collector_says(self, **said):
        self.said["collector-0"] = "collector", parse(CollectorReport, said | self.envelope())
        await self.say_again("collector-0")

    async def add_test(self, name="first", phase="Running", **status):
        """As its own reconciler leaves it."""
        spec = {"adapterRef": {"name": "adapter-a"}, "share": "0.5", "metrics": METRICS}
        made = await self.kube.create(SHADOW_TESTS, {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec})
        resolved = {
            "endpoint": "prod",
            "endpointUid": (await self.endpoint())["metadata"]["uid"],
            "domain": "dsl",
            "incumbent": {"version": "base"},
            "candidate": {"version": version_name("dsl", digest("a")), "adapter": "adapter-a", "digest": digest("a")},
            "store": f"s3://measured/shadowtests/{name}",
            "seed": 7,
            "maxDuration": "336h",
            "endpointSpecDigest": digest("c"),
        }
        await self.test_is(name, phase=phase, resolved=resolved, **status)
        return made["metadata"]["uid"]

    async def test_is(self, name="first", **status):
        await self.kube.merge_patch(SHADOW_TESTS, self.namespace, name, {"status": status}, subresource="status")

    async def collector_settings(self):
        record = await self.kube.get(CONFIG_MAPS, self.namespace, "prod-collector")
        return parse(CollectorSettings, json.loads(record["data"][SETTINGS_KEY]))

    async def say_again(self, *names):
        """Every report is a whole picture, and comes again every ten seconds."""
        for name in names or self.said:
            role, report = self.said[name]
            hear = {"server": self.fleet.heard_agent, "gateway": self.fleet.heard_gateway, "collector": self.fleet.heard_collector}[role]
            if await self.endpoint():
                hear(await self.caller(name, role), report)

    def envelope(self):
        self.sequence += 1
        return {"boot": "1", "sequence": self.sequence}

    async def caller(self, name, role):
        pod = await self.kube.get(PODS, self.namespace, name)
        endpoint = await self.endpoint()
        return FleetCaller(
            pod_name=name,
            pod_uid=pod["metadata"]["uid"],
            pod_created_at=pod["metadata"]["creationTimestamp"],
            namespace=self.namespace,
            service_account=f"graft-{role}-prod",
            role=role,
            endpoint_name="prod",
            endpoint_uid=endpoint["metadata"]["uid"],
        )

    async def all_say(self, *letters, unloading=()):
        """Everybody reports what the routes ask for."""
        for name in ("server-0", "server-1"):
            await self.agent_says(name, *letters, unloading=unloading)
        await self.gateway_says()

    async def settle(self):
        """Reconcile as the watches would: again after every change, until nothing changes."""
        version = None
        while (now := await self.versions()) != version:
            version = now
            await self.endpoints.reconcile(self.key)
            for adapter in await self.kube.list(ADAPTERS, Selection(self.namespace)):
                await self.adapters.reconcile(Key(self.namespace, adapter["metadata"]["name"]))

    async def look_once(self):
        await self.endpoints.reconcile(self.key)
        for adapter in await self.kube.list(ADAPTERS, Selection(self.namespace)):
            await self.adapters.reconcile(Key(self.namespace, adapter["metadata"]["name"]))

    async def undone(self):
        """The routes that follow from the ledger, where there is an endpoint."""
        found = await self.kube.get(CONFIG_MAPS, self.namespace, ledger_name("prod"))
        if found is None or await self.endpoint() is None:
            return []
        return behind(parse(Ledger, json.loads(found["data"][LEDGER_KEY])), await self.routes())

    async def versions(self):
        kinds = (MODEL_ENDPOINTS, ADAPTERS, CONFIG_MAPS, DEPLOYMENTS)
        return [item["metadata"]["resourceVersion"] for kind in kinds for item in await self.kube.list(kind, Selection(self.namespace))]

    async def endpoint(self):
        return await self.kube.get(MODEL_ENDPOINTS, self.namespace, "prod")

    async def status(self):
        return (await self.endpoint())["status"]

    async def adapter(self, letter):
        return await self.kube.get(ADAPTERS, self.namespace, f"adapter-{letter}")

    async def condition(self, kind):
        found = next(c for c in (await self.status())["conditions"] if c["type"] == kind)
        return found["status"], found["reason"], found["message"]

    async def routes(self):
        record = await self.kube.get(CONFIG_MAPS, self.namespace, routes_name("prod"))
        return parse(Routes, json.loads(record["data"][ROUTES_KEY]))

    async def serving(self):
        return {route.domain: route.arms[0].version for route in (await self.routes()).routes}

    async def events(self):
        found = await self.kube.list(EVENTS, Selection(self.namespace))
        return {(event["regarding"]["kind"], event["reason"]) for event in found}


@pytest.fixture
def world(kube, definitions):
    return World(kube)


async def loaded_a(world):
    await world.begin()
    await world.settle()
    await world.run_pods()
    await world.add_adapter("a")
    await world.all_say()
    await world.settle()
    await world.all_say("a")


async def pin_a(world):
    await world.change(domains=[{"name": "dsl", "pin": {"adapter": "adapter-a"}}, {"name": "governance"}])


async def pin_the_base(world):
    await world.change(domains=[{"name": "dsl", "pin": {"base": True}}, {"name": "governance"}])


async def served_by_a(world):
    await loaded_a(world)
    await pin_a(world)
    await world.settle()
    await world.all_say("a")
    await world.settle()


async def test_an_adapter_is_loaded_everywhere_then_switched_to(world):
    await world.begin()
    await world.settle()
    deployments = {item["metadata"]["name"] for item in await world.kube.list(DEPLOYMENTS, Selection(world.namespace))}
    services = {item["metadata"]["name"] for item in await world.kube.list(SERVICES, Selection(world.namespace))}
    assert deployments == services == {"prod-server", "prod-gateway"}
    assert (await world.status())["phase"] == "Starting"

    await world.run_pods()
    await world.all_say()
    await world.settle()
    assert (await world.status())["phase"] == "Ready"

    await world.add_adapter("a")
    await world.change(domains=[{"name": "dsl", "pin": {"adapter": "adapter-a"}}, {"name": "governance"}])
    await world.settle()
    await world.agent_says("server-0", "a")
    await world.settle()
    assert (await world.adapter("a"))["status"]["phase"] == "Loading"
    assert await world.serving() == {"dsl": None, "governance": None}
    assert "1 of 2" in (await world.status())["domains"][0]["waitingFor"]

    await world.all_say("a")
    await world.settle()
    assert await world.serving() == {"dsl": version_name("dsl", digest("a")), "governance": None}
    assert (await world.adapter("a"))["status"]["phase"] == "Serving"
    assert (await world.status())["acknowledgedGateways"] == 0
    await world.gateway_says()
    await world.settle()
    status = await world.status()
    assert (status["acknowledgedGateways"], status["readyReplicas"], status["phase"]) == (1, 2, "Ready")
    assert status["domains"][0]["lastSwitch"]["after"] == "adapter-a"
    assert {("ModelEndpoint", "Switched"), ("Adapter", "Serving")} <= await world.events()


async def in_an_empty_namespace(world):
    await world.kube.create(NAMESPACES, {"metadata": {"name": world.namespace}})


async def without_its_endpoint(world):
    """As a namespace restored from its Git and the ledger's backup."""
    await served_by_a(world)
    await lose_the_endpoint(world)


async def create_the_endpoint(world):
    await world.create_endpoint()


async def come_up(world):
    await world.run_pods()
    await world.all_say()


async def follow(world):
    await world.all_say("a")


async def delete_the_adapter(world):
    await world.kube.delete(ADAPTERS, world.namespace, "adapter-a")


async def still_answer(world):
    await world.gateway_says(in_flight={version_name("dsl", digest("a")): 3})


async def have_answered(world):
    await world.gateway_says()


async def unload(world):
    await world.all_say(unloading="a")


async def have_unloaded(world):
    await world.all_say()


async def measured(world):
    await world.begin(collector=COLLECTOR)
    await world.settle()
    await world.run_pods()
    await world.all_say()
    await world.settle()


async def a_test_runs(world):
    await world.add_test()


async def the_collector_compares(world):
    await world.run_pod("collector-0", "collector")
    (test,) = await world.kube.list(SHADOW_TESTS, Selection(world.namespace))
    await world.collector_says(mode="Compare", test="first", testUid=test["metadata"]["uid"], commit=1)
    await world.gateway_says()


async def the_test_is_over(world):
    await world.kube.delete(SHADOW_TESTS, world.namespace, "first")


async def delete_the_endpoint(world):
    await world.kube.delete(MODEL_ENDPOINTS, world.namespace, "prod")


STORIES = [
    pytest.param(in_an_empty_namespace, [create_the_endpoint, come_up], id="first creation"),
    pytest.param(loaded_a, [pin_a, follow], id="switch"),
    pytest.param(served_by_a, [pin_the_base, follow], id="pin to base"),
    pytest.param(served_by_a, [delete_the_adapter, still_answer, have_answered, unload, have_unloaded], id="deletion, drain and release"),
    pytest.param(served_by_a, [delete_the_endpoint, delete_the_adapter], id="deletion of the endpoint"),
    pytest.param(without_its_endpoint, [create_the_endpoint, follow], id="adoption"),
    pytest.param(measured, [a_test_runs, the_collector_compares, the_test_is_over], id="a test runs and is over"),
]


SIDE_BY_SIDE = 8


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
    ledger = await world.kube.get(CONFIG_MAPS, world.namespace, ledger_name("prod"))
    routes, endpoint = await world.routes(), await world.endpoint()
    domains = json.loads(ledger["data"][LEDGER_KEY])["domains"]
    adapters = await world.kube.list(ADAPTERS, Selection(world.namespace))
    tee = routes.tee and routes.tee.to_json()
    return {
        "serving": await world.serving(),
        "versions": [version.name for version in routes.versions],
        "domains": [(domain["name"], domain["salt"], domain.get("active"), domain.get("previous")) for domain in domains],
        "history": [[(one["ordinal"], one["reason"], one.get("after")) for one in domain.get("history", [])] for domain in domains],
        "tested": [[(one["count"], len(one["uids"])) for one in domain.get("tests", [])] for domain in domains],
        "children": sorted(await children(world)),
        "adapters": {one["metadata"]["name"]: (said(one), one["metadata"].get("finalizers")) for one in adapters},
        "endpoint": endpoint and said(endpoint),
        "acknowledged": endpoint and endpoint["status"]["acknowledgedGateways"],
        "events": await world.events(),
        "measured": (json.dumps(tee).replace(world.namespace, "here"), endpoint and endpoint["status"].get("collector")),
    }


def said(resource):
    status = resource["status"]
    return status["phase"], {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


async def children(world):
    kinds = (DEPLOYMENTS, SERVICES, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS)
    return [(kind.kind, item["metadata"]["name"]) for kind in kinds for item in await world.kube.list(kind, Selection(world.namespace))]


async def collector_children(world):
    return sorted(child for child in await children(world) if "collector" in child[1])


async def test_a_test_is_measured_and_its_report_written_by_the_one_collector(world):
    await world.begin(collector=COLLECTOR)
    await world.settle()
    assert await collector_children(world) == []
    assert (await world.condition("Measuring"))[:2] == ("False", "NothingToMeasure")

    uid = await world.add_test()
    await world.settle()
    assert await collector_children(world) == [
        ("Deployment", "prod-collector"),
        ("NetworkPolicy", "prod-collector"),
        ("Role", "graft-collector-prod"),
        ("RoleBinding", "graft-collector-prod"),
        ("Service", "prod-collector"),
        ("ServiceAccount", "graft-collector-prod"),
    ]
    settings, tee = await world.collector_settings(), (await world.routes()).tee
    assert (settings.compare.test, settings.compare.uid, settings.compare.share) == ("first", uid, "1")
    assert settings.compare.shadow.address == f"first-shadow-server.{world.namespace}.svc:8000"
    assert tee.collector == f"prod-collector.{world.namespace}.svc:8000"
    assert [(one.domain, one.share, one.salt) for one in tee.domains] == [("dsl", 5000, "salt-dsl")]
    assert (await world.condition("Measuring"))[:2] == ("False", "CollectorNotReady")

    await world.run_pod("collector-0", "collector")
    await world.collector_says(mode="Compare", test="first", testUid=uid, waiting=3, lost={"overload": 2})
    await world.settle()
    assert (await world.condition("Measuring"))[:2] == ("True", "Comparing")
    shown = {"ready": True, "test": "first", "waiting": 3, "lost": 2, "storeAway": False}
    assert (await world.status())["collector"] == shown

    compared = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector")
    verdict = VERDICT | {"evidenceDigest": digest("e")}
    await world.test_is(phase="Passed", endedAt=rfc3339(world.clock.now()), verdict=verdict)
    await world.settle()
    settings = await world.collector_settings()
    assert (settings.compare, settings.report.verdict.sentence, (await world.routes()).tee) == (None, "better", None)
    reporting = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector")
    assert reporting["metadata"]["generation"] > compared["metadata"]["generation"], "it has another task"
    assert (await world.status())["collector"]["test"] == "first"

    report = {"html": "s3://m/report.html", "json": "s3://m/report.json", "htmlDigest": digest("1"), "jsonDigest": digest("2")}
    await world.test_is(report=report)
    await world.settle()
    assert await collector_children(world) == [("Role", "graft-collector-prod")], "with nobody who has it"
    assert "collector" not in await world.status()
    assert await world.kube.get(CONFIG_MAPS, world.namespace, "prod-collector"), "it goes with the endpoint"


async def counted(world):
    ledger, _ = read_ledger(await world.kube.get(CONFIG_MAPS, world.namespace, ledger_name("prod")), "prod")
    return ledger.domain("dsl").tests


async def test_tests_of_an_artifact_are_counted_whatever_becomes_of_their_objects(world):
    await world.begin(collector=COLLECTOR)
    await world.settle()
    for number, name in enumerate(("t1", "t2", "t3"), 1):
        uid = await world.add_test(name, phase="Starting")
        await world.settle()
        (entry,) = await counted(world)
        assert (entry.digest, entry.count, entry.attempt(uid)) == (digest("a"), number, number)
        assert await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector") is None
        await world.test_is(name, phase="Running", attempt=number)
        await world.settle()
        assert (await world.collector_settings()).compare.uid == uid
        await world.test_is(name, phase="Failed")
        await world.settle()
        await world.kube.delete(SHADOW_TESTS, world.namespace, name)
        await world.settle()
        (entry,) = await counted(world)
        assert (entry.count, entry.test, entry.outcome) == (number, name, "Failed")


async def test_what_is_observed_is_observed_through_tests_and_without_them(world):
    await world.begin(collector=COLLECTOR | {"observe": [OBSERVED]})
    await world.settle()
    settings, tee = await world.collector_settings(), (await world.routes()).tee
    assert (settings.compare, settings.observe.store) == (None, "s3://measured/observe")
    assert [(one.domain, one.share) for one in tee.domains] == [("governance", 10_000)]
    gateway = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-gateway")
    await world.add_test()
    await world.settle()
    assert [(one.domain, one.share) for one in (await world.routes()).tee.domains] == [("dsl", 5000), ("governance", 10_000)]
    after = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-gateway")
    assert after["metadata"]["generation"] == gateway["metadata"]["generation"], "a test rolls no gateways"
    await world.change(collector=None)
    await world.settle()
    assert await collector_children(world) == [("Role", "graft-collector-prod")], "bound to nobody: the operator may not delete Roles"
    assert (await world.condition("Measuring"))[:2] == ("False", "NoCollector")


async def test_an_upgrade_of_the_chart_replaces_no_collector(world):
    await world.begin(collector=COLLECTOR | {"observe": [OBSERVED]})
    await world.settle()
    before = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector")
    world.platform = replace(PLATFORM, serving_image="serving:2")
    world.start()
    await world.settle()
    held = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector")
    assert held["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert (await world.condition("UpgradeAvailable"))[0] == "True"
    await world.add_test()
    await world.settle()
    rolled = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector")
    assert rolled["spec"]["template"]["spec"]["containers"][0]["image"] == "serving:2"


async def test_somebody_elses_settings_are_not_written_over_and_what_serves_goes_on(world):
    await world.begin()
    theirs = {"metadata": {"name": "prod-collector", "namespace": world.namespace}, "data": {"mine": "1"}}
    await world.kube.create(CONFIG_MAPS, theirs)
    await world.change(collector=COLLECTOR | {"observe": [OBSERVED]})
    await world.settle()
    stalled, reason, message = await world.condition("Stalled")
    assert (stalled, reason) == ("True", "NameConflict")
    assert "ConfigMap prod-collector exists and belongs to somebody else" in message
    assert (await world.kube.get(CONFIG_MAPS, world.namespace, "prod-collector"))["data"] == {"mine": "1"}
    assert await world.kube.get(DEPLOYMENTS, world.namespace, "prod-server")
    assert await world.kube.get(DEPLOYMENTS, world.namespace, "prod-gateway")
    assert not await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector")

    world.platform = replace(PLATFORM, vllm_image="vllm:2")
    world.start()
    await world.change(replicas=3)
    await world.settle()
    server = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-server")
    assert (server["spec"]["replicas"], server["spec"]["template"]["spec"]["containers"][0]["image"]) == (3, "vllm:1")


async def test_the_shadow_server_of_a_test_has_what_it_holds_and_no_gateway_and_no_ledger(world):
    await in_an_empty_namespace(world)
    names = [version_name("dsl", digest(letter)) for letter in "ab"]
    versions = [
        {"name": name, "domain": "dsl", "adapter": f"adapter-{letter}", "digest": digest(letter), "uri": "s3://a", "sizeBytes": 10}
        for name, letter in zip(names, "ab", strict=True)
    ]
    await world.create_endpoint(
        replicas=1,
        gateway={"anonymous": True, "replicas": 0},
        domains=[{"name": "dsl"}],
        shadow={"endpoint": "elsewhere", "versions": versions},
    )
    await world.settle()
    assert await children(world) == [
        ("Deployment", "prod-server"),
        ("Service", "prod-server"),
        ("NetworkPolicy", "prod-server"),
        ("RoleBinding", "graft-server-prod"),
        ("Role", "graft-server-prod"),
        ("ServiceAccount", "graft-server-prod"),
        ("ServiceAccount", "graft-trainer"),
    ]
    assert await world.kube.get(CONFIG_MAPS, world.namespace, ledger_name("prod")) is None
    (route,) = (await world.routes()).routes
    assert [arm.version for arm in route.arms] == names
    assert (await world.status())["phase"] == "Starting"

    await world.run_pod("server-0", "server")
    await world.agent_says("server-0", "a")
    await world.settle()
    assert (await world.condition("Ready"))[1] == "Waiting"
    await world.agent_says("server-0", "a", "b")
    await world.settle()
    status = await world.status()
    assert (status["phase"], (await world.condition("Ready"))[1]) == ("Ready", "Serving")
    assert [arm["replicas"] for arm in status["domains"][0]["arms"]] == [1, 1]
    assert "url" not in status
    await world.add_adapter("c")  # which names this endpoint
    await world.settle()
    assert [version.name for version in (await world.routes()).versions] == names


async def test_a_namespace_restored_without_status_serves_the_same(world):
    await served_by_a(world)
    before = await world.serving()
    ledger = await world.kube.get(CONFIG_MAPS, world.namespace, ledger_name("prod"))
    assert "ownerReferences" not in ledger["metadata"]
    await lose_the_endpoint(world)
    world.start()
    await world.create_endpoint()  # from Git: the pin is gone, too
    await world.endpoints.reconcile(world.key)
    assert await world.serving() == before


async def lose_the_endpoint(world):
    """With all that a garbage collector takes with it."""
    await delete_the_endpoint(world)
    await world.kube.delete(CONFIG_MAPS, world.namespace, routes_name("prod"))
    for name in ("prod-server", "prod-gateway"):
        await world.kube.delete(DEPLOYMENTS, world.namespace, name)
    for service in await world.kube.list(SERVICES, Selection(world.namespace)):
        await world.kube.merge_patch(SERVICES, world.namespace, service["metadata"]["name"], {"metadata": {"ownerReferences": None}})
        await world.kube.delete(SERVICES, world.namespace, service["metadata"]["name"])
    for kind in await leftovers(world):
        await world.kube.delete(*kind)


async def leftovers(world):
    """The rest of what a garbage collector would have taken with the endpoint."""
    kinds = (NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS)
    return [
        (kind, world.namespace, item["metadata"]["name"])
        for kind in kinds
        for item in await world.kube.list(kind, Selection(world.namespace))
        if item["metadata"]["name"].startswith(("prod-", "graft-server-", "graft-gateway-"))
    ]


async def test_a_deleted_adapter_is_drained_unloaded_and_released(world):
    await served_by_a(world)
    version = version_name("dsl", digest("a"))
    await world.kube.delete(ADAPTERS, world.namespace, "adapter-a")
    await world.settle()
    assert (await world.serving())["dsl"] is None
    assert (await world.adapter("a"))["status"]["phase"] == "Retiring"
    await world.gateway_says(in_flight={version: 3})
    await world.settle()
    assert [one.name for one in (await world.routes()).versions] == [version]
    await world.gateway_says()
    await world.settle()
    assert (await world.routes()).versions == []
    assert await world.adapter("a") is not None, "nobody has said that it is gone"
    await world.all_say(unloading="a")
    await world.settle()
    assert await world.adapter("a") is not None, "two replicas still have it"
    await world.agent_says("server-0")
    await world.settle()
    assert await world.adapter("a") is not None, "one replica still has it"
    world.start()
    await world.settle()
    assert await world.adapter("a") is not None, "the operator has not heard anybody yet"
    await world.all_say()
    await world.settle()
    assert await world.adapter("a") is None


async def test_a_new_operator_restarts_no_model_unasked(world):
    await world.begin()
    await world.settle()
    before = (await world.kube.get(DEPLOYMENTS, world.namespace, "prod-server"))["metadata"]["generation"]
    world.platform = replace(PLATFORM, serving_image="serving:2")
    world.start()
    await world.settle()
    assert (await world.kube.get(DEPLOYMENTS, world.namespace, "prod-server"))["metadata"]["generation"] == before
    conditions = {c["type"]: c["status"] for c in (await world.status())["conditions"]}
    assert conditions["UpgradeAvailable"] == "True"

    await world.change(replicas=3)
    await world.settle()
    deployment = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-server")
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["template"]["spec"]["containers"][1]["image"] == "serving:1"

    annotations = {"graft.dev/upgrade": "2026-03"}
    await world.kube.merge_patch(MODEL_ENDPOINTS, world.namespace, "prod", {"metadata": {"annotations": annotations}})
    await world.settle()
    deployment = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-server")
    assert deployment["spec"]["template"]["spec"]["containers"][1]["image"] == "serving:2"
    conditions = {c["type"]: c["status"] for c in (await world.status())["conditions"]}
    assert conditions["UpgradeAvailable"] == "False"


async def test_a_name_that_is_taken_is_said_and_left_alone(world):
    await world.kube.create(NAMESPACES, {"metadata": {"name": world.namespace}})
    service = {"metadata": {"name": "prod-server", "namespace": world.namespace}, "spec": {"ports": [{"port": 1}]}}
    await world.kube.create(SERVICES, service)
    await world.create_endpoint()
    await world.settle()
    status = await world.status()
    stalled = next(c for c in status["conditions"] if c["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "NameConflict")
    assert (await world.kube.get(SERVICES, world.namespace, "prod-server"))["spec"]["ports"][0]["port"] == 1


async def test_a_ledger_that_cannot_be_read_stops_the_operator_and_nothing_else(world):
    await served_by_a(world)
    routes = await world.routes()
    await world.kube.merge_patch(CONFIG_MAPS, world.namespace, ledger_name("prod"), {"data": {LEDGER_KEY: "{"}})
    await world.change(domains=[{"name": "dsl", "pin": {"base": True}}, {"name": "governance"}])
    await world.settle()
    assert await world.routes() == routes
    stalled = next(c for c in (await world.status())["conditions"] if c["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "LedgerInvalid")


async def test_kubectl_scale_reaches_the_deployment(world):
    await world.begin()
    await world.settle()
    await world.kube.merge_patch(MODEL_ENDPOINTS, world.namespace, "prod", {"spec": {"replicas": 5}}, subresource="scale")
    await world.settle()
    assert (await world.kube.get(DEPLOYMENTS, world.namespace, "prod-server"))["spec"]["replicas"] == 5
    assert (await world.status())["selector"] == "graft.dev/modelendpoint=prod,graft.dev/component=server"


@pytest.mark.parametrize("labels", [{}, {"graft.dev/modelendpoint": "prod"}], ids=["without labels", "with a label that anybody may set"])
@pytest.mark.parametrize("name", ["prod-ledger", "prod-routes"])
async def test_what_somebody_else_put_where_a_record_must_be_decides_nothing(kube, definitions, name, labels):
    """Written by the operator, but for the label that nobody else can set."""
    other, world = World(kube), World(kube)
    await served_by_a(other)
    theirs = await kube.get(CONFIG_MAPS, other.namespace, name)
    await in_an_empty_namespace(world)
    await kube.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": world.namespace, "labels": labels}, "data": theirs["data"]})
    await world.create_endpoint()
    await world.add_adapter("a")
    await world.settle()
    stalled, reason, message = await world.condition("Stalled")
    assert (stalled, reason) == ("True", "NameConflict")
    assert f"ConfigMap {name} exists and belongs to somebody else" in message
    assert await children(world) == [("ServiceAccount", "graft-trainer")]
    assert (await kube.get(CONFIG_MAPS, world.namespace, name))["data"] == theirs["data"]
    assert (await world.adapter("a"))["status"]["conditions"][0]["reason"] == "Waiting"

    await kube.delete(CONFIG_MAPS, world.namespace, name)
    await world.settle()
    assert (await world.condition("Stalled"))[0] == "False"
    assert await world.serving() == {"dsl": None, "governance": None}


async def test_a_record_that_appears_while_it_is_being_written_is_looked_at_first(world):
    await world.begin()
    theirs = {"metadata": {"name": "prod-ledger", "namespace": world.namespace}, "data": {"mine": "1"}}

    class Meanwhile(Kube):
        async def create(self, resource, body):
            if body["metadata"]["name"] == "prod-ledger" and await world.kube.get(CONFIG_MAPS, world.namespace, "prod-ledger") is None:
                await world.kube.create(CONFIG_MAPS, theirs)
            return await super().create(resource, body)

    async with Meanwhile(world.kube.credentials) as racing:
        racer = replace(world.endpoints, kube=racing)
        with pytest.raises(Conflict):
            await racer.reconcile(world.key)
        await racer.reconcile(world.key)
    assert (await world.condition("Stalled"))[1] == "NameConflict"
    assert (await world.kube.get(CONFIG_MAPS, world.namespace, "prod-ledger"))["data"] == {"mine": "1"}


TOO_SMALL = {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        pytest.param({"server": {"podTemplate": TOO_SMALL}}, {"server": None}, id="of the servers"),
        pytest.param({"gateway": TOO_SMALL}, {"gateway": {"resources": None}}, id="of the gateways"),
    ],
)
async def test_what_the_api_server_refuses_is_said_beside_what_is_true_nevertheless(world, wrong, right):
    await served_by_a(world)
    await world.change(**wrong, domains=[{"name": "dsl", "pin": {"base": True}}, {"name": "governance"}])
    await world.settle()
    stalled, reason, message = await world.condition("Stalled")
    assert (stalled, reason) == ("True", "InvalidSpec")
    assert message.startswith("spec.template.spec.containers[")
    assert "memory" in message
    status, endpoint = await world.status(), await world.endpoint()
    assert status["observedGeneration"] == endpoint["metadata"]["generation"]
    assert "adapter" not in status["domains"][0]["arms"][0], "the switch to the base is made"
    assert status["domains"][0]["lastSwitch"]["after"] == "base"
    assert status["acknowledgedGateways"] == 0
    await world.gateway_says()
    await world.settle()
    assert (await world.status())["acknowledgedGateways"] == 1
    assert (await world.condition("Routed"))[0] == "True"
    before = (await world.endpoint())["metadata"]["resourceVersion"]
    assert (await world.endpoints.reconcile(world.key)).requeue_after is not None
    assert (await world.endpoint())["metadata"]["resourceVersion"] == before, "said once"

    await world.change(**right)
    await world.settle()
    assert (await world.condition("Stalled"))[0] == "False"


RESOURCE_QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")


@pytest.mark.parametrize(
    ("resource", "body"),
    [
        pytest.param(SERVICES, {"spec": {"ports": [{"port": 1}]}}, id="a Service"),
        pytest.param(CONFIG_MAPS, {}, id="records and the certificate"),
    ],
)
async def test_what_a_quota_forbids_is_said_and_tried_again(world, until, resource, body):
    await in_an_empty_namespace(world)
    await quota(world, resource.plural, 0)
    probe = {"metadata": {"generateName": "probe-", "namespace": world.namespace}, **body}
    await until(lambda: is_forbidden(world, resource, probe))
    await world.create_endpoint()
    await world.settle()
    stalled, reason, message = await world.condition("Stalled")
    assert (stalled, reason) == ("True", "Forbidden")
    assert "exceeded quota" in message
    assert (await world.endpoints.reconcile(world.key)).requeue_after is not None

    await world.kube.delete(RESOURCE_QUOTAS, world.namespace, "tight")

    async def goes_on():
        await world.settle()
        return (await world.condition("Stalled"))[0] == "False"

    await until(goes_on)


async def quota(world, counted, most):
    hard = {f"count/{counted}": str(most)}
    await world.kube.create(RESOURCE_QUOTAS, {"metadata": {"name": "tight", "namespace": world.namespace}, "spec": {"hard": hard}})
    status = {"status": {"hard": hard, "used": {f"count/{counted}": "0"}}}  # the quota controller's part
    await world.kube.merge_patch(RESOURCE_QUOTAS, world.namespace, "tight", status, subresource="status")


async def is_forbidden(world, resource, body):
    try:
        await world.kube.create(resource, body)
    except Forbidden:
        return True
    return False


class Older(Kube):
    """Reads adapters as an older CRD let them through."""

    async def get(self, resource, namespace, name):
        found = await super().get(resource, namespace, name)
        if resource is ADAPTERS and found:
            found["spec"]["artifact"]["uri"] = "file:///etc"
        return found


async def test_an_adapter_whose_spec_cannot_be_read_says_so_and_can_be_deleted(world):
    await served_by_a(world)
    key = Key(world.namespace, "adapter-a")
    async with Older(world.kube.credentials) as older:
        adapters = replace(world.adapters, kube=older)
        await adapters.reconcile(key)
        status = (await world.adapter("a"))["status"]
        stalled = next(c for c in status["conditions"] if c["type"] == "Stalled")
        assert (status["phase"], stalled["status"], stalled["reason"]) == ("Failed", "True", "InvalidSpec")
        assert "spec.artifact.uri: must be s3://" in stalled["message"]
        await world.kube.delete(ADAPTERS, world.namespace, "adapter-a")
        assert await world.adapter("a") is not None
        await adapters.reconcile(key)
    assert await world.adapter("a") is None


async def applied(world):
    """Everything that was applied for the endpoint, by kind and name."""
    labels = Selection(world.namespace, labels="graft.dev/modelendpoint=prod")
    found = [(resource, child) for resource in APPLIED.values() for child in await world.kube.list(resource, labels)]
    known = {(kind, name) for _, kind, name in world.endpoints.applied.entries}
    return [(resource, child) for resource, child in found if (resource.kind, child["metadata"]["name"]) in known]


@asynccontextmanager
async def watching_children(world):
    """The watches of its children, and the controller that they wake."""
    clock, random = world.clock, Random(1)  # noqa: S311 - spreads load, guards nothing
    queue = WorkQueue(clock, random)
    wake = Wake(AdapterIndex(), ShadowIndex(), queue, Woken(), Woken())
    watcher = Watcher(world.kube, child_watches(wake, world.endpoints.applied), clock, random, (world.namespace,))
    controller = Controller("modelendpoint", world.endpoints.reconcile, queue, clock, ReconcileMetrics(CollectorRegistry()))
    tasks = [asyncio.create_task(watcher.run()), asyncio.create_task(controller.run())]
    try:
        await watcher.listed()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_deleted_or_changed_by_hand_is_restored_at_once(kube, definitions, until):
    world = World(kube)
    scores = [{"name": "latency", "measure": "Latency"}]
    await world.begin(collector={"store": "s3://measured/prod", "observe": [{"domain": "dsl", "scores": scores}]})
    await world.settle()
    made = await applied(world)
    assert {resource.kind for resource, _ in made} == set(APPLIED)
    before = {(resource.kind, child["metadata"]["name"]): child.get("spec") for resource, child in made}
    service = await kube.get(SERVICES, world.namespace, "prod-gateway")
    async with watching_children(world):
        for resource, child in made:
            await kube.delete(resource, world.namespace, child["metadata"]["name"])
        await until(lambda: all_there(world, made))
        changed = {"spec": {"selector": {"app": "somebody-else"}}}
        await kube.merge_patch(SERVICES, world.namespace, "prod-gateway", changed)

        async def selected():
            return (await kube.get(SERVICES, world.namespace, "prod-gateway"))["spec"]["selector"]

        async def as_before():
            found = await selected()
            return {key: found.get(key) for key in service["spec"]["selector"]} == service["spec"]["selector"]

        await until(as_before)
        version = await world.versions()
        await asyncio.sleep(0.5)
        assert await world.versions() == version, "its own writes do not wake it"
    assert {(resource.kind, child["metadata"]["name"]) for resource, child in await applied(world)} == set(before)


async def all_there(world, made):
    for resource, child in made:
        found = await world.kube.get(resource, world.namespace, child["metadata"]["name"])
        if found is None or found["metadata"]["uid"] == child["metadata"]["uid"]:
            return False
    return True
