"""A FineTuneJob against the real API server, with the operator crashing after any of its writes: same end state."""

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from killing import Crash, Everything, Killable

from graft_api.reports import ClaimRequest, Result, TerminalResult
from graft_api.schema import parse
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, EVENTS, FINE_TUNE_JOBS, JOBS, NAMESPACES, PODS
from graft_operator.finetunejob.children import Parent, manifest_name
from graft_operator.finetunejob.claims import Claims
from graft_operator.finetunejob.observed import Settings
from graft_operator.finetunejob.reconcile import FineTuneJobs
from graft_operator.reports.ca import Trust
from graft_operator.reports.sink import Caller, NotYours, Superseded, Unknown

SAMPLE = yaml.safe_load((Path(__file__).parents[1] / "data/finetunejob/good/minimal.yaml").read_text())
DIGEST = "sha256:" + "d" * 64


def result_below(run_uri):
    """A result whose artifact lies in this run's folder."""
    value = {
        "artifact": {"uri": f"{run_uri}/attempt-1/artifact", "digest": DIGEST, "sizeBytes": 10},
        "baseModelDigest": DIGEST,
        "dataset": {"train": 90, "validation": 5, "holdout": 5, "digest": DIGEST},
        "evaluation": [
            {
                "suite": "compile",
                "metric": "error_rate",
                "examples": 5,
                "base": {"estimate": 0.4, "low": 0.3, "high": 0.5},
                "adapter": {"estimate": 0.0, "low": 0.0, "high": 0.01},
                "difference": {"estimate": -0.4, "low": -0.5, "high": -0.3},
                "accepted": True,
            }
        ],
        "accepted": True,
    }
    return parse(Result, value)


class World(Killable):
    """A namespace, a FineTuneJob, and the parts of Kubernetes that an API tier does not run, played by hand."""

    def __init__(self, kube):
        self.kube = kube
        self.namespace = f"ftj-{uuid.uuid4().hex[:8]}"
        self.key = Key(self.namespace, "minimal")

    def operator(self):
        kube = self.kube.fenced(self.count_write)
        clock = SystemClock()
        settings = Settings("trainer:1", "IfNotPresent", "https://reports:8443")
        trust = Trust(kube, clock, lambda: "a certificate")
        return FineTuneJobs(kube, clock, EventRecorder(kube, clock, "test"), Everything(), settings, trust)

    def claims(self):
        clock = SystemClock()
        return Claims(self.kube, clock, Everything(), EventRecorder(self.kube, clock, "test"))

    async def begin(self, **spec):
        await self.kube.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        body = SAMPLE | {"metadata": {"name": "minimal", "namespace": self.namespace}, "spec": SAMPLE["spec"] | spec}
        await self.kube.create(FINE_TUNE_JOBS, body)

    async def job(self):
        return await self.kube.get(FINE_TUNE_JOBS, self.namespace, "minimal")

    async def word(self):
        """The last word of an attempt that went well."""
        run_uri = (await self.job())["status"]["run"]["uri"]
        return TerminalResult(attempt=1, result=result_below(run_uri))

    async def settle(self):
        """Reconcile as the watches would: again after every change, until nothing changes."""
        operator = self.operator()
        version = None
        while (now := (await self.job())["metadata"]["resourceVersion"]) != version:
            version = now
            await operator.reconcile(self.key)

    async def children(self, resource):
        return await self.kube.list(resource, Selection(self.namespace))

    async def run_pod(self, name, **status):
        """The Job controller's and the kubelet's part."""
        (job,) = await self.children(JOBS)
        template = job["spec"]["template"]
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
            "controller": True,
        }
        metadata = {"name": name, "namespace": self.namespace, "labels": template["metadata"]["labels"], "ownerReferences": [owner]}
        await self.kube.create(PODS, {"metadata": metadata, "spec": template["spec"]})
        if status:
            await self.kube.merge_patch(PODS, self.namespace, name, {"status": status}, subresource="status")
        return await self.kube.get(PODS, self.namespace, name)

    async def complete_job(self):
        (job,) = await self.children(JOBS)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now, "lastProbeTime": now} for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"conditions": conditions, "succeeded": 1, "startTime": now, "completionTime": now}
        await self.kube.merge_patch(JOBS, self.namespace, job["metadata"]["name"], {"status": status}, subresource="status")

    async def caller(self, pod):
        (job,) = await self.children(JOBS)
        resource = await self.job()
        return Caller(
            pod_name=pod["metadata"]["name"],
            pod_uid=pod["metadata"]["uid"],
            pod_created_at=pod["metadata"]["creationTimestamp"],
            namespace=self.namespace,
            service_account="graft-trainer",
            job_name=job["metadata"]["name"],
            job_uid=job["metadata"]["uid"],
            owner_name="minimal",
            owner_uid=resource["metadata"]["uid"],
        )


@pytest.fixture
async def world(kube, definitions):
    return World(kube)


