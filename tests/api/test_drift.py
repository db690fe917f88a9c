"""
A candidate whose answers to the principle prompts are checked, against the real API server, with the operator killed after any of its
writes. Kubernetes' Job controller and the Job's pod are played by hand, like everybody else.
"""

import json
from datetime import timedelta

import pytest
from killing import killed_after, same_ends
from test_promotion import (
    POLICY,
    SPEC,
    TESTED,
    World,
    after,
    digest,
    it_passes,
    outcome,
    people_approve,
    the_collector_sees_harm,
    the_window_is_over,
    version,
)
from waking import Woken, bring

from graft_api.dataplane import DOOR_TOKEN_FILE
from graft_api.drift import PRINCIPLES_DIRECTORY, DriftReport, DriftTask, Moment
from graft_api.schema import parse
from graft_operator.adapter.index import AdapterIndex
from graft_operator.engine.clock import rfc3339
from graft_operator.engine.errors import Conflict
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import JOBS, MODEL_ENDPOINTS, NETWORK_POLICIES, PODS, SERVICE_ACCOUNTS
from graft_operator.main import Wake, watches
from graft_operator.promotion.naming import drift_job_name
from graft_operator.reports.sink import FleetCaller
from graft_operator.shadowtest.index import ShadowIndex

TOKEN = {"name": "EMBEDDINGS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "embeddings", "key": "token"}}}
DRIFT = {
    "principles": "principles",
    "embeddings": {"url": "http://embeddings:8000/v1", "model": "small", "tokenEnv": "EMBEDDINGS_TOKEN"},
    "attempts": 2,
    "deadline": "10m",
}
OF_DRIFT = "graft.dev/component=drift"
CHECKED = POLICY | {"drift": DRIFT}
COLLECTOR = {"store": "s3://measured", "env": [{"name": "OTHER", "value": "x"}, TOKEN], "credentials": {"secretRef": {"name": "s3"}}}


class Drifting(World):
    """With Jobs, and the pods that the Job controller makes of them."""

    spec = SPEC | {"collector": COLLECTOR}

    async def begin(self, policy=CHECKED):
        await super().begin(policy)

    async def domain(self, **changes):
        await self.change({"domains": [{"name": "dsl", "promotion": self.policy, **changes}]})

    async def jobs(self):
        return await self.kube.list(JOBS, Selection(self.namespace, labels=OF_DRIFT))

    async def undone(self):
        """And the Job of the attempt that is under way: that one, and no other."""
        gate, moments = (await self.entry()).gate, {"Checking": "Before", "Watching": "After", "Unconfirmed": "After"}
        moment = Moment(moments[gate.state]) if gate and gate.state in moments and gate.drift else None
        known = gate.drift.of(moment) if moment else None
        wanted = [drift_job_name("prod", "dsl", gate.number, moment, known.attempt())] if known and known.begun else []
        made = [job["metadata"]["name"] for job in await self.jobs()]
        return [*await super().undone(), *([f"Jobs {made} and not {wanted}"] if made != wanted else [])]

    async def task(self):
        (job,) = await self.jobs()
        (container,) = job["spec"]["template"]["spec"]["containers"]
        told = next(item["value"] for item in container["env"] if item["name"] == "GRAFT_DRIFT_TASK")
        return job, parse(DriftTask, json.loads(told))

    async def job_runs(self):
        """The Job controller's part and the kubelet's."""
        job, _ = await self.task()
        name = f"{job['metadata']['name']}-x"
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
            "controller": True,
        }
        template = job["spec"]["template"]
        metadata = self.named(name, labels=template["metadata"]["labels"], ownerReferences=[owner])
        if await self.kube.get(PODS, self.namespace, name) is None:
            await self.kube.create(PODS, {"metadata": metadata, "spec": template["spec"]})
        return job, name

    async def job_says(self, high=None, low=0.0, problem=None, **changes):
        _, name = await self.job_runs()
        _, task = await self.task()
        contrasts = {"Trial": [], "Before": ["Versions"], "After": ["Versions", "Candidate"]}[task.moment]
        size = {"principle": "honest", "prompts": 8, "mean": ((high or 0) + low) / 2, "low": low, "high": high}
        readings = [size | {"contrast": contrast} for contrast in contrasts]
        measured = {"at": "2026-11-21T12:00:00Z", "principlesDigest": digest("5"), "document": digest("6"), "readings": readings}
        said = {"boot": name, "sequence": 1, "domain": task.domain, "gate": task.gate, "adapterUid": task.adapter_uid}
        said |= {"moment": task.moment, "attempt": task.attempt, "problem": problem}
        self.said["drift"] = parse(DriftReport, said | ({"measured": measured} if high is not None else {}) | changes)
        self.pod = name
        await self.say_again("drift")

    async def say_again(self, *components):
        wanted = list(components) or list(self.said)
        rest = [component for component in wanted if component != "drift"]
        if rest:
            await super().say_again(*rest)
        if "drift" in wanted and (pod := await self.kube.get(PODS, self.namespace, self.pod)) is not None:
            self.fleet.heard_drift(await self.drift_caller(pod), self.said["drift"])

    async def drift_caller(self, pod):
        endpoint = await self.kube.get(MODEL_ENDPOINTS, self.namespace, "prod")
        return FleetCaller(
            pod_name=pod["metadata"]["name"],
            pod_uid=pod["metadata"]["uid"],
            pod_created_at=pod["metadata"]["creationTimestamp"],
            namespace=self.namespace,
            service_account="graft-drift-prod",
            role="drift",
            endpoint_name="prod",
            endpoint_uid=endpoint["metadata"]["uid"],
        )

    async def job_fails(self):
        job, _ = await self.task()
        now = rfc3339(self.clock.now())
        failed = {"status": "True", "reason": "DeadlineExceeded", "message": "Job was active longer", "lastTransitionTime": now}
        conditions = [failed | {"type": kind} for kind in ("FailureTarget", "Failed")]
        status = {"startTime": now, "conditions": conditions}
        await self.kube.merge_patch(JOBS, self.namespace, job["metadata"]["name"], {"status": status}, subresource="status")


