"""
From a token's pod to the object that it works for, link by link. Pure: whoever calls brings the objects.

    training     pod -> Job -> FineTuneJob
    data plane   pod -> ReplicaSet -> Deployment -> ModelEndpoint
    drift        pod -> Job -> ModelEndpoint
    injected     pod -> ReplicaSet -> Deployment <- ModelEndpoint.spec.server.existing, and the pod is labelled with the endpoint

A link is a controller reference and the uid in it. Who may create such pods, ReplicaSets and Deployments is held by the admission
policies (`policies.py`). Each step raises `Foreign`.
"""

from __future__ import annotations

from dataclasses import dataclass

from graft_api.collect import COLLECTOR, collector_account
from graft_api.dataplane import COMPONENT_LABEL, ENDPOINT_LABEL, GATEWAY, SERVER, gateway_account, server_account
from graft_api.drift import DRIFT, drift_account
from graft_operator.engine.resources import FINE_TUNE_JOBS, JOBS, MODEL_ENDPOINTS, Object, Resource
from graft_operator.reports.sink import Caller, FleetCaller

ACCOUNT_PREFIX = "graft-"
"""Of graft's own service accounts: no Deployment of anybody else's uses one (policy graft-deployments)."""


class Unauthenticated(Exception):  # noqa: N818 - a statement about the caller
    """The token is not one that the API server vouches for, for our audience: 401."""


class Foreign(Exception):  # noqa: N818 - a statement about the caller
    """The token is genuine, but its bearer is no live pod of what it speaks for: 403."""


@dataclass(frozen=True)
class Speaker:
    """What a token proves by itself: a pod by name and uid, and its service account."""

    namespace: str
    service_account: str
    pod_name: str
    pod_uid: str


@dataclass(frozen=True)
class Controller:
    """The one owner reference with `controller: true`."""

    kind: str
    api_version: str
    name: str
    uid: str


def pod_of(pod: Object | None, speaker: Speaker) -> Object:
    """The very pod that the token was made for, also while it is being deleted: a gateway that drains has still something to say."""
    if pod is None:
        raise Foreign(f"pod {speaker.pod_name} is gone")
    if pod["metadata"].get("uid") != speaker.pod_uid:
        raise Foreign(f"pod {speaker.pod_name} is another one by now")
    return pod


def live_pod(pod: Object | None, speaker: Speaker) -> Object:
    """The very pod that the token was made for, if nobody has asked it to go: one that trains must stop then."""
    pod = pod_of(pod, speaker)
    if pod["metadata"].get("deletionTimestamp"):
        raise Foreign(f"pod {speaker.pod_name} is being deleted")
    return pod


def controller_of(owned: Object, wanted: Resource, what: str) -> Controller:
    """The controller of an object, which must be of the wanted kind."""
    if found := _controller(owned, wanted):
        return found
    raise Foreign(f"{what} is not controlled by a {wanted.kind}")


def very(found: Object | None, controller: Controller) -> Object:
    """The very object that a controller reference names."""
    if found is None or found["metadata"].get("uid") != controller.uid:
        raise Foreign(f"{controller.kind} {controller.name} is gone")
    return found


def job_of(pod: Object) -> Controller:
    """The Job that controls a pod."""
    return controller_of(pod, JOBS, f"pod {pod['metadata']['name']}")


def owner_of(job: Object | None, controller: Controller) -> Controller:
    """The FineTuneJob that controls the very Job that controls the pod."""
    return controller_of(very(job, controller), FINE_TUNE_JOBS, f"Job {controller.name}")


def caller_of(speaker: Speaker, pod: Object, job: Controller, owner: Controller) -> Caller:
    """Put the chain of a training pod together."""
    return Caller(
        pod_name=speaker.pod_name,
        pod_uid=speaker.pod_uid,
        pod_created_at=pod["metadata"]["creationTimestamp"],
        namespace=speaker.namespace,
        service_account=speaker.service_account,
        job_name=job.name,
        job_uid=job.uid,
        owner_name=owner.name,
        owner_uid=owner.uid,
    )


def endpoint_of(deployment: Object) -> Controller | None:
    """The ModelEndpoint that controls a Deployment; None for a Deployment of somebody's own."""
    return _controller(deployment, MODEL_ENDPOINTS)


