"""
A candidate's way into production and out of it against the real API server, with the operator crashing after any of its writes: same end.

The ShadowTest's own reconciler, people, and the data plane are played by hand.
"""

import asyncio
import json
import uuid
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import cycle
from random import Random

import pytest
from killing import Crash, Everything, Killable, Lines, behind, killed_after, same_ends
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
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Selection
from graft_operator.engine.leadership import Candidate, Leadership
from graft_operator.engine.process import LedProcess, controller_service
from graft_operator.engine.queue import Key, WorkQueue
from graft_operator.engine.resources import (
    ADAPTER_APPROVALS,
    ADAPTERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    MODEL_ENDPOINTS,
    NAMESPACES,
    PODS,
    ROLES,
    SHADOW_TESTS,
)
from graft_operator.engine.resync import Resync
from graft_operator.engine.watch import Watcher
from graft_operator.main import RECORDS, Wake, sources, watches
from graft_operator.modelendpoint.children import Parent, Platform, ledger_config_map
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.modelendpoint.reconcile import ModelEndpoints
from graft_operator.modelendpoint.unfinished import Unfinished
from graft_operator.reports.ca import Trust
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.sink import FleetCaller
from graft_operator.shadowtest.index import ShadowIndex
from graft_runtime.process import Service

BASE = "sha256:" + "b" * 64
KEY = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
EVIDENCE = "sha256:" + "e" * 64
METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
POLICY = {
    "shadow": {"duration": "24h", "metrics": [{"measure": "ServerError", "metric": METRIC}]},
    "approval": {"users": ["anna", "bert"], "required": 2},
    "ramp": [{"share": "0.1", "duration": "10m"}],
    "watch": {"window": "1h", "minClusters": 20, "inFlight": "Abort"},
}
SPEC = {
    "baseModel": {"uri": "s3://models/base", "digest": BASE},
    "gateway": {"anonymous": True, "replicas": 1},
    "trustedKeys": [{"name": "ci", "pem": KEY}],
    "collector": {"store": "s3://measured"},
}


def digest(letter):
    return "sha256:" + letter * 64


def version(letter):
    return version_name("dsl", digest(letter))


class Shifted(SystemClock):
    """The time of day of a machine, somewhat later."""

    by = timedelta()

    def now(self):
        return super().now() + self.by


class Stopped(SystemClock):
    """Stands still: no timer comes due, no back-off is over, nothing is listed anew."""

    def monotonic(self):
        return 0.0

    async def sleep(self, seconds, wakeup=None):
        await (wakeup or asyncio.Event()).wait()