@pytest.fixture
def world(kube, definitions):
    return Drifting(kube)


async def people_agree(world):
    await world.all_say("a", "c")  # a busy machine may take so long that silence means something
    await people_approve(world)


SERVES = [*TESTED, it_passes, people_agree]


async def it_is_near(world):
    await world.all_say("a", "c")
    await world.job_says(0.1)


async def it_is_far(world):
    await world.all_say("a", "c")
    await world.job_says(0.9, 0.5)


async def it_cannot_be_measured(world):
    await world.all_say("a", "c")
    await world.job_says(problem="embeddings: 503")


async def its_job_fails(world):
    await world.all_say("a", "c")
    await world.job_fails()


async def a_while_passes(world):
    world.clock.by += timedelta(minutes=2)
    await world.all_say("a", "c")


async def the_ramp_is_over(world):
    await world.all_say("a", "c")
    await world.collector_says(600.0)


async def test_the_job_has_exactly_what_it_needs(world):
    await after(world, SERVES)
    job, task = await world.task()
    gate = (await world.entry()).gate
    assert (gate.state, gate.drift.before.job) == ("Checking", job["metadata"]["uid"])
    assert (task.incumbent, task.candidate, task.gate, task.moment, task.attempt) == (version("a"), version("c"), 1, "Before", 1)
    assert (task.server, task.token_file) == (f"prod-server.{world.namespace}.svc:8000", DOOR_TOKEN_FILE)
    assert (task.store, task.policy, task.before) == ("s3://measured/drift/dsl", gate.policy.drift, None)
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("ModelEndpoint", "prod", True)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["completions"]) == (0, 600, 1)
    assert "ttlSecondsAfterFinished" not in spec
    assert (pod["restartPolicy"], pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("Never", "graft-drift-prod", False)
    (container,) = pod["containers"]
    assert (container["image"], container["command"]) == ("serving:1", ["graft-serving", "drift"])
    names = {item["name"] for item in container["env"]}
    assert "OTHER" not in names
    assert TOKEN in container["env"]
    mounts = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
    assert mounts[PRINCIPLES_DIRECTORY] == "graft-principles"
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert volumes["graft-principles"]["configMap"]["name"] == "principles"
    assert volumes["graft-principles"]["configMap"]["optional"] is True
    assert volumes["graft-credentials"]["secret"]["secretName"] == "s3"
    audiences = {
        source["serviceAccountToken"]["audience"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    }
    assert audiences == {"graft.dev", "graft.dev/door/prod"}
    account = await world.kube.get(SERVICE_ACCOUNTS, world.namespace, "graft-drift-prod")
    assert account["automountServiceAccountToken"] is False
    closed = await world.kube.get(NETWORK_POLICIES, world.namespace, "prod-drift")
    assert (closed["spec"]["policyTypes"], closed["spec"].get("ingress")) == (["Ingress"], None)
    door = await world.kube.get(NETWORK_POLICIES, world.namespace, "prod-server")
    let_in = [peer["podSelector"]["matchLabels"]["graft.dev/component"] for peer in door["spec"]["ingress"][0]["from"]]
    assert let_in == ["gateway", "drift"]


async def test_what_the_check_would_fail_by_is_said_when_the_test_begins(world):
    await after(world, TESTED)
    _, task = await world.task()
    assert (task.moment, task.attempt, (await world.entry()).gate.state) == ("Trial", 1, "Testing")
    await world.all_say("a", "c")
    await world.job_says(problem="promotion.drift.embeddings.tokenEnv: the service answered 401")
    await world.settle()
    told = (await world.told())["promotion"]
    assert (told["state"], "its drift could not be measured as it is" in told["message"]) == ("Testing", True)
    assert told["driftProblem"] == "trial of drift: promotion.drift.embeddings.tokenEnv: the service answered 401"
    assert ("DriftNotMeasured" in await world.events(), await world.jobs()) == (True, [])
    await a_while_passes(world)
    await world.settle()
    await world.job_says(0.0)
    await world.settle()
    told = (await world.told())["promotion"]
    assert (told["state"], "driftProblem" in told, await world.jobs()) == ("Testing", False, [])


async def test_near_before_and_after_it_is_confirmed(world):
    await after(world, SERVES)
    assert await world.phase() == ("Checking", "False")
    assert "attempt 1 of 2 is under way" in (await world.told())["promotion"]["message"]
    assert await world.arms() == [(version("a"), 10_000)]
    await it_is_near(world)
    await world.settle()
    assert (await world.arms(), await world.jobs()) == ([(version("c"), 1000), (version("a"), 9000)], [])
    assert "honest" in (await world.adapter())["status"]["promotion"]["drift"]
    await the_ramp_is_over(world)
    await world.settle()
    _, task = await world.task()
    assert (task.moment, task.before, task.incumbent) == ("After", digest("6"), version("a"))
    await the_window_is_over(world)
    await world.settle()
    told = (await world.told())["promotion"]
    assert (told["state"], "drift after activation: attempt 1 of 2" in told["message"]) == ("Watching", True)
    await it_is_near(world)
    await world.settle()
    assert ((await world.told())["promotion"]["state"], await world.jobs()) == ("Confirmed", [])
    assert {"Checking", "Promoted", "Confirmed"} <= await world.events()


async def test_a_blocked_candidate_says_by_what(world):
    await after(world, SERVES)
    await it_is_far(world)
    await world.settle()
    told = (await world.told())["promotion"]
    assert (told["state"], "honest" in told["message"], await world.jobs()) == ("Drifted", True, [])
    assert (await world.phase(), await world.arms()) == (("NotProven", "False"), [(version("a"), 10_000)])
    assert "Drifted" in await world.events()


async def test_a_pod_of_another_job_is_not_heard(world):
    await after(world, SERVES)
    job, name = await world.job_runs()
    body = {
        "metadata": world.named("forged", labels=job["spec"]["template"]["metadata"]["labels"]),
        "spec": job["spec"]["template"]["spec"],
    }
    await world.kube.create(PODS, body)
    await world.job_says(0.1)
    world.start()
    await world.all_say("a", "c")
    world.pod = "forged"
    await world.say_again("drift")
    await world.settle()
    assert (await world.entry()).gate.drift.before.measured is None
    world.pod = name
    await world.say_again("drift")
    await world.settle()
    assert (await world.entry()).gate.state == "Ramping"


async def test_a_job_of_the_name_that_is_somebody_elses_fails_its_attempt_alone_and_the_next_has_another(world):
    await after(world, SERVES[:-1])
    await world.say_word("anna")
    await world.settle()
    name = drift_job_name("prod", "dsl", 1, Moment.BEFORE, 1)
    theirs = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}
    await world.kube.create(JOBS, {"metadata": world.named(name), "spec": theirs})
    await world.say_word("bert")
    with pytest.raises(Conflict):  # the pass starts over
        await world.settle()
    await world.settle()
    resource = await world.kube.get(MODEL_ENDPOINTS, world.namespace, "prod")
    reasons = {condition["reason"] for condition in resource["status"]["conditions"]}
    told = (await world.told())["promotion"]
    assert (reasons & {"NameConflict"}, await world.jobs(), told["state"]) == (set(), [], "Checking")
    assert f"NameConflict: there is a Job {name} that is not of this endpoint; delete it" in told["message"]
    await a_while_passes(world)
    await world.settle()
    _, task = await world.task()
    assert task.attempt == 2


async def test_jobs_are_asked_for_where_there_may_be_any(world, monkeypatch):
    asked = []

    async def asking(self, resource, *arguments, listed=Kube.list):
        asked.append(resource)
        return await listed(self, resource, *arguments)

    await after(world, TESTED)
    assert len(await world.jobs()) == 1, "a trial"
    monkeypatch.setattr(Kube, "list", asking)
    await world.endpoints.reconcile(world.key)
    assert JOBS in asked
    await world.change({"domains": [{"name": "dsl"}]})
    world.start()  # it is killed, and the policy is gone
    await world.settle()
    assert await world.jobs() == []
    await world.endpoints.reconcile(world.key)
    asked.clear()
    await world.endpoints.reconcile(world.key)
    assert (JOBS in asked, bool(asked)) == (False, True)


async def test_why_a_pod_waits_is_said(world):
    await after(world, SERVES)
    _, name = await world.job_runs()
    waiting = {"name": "drift", "ready": False, "restartCount": 0, "image": "serving:1", "imageID": ""}
    status = {"phase": "Pending", "containerStatuses": [waiting | {"state": {"waiting": {"reason": "ContainerCreating"}}}]}
    await world.kube.merge_patch(PODS, world.namespace, name, {"status": status}, subresource="status")
    await world.settle()
    message = (await world.told())["promotion"]["message"]
    assert f"its Job waits: ContainerCreating; the Events of pod {name} say what it waits for" in message


async def test_what_drift_brings_wakes_the_endpoint(world):
    await after(world, SERVES)
    await world.job_runs()
    woken = Woken()
    table = watches(Woken(), Wake(AdapterIndex(), ShadowIndex(), woken, Woken(), Woken()))
    for kind in (JOBS, PODS):
        woken.clear()
        await bring(world.kube, world.namespace, table, kind, labels=OF_DRIFT)
        assert woken == {Key(world.namespace, "prod")}, kind.kind


WATCHED = [*SERVES, it_is_near, the_ramp_is_over]
STORIES = [
    pytest.param(SERVES[:-1], [people_agree, it_is_near], id="near, it is activated"),
    pytest.param(SERVES[:-1], [people_agree, it_is_far], id="far, it is blocked"),
    pytest.param(SERVES, [it_cannot_be_measured, a_while_passes, its_job_fails], id="not measured, it is not proven"),
    pytest.param(WATCHED, [it_is_far], id="far after activation, it is rolled back"),
    pytest.param(WATCHED, [it_is_near, the_window_is_over], id="near after activation, it is confirmed"),
    pytest.param(SERVES, [it_is_near, the_ramp_is_over, the_collector_sees_harm], id="rolled back while it is asked"),
]


@pytest.mark.parametrize(("before", "steps"), STORIES)
async def test_killed_after_any_write_the_operator_reaches_the_same_end(kube, definitions, before, steps):
    """The oracle is the run without a kill."""

    async def came_to(world):
        entry = await world.entry()
        drift = entry.gate and entry.gate.drift
        held = [(one.failed, one.measured is not None, one.begun is not None) for one in (drift.before, drift.after)] if drift else []
        jobs = [job["metadata"]["name"] for job in await world.jobs()]
        return await outcome(world) | {"drift": held, "jobs": jobs}

    async def play(writes):
        world = Drifting(kube)
        await after(world, before)
        return await killed_after(world, steps, came_to, writes)

    await same_ends(play, side_by_side=6)
