"""pod -> ReplicaSet -> Deployment -> ModelEndpoint, pod -> Job -> ModelEndpoint, and a Deployment that an endpoint names."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from graft_operator.reports.chains import Foreign, Unauthenticated
from graft_operator.reports.identity import Identities
from graft_operator.reports.sink import FleetCaller

POD = "/api/v1/namespaces/team/pods/prod-server-7d-x2"
REPLICA_SET = "/apis/apps/v1/namespaces/team/replicasets/prod-server-7d"
DEPLOYMENT = "/apis/apps/v1/namespaces/team/deployments/prod-server"
ENDPOINT = "/apis/graft.dev/v1alpha1/namespaces/team/modelendpoints/prod"


def owned(name: str, uid: str, api_version: str = "", kind: str = "", by: str = "", by_uid: str = "") -> dict[str, Any]:
    owner = {"apiVersion": api_version, "kind": kind, "name": by, "uid": by_uid, "controller": True}
    metadata = {"name": name, "uid": uid, "namespace": "team", "creationTimestamp": "2026-11-20T12:00:00Z"}
    return {"metadata": metadata | ({"ownerReferences": [owner]} if kind else {})}


CHAIN: dict[str, Any] = {
    POD: owned("prod-server-7d-x2", "pod-1", "apps/v1", "ReplicaSet", "prod-server-7d", "rs-1"),
    REPLICA_SET: owned("prod-server-7d", "rs-1", "apps/v1", "Deployment", "prod-server", "deployment-1"),
    DEPLOYMENT: owned("prod-server", "deployment-1", "graft.dev/v1alpha1", "ModelEndpoint", "prod", "endpoint-1"),
    ENDPOINT: owned("prod", "endpoint-1") | {"spec": {"server": {"existing": {"deployment": "prod-server"}}}},
}
CHAIN[POD]["metadata"]["labels"] = {"graft.dev/component": "server", "graft.dev/modelendpoint": "prod"}
"""Of graft's own Deployment. Without its owner it is the user's own, which the endpoint names."""


def review(account: str = "graft-server-prod", audience: str = "graft.dev") -> dict[str, Any]:
    extra = {"authentication.kubernetes.io/pod-name": ["prod-server-7d-x2"], "authentication.kubernetes.io/pod-uid": ["pod-1"]}
    return {"authenticated": True, "audiences": [audience], "user": {"username": f"system:serviceaccount:team:{account}", "extra": extra}}


def changed(path: str, where: str, new: Any) -> dict[str, Any]:
    """The chain with one field set, or removed where `new` is None."""
    objects = copy.deepcopy(CHAIN)
    *parents, last = where.split("|")
    target = objects[path]
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    if new is None:
        del target[last]
    else:
        target[last] = new
    return objects


JOB = "/apis/batch/v1/namespaces/team/jobs/prod-drift-1a2b3c4d"


def drifting(*, component: str = "drift", endpoint: str = "prod", **job: Any) -> dict[str, Any]:
    """The chain of a Job that measures drift."""
    owner = {"api_version": "graft.dev/v1alpha1", "kind": "ModelEndpoint", "by": "prod", "by_uid": "endpoint-1"} | job
    pod = owned("prod-server-7d-x2", "pod-1", "batch/v1", "Job", "prod-drift-1a2b3c4d", "job-1")
    pod["metadata"]["labels"] = {"graft.dev/component": component, "graft.dev/modelendpoint": endpoint}
    return {POD: pod, JOB: owned("prod-drift-1a2b3c4d", **({"uid": "job-1"} | owner))}


def without(path: str) -> dict[str, Any]:
    return {key: value for key, value in CHAIN.items() if key != path}


def injected(**spec: Any) -> dict[str, Any]:
    """The user's own Deployment, and an endpoint with this spec."""
    objects = changed(DEPLOYMENT, "metadata|ownerReferences", None)
    return objects | {ENDPOINT: owned("prod", "endpoint-1") | {"spec": spec or CHAIN[ENDPOINT]["spec"]}}


def labelled(endpoint: str) -> dict[str, Any]:
    return changed(POD, "metadata|labels", {"graft.dev/modelendpoint": endpoint}) | {
        key: value for key, value in injected().items() if key != POD
    }


def unlabelled() -> dict[str, Any]:
    return {**injected(), POD: changed(POD, "metadata|labels", None)[POD]}


def chain(component: str = "server", **changes: Any) -> dict[str, Any]:
    labels = {"graft.dev/component": component, "graft.dev/modelendpoint": "prod"}
    return changed(POD, "metadata|labels", labels) | changes


async def proven(api: Any, kube: Any, clock: Any, objects: dict[str, Any], account: str, endpoint: str = "prod") -> FleetCaller:
    api.reviews["good"] = review(account)
    api.objects.update(objects)
    return await Identities(kube, clock).fleet_caller("Bearer good", "team", endpoint)