class World(Killable):
    """A namespace with an endpoint, and all others' parts."""

    spec = SPEC

    def __init__(self, kube):
        self.kube = kube
        self.namespace = f"prm-{uuid.uuid4().hex[:8]}"
        self.key = Key(self.namespace, "prod")
        self.clock = Shifted()
        self.names = []
        self.sequence = 0
        self.said = {}
        self.woken = []
        self.lines = Lines(f"{self.namespace}/prod")
        self.start()

    def start(self):
        """A new operator process: it knows nothing but what is in the API server."""
        kube = self.kube.fenced(self.count_write)
        events = EventRecorder(kube, self.clock, "test")
        self.fleet = Fleet(self.clock, self.woken.append)
        hearsay = Hearsay(self.fleet, self.clock)
        platform = Platform("serving:1", "vllm:1", "https://reports:8443")
        trust = Trust(kube, self.clock, lambda: "a certificate")
        self.endpoints = ModelEndpoints(kube, self.clock, events, Everything(), platform, trust, hearsay, lambda: 1, lambda domain: "salt")
        self.adapters = Adapters(kube, self.clock, events, hearsay)

    async def begin(self, policy=POLICY):
        """Served by adapter-a, as its ledger says."""
        self.policy = policy
        await self.kube.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        active = {"adapter": "adapter-a", "digest": digest("a"), "uri": "s3://adapters/a", "sizeBytes": 10}
        known = {"endpoint": "prod", "baseDigest": BASE, "domains": [{"name": "dsl", "salt": "salt", "active": active}]}
        parent = Parent(self.namespace, "prod", "of-the-one-before")
        await self.kube.create(CONFIG_MAPS, ledger_config_map(parent, parse(Ledger, known)))
        spec = self.spec | {"domains": [{"name": "dsl", "promotion": policy}]}
        await self.kube.create(MODEL_ENDPOINTS, {"metadata": self.named("prod"), "spec": spec})
        await self.add_adapter("a", promote=False)
        await self.endpoints.reconcile(self.key)
        for component in ("server", "gateway", "collector"):
            await self.run_pod(component)
        await self.all_say("a")
        await self.settle()
        assert await self.arms() == [(version("a"), 10_000)]

    def named(self, name, **more):
        return {"name": name, "namespace": self.namespace, **more}

    async def domain(self, **changes):
        await self.change({"domains": [{"name": "dsl", "promotion": self.policy, **changes}]})

    async def change(self, spec):
        await self.kube.merge_patch(MODEL_ENDPOINTS, self.namespace, "prod", {"spec": spec})

    async def add_adapter(self, letter, **changes):
        artifact = {"uri": f"s3://adapters/{letter}", "digest": digest(letter), "sizeBytes": 10}
        spec = {"artifact": artifact, "domain": "dsl", "baseModelDigest": BASE, "endpointRef": {"name": "prod"}} | changes
        await self.kube.create(ADAPTERS, {"metadata": self.named(f"adapter-{letter}"), "spec": spec})
        self.names.append(f"adapter-{letter}")

    async def run_pod(self, component):
        """The kubelet's part."""
        labels = {"graft.dev/modelendpoint": "prod", "graft.dev/component": component}
        spec = {"serviceAccountName": f"graft-{component}-prod", "containers": [{"name": "c", "image": "i"}]}
        if component == "collector":  # its account is made with the collector, later
            spec["serviceAccountName"] = "graft-server-prod"
        await self.kube.create(PODS, {"metadata": self.named(f"{component}-0", labels=labels), "spec": spec})
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await self.kube.merge_patch(PODS, self.namespace, f"{component}-0", {"status": status}, subresource="status")

    async def say(self, component, model, body):
        self.sequence += 1
        boot = body.pop("boot", "1")
        self.said[component] = parse(model, {"boot": boot, "sequence": self.sequence} | body)
        await self.say_again(component)

    async def say_again(self, *components):
        """Every report is a whole picture, and comes again every ten seconds."""
        hear = {"server": self.fleet.heard_agent, "gateway": self.fleet.heard_gateway, "collector": self.fleet.heard_collector}
        for component in components or self.said:
            hear[component](await self.caller(component), self.said[component])

    async def caller(self, component):
        pod = await self.kube.get(PODS, self.namespace, f"{component}-0")
        endpoint = await self.kube.get(MODEL_ENDPOINTS, self.namespace, "prod")
        return FleetCaller(
            pod_name=f"{component}-0",
            pod_uid=pod["metadata"]["uid"],
            pod_created_at=pod["metadata"]["creationTimestamp"],
            namespace=self.namespace,
            service_account=f"graft-{component}-prod",
            role=component,
            endpoint_name="prod",
            endpoint_uid=endpoint["metadata"]["uid"],
        )

    async def all_say(self, *letters, trips=()):
        """The data plane does what the routes ask for."""
        routes = await self.routes()
        known = {"epoch": routes.epoch, "revision": routes.revision}
        versions = [{"name": version(letter), "digest": digest(letter), "state": "Ready"} for letter in letters]
        await self.say("server", AgentReport, known | {"server": "Serving", "baseDigest": BASE, "versions": versions})
        await self.say("gateway", GatewayReport, known | {"trips": list(trips)})

    async def collector_says(self, seconds, clusters=30, wrong=0, boot="1"):
        """What it has counted since it started: `wrong` of the conversations on the new version ended in an error."""
        side = {"clusters": clusters, "values": clusters, "valuesSquared": clusters}
        bad = side | {"total": float(wrong), "product": wrong, "totalSquared": float(wrong)}
        count = {"observedSeconds": seconds, "metrics": [{"name": "server-errors", "new": bad, "heldBack": side}]}
        gate = (await self.entry()).gate
        watched = [{"domain": "dsl", "gate": gate.number, "count": count}] if gate else []
        await self.say("collector", CollectorReport, {"boot": boot, "mode": "Observe", "watched": watched})

    async def test_is(self, phase):
        """As the reconciler of ShadowTests leaves it."""
        (test,) = await self.tests()
        endpoint = await self.kube.get(MODEL_ENDPOINTS, self.namespace, "prod")
        resolved = {
            "endpoint": "prod",
            "endpointUid": endpoint["metadata"]["uid"],
            "domain": "dsl",
            "incumbent": {"version": version("a"), "adapter": "adapter-a", "digest": digest("a")},
            "candidate": {"version": version("c"), "adapter": "adapter-c", "digest": digest("c")},
            "store": "s3://measured/shadowtests/t",
            "seed": 7,
            "maxDuration": "48h",
            "endpointSpecDigest": digest("d"),
        }
        status = {"phase": phase, "resolved": resolved}
        if phase in {"Passed", "Failed"}:
            verdict = {"outcome": phase, "sentence": f"{phase}: errors fell", "readAt": rfc3339(self.clock.now()), "observedHours": 24.0}
            report = {"html": "s3://m/report.html", "json": "s3://m/report.json", "htmlDigest": digest("1"), "jsonDigest": digest("2")}
            status |= {
                "verdict": verdict | {"commit": 7, "evidenceDigest": EVIDENCE},
                "endedAt": rfc3339(self.clock.now()),
                "report": report,
            }
        await self.kube.merge_patch(SHADOW_TESTS, self.namespace, test["metadata"]["name"], {"status": status}, subresource="status")

    async def say_word(self, author, decision="Approve", **changes):
        spec = {"adapterRef": {"name": "adapter-c"}, "digest": digest("c"), "decision": decision, "author": {"username": author}}
        spec |= {"evidenceDigest": EVIDENCE} if decision == "Approve" else {}
        name = f"{author}-{decision}-{uuid.uuid4().hex[:4]}".lower()
        return await self.kube.create(ADAPTER_APPROVALS, {"metadata": self.named(name), "spec": spec | changes})

    async def settle(self):
        """Reconcile as the watches would: each again after every write, until all in a row have written nothing."""
        adapters = [partial(self.adapters.reconcile, Key(self.namespace, name)) for name in self.names]
        passes, silent = cycle([partial(self.endpoints.reconcile, self.key), *adapters]), 0
        while silent <= len(adapters):
            before = self.writes
            await next(passes)()
            silent = silent + 1 if self.writes == before else 0

    async def look_once(self):
        await self.endpoints.reconcile(self.key)
        for name in self.names:
            await self.adapters.reconcile(Key(self.namespace, name))

    async def undone(self):
        """The routes that follow from the ledger, and the ShadowTest."""
        ledger, made = await self.ledger(), [test["metadata"]["name"] for test in await self.tests()]
        gates = [entry.gate for entry in ledger.domains if entry.gate is not None]
        unmade = [f"ShadowTest {gate.test} is not made" for gate in gates if gate.state == "Testing" and gate.test not in made]
        return [*behind(ledger, await self.routes()), *unmade]

    async def tests(self):
        return await self.kube.list(SHADOW_TESTS, Selection(self.namespace))

    async def routes(self):
        record = await self.kube.get(CONFIG_MAPS, self.namespace, routes_name("prod"))
        return parse(Routes, json.loads(record["data"][ROUTES_KEY]))

    async def route(self):
        return (await self.routes()).routes[0]

    async def arms(self):
        return [(arm.version, arm.weight) for arm in (await self.route()).arms]

    async def ledger(self):
        record = await self.kube.get(CONFIG_MAPS, self.namespace, ledger_name("prod"))
        return parse(Ledger, json.loads(record["data"][LEDGER_KEY]))

    async def entry(self):
        return (await self.ledger()).domain("dsl")

    async def adapter(self, letter="c"):
        return await self.kube.get(ADAPTERS, self.namespace, f"adapter-{letter}")

    async def phase(self, letter="c"):
        status = (await self.adapter(letter))["status"]
        return status["phase"], next((c["status"] for c in status["conditions"] if c["type"] == "Promoted"), None)

    async def told(self):
        return (await self.kube.get(MODEL_ENDPOINTS, self.namespace, "prod"))["status"]["domains"][0]

    async def settings(self):
        record = await self.kube.get(CONFIG_MAPS, self.namespace, "prod-collector")
        return parse(CollectorSettings, json.loads(record["data"][SETTINGS_KEY]))

    async def events(self, kind="ModelEndpoint"):
        return {event["reason"] for event in await self.all_events() if event["regarding"]["kind"] == kind}

    async def all_events(self):
        return await self.kube.list(EVENTS, Selection(self.namespace))


