"""
Pure builders of the two pods of a ModelEndpoint, and the hashes of what the user says about them.

    server    fetch-base, then vLLM | door | agent; what they are made of is in `graft_api.serverpod`
    gateway   one container
"""

import hashlib
from dataclasses import replace
from typing import Any

from graft_api import dataplane as plane
from graft_api import serverpod as pod_parts
from graft_api import vllm
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.podtemplate import PodTemplate
from graft_api.schema import canonical_json
from graft_api.serverpod import Sidecars
from graft_operator.modelendpoint.parent import Manifest, Parent, Platform, server_account

GATEWAY_GRACE_SECONDS = 300
"""A gateway drains itself on SIGTERM. Fixed, although the limits of one request are in the spec: those change without a restart."""
GATEWAY_DRAIN_SECONDS = GATEWAY_GRACE_SECONDS - 30
"""For requests in flight. Before that it goes on accepting for some seconds, until every node knows that it goes."""
GATEWAY_RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}}


def server_template(parent: Parent, spec: ModelEndpointSpec, platform: Platform) -> Manifest:
    template = _pod_template(spec)
    security = template.security_context
    user = (security.run_as_user if security else None) or pod_parts.NON_ROOT
    this = replace(sidecars_of(parent, platform), user=user)
    pod = restricted_pod(server_account(parent, spec), user, (security.fs_group if security else None) or user) | {
        "terminationGracePeriodSeconds": pod_parts.grace_seconds(spec),
        "topologySpreadConstraints": _spread(parent.selector(plane.SERVER)),
        "initContainers": [pod_parts.fetch_base(this, spec)],
        "containers": [_vllm(spec, platform), *pod_parts.sidecars(this, spec)],
        "volumes": [*pod_parts.volumes(parent.name, spec), *_listed(template.volumes)],
    }
    optional = {
        "nodeSelector": template.node_selector,
        "tolerations": _listed(template.tolerations),
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "schedulerName": template.scheduler_name,
        "imagePullSecrets": _listed(template.image_pull_secrets),
    }
    asked_by = {plane.SHADOW_LABEL: spec.shadow.endpoint} if spec.shadow else {}
    metadata: Manifest = {"labels": {**(template.labels or {}), **parent.labels(plane.SERVER), **asked_by}}
    if annotations := (template.annotations or {}) | _identity_annotations(spec):
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": pod | {key: value for key, value in optional.items() if value}}


def _identity_annotations(spec: ModelEndpointSpec) -> dict[str, str]:
    """Keep Amazon's webhook from giving vLLM and door the store's credentials. (Google's come from the node's metadata server.)"""
    workload_identity = spec.credentials is not None and spec.credentials.service_account_name is not None
    return {"eks.amazonaws.com/skip-containers": "vllm,door"} if workload_identity else {}


def _vllm(spec: ModelEndpointSpec, platform: Platform) -> Manifest:
    """Build the container with the user's image: no port, no token, nothing of the store's. What it may read, it may not write."""
    mounts = [
        pod_parts.model_mount(spec),
        pod_parts.mount("graft-adapters", plane.ADAPTERS_DIRECTORY, read_only=True),
        pod_parts.tmp("vllm"),
        pod_parts.mount("graft-shm", pod_parts.SHARED_MEMORY),
        # Last: whoever has a larger /tmp or /dev/shm to offer may.
        *_listed(_pod_template(spec).volume_mounts),
    ]
    return {
        "name": "vllm",
        "image": spec.server.image or platform.vllm_image,
        "imagePullPolicy": platform.vllm_pull_policy,
        "command": spec.server.command or vllm.DEFAULT_COMMAND,
        "args": vllm.server_arguments(spec),
        "env": vllm.server_environment(spec),
        "resources": _server_resources(spec),
        # On a failure at start only the log says why.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": pod_parts.RESTRICTED,
        "volumeMounts": list({item["mountPath"]: item for item in mounts}.values()),
    } | pod_parts.server_probes(spec)


def _server_resources(spec: ModelEndpointSpec) -> Manifest:
    resources = template.to_json() if (template := _pod_template(spec).resources) else {}
    if spec.server.gpus:
        # Extended resources: the request equals the limit and may be left out.
        resources["limits"] = {**resources.get("limits", {}), "nvidia.com/gpu": str(spec.server.gpus)}
    return resources


def gateway_template(parent: Parent, spec: ModelEndpointSpec, platform: Platform) -> Manifest:
    pod = restricted_pod(plane.gateway_account(parent.name), pod_parts.NON_ROOT, pod_parts.NON_ROOT) | {
        "terminationGracePeriodSeconds": GATEWAY_GRACE_SECONDS,
        "topologySpreadConstraints": _spread(parent.selector(plane.GATEWAY)),
        "containers": [_gateway(parent, spec, platform)],
        "volumes": _gateway_volumes(parent, spec),
    }
    optional = {"nodeSelector": spec.gateway.node_selector, "imagePullSecrets": pull_secrets(spec)}
    # Metrics are the pods' own and not on the Service, which would answer with one replica's numbers.
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(plane.GATEWAY_METRICS_PORT)}
    return {
        "metadata": {"labels": parent.labels(plane.GATEWAY), "annotations": scraped},
        "spec": pod | {key: value for key, value in optional.items() if value},
    }


