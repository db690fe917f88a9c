"""
What makes a vLLM pod one of graft's: agent and door beside vLLM, their volumes, and vLLM's probes.

Pure builders of plain dicts. The operator makes whole pods of them; `graft inject` adds them to a Deployment of the user's.

    fetch-base   credentials; alone writes the base model, before anything else starts
    vllm         base model and adapters, read-only; has no token, no credentials and no way to the agent's socket
    door         the pod's only port; has the agent's socket and nothing else
    agent        its token for the API server, its token for the operator, credentials; alone writes adapters
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from graft_api import dataplane as plane
from graft_api.finetunejob import Credentials
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.reports import AUDIENCE

Manifest = dict[str, Any]

NON_ROOT = 65532
CA_CONFIG_MAP = "graft-ca"
"""Which the operator carries into workload namespaces."""
CA_KEY = "ca.crt"
REPORTS_TOKEN_SECONDS = 3600
API_TOKEN_SECONDS = 3607
"""What Kubernetes itself asks for: the kubelet then lets the token live for a year in clusters that extend such tokens."""
API_TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
DRAIN_MARGIN_SECONDS = 15
"""Between the end of a drain and the kill."""
TMP = "/tmp"  # noqa: S108 - a mount of each container's own
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a mount
SIDECAR_RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}}
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
PROBE_SECONDS = 5


@dataclass(frozen=True)
class Sidecars:
    """What graft's own containers are built from, besides the spec."""

    endpoint: str
    image: str
    pull_policy: str
    reports_url: str
    log_level: str = "INFO"
    user: int = NON_ROOT


def sidecars(this: Sidecars, spec: ModelEndpointSpec) -> list[Manifest]:
    """Build the two containers that stand beside vLLM."""
    return [door(this), agent(this, spec)]


def door(this: Sidecars) -> Manifest:
    """Build the container whose port is all that other pods can reach."""
    return container("door", "door", this) | {
        "ports": [{"name": "door", "containerPort": plane.DOOR_PORT, "protocol": "TCP"}],
        # A socket that listens is all: what is behind it is vLLM's and the agent's to say.
        "readinessProbe": {"tcpSocket": {"port": plane.DOOR_PORT}, "periodSeconds": PROBE_SECONDS},
        "lifecycle": _drain_first(),
        # Its /tmp is in memory: configuration and the answers that it keeps about tokens reach no disk.
        "volumeMounts": [mount("graft-run", plane.RUN_DIRECTORY), mount("graft-door-tmp", TMP)],
    }


def agent(this: Sidecars, spec: ModelEndpointSpec) -> Manifest:
    """
    Build the container that brings adapters into vLLM.

    No preStop hook: it gets SIGTERM as soon as the pod is asked to go, and tells gateways while vLLM and door still answer.
    """
    built = container("agent", "agent", this)
    settings = {
        "GRAFT_ADAPTER_CACHE_BYTES": str(quantity_bytes(spec.server.adapter_cache)),
        "GRAFT_DRAIN_SECONDS": str(spec.server.drain_seconds),
        "GRAFT_BASE_DIGEST": spec.base_model.digest or "",
        # As vLLM beside it is started: the routes say what the spec says by now.
        "GRAFT_MAX_LORAS": str(spec.slots()),
        "GRAFT_MAX_LORA_RANK": str(spec.rank()),
    } | ({"GRAFT_DOOR_ACCOUNT": spec.shadow.asking()} if spec.shadow else {})
    if (drift := spec.drift_account()) is not None:
        settings["GRAFT_DRIFT_ACCOUNT"] = drift
    return built | {
        "env": [*built["env"], *variables(settings)],
        **probes(plane.AGENT_HEALTH_PORT),
        "volumeMounts": [
            mount("graft-run", plane.RUN_DIRECTORY),
            mount("graft-adapters", plane.ADAPTERS_DIRECTORY),
            *([] if spec.server.existing else [model_mount(spec)]),
            mount("graft-routes", plane.ROUTES_DIRECTORY, read_only=True),
            mount("graft-reports", plane.REPORTS_DIRECTORY, read_only=True),
            mount("graft-api", API_TOKEN_DIRECTORY, read_only=True),
            mount("graft-credentials", plane.CREDENTIALS_DIRECTORY, read_only=True),
            tmp("agent"),
        ],
    }