@pytest.fixture
def world(kube, definitions):
    return World(kube)


async def begin(world):
    await world.begin()


async def the_candidate_comes(world):
    await world.add_adapter("c")


async def it_is_loaded(world):
    await world.all_say("a", "c")


async def it_is_tested(world):
    await world.test_is("Running")


async def it_passes(world):
    await world.test_is("Passed")


async def it_fails(world):
    await world.test_is("Failed")


async def people_approve(world):
    await world.say_word("anna")
    await world.say_word("bert")


async def the_ramp_is_over(world):
    await world.all_say("a", "c")
    await world.collector_says(600.0)


async def the_window_is_over(world):
    await world.all_say("a", "c")
    await world.collector_says(4200.0)


async def a_gateway_trips(world):
    trip = {"domain": "dsl", "version": version("c"), "metric": "errors", "value": 0.4, "bound": 0.1, "heldBack": 0.01, "requests": 50}
    await world.all_say("a", "c", trips=[trip | {"at": rfc3339(world.clock.now())}])


async def the_collector_sees_harm(world):
    await world.all_say("a", "c")
    await world.collector_says(900.0, clusters=1000, wrong=400)


async def gateways_follow(world):
    await world.all_say("a", "c")


async def it_is_deleted(world):
    await world.kube.delete(ADAPTERS, world.namespace, "adapter-c")