def role_of(speaker: Speaker, pod: Object, endpoint: str) -> str:
    """
    What a pod is to the endpoint whose Deployment it is from: as it is labelled, and as its service account allows.

    Servers and collectors may have a service account of the user's own, for workload identity; gateways, and servers and collectors
    of other endpoints, may not pass for those of this one.
    """
    labels = pod["metadata"].get("labels") or {}
    if labels.get(ENDPOINT_LABEL) != endpoint:
        raise Foreign(f"pod {speaker.pod_name} has no label {ENDPOINT_LABEL}={endpoint}")
    account, component = speaker.service_account, labels.get(COMPONENT_LABEL)
    theirs = _theirs(account)
    if component == GATEWAY and account == gateway_account(endpoint):
        return GATEWAY
    if component == SERVER and (account == server_account(endpoint) or theirs):
        return SERVER
    if component == COLLECTOR and (account == collector_account(endpoint) or theirs):
        return COLLECTOR
    raise Foreign(f"a {component} with service account {account} is no server, gateway or collector of {endpoint}")


def drift_role_of(speaker: Speaker, pod: Object, endpoint: str) -> str:
    """
    Prove that a pod from a Job of the endpoint is one that measures drift: that is all that such a Job brings.

    It may have a service account of the user's own, for workload identity, but no other one of graft's.
    """
    labels = pod["metadata"].get("labels") or {}
    account, component = speaker.service_account, labels.get(COMPONENT_LABEL)
    allowed = account == drift_account(endpoint) or _theirs(account)
    if labels.get(ENDPOINT_LABEL) != endpoint or component != DRIFT or not allowed:
        raise Foreign(f"a {component} with service account {account} is no Job of {endpoint} that measures drift")
    return DRIFT


def endpoint_of_job(job: Object) -> Controller:
    """The ModelEndpoint that controls a Job."""
    return controller_of(job, MODEL_ENDPOINTS, f"Job {job['metadata']['name']}")


def from_a_job(pod: Object) -> Controller | None:
    """The Job that controls a pod; None for a pod of something else."""
    return _controller(pod, JOBS)


def injected_into(speaker: Speaker, pod: Object, deployment: Object, endpoint: Object | None, name: str) -> Controller:
    """
    The ModelEndpoint `name` that takes this Deployment of the user's own for its server.

    Both must say so: the endpoint in its spec, and the pod by a label which only who may `inject` into that endpoint could give it.
    """
    theirs = deployment["metadata"]["name"]
    if (pod["metadata"].get("labels") or {}).get(ENDPOINT_LABEL) != name:
        raise Foreign(f"pod {speaker.pod_name} has no label {ENDPOINT_LABEL}={name}")
    if endpoint is None:
        raise Foreign(f"there is no ModelEndpoint {name}")
    server = (endpoint.get("spec") or {}).get("server") or {}
    if (server.get("existing") or {}).get("deployment") != theirs:
        raise Foreign(f"ModelEndpoint {name} does not name Deployment {theirs} in spec.server.existing")
    if speaker.service_account.startswith(ACCOUNT_PREFIX):
        raise Foreign(f"Deployment {theirs} uses a service account of graft without being controlled by a ModelEndpoint")
    return Controller(MODEL_ENDPOINTS.kind, MODEL_ENDPOINTS.api_version, name, endpoint["metadata"]["uid"])


def fleet_caller_of(speaker: Speaker, pod: Object, role: str, endpoint: Controller) -> FleetCaller:
    """Put the chain of a pod of the data plane together."""
    return FleetCaller(
        pod_name=speaker.pod_name,
        pod_uid=speaker.pod_uid,
        pod_created_at=pod["metadata"]["creationTimestamp"],
        namespace=speaker.namespace,
        service_account=speaker.service_account,
        role=role,
        endpoint_name=endpoint.name,
        endpoint_uid=endpoint.uid,
    )


def _theirs(account: str) -> bool:
    """Whether a service account is none that graft makes for an endpoint."""
    return not account.startswith((server_account(""), gateway_account(""), collector_account(""), drift_account("")))


def _controller(owned: Object, wanted: Resource) -> Controller | None:
    references = [reference for reference in owned["metadata"].get("ownerReferences") or [] if reference.get("controller")]
    for reference in references:
        group = reference["apiVersion"].partition("/")[0] if "/" in reference["apiVersion"] else ""
        if (group, reference["kind"]) == (wanted.group, wanted.kind):
            return Controller(reference["kind"], reference["apiVersion"], reference["name"], reference["uid"])
    return None