def _gateway(parent: Parent, spec: ModelEndpointSpec, platform: Platform) -> Manifest:
    """Build the gateway. No preStop hook: on SIGTERM it lets go of its readiness, finishes what is in flight, and ends."""
    measured = [_token_mount("graft-collector", plane.COLLECTOR_TOKEN_FILE)] if spec.collector else []
    keys = [pod_parts.mount("graft-keys", plane.API_KEYS_DIRECTORY, read_only=True)] if spec.gateway.api_keys else []
    built = pod_parts.container("gateway", "gateway", sidecars_of(parent, platform))
    return built | {
        "env": [*built["env"], *pod_parts.variables({"GRAFT_DRAIN_SECONDS": str(GATEWAY_DRAIN_SECONDS)})],
        "resources": spec.gateway.resources.to_json() if spec.gateway.resources else GATEWAY_RESOURCES,
        "ports": [
            {"name": "http", "containerPort": plane.GATEWAY_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": plane.GATEWAY_METRICS_PORT, "protocol": "TCP"},
        ],
        **pod_parts.probes(plane.GATEWAY_METRICS_PORT),
        "volumeMounts": [
            pod_parts.mount("graft-routes", plane.ROUTES_DIRECTORY, read_only=True),
            _token_mount("graft-door", plane.DOOR_TOKEN_FILE),
            *measured,
            pod_parts.mount("graft-reports", plane.REPORTS_DIRECTORY, read_only=True),
            pod_parts.mount("graft-api", pod_parts.API_TOKEN_DIRECTORY, read_only=True),
            *keys,
            pod_parts.tmp("gateway"),
        ],
    }


def _gateway_volumes(parent: Parent, spec: ModelEndpointSpec) -> list[Manifest]:
    keys = spec.gateway.api_keys
    return [
        {"name": "graft-tmp", "emptyDir": {}},
        pod_parts.routes_volume(parent.name),
        token_volume("graft-door", plane.door_audience(parent.name)),
        # Also while nothing is measured: a ShadowTest must not roll the gateways.
        *([token_volume("graft-collector", plane.collector_audience(parent.name))] if spec.collector else []),
        pod_parts.reports_volume(),
        pod_parts.api_token_volume(),
        # Not optional: a gateway without the keys would refuse everybody, and look healthy.
        *([{"name": "graft-keys", "secret": {"secretName": keys.secret_ref.name, "optional": False}}] if keys else []),
    ]


def token_volume(name: str, audience: str) -> Manifest:
    """Return a token for one door or collector, which the kubelet rotates."""
    token = {"audience": audience, "expirationSeconds": plane.DOOR_TOKEN_SECONDS, "path": "token"}
    return {"name": name, "projected": {"sources": [{"serviceAccountToken": token}]}}


def _token_mount(name: str, file: str) -> Manifest:
    return pod_parts.mount(name, file.rpartition("/")[0], read_only=True)


def sidecars_of(parent: Parent, platform: Platform) -> Sidecars:
    """Return what containers of the serving image are built from, whatever they do."""
    return Sidecars(parent.name, platform.serving_image, platform.serving_pull_policy, platform.reports_url, platform.log_level)


def restricted_pod(account: str, user: int, group: int) -> Manifest:
    """Build what all pods share: PodSecurity restricted, no API token by default, no injected service variables (vLLM reads VLLM_*)."""
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _spread(labels: dict[str, str]) -> list[Manifest]:
    """Prefer different nodes; a single node is no reason not to serve."""
    wish = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    return [wish | {"labelSelector": {"matchLabels": labels}}]


def _pod_template(spec: ModelEndpointSpec) -> PodTemplate:
    return spec.server.pod_template or PodTemplate()


def pull_secrets(spec: ModelEndpointSpec) -> list[Manifest]:
    """Return what all images of an endpoint are pulled with."""
    return _listed(_pod_template(spec).image_pull_secrets)


def _listed(models: Any) -> list[Manifest]:  # noqa: ANN401 - a list of any of our models, or None
    return [model.to_json() for model in models or []]


def server_spec_hash(spec: ModelEndpointSpec) -> str:
    """Return the hash of all that the user says about server pods: when it changes, they roll."""
    return hash_of(_server_part(spec))


def gateway_spec_hash(spec: ModelEndpointSpec) -> str:
    """Return the hash of all that the user says about gateway pods."""
    return hash_of(_gateway_part(spec))


def _server_part(spec: ModelEndpointSpec) -> Manifest:
    """
    Return what server pods are built from.

    Defaults are left out: a field that a newer operator adds must not roll pods whose user never asked for anything.
    """
    said = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include={"base_model", "server", "credentials"})
    # Where drift Jobs have graft's own account, doors know it by themselves: to ask for drift rolls no server.
    account = {"drift": spec.drift_account()} if spec.drift_account() else {}
    # The versions are in the routes.
    return said | account | {"slots": spec.slots()} | ({"shadow": [spec.shadow.endpoint, spec.shadow.asking()]} if spec.shadow else {})


def _gateway_part(spec: ModelEndpointSpec) -> Manifest:
    """Return what gateway pods are built from. Limits and aliases are not among it: they travel in the routes."""
    said = spec.gateway.model_dump(mode="json", by_alias=True, exclude_defaults=True, include={"api_keys", "resources", "node_selector"})
    secrets = [secret.name for secret in _pod_template(spec).image_pull_secrets or []]
    return said | ({"imagePullSecrets": secrets} if secrets else {}) | ({"collector": True} if spec.collector else {})


def template_hash(template: Manifest) -> str:
    """Return the hash of a template as it was built: when an operator builds another one of the same spec, there is an upgrade."""
    return hash_of(template)


def hash_of(value: Manifest) -> str:
    """Return the hash of a JSON value, short enough for an annotation that people read."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]