TESTED = [the_candidate_comes, it_is_loaded, it_is_tested]
SERVES = [*TESTED, it_passes, people_approve]


async def after(world, steps):
    await world.begin()
    for step in steps:
        await step(world)
        await world.settle()


async def test_from_the_adapter_to_confirmed(world, until):
    await after(world, [the_candidate_comes])
    assert (await world.entry()).gate is None, "it is not loaded"
    assert "begins once it is loaded" in (await world.told())["noneBegins"]
    await it_is_loaded(world)
    await world.settle()
    (test,) = await world.tests()
    (owner,) = test["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Adapter", (await world.adapter())["metadata"]["uid"])
    assert (test["spec"]["adapterRef"], test["spec"]["duration"]) == ({"name": "adapter-c"}, "24h")
    assert await world.phase() == ("Testing", "False")
    assert (await world.entry()).gate.test_uid == test["metadata"]["uid"]

    await it_is_tested(world)
    await world.settle()
    await it_passes(world)
    await world.settle()
    told = (await world.adapter())["status"]["promotion"]
    assert await world.phase() == ("AwaitingApproval", "False")
    assert (told["test"], told["evidenceDigest"], told["approvalsNeeded"]) == (test["metadata"]["name"], EVIDENCE, 2)
    await world.say_word("anna")
    await world.say_word("carol")
    about_another = await world.say_word("bert", evidenceDigest=digest("f"))
    await world.settle()
    assert (await world.adapter())["status"]["promotion"]["approvals"] == ["anna"]
    assert await world.arms() == [(version("a"), 10_000)]

    await until(lambda: rfc3339(world.clock.now()) > about_another["metadata"]["creationTimestamp"])  # times are whole seconds
    await world.say_word("bert")
    await world.settle()
    assert await world.arms() == [(version("c"), 1000), (version("a"), 9000)]
    route = await world.route()
    assert (route.trip_wire.version, route.trip_wire.instead) == (version("c"), version("a"))
    settings = await world.settings()
    assert [(task.new, task.held_back, task.gate) for task in settings.watches] == [(version("c"), version("a"), 1)]
    assert await world.phase() == ("Serving", "True")
    assert await world.phase("a") == ("Serving", "False")
    assert {"Testing", "AwaitingApproval", "Promoted", "Switched"} <= await world.events()

    await the_ramp_is_over(world)
    await world.settle()
    assert await world.arms() == [(version("c"), 9500), (version("a"), 500)]
    assert await world.settings() == settings, "a step is no other task"
    await the_window_is_over(world)
    await world.settle()
    assert await world.arms() == [(version("c"), 10_000)]
    told = await world.told()
    assert (told["promotion"]["state"], told["lastSwitch"]["reason"]) == ("Confirmed", "Promoted")
    assert ((await world.route()).trip_wire, (await world.routes()).tee) == (None, None)
    assert await world.phase() == ("Serving", "True")
    assert "Confirmed" in await world.events()
    assert len(await world.tests()) == 1


