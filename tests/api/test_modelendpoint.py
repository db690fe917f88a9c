"""A ModelEndpoint and its Adapters against the real API server, with the operator crashing after any of its writes: same end state."""

import json
import uuid
from dataclasses import replace

import pytest

from graft_api.dataplane import LEDGER_KEY, ROUTES_KEY, ledger_name, routes_name, version_name
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.routes import Routes
from graft_api.schema import parse
from graft_operator.adapter.reconcile import Adapters
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, DEPLOYMENTS, EVENTS, MODEL_ENDPOINTS, NAMESPACES, PODS, SERVICES
from graft_operator.modelendpoint.children import Platform
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.modelendpoint.reconcile import ModelEndpoints
from graft_operator.reports.ca import Trust
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.sink import FleetCaller

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


def digest(letter):
    return "sha256:" + letter * 64


class Crash(BaseException):
    """The process ends here."""


class Everything:
    """Policies are in place; what happens when they are not is tests/api/test_policies.py's."""

    missing_seconds = 0.0

    async def missing(self):
        return []


class World:
    """A namespace with an endpoint, and the parts that an API tier does not run, played by hand: kubelet, agents, gateways."""

    def __init__(self, kube):
        self.kube = kube
        self.namespace = f"mep-{uuid.uuid4().hex[:8]}"
        self.key = Key(self.namespace, "prod")
        self.clock = SystemClock()
        self.writes_left = None
        self.sequence = 0
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

    def count_write(self):
        """Called before each write of the operator: with none left, the write before was its last."""
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Crash
            self.writes_left -= 1

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

    async def agent_says(self, name, *letters, failed=()):
        versions = [{"name": version_name("dsl", digest(letter)), "digest": digest(letter), "state": "Ready"} for letter in letters]
        versions += [
            {"name": version_name("dsl", digest(one)), "digest": digest(one), "state": "Failed", "reason": "NoEffect"} for one in failed
        ]
        body = {"epoch": 1, "revision": 1, "server": "Serving", "baseDigest": BASE, "versions": versions}
        self.fleet.heard_agent(await self.caller(name, "server"), parse(AgentReport, body | self.envelope()))

    async def gateway_says(self, name="gateway-0", in_flight=None):
        routes = await self.routes()
        body = {"epoch": routes.epoch, "revision": routes.revision, "inFlight": in_flight or {}}
        self.fleet.heard_gateway(await self.caller(name, "gateway"), parse(GatewayReport, body | self.envelope()))

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

    async def all_say(self, *letters):
        """Everybody reports what the routes ask for."""
        for name in ("server-0", "server-1"):
            await self.agent_says(name, *letters)
        await self.gateway_says()

    async def settle(self):
        """Reconcile as the watches would: again after every change, until nothing changes."""
        version = None
        while (now := await self.versions()) != version:
            version = now
            await self.endpoints.reconcile(self.key)
            for adapter in await self.kube.list(ADAPTERS, Selection(self.namespace)):
                await self.adapters.reconcile(Key(self.namespace, adapter["metadata"]["name"]))

    async def versions(self):
        kinds = (MODEL_ENDPOINTS, ADAPTERS, CONFIG_MAPS, DEPLOYMENTS)
        return [item["metadata"]["resourceVersion"] for kind in kinds for item in await self.kube.list(kind, Selection(self.namespace))]

    async def endpoint(self):
        return await self.kube.get(MODEL_ENDPOINTS, self.namespace, "prod")

    async def status(self):
        return (await self.endpoint())["status"]

    async def adapter(self, letter):
        return await self.kube.get(ADAPTERS, self.namespace, f"adapter-{letter}")

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


async def served_by_a(world):
    await world.begin()
    await world.settle()
    await world.run_pods()
    await world.add_adapter("a")
    await world.all_say()
    await world.settle()
    await world.all_say("a")
    await world.change(domains=[{"name": "dsl", "pin": {"adapter": "adapter-a"}}, {"name": "governance"}])
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


async def test_a_crash_after_any_write_of_a_switch_changes_nothing(kube, definitions):
    """The oracle is the run without a crash."""
    undisturbed = World(kube)
    await served_by_a(undisturbed)
    expected = await outcome(undisturbed)
    for writes in range(12):
        world = World(kube)
        await world.begin()
        await world.settle()
        await world.run_pods()
        await world.add_adapter("a")
        await world.all_say()
        await world.settle()
        await world.all_say("a")
        await world.change(domains=[{"name": "dsl", "pin": {"adapter": "adapter-a"}}, {"name": "governance"}])
        world.writes_left = writes
        try:
            await world.settle()
            crashed = False
        except Crash:
            crashed = True
        world.writes_left = None
        world.start()
        await world.all_say("a")
        await world.settle()
        assert await outcome(world) == expected, f"after {writes} writes"
        if not crashed:
            return
    pytest.fail("a switch takes more writes than expected")


async def outcome(world):
    ledger = await world.kube.get(CONFIG_MAPS, world.namespace, ledger_name("prod"))
    domains = json.loads(ledger["data"][LEDGER_KEY])["domains"]
    history = [[(switch["ordinal"], switch["reason"], switch.get("after")) for switch in domain.get("history", [])] for domain in domains]
    deployments = await world.kube.list(DEPLOYMENTS, Selection(world.namespace))
    return await world.serving(), history, sorted(item["metadata"]["name"] for item in deployments)


async def test_a_namespace_restored_without_status_serves_the_same(world):
    await served_by_a(world)
    before = await world.serving()
    ledger = await world.kube.get(CONFIG_MAPS, world.namespace, ledger_name("prod"))
    assert "ownerReferences" not in ledger["metadata"]
    await world.kube.delete(MODEL_ENDPOINTS, world.namespace, "prod")
    await world.kube.delete(CONFIG_MAPS, world.namespace, routes_name("prod"))  # the garbage collector's part
    for name in ("prod-server", "prod-gateway"):
        await world.kube.delete(DEPLOYMENTS, world.namespace, name)
    for service in await world.kube.list(SERVICES, Selection(world.namespace)):
        await world.kube.merge_patch(SERVICES, world.namespace, service["metadata"]["name"], {"metadata": {"ownerReferences": None}})
        await world.kube.delete(SERVICES, world.namespace, service["metadata"]["name"])
    for kind in await leftovers(world):
        await world.kube.delete(*kind)
    world.start()
    await world.create_endpoint()  # from Git: the pin is gone, too
    await world.endpoints.reconcile(world.key)
    assert await world.serving() == before


async def leftovers(world):
    """The rest of what a garbage collector would have taken with the endpoint."""
    from graft_operator.engine.resources import NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS

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
    assert await world.adapter("a") is not None, "two replicas still have it"
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