@pytest.mark.parametrize(
    ("account", "role", "objects"),
    [
        pytest.param("graft-server-prod", "server", without(ENDPOINT), id="a server"),
        pytest.param("graft-gateway-prod", "gateway", chain("gateway"), id="a gateway"),
        pytest.param("graft-collector-prod", "collector", chain("collector"), id="a collector"),
        pytest.param("s3-writer", "collector", chain("collector"), id="a collector with the user's own service account"),
        pytest.param("graft-drift-prod", "drift", drifting(), id="a Job that measures drift"),
        pytest.param("s3-writer", "drift", drifting(), id="such a Job with the user's own service account"),
        pytest.param("s3-reader", "server", CHAIN, id="a server with the user's own service account, for workload identity"),
        pytest.param("graft-s3", "server", CHAIN, id="even if it has a name like graft's"),
        pytest.param("vllm", "server", injected(), id="a server of the user's own"),
        pytest.param("default", "server", injected(), id="with any service account but graft's"),
        pytest.param("graft-server-prod", "server", changed(POD, "metadata|deletionTimestamp", "now"), id="a server that is going"),
    ],
)
async def test_chains_that_hold(api: Any, kube: Any, clock: Any, account: str, role: str, objects: dict[str, Any]) -> None:
    assert await proven(api, kube, clock, objects, account) == FleetCaller(
        pod_name="prod-server-7d-x2",
        pod_uid="pod-1",
        pod_created_at="2026-11-20T12:00:00Z",
        namespace="team",
        service_account=account,
        role=role,
        endpoint_name="prod",
        endpoint_uid="endpoint-1",
    )


OWNER = "metadata|ownerReferences|0|"
SERVER = "graft-server-prod"
NEITHER = "no server, gateway or collector of prod"


@pytest.mark.parametrize(
    ("account", "objects", "words"),
    [
        pytest.param(SERVER, without(POD), "pod .* is gone", id="the pod is gone"),
        pytest.param(SERVER, changed(POD, "metadata|uid", "pod-2"), "another one", id="a pod of the same name"),
        pytest.param(SERVER, changed(POD, "metadata|ownerReferences", None), "not controlled by a ReplicaSet", id="a pod of nobody"),
        pytest.param(SERVER, changed(POD, OWNER + "controller", False), "not controlled", id="an owner that does not control"),
        pytest.param(SERVER, changed(POD, OWNER + "kind", "DaemonSet"), "not controlled by a ReplicaSet", id="of a DaemonSet"),
        pytest.param(SERVER, changed(POD, OWNER + "apiVersion", "evil.dev/v1"), "not controlled", id="a ReplicaSet of another group"),
        pytest.param(SERVER, without(REPLICA_SET), "ReplicaSet prod-server-7d is gone", id="the ReplicaSet is gone"),
        pytest.param(SERVER, changed(REPLICA_SET, "metadata|uid", "rs-2"), "is gone", id="a ReplicaSet of the same name"),
        pytest.param(SERVER, changed(REPLICA_SET, "metadata|ownerReferences", []), "not controlled by a Deployment", id="of nobody"),
        pytest.param(SERVER, changed(REPLICA_SET, OWNER + "kind", "Rollout"), "not controlled", id="a ReplicaSet of something else"),
        pytest.param(SERVER, without(DEPLOYMENT), "Deployment prod-server is gone", id="the Deployment is gone"),
        pytest.param(SERVER, changed(DEPLOYMENT, "metadata|uid", "other"), "is gone", id="a Deployment of the same name"),
        pytest.param("graft-server-other", CHAIN, NEITHER, id="the service account of another endpoint's servers"),
        pytest.param("graft-server-prod-2", CHAIN, NEITHER, id="a service account that only begins so"),
        pytest.param("graft-gateway-prod", CHAIN, NEITHER, id="a server with the service account of gateways"),
        pytest.param("graft-gateway-other", chain("gateway"), NEITHER, id="the service account of another endpoint's gateways"),
        pytest.param(SERVER, chain("gateway"), NEITHER, id="a gateway with the service account of servers"),
        pytest.param("vllm", chain("gateway"), NEITHER, id="a gateway with a service account of the user's own"),
        pytest.param("graft-collector-other", chain("collector"), NEITHER, id="the service account of another endpoint's collector"),
        pytest.param("graft-collector-prod", CHAIN, NEITHER, id="a server with the service account of collectors"),
        pytest.param("graft-gateway-prod", chain("collector"), NEITHER, id="a collector with the service account of gateways"),
        pytest.param("vllm", chain("trainer"), NEITHER, id="something else"),
        pytest.param("graft-drift-prod", chain("drift"), NEITHER, id="one that measures drift, and comes from a Deployment"),
        pytest.param("graft-drift-prod", CHAIN, NEITHER, id="a server with the service account of Jobs that measure drift"),
        pytest.param("graft-drift-prod", chain("collector"), NEITHER, id="a collector with it"),
        pytest.param("graft-drift-other", drifting(), "no Job of prod", id="the service account of another endpoint's Jobs"),
        pytest.param(SERVER, drifting(), "no Job of prod", id="a Job with the service account of servers"),
        pytest.param("graft-collector-prod", drifting(component="collector"), "no Job of prod", id="a collector from a Job"),
        pytest.param("graft-drift-prod", drifting(endpoint="other"), "no Job of prod", id="a Job that is labelled as another's"),
        pytest.param("graft-drift-prod", drifting(kind=""), "not controlled by a ModelEndpoint", id="a Job of nobody"),
        pytest.param("graft-drift-prod", drifting(kind="FineTuneJob"), "not controlled by a ModelEndpoint", id="a Job that trains"),
        pytest.param("graft-drift-prod", drifting(uid="job-2"), "Job prod-drift-1a2b3c4d is gone", id="a Job of the same name"),
        pytest.param("vllm", changed(POD, "metadata|labels", None), "has no label", id="a pod without labels"),
        pytest.param("vllm", changed(POD, "metadata|labels|graft.dev/modelendpoint", "other"), "has no label", id="labelled as another's"),
        pytest.param(SERVER, injected(), "without being controlled", id="graft's service account in a Deployment of the user's own"),
        pytest.param("graft-x", injected(), "without being controlled", id="or one that begins like it"),
        pytest.param("vllm", injected(server={"existing": {"deployment": "other"}}), "does not name", id="the endpoint names another"),
        pytest.param("vllm", unlabelled(), "has no label graft.dev/modelendpoint=prod", id="the pod is of no endpoint"),
        pytest.param("vllm", labelled("other"), "has no label graft.dev/modelendpoint=prod", id="the pod is of another endpoint"),
        pytest.param("vllm", injected(server={"image": "x"}), "does not name", id="the endpoint has servers of graft's"),
        pytest.param("vllm", injected(baseModel={}), "does not name", id="the endpoint says nothing of servers"),
        pytest.param(
            "vllm",
            {k: v for k, v in injected().items() if k != ENDPOINT},
            "there is no ModelEndpoint",
            id="the endpoint is not there",
        ),
    ],
)
async def test_chains_that_break(api: Any, kube: Any, clock: Any, account: str, objects: dict[str, Any], words: str) -> None:
    with pytest.raises(Foreign, match=words):
        await proven(api, kube, clock, objects, account)