@pytest.mark.parametrize("harm", ["measured", "rejected"])
async def test_what_does_harm_is_taken_out_while_an_admission_policy_is_missing(world, harm, until):
    class Missing(Everything):
        missing_seconds = 600.0

        async def missing(self):
            return ["ValidatingAdmissionPolicy graft-approvals: it is absent; run helm upgrade"]

    await after(world, SERVES)
    last = await world.say_word("carol")
    world.endpoints = replace(world.endpoints, guard=Missing())
    await world.all_say("a", "c")
    await world.collector_says(90_000.0)
    await world.settle()
    assert (await world.entry()).gate.watch.boot is None, "nothing is counted"
    assert await world.arms() == [(version("c"), 1000), (version("a"), 9000)]
    if harm == "measured":
        await the_collector_sees_harm(world)
    else:
        await until(lambda: rfc3339(world.clock.now()) > last["metadata"]["creationTimestamp"])  # times are whole seconds
        await world.say_word("bert", "Reject")
    await world.settle()
    assert await world.arms() == [(version("a"), 10_000)]
    assert (await world.entry()).rejected[-1].digest == digest("c")
    assert (await world.told())["promotion"]["state"] == "RolledBack"
    status = (await world.kube.get(MODEL_ENDPOINTS, world.namespace, "prod"))["status"]
    assert ("Stalled", "PolicyMissing") in {(one["type"], one["reason"]) for one in status["conditions"]}
    assert "RolledBack" in await world.events()