def fetch_base(this: Sidecars, spec: ModelEndpointSpec) -> Manifest:
    """
    Build the init container that fetches the base model from s3://, or verifies the claim of pvc://.

    It has the run volume because a claim is mounted read-only: nothing can be written beside the model there.
    """
    built = container("fetch-base", "fetch-base", this)
    settings = {"GRAFT_BASE_URI": spec.base_model.uri, "GRAFT_BASE_DIGEST": spec.base_model.digest or ""}
    return built | {
        "env": [*built["env"], *variables(settings)],
        "volumeMounts": [
            model_mount(spec, read_only=_claim(spec) is not None),
            mount("graft-run", plane.RUN_DIRECTORY),
            mount("graft-credentials", plane.CREDENTIALS_DIRECTORY, read_only=True),
            tmp("fetch-base"),
        ],
    }


def container(name: str, verb: str, this: Sidecars) -> Manifest:
    """Build what all containers of the serving image share. The user is named here, too: a user's own pod may have another one."""
    settings = {"GRAFT_ENDPOINT": this.endpoint, "GRAFT_REPORTS_URL": this.reports_url, "GRAFT_LOG_LEVEL": this.log_level, "HOME": TMP}
    fields = {"GRAFT_NAMESPACE": "metadata.namespace", "GRAFT_POD_NAME": "metadata.name", "GRAFT_POD_IP": "status.podIP"}
    user = {"runAsNonRoot": True, "runAsUser": this.user, "runAsGroup": this.user, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "name": name,
        "image": this.image,
        "imagePullPolicy": this.pull_policy,
        "command": ["graft-serving", verb],
        "env": [*variables(settings), *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items())],
        "resources": SIDECAR_RESOURCES,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": RESTRICTED | user,
    }