@pytest.mark.parametrize("name", ["..", "prod/../../secrets", "prod?x", "", "Prod", "a" * 41, "-a", "prod.b"])
async def test_a_name_that_no_endpoint_has_asks_nobody(api: Any, kube: Any, clock: Any, name: str) -> None:
    with pytest.raises(Foreign, match="no ModelEndpoint has such a name"):
        await proven(api, kube, clock, injected(), "vllm", name)
    assert api.asked == []


async def test_another_namespace_is_not_even_looked_at(api: Any, kube: Any, clock: Any) -> None:
    api.reviews["good"] = review()
    api.objects.update(CHAIN)
    with pytest.raises(Foreign, match="is in namespace team"):
        await Identities(kube, clock).fleet_caller("Bearer good", "other", "prod")
    assert len(api.asked) == 1


async def test_a_doors_token_is_no_reports_token(api: Any, kube: Any, clock: Any) -> None:
    api.reviews["good"] = review(audience="graft.dev/door/prod")
    with pytest.raises(Unauthenticated):
        await Identities(kube, clock).fleet_caller("Bearer good", "team", "prod")


async def test_an_answer_is_believed_for_a_minute_and_for_this_endpoint_alone(api: Any, kube: Any, clock: Any) -> None:
    api.reviews["good"] = review("vllm")
    api.objects.update(injected())
    identities = Identities(kube, clock)
    for _ in range(3):
        await identities.fleet_caller("Bearer good", "team", "prod")
    assert len(api.asked) == 5
    with pytest.raises(Foreign, match="has no label graft"):
        await identities.fleet_caller("Bearer good", "team", "other")
    del api.objects[ENDPOINT]
    await clock.advance(59)
    await identities.fleet_caller("Bearer good", "team", "prod")
    await clock.advance(2)
    with pytest.raises(Foreign):
        await identities.fleet_caller("Bearer good", "team", "prod")


async def test_a_server_is_no_trainer_nor_the_other_way_round(api: Any, kube: Any, clock: Any) -> None:
    """The same token, asked about by both: what one answered is not the other's answer."""
    api.reviews["good"] = review()
    api.objects.update(CHAIN)
    identities = Identities(kube, clock)
    await identities.fleet_caller("Bearer good", "team", "prod")
    with pytest.raises(Foreign, match="not controlled by a Job"):
        await identities.caller("Bearer good")
    await identities.fleet_caller("Bearer good", "team", "prod")