async def test_a_watch_begins_and_ends_without_another_collector(world):
    """The Deployment's generation grows with every change of its pods."""
    scores = [{"name": "errors", "measure": "ServerError"}]
    await world.begin()
    await world.change({"collector": {**SPEC["collector"], "observe": [{"domain": "dsl", "scores": scores}]}})
    await world.settle()

    async def collector():
        made = await world.kube.get(DEPLOYMENTS, world.namespace, "prod-collector")
        return made["metadata"]["uid"], made["metadata"]["generation"], made["spec"]

    seen = []
    for step in (*SERVES, the_ramp_is_over, the_window_is_over):
        await step(world)
        await world.settle()
        seen.append(([task.domain for task in (await world.settings()).watches], await collector()))
    compared = seen[-4][1]
    assert seen[-4:] == [([], compared), (["dsl"], compared), (["dsl"], compared), ([], compared)]
    (rule,) = (await world.kube.get(ROLES, world.namespace, "graft-collector-prod"))["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["prod-collector"], ["get", "list", "watch"])


async def test_a_trip_wakes_the_operator_and_takes_it_out(world):
    await after(world, [*SERVES, the_ramp_is_over, gateways_follow])
    world.woken.clear()
    await a_gateway_trips(world)
    assert world.woken == [world.key]
    await world.settle()
    assert await world.arms() == [(version("a"), 10_000)]
    route, entry = await world.route(), await world.entry()
    assert (route.trip_wire, route.aborted) == (None, [version("c")])
    assert (entry.active.adapter, entry.previous, entry.gate, entry.rejected[-1].digest) == ("adapter-a", None, None, digest("c"))
    assert await world.phase() == ("RolledBack", "False")
    status = (await world.adapter())["status"]
    assert "errors of 0.4 of 50 requests, bound 0.1" in next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    assert "RolledBack" in await world.events()
    assert "RolledBack" in await world.events("Adapter")
    await gateways_follow(world)
    await world.settle()
    assert await world.arms() == [(version("a"), 10_000)], "it does not come back"
    assert len(await world.tests()) == 1


async def test_by_hand_it_is_taken_out_at_once_and_a_pin_does_not_bring_it_back(world, until):
    await after(world, SERVES)
    newest = max(word["metadata"]["creationTimestamp"] for word in await world.kube.list(ADAPTER_APPROVALS, Selection(world.namespace)))
    await until(lambda: rfc3339(world.clock.now()) > newest)
    await world.say_word("bert", "Reject", reason="it insults people")
    await world.settle()
    assert await world.arms() == [(version("a"), 10_000)]
    ended = (await world.entry()).ended[-1]
    assert (ended.reason, "bert" in ended.message) == ("RolledBack", True)
    await world.domain(pin={"adapter": "adapter-c"})
    await world.settle()
    assert await world.arms() == [(version("a"), 10_000)]
    assert "adapter-c was rejected by bert" in (await world.told())["waitingFor"]


async def test_a_watch_that_nobody_looked_at_ends_unconfirmed(world):
    await after(world, [*SERVES, the_ramp_is_over])
    world.clock.by = timedelta(days=3)
    world.start()
    await world.settle()
    assert (await world.told())["promotion"]["state"] == "Unconfirmed"
    assert len(await world.arms()) == 2
    assert await world.phase() == ("Serving", "True")
    assert "Unconfirmed" in await world.events()


async def test_a_paused_domain_begins_nothing(world):
    await world.begin()
    await world.domain(paused=True)
    for step in (the_candidate_comes, it_is_loaded):
        await step(world)
        await world.settle()
    assert (await world.tests(), (await world.told())["noneBegins"].split(":")[0]) == ([], "paused")
    await world.domain()
    await world.settle()
    assert len(await world.tests()) == 1


async def test_a_test_of_the_name_that_is_somebody_elses_is_said_and_left_alone(world):
    await after(world, [the_candidate_comes, it_is_loaded])
    (ours,) = await world.tests()
    name = ours["metadata"]["name"]
    await world.kube.delete(SHADOW_TESTS, world.namespace, name)
    theirs = await world.kube.create(SHADOW_TESTS, {"metadata": world.named(name), "spec": ours["spec"]})
    await world.test_is("Passed")
    await world.settle()
    (left,) = await world.tests()
    assert (left["metadata"]["uid"], (await world.entry()).gate.state) == (theirs["metadata"]["uid"], "Testing")
    assert "NameConflict" in (await world.told())["promotion"]["message"]
    await world.kube.delete(SHADOW_TESTS, world.namespace, name)
    await world.settle()
    (made,) = await world.tests()
    assert made["metadata"]["ownerReferences"][0]["name"] == "adapter-c"


async def test_a_namespace_restored_without_status_goes_on_with_the_watch(world):
    await after(world, [*SERVES, the_ramp_is_over])
    before = await world.entry()
    body = await world.kube.get(MODEL_ENDPOINTS, world.namespace, "prod")
    await world.kube.delete(MODEL_ENDPOINTS, world.namespace, "prod")
    await world.kube.delete(CONFIG_MAPS, world.namespace, routes_name("prod"))
    world.start()
    await world.kube.create(MODEL_ENDPOINTS, {"metadata": world.named("prod"), "spec": body["spec"]})
    await world.endpoints.reconcile(world.key)  # its children belong to the one that is gone: no garbage collector runs here
    assert (await world.entry()).gate == before.gate
    assert await world.arms() == [(version("c"), 9500), (version("a"), 500)]


async def test_what_a_watch_brings_wakes_the_endpoint(world):
    await after(world, [*SERVES])
    woken = Woken()
    table = watches(Woken(), Wake(AdapterIndex(), ShadowIndex(), woken, Woken(), Woken()))
    for kind in (ADAPTERS, ADAPTER_APPROVALS, SHADOW_TESTS):
        woken.clear()
        for watch in (watch for watch in table if watch.resource is kind):
            for item in await world.kube.list(kind, Selection(world.namespace)):
                item.get("status", {}).pop("resolved", None)  # a test that was deleted before it was resolved, too
                if (key := watch.key(item)) is not None:
                    watch.enqueue(key)
        assert woken == {world.key}, kind.kind


WATCHED = [*SERVES, the_ramp_is_over]
STORIES = [
    pytest.param([], [*WATCHED, the_window_is_over, gateways_follow], id="it is confirmed"),
    pytest.param(WATCHED, [a_gateway_trips, gateways_follow], id="a gateway takes it out"),
    pytest.param(WATCHED, [the_collector_sees_harm, gateways_follow], id="its watch takes it out"),
    pytest.param(TESTED, [it_fails], id="it is not proven"),
    pytest.param(SERVES, [it_is_deleted, gateways_follow], id="it is deleted while it ramps"),
]
SIDE_BY_SIDE = 6


@pytest.mark.parametrize(("before", "steps"), STORIES)
async def test_killed_after_any_write_the_operator_reaches_the_same_end(kube, definitions, before, steps):
    """The oracle is the run without a kill."""

    async def play(writes):
        world = World(kube)
        await after(world, before)
        return await killed_after(world, steps, outcome, writes)

    await same_ends(play, SIDE_BY_SIDE)


def successor(world):
    """The process as main.py wires it, of what serves: it waits for the lease, then it watches."""
    clock, random, metrics = world.clock, Random(1), ReconcileMetrics(CollectorRegistry())  # noqa: S311 - spreads load, guards nothing
    leadership = Leadership(world.kube, Candidate(Key(world.namespace, "operator"), "successor"), clock, random)
    jobs, *queues = (WorkQueue(clock, random) for _ in range(4))
    wake = Wake(AdapterIndex(), ShadowIndex(), *queues)
    controllers = [
        Controller("modelendpoint", world.endpoints.reconcile, wake.endpoints, clock, metrics),
        Controller("adapter", world.adapters.reconcile, wake.adapters, clock, metrics),
    ]
    process: LedProcess

    def take_signals():
        process.take_signals()

    watcher = Watcher(world.kube, watches(jobs, wake), clock, random, (world.namespace,), on_spawned=take_signals)
    resync = Resync(world.kube, sources(jobs, wake, [world.namespace]), clock, random)
    services = [*map(controller_service, controllers), Service("resync", resync.run)]
    process = LedProcess([Service("watches", watcher.run)], services, leadership, prepared=watcher.listed)
    return process


async def test_a_successor_completes_what_was_begun_and_waits_for_no_timer(kube, definitions, until, collector_as_it_was):
    world = World(kube)
    await after(world, WATCHED)
    await a_gateway_trips(world)
    world.writes_left = 1
    with pytest.raises(Crash):
        await world.settle()
    world.writes_left = None
    assert await world.undone(), "the ledger is written, and the routes are not"
    seen = Unfinished()
    assert [key for record in await kube.list(CONFIG_MAPS, Selection(world.namespace, labels=RECORDS)) if (key := seen.endpoint_of(record))]
    world.clock = Stopped()
    world.start()
    process = successor(world)
    running = asyncio.create_task(process.run())

    async def done():
        return not await world.undone()

    await until(done)
    process.stop()
    assert await running == 0
    assert await world.arms() == [(version("a"), 10_000)]


async def outcome(world):
    """All that is there in the end, without ids and times."""
    entry, routes, told = await world.entry(), await world.routes(), await world.told()
    gate, promotion = entry.gate, told.get("promotion", {})
    adapters = await world.kube.list(ADAPTERS, Selection(world.namespace))
    return {
        "arms": await world.arms(),
        "route": [(route.trip_wire, route.aborted) for route in routes.routes],
        "versions": [one.name for one in routes.versions],
        "tee": routes.tee and routes.tee.domains,
        "serves": (entry.active, entry.previous),
        "history": [(one.ordinal, one.reason, one.after) for one in entry.history],
        "gate": gate and (gate.number, gate.state, gate.step, gate.watch and gate.watch.count(), authors(gate.approvals)),
        "ended": [(one.number, one.reason, one.message.split(": ", 1)[-1], authors(one.approvals)) for one in entry.ended],
        "rejected": [(one.digest, one.author, one.approval) for one in entry.rejected],
        "tests": [
            (one["metadata"]["ownerReferences"][0]["name"], one["spec"], one.get("status", {}).get("phase")) for one in await world.tests()
        ],
        "promotion": [promotion.get(name) for name in ("state", "adapter", "number", "observedSeconds", "readings")],
        "adapters": {one["metadata"]["name"]: said(one) for one in adapters},
        "transitions": [(one.ordinal, one.before, one.after, one.adapter, sorted(one.who)) for one in entry.transitions],
        "untold": entry.untold(),
        "lines": sorted({(domain, ordinal) for domain, ordinal, _ in world.lines.told}),
        "ids": len(world.lines.told),
        "events": {(event["regarding"]["kind"], event["reason"]) for event in await world.all_events()},
    }


def authors(approvals):
    """In the same second the API server's uids say who came first."""
    return sorted(approval.author for approval in approvals)


def said(resource):
    status = resource["status"]
    return status["phase"], {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