def server_probes(spec: ModelEndpointSpec) -> Manifest:
    """
    Return vLLM's probes and hook. They go through the door: vLLM itself is out of the kubelet's reach.

    A process that ends is noticed without a probe; the liveness probe is for one that hangs. It is patient enough that a door
    which is restarted does not take vLLM, and minutes of loading, with it.
    """
    asked = _kubelet_asks(plane.LIVE_PATH, plane.DOOR_PORT) | {"timeoutSeconds": 5}
    attempts = math.ceil(spec.server.start_seconds / PROBE_SECONDS)
    return {
        "startupProbe": asked | {"periodSeconds": PROBE_SECONDS, "failureThreshold": attempts},
        "livenessProbe": asked | {"periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": _drain_first(),
    }


def grace_seconds(spec: ModelEndpointSpec) -> int:
    """Return how long a pod that is asked to go may stay."""
    return spec.server.drain_seconds + DRAIN_MARGIN_SECONDS


def volumes(endpoint: str, spec: ModelEndpointSpec) -> list[Manifest]:
    """Return the volumes of agent and door, and those of vLLM where the pod is graft's."""
    shared = [
        # Memory, so that a socket or a key set never outlives the pod or reaches a disk.
        {"name": "graft-run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        # No sizeLimit: the kubelet would evict the pod for what the agent bounds by removing files.
        {"name": "graft-adapters", "emptyDir": {}},
        {"name": "graft-tmp", "emptyDir": {}},
        {"name": "graft-door-tmp", "emptyDir": {"medium": "Memory"}},
        routes_volume(endpoint),
        reports_volume(),
        api_token_volume(),
        credentials_volume(spec.credentials),
    ]
    own = [_model_volume(spec), {"name": "graft-shm", "emptyDir": {"medium": "Memory"}}]
    return shared if spec.server.existing else [*own, *shared]


def routes_volume(endpoint: str) -> Manifest:
    """Return the routes as files. Optional: a pod may start before they are first written."""
    return {"name": "graft-routes", "configMap": {"name": plane.routes_name(endpoint), "optional": True}}


def reports_volume() -> Manifest:
    """Return what a pod needs to speak to the operator: who it is, and whom to trust."""
    token = {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": REPORTS_TOKEN_SECONDS, "path": "token"}}
    authority = {"configMap": {"name": CA_CONFIG_MAP, "items": [{"key": CA_KEY, "path": "ca.crt"}]}}
    return {"name": "graft-reports", "projected": {"sources": [token, authority]}}


def api_token_volume() -> Manifest:
    """Return what Kubernetes would mount by itself, but into every container: vLLM must not have it."""
    sources = [
        {"serviceAccountToken": {"expirationSeconds": API_TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return {"name": "graft-api", "projected": {"sources": sources}}


def credentials_volume(credentials: Credentials | None) -> Manifest:
    """Return the store's credentials. Optional: whoever needs them says by name what is missing, a kubelet would only wait."""
    secret = credentials.secret_ref if credentials else None
    source: Manifest = {"secret": {"secretName": secret.name, "optional": True}} if secret else {"emptyDir": {}}
    return {"name": "graft-credentials", **source}


def model_mount(spec: ModelEndpointSpec, *, read_only: bool = True) -> Manifest:
    """Mount the base model, from a claim its folder alone."""
    claim = _claim(spec)
    folder = {"subPath": claim[1]} if claim and claim[1] else {}
    return mount("graft-model", plane.MODEL_DIRECTORY, read_only=read_only) | folder


def mount(volume: str, path: str, *, read_only: bool = False) -> Manifest:
    """Return one mount."""
    return {"name": volume, "mountPath": path} | ({"readOnly": True} if read_only else {})


def tmp(name: str) -> Manifest:
    """Mount a /tmp of the container's own: what one leaves there is no other's business."""
    return mount("graft-tmp", TMP) | {"subPath": name}


def variables(values: dict[str, str]) -> list[Manifest]:
    """Return environment variables as a container lists them."""
    return [{"name": name, "value": value} for name, value in values.items()]


def quantity_bytes(quantity: str) -> int:
    """Return a Kubernetes quantity as a number of bytes, rounded down."""
    for suffix, factor in _FACTORS.items():
        if quantity.endswith(suffix):
            return int(Decimal(quantity.removesuffix(suffix)) * factor)
    return int(Decimal(quantity))


_FACTORS = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", 1)} | {
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTP", 1)},
}
"""Binary suffixes first: they end differently, but a reader need not think about it."""


def _model_volume(spec: ModelEndpointSpec) -> Manifest:
    if claim := _claim(spec):
        return {"name": "graft-model", "persistentVolumeClaim": {"claimName": claim[0], "readOnly": True}}
    template = spec.server.pod_template
    limit = {"sizeLimit": template.scratch_size_limit} if template and template.scratch_size_limit else {}
    return {"name": "graft-model", "emptyDir": limit}


def _claim(spec: ModelEndpointSpec) -> tuple[str, str] | None:
    """Return claim and folder of pvc://claim/folder."""
    scheme, _, rest = spec.base_model.uri.partition("://")
    claim, _, folder = rest.partition("/")
    return (claim, folder.strip("/")) if scheme == "pvc" else None


def _drain_first() -> Manifest:
    return {"preStop": {"httpGet": {"path": plane.DRAIN_PATH, "port": plane.DOOR_PORT}}}


def probes(port: int) -> Manifest:
    """
    Return the probes of a process of graft's own with `/readyz` and `/livez` on a port: it has five minutes to start, on a node that is
    busy.

    Without a startup probe the kubelet ends what has not begun to listen after half a minute, and so again and again. And by default it
    waits one second for /readyz: a replica that is slow for some seconds would be taken out, and its work be left to the others.
    """
    asked = _kubelet_asks("/livez", port) | {"timeoutSeconds": 5}
    return {
        "readinessProbe": _kubelet_asks("/readyz", port) | {"periodSeconds": 2, "timeoutSeconds": 3},
        "startupProbe": asked | {"periodSeconds": 1, "failureThreshold": 300},
        "livenessProbe": asked | {"periodSeconds": 10},
    }


def _kubelet_asks(path: str, port: int) -> Manifest:
    return {"httpGet": {"path": path, "port": port}}