async def test_claim_result_and_adapter(world):
    await world.begin(adapter={"endpointRef": {"name": "prod"}})
    await world.settle()
    assert (await world.job())["status"]["phase"] == "Pending"
    pod = await world.run_pod("first")
    caller = await world.caller(pod)
    request = ClaimRequest(job_uid=caller.owner_uid)
    assert await world.claims().claim(caller, world.namespace, "minimal", request) == 1
    assert await world.claims().claim(caller, world.namespace, "minimal", request) == 1
    await world.claims().result(caller, world.namespace, "minimal", await world.word())
    await world.settle()
    job = await world.job()
    assert job["status"]["phase"] == "Succeeded"
    events = [event["reason"] for event in await world.children(EVENTS)]
    assert events.count("AttemptClaimed") == 1  # asked twice, said once
    (adapter,) = await world.children(ADAPTERS)
    assert adapter["metadata"]["name"] == job["status"]["adapterRef"]["name"]
    assert "ownerReferences" not in adapter["metadata"]


async def test_who_may_not_claim(world):
    await world.begin()
    await world.settle()
    caller = await world.caller(await world.run_pod("first"))
    claims = world.claims()
    with pytest.raises(NotYours):
        await claims.claim(caller, world.namespace, "minimal", ClaimRequest(job_uid="another"))
    with pytest.raises(Unknown):
        await claims.claim(replace(caller, owner_uid="gone"), world.namespace, "minimal", ClaimRequest(job_uid="gone"))
    with pytest.raises(Superseded):
        await claims.result(caller, world.namespace, "minimal", await world.word())
    assert "artifact" not in (await world.job())["status"]


def without_noise(job, children, adapters, events):
    """The end state without ids and times."""
    status = job["status"]
    return {
        "phase": status["phase"],
        "artifact": status.get("artifact", {}).get("digest"),
        "conditions": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]},
        "jobs": [(len(children), 604800 <= child["spec"].get("ttlSecondsAfterFinished", 0) < 604860) for child in children],
        "adapters": len(adapters),
        "events": sorted(event["reason"] for event in events),
    }


async def story(world, crash_after):
    """Start, run, finish; the operator dies after so many writes and starts again each time."""
    world.writes_left = None
    await world.begin(adapter={"endpointRef": {"name": "prod"}})
    world.writes_left = crash_after
    crashed = False

    async def settle():
        nonlocal crashed
        try:
            await world.settle()
        except Crash:
            crashed, world.writes_left = True, None
            await world.settle()

    await settle()
    word = (await world.word()).model_dump_json(by_alias=True, exclude_none=True)
    pod = await world.run_pod("first")
    caller = await world.caller(pod)
    await world.claims().claim(caller, world.namespace, "minimal", ClaimRequest(job_uid=caller.owner_uid))
    ended = {"exitCode": 0, "reason": "Completed", "message": word}
    publish = {"name": "publish", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": {"terminated": ended}}
    status = {"phase": "Succeeded", "containerStatuses": [publish]}
    await world.kube.merge_patch(PODS, world.namespace, "first", {"status": status}, subresource="status")
    await world.complete_job()
    await settle()
    events = [event for event in await world.children(EVENTS) if event["regarding"]["kind"] == "FineTuneJob"]
    state = without_noise(await world.job(), await world.children(JOBS), await world.children(ADAPTERS), events)
    return state, crashed


async def test_killed_after_any_write_the_operator_reaches_the_same_end(kube, definitions):
    undisturbed, _ = await story(World(kube), None)
    assert undisturbed["phase"] == "Succeeded"
    assert undisturbed["adapters"] == 1
    assert undisturbed["jobs"] == [(1, True)]
    for crash_after in range(1, 40):
        state, crashed = await story(World(kube), crash_after)
        assert state == undisturbed, f"killed after write {crash_after}"
        if not crashed:
            return
    raise AssertionError("the story has more writes than expected")


async def test_a_spec_edit_after_the_start_writes_no_child(world):
    await world.begin()
    await world.settle()
    (job,) = await world.children(JOBS)
    maps = [m for m in await world.children(CONFIG_MAPS) if m["metadata"]["name"].startswith("minimal")]
    await world.kube.merge_patch(FINE_TUNE_JOBS, world.namespace, "minimal", {"spec": {"training": {"epochs": 9}}})
    await world.settle()
    assert (await world.children(JOBS))[0]["metadata"]["resourceVersion"] == job["metadata"]["resourceVersion"]
    changed = next(c for c in (await world.job())["status"]["conditions"] if c["type"] == "SpecChangedAfterStart")
    assert changed["status"] == "True"
    frozen = json.loads(maps[0]["data"]["run.json"])
    assert frozen["spec"]["training"]["epochs"] == 3


async def test_what_the_api_server_refuses_is_said_in_the_status(world):
    mounts = [{"name": "cache", "mountPath": "/cache"}, {"name": "cache", "mountPath": "/cache"}]
    await world.begin(podTemplate={"volumes": [{"name": "cache", "emptyDir": {}}], "volumeMounts": mounts})
    await world.settle()
    status = (await world.job())["status"]
    assert (status["phase"], status["failure"]["reason"]) == ("Failed", "InvalidSpec")
    assert "mountPath" in status["failure"]["message"]
    assert await world.children(JOBS) == []


async def test_a_child_of_somebody_else_is_a_name_conflict(world):
    await world.begin()
    uid = (await world.job())["metadata"]["uid"]
    name = manifest_name(Parent(world.namespace, "minimal", uid))
    await world.kube.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": world.namespace}, "data": {"mine": "1"}})
    await world.settle()
    status = (await world.job())["status"]
    assert (status["phase"], status["failure"]["reason"]) == ("Failed", "NameConflict")
    assert (await world.kube.get(CONFIG_MAPS, world.namespace, name))["data"] == {"mine": "1"}
