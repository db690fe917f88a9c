"""What the operator costs when nothing happens, and how fast it answers.

    make bench-operator

A real API server with 1,000 finished jobs (FineTuneJob, Job and pod each); the operator with the chart's own rights. Beside
it, in the same run and on the same API server, the KubeRay operator with 1,000 finished RayJobs: the peer that people run
for the same purpose. Writes bench/results/operator.json.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from graft_devcluster.apitier import ApiServer
from graft_devcluster.localoperator import LocalOperator
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.resources import FINE_TUNE_JOBS, JOBS, NAMESPACES, PODS, SERVICE_ACCOUNTS, Resource
from graft_operator.finetunejob.children import JOB_LABEL

ROOT = Path(__file__).parents[1]
SAMPLE = yaml.safe_load((ROOT / "tests/data/finetunejob/good/minimal.yaml").read_text())
RAY_JOBS = Resource("ray.io", "v1", "rayjobs", "RayJob")
RAY_CLUSTERS = Resource("ray.io", "v1", "rayclusters", "RayCluster")
NAMESPACE = "bench"
DONE = "2026-11-01T00:00:00Z"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--finished", type=int, default=1000)
    parser.add_argument("--applies", type=int, default=100)
    parser.add_argument("--idle-seconds", type=float, default=60)
    options = parser.parse_args()
    toolbox = Toolbox(cache_root())
    os.environ["PATH"] = f"{toolbox.path('kubectl').parent}{os.pathsep}{os.environ['PATH']}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(ApiServer())
        kubectl(server, "apply", "--server-side", "-f", str(ROOT / "crds"))
        kubectl(server, "apply", "--server-side", "-f", str(toolbox.crds()[0].parent))
        kubectl(server, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        asyncio.run(seed(server, options.finished))
        # One after the other: each is measured alone.
        with LocalOperator(server, folder) as operator:
            assert operator.process is not None
            graft = asyncio.run(measure(server, operator.process.pid, options, (FINE_TUNE_JOBS, JOBS), new_finetunejob))
        with kuberay(server, folder) as pid:
            peer = asyncio.run(measure(server, pid, options, (RAY_JOBS, RAY_CLUSTERS), new_rayjob))
    report(graft, peer, options.finished)


def kubectl(server: ApiServer, *arguments: str) -> None:
    subprocess.run(["kubectl", "--kubeconfig", str(server.kubeconfig), *arguments], check=True, capture_output=True)


@contextmanager
def kuberay(server: ApiServer, folder: Path) -> Iterator[int]:
    """The KubeRay operator, started as its chart does."""
    binary = Toolbox(cache_root()).path("kuberay-operator")
    log = (folder / "kuberay.log").open("ab")
    process = subprocess.Popen(
        [
            str(binary),
            f"-kubeconfig={server.kubeconfig}",
            "-enable-leader-election=false",
            "-metrics-addr=:0",
            "-health-probe-bind-address=:0",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def seed(server: ApiServer, count: int) -> None:
    """Finished work: made before the policies are in force, which let nobody but the controllers make it."""
    async with Kube(load_credentials(server.kubeconfig)) as kube:
        await kube.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
        for account in ("default", "graft-trainer"):
            await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": account, "namespace": NAMESPACE}})
        limit = asyncio.Semaphore(8)

        async def one(number: int) -> None:
            async with limit:
                await finished_finetunejob(kube, number)
                await finished_rayjob(kube, number)

        await asyncio.gather(*(one(number) for number in range(count)))


async def finished_finetunejob(kube: Kube, number: int) -> None:
    name = f"done-{number}"
    job = await kube.create(FINE_TUNE_JOBS, new_finetunejob(name))
    conditions = [
        {"type": kind, "status": "True", "reason": "Published", "message": "trained", "lastTransitionTime": DONE, "observedGeneration": 1}
        for kind in ("Ready", "Succeeded", "Accepted")
    ]
    status = {"phase": "Succeeded", "observedGeneration": 1, "attempt": 1, "conditions": conditions, "completedAt": DONE}
    await kube.merge_patch(FINE_TUNE_JOBS, NAMESPACE, name, {"status": status}, subresource="status")
    labels = {"graft.dev/component": "trainer", JOB_LABEL: name}
    child = yaml.safe_load_all((ROOT / "tests/unit/data/minimal/output.yaml").read_text())
    _, training, _ = child
    owned = [owner("graft.dev/v1alpha1", "FineTuneJob", job)]
    training["metadata"] |= {"namespace": NAMESPACE, "name": name, "labels": labels, "ownerReferences": owned}
    training["spec"]["ttlSecondsAfterFinished"] = 604800
    made = await kube.create(JOBS, training)
    ended = [{"type": kind, "status": "True", "lastTransitionTime": DONE} for kind in ("SuccessCriteriaMet", "Complete")]
    done = {"conditions": ended, "succeeded": 1, "startTime": DONE, "completionTime": DONE}
    await kube.merge_patch(JOBS, NAMESPACE, name, {"status": done}, subresource="status")
    metadata = {"namespace": NAMESPACE, "name": name, "labels": labels, "ownerReferences": [owner("batch/v1", "Job", made)]}
    await kube.create(PODS, {"metadata": metadata, "spec": training["spec"]["template"]["spec"]})
    await kube.merge_patch(PODS, NAMESPACE, name, {"status": {"phase": "Succeeded"}}, subresource="status")


async def finished_rayjob(kube: Kube, number: int) -> None:
    name = f"done-{number}"
    await kube.create(RAY_JOBS, new_rayjob(name))
    status = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete", "jobId": name, "endTime": DONE, "startTime": DONE}
    await kube.merge_patch(RAY_JOBS, NAMESPACE, name, {"status": status}, subresource="status")


def owner(api_version: str, kind: str, resource: dict[str, Any]) -> dict[str, Any]:
    metadata = resource["metadata"]
    return {"apiVersion": api_version, "kind": kind, "name": metadata["name"], "uid": metadata["uid"], "controller": True}


def new_finetunejob(name: str) -> dict[str, Any]:
    return copy.deepcopy(SAMPLE) | {"metadata": {"name": name, "namespace": NAMESPACE}}


def new_rayjob(name: str) -> dict[str, Any]:
    pod = {"spec": {"containers": [{"name": "ray-head", "image": "ray", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}
    cluster = {"headGroupSpec": {"rayStartParams": {}, "template": pod}}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"entrypoint": "true", "rayClusterSpec": cluster}}


async def measure(
    server: ApiServer, pid: int, options: argparse.Namespace, kinds: tuple[Resource, Resource], new: Callable[[str], dict[str, Any]]
) -> dict[str, float]:
    """Idle first, then reaction."""
    process = psutil.Process(pid)
    await settled(process)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(options.idle_seconds)
    share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
    rss = process.memory_info().rss / 2**20
    async with Kube(load_credentials(server.kubeconfig)) as kube:
        delays = [await reaction(kube, kinds, new, f"apply-{kinds[0].plural}-{number}") for number in range(options.applies)]
    return {
        "idle_rss_mib": round(rss, 1),
        "idle_cpu_share": round(share, 4),
        "apply_p50": round(statistics.median(delays), 1),
        "apply_p99": round(statistics.quantiles(delays, n=100)[98], 1),
    }


async def settled(process: psutil.Process) -> None:
    """Wait until what the start queued is worked off: three quiet seconds in a row."""
    quiet = 0
    while quiet < 3:
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(1)
        quiet = quiet + 1 if sum(process.cpu_times()[:2]) - before < 0.05 else 0


async def reaction(kube: Kube, kinds: tuple[Resource, Resource], new: Callable[[str], dict[str, Any]], name: str) -> float:
    """Milliseconds from the request that creates the parent to a read that shows its child."""
    parent, child = kinds
    began = time.monotonic()
    made = await kube.create(parent, new(name))
    selection = Selection(NAMESPACE, labels=f"{JOB_LABEL}={name}" if child is JOBS else f"ray.io/originated-from-cr-name={name}")
    while True:
        async for metadata in kube.list_metadata(child, selection):
            if any(reference["uid"] == made["metadata"]["uid"] for reference in metadata.get("ownerReferences", [])):
                return (time.monotonic() - began) * 1000
        if time.monotonic() - began > 30:
            raise TimeoutError(f"{parent.kind} {name} has no {child.kind} after 30 s")


def report(graft: dict[str, float], peer: dict[str, float], finished: int) -> None:
    rows = [
        ("idle memory, MiB", "idle_rss_mib"),
        ("idle CPU, share of a core", "idle_cpu_share"),
        ("apply to child, p50 ms", "apply_p50"),
        ("apply to child, p99 ms", "apply_p99"),
    ]
    print(f"\n{finished} finished jobs of each kind{'graft':>22}{'KubeRay':>10}{'ratio':>8}")
    for label, key in rows:
        ratio = f"{graft[key] / peer[key]:8.2f}" if peer[key] else "       -"
        print(f"{label:<34}{graft[key]:>15}{peer[key]:>10}{ratio}")
    result = {
        "finished_jobs": finished,
        "idle_rss_mib": graft["idle_rss_mib"],
        "idle_cpu_share": graft["idle_cpu_share"],
        "apply_to_job_ms": {"p50": graft["apply_p50"], "p99": graft["apply_p99"]},
        "peer": {"name": "KubeRay operator 1.6.0, RayJob to RayCluster", **peer},
    }
    path = ROOT / "bench/results/operator.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
