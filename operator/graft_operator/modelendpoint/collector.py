"""
Pure builders of an endpoint's collector: one pod that gateways tell of requests, what it is told, and what stands around it.

It reads its settings once, at its start, but for the watches, which it follows. So the hash of all else is in the template: another test
or score is another pod, and a watch that begins or ends is none (decision 0016).
"""

import re
from dataclasses import replace

from graft_api import dataplane as plane
from graft_api import serverpod as pod_parts
from graft_api.collect import (
    COLLECTOR,
    COLLECTOR_DIRECTORY,
    COLLECTOR_HEALTH_PORT,
    COLLECTOR_PORT,
    SETTINGS_KEY,
    SHADOW_TOKEN_FILE,
    CollectorSettings,
    Compare,
    collector_account,
    collector_service,
)
from graft_api.modelendpoint import COLLECTOR_OWN, Collector, ModelEndpointSpec
from graft_api.shadowtest import shadow_endpoint
from graft_operator.modelendpoint import templates
from graft_operator.modelendpoint.children import provenance, record
from graft_operator.modelendpoint.companions import Companions, ports
from graft_operator.modelendpoint.parent import Manifest, Parent, Platform

GRACE_SECONDS = 40
"""It drains itself for 25 seconds on SIGTERM: what is being asked, and the last commit."""
RESOURCES = {"requests": {"cpu": "250m", "memory": "1Gi"}}
SETTINGS_HASH = "graft.dev/settings-hash"
"""Annotation of the pods: what they were told, without what they follow."""
FOLLOWS = "graft.dev/follows"
"""Annotation of the pods: what of their settings they follow while they run."""


def collector_name(parent: Parent) -> str:
    """Return the name of Deployment, Service, NetworkPolicy and settings."""
    return collector_service(parent.name)


def collector_children(parent: Parent, spec: ModelEndpointSpec, settings: CollectorSettings) -> Companions:
    """Return all but the Deployment, in the order in which it is needed."""
    account = service_account(parent)
    ours = account["metadata"]["name"] == account_of(parent, spec)
    around = [role(parent), role_binding(parent, spec), settings_config_map(parent, settings), network_policy(parent), service(parent)]
    return Companions(wanted=[account, *around] if ours else around, unwanted=[] if ours else [account])


def former_children(parent: Parent) -> list[Manifest]:
    """
    Return what goes when there is nothing to measure. The Deployment goes last: while it is there, something is left to be done.

    The settings stay and go with the endpoint: the operator has no right to delete ConfigMaps, for ledgers are some, nor Roles.
    """
    metadata = {"name": collector_name(parent), "namespace": parent.namespace}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": _account_metadata(parent)}
    return [service(parent), network_policy(parent), binding, service_account(parent), deployment]


def account_of(parent: Parent, spec: ModelEndpointSpec) -> str:
    """Return the service account of collector pods: the user's for workload identity, else graft's."""
    credentials = spec.collector_credentials()
    return (credentials.service_account_name if credentials else None) or collector_account(parent.name)


def settings_config_map(parent: Parent, settings: CollectorSettings) -> Manifest:
    """Build the record that the collector is told by."""
    metadata = parent.metadata(collector_name(parent), COLLECTOR)
    return record(metadata, plane.COLLECTOR_RECORD, {SETTINGS_KEY: settings.to_json()})


def settings_hash(settings: CollectorSettings, *, follows: bool = True) -> str:
    """
    Return the hash of what a collector is told; of one that follows its watches without these.

    Defaults are left out: a field that a newer operator adds must not replace a collector in the middle of a test.
    """
    told = settings.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    watches = told.pop("watches", None)
    if watches and not follows:
        told["watches"] = [{name: value for name, value in watch.items() if name != "adapterUid"} for watch in watches]
    return templates.hash_of(told)


def service_account(parent: Parent) -> Manifest:
    """Build the account. The API server's public keys, by which it knows gateways, every service account may read."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _account_metadata(parent),
        "automountServiceAccountToken": False,
    }


def role(parent: Parent) -> Manifest:
    """Build what the collector may read: what it is told, which it has mounted anyway."""
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [collector_name(parent)], "verbs": ["get", "list", "watch"]}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": _account_metadata(parent), "rules": [rule]}


def role_binding(parent: Parent, spec: ModelEndpointSpec) -> Manifest:
    """Bind it to the account that the collector runs as, the user's own where there is one."""
    metadata = _account_metadata(parent)
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": account_of(parent, spec), "namespace": parent.namespace}],
    }


def service(parent: Parent) -> Manifest:
    """Build the Service that gateways send exchanges to."""
    port = {"name": "exchanges", "protocol": "TCP", "port": COLLECTOR_PORT, "targetPort": COLLECTOR_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": parent.metadata(collector_name(parent), COLLECTOR),
        "spec": {"type": "ClusterIP", "selector": parent.selector(COLLECTOR), "ports": [port]},
    }


def network_policy(parent: Parent) -> Manifest:
    """Let the endpoint's own gateways bring exchanges, and everybody read metrics."""
    gateways = {"podSelector": {"matchLabels": parent.selector(plane.GATEWAY)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": parent.metadata(collector_name(parent), COLLECTOR),
        "spec": {
            "podSelector": {"matchLabels": parent.selector(COLLECTOR)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [gateways], "ports": ports(COLLECTOR_PORT)}, {"ports": ports(COLLECTOR_HEALTH_PORT)}],
        },
    }


def collector_deployment(
    parent: Parent,
    spec: ModelEndpointSpec,
    settings: CollectorSettings,
    platform: Platform,
    upgrade: str = "",
    existing: Manifest | None = None,
) -> Manifest:
    """
    Build the one collector. The old one goes before the new one comes: two would take turns in losing each other's commits.

    Gateways hold what it misses meanwhile. One that is there from before a collector could follow its watches is replaced once, when
    these change.
    """
    template = collector_template(parent, spec, settings, platform)
    metadata = parent.metadata(collector_name(parent), COLLECTOR)
    metadata["annotations"] = provenance(_spec_hash(spec, settings, follows=_follows(existing)), template, upgrade)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": parent.selector(COLLECTOR)},
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def collector_template(parent: Parent, spec: ModelEndpointSpec, settings: CollectorSettings, platform: Platform) -> Manifest:
    """Build the pod."""
    collector = _said(spec)
    user = pod_parts.NON_ROOT
    pod = templates.restricted_pod(account_of(parent, spec), user, user) | {
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [_container(parent, collector, settings, platform)],
        "volumes": _volumes(parent, spec, settings.compare),
    }
    optional = {"nodeSelector": collector.node_selector, "imagePullSecrets": templates.pull_secrets(spec)}
    told = {SETTINGS_HASH: settings_hash(settings), FOLLOWS: "watches"}
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(COLLECTOR_HEALTH_PORT)}
    return {
        "metadata": {"labels": parent.labels(COLLECTOR), "annotations": scraped | told},
        "spec": pod | {key: value for key, value in optional.items() if value},
    }


def _container(parent: Parent, collector: Collector, settings: CollectorSettings, platform: Platform) -> Manifest:
    sidecars = templates.sidecars_of(parent, platform)
    built = pod_parts.container("collector", "collector", replace(sidecars, image=collector.image or sidecars.image))
    ours = {item["name"] for item in built["env"]}
    # The API server refuses them; an endpoint that was stored before it did is another matter.
    theirs = [item.to_json() for item in collector.env or [] if item.name not in ours and not re.match(COLLECTOR_OWN, item.name)]
    shadow = [pod_parts.mount("graft-shadow", _folder(SHADOW_TOKEN_FILE), read_only=True)] if settings.compare else []
    return built | {
        "env": [*built["env"], *theirs],
        "resources": collector.resources.to_json() if collector.resources else RESOURCES,
        "ports": [
            {"name": "exchanges", "containerPort": COLLECTOR_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": COLLECTOR_HEALTH_PORT, "protocol": "TCP"},
        ],
        **pod_parts.probes(COLLECTOR_HEALTH_PORT),
        "volumeMounts": [
            pod_parts.mount("graft-settings", COLLECTOR_DIRECTORY, read_only=True),
            pod_parts.mount("graft-run", plane.RUN_DIRECTORY),
            *shadow,
            pod_parts.mount("graft-reports", plane.REPORTS_DIRECTORY, read_only=True),
            pod_parts.mount("graft-api", pod_parts.API_TOKEN_DIRECTORY, read_only=True),
            pod_parts.mount("graft-credentials", plane.CREDENTIALS_DIRECTORY, read_only=True),
            pod_parts.tmp("collector"),
        ],
    }


def _volumes(parent: Parent, spec: ModelEndpointSpec, compare: Compare | None) -> list[Manifest]:
    shadow = [templates.token_volume("graft-shadow", plane.door_audience(shadow_endpoint(compare.test)))] if compare else []
    return [
        {"name": "graft-tmp", "emptyDir": {}},
        # Not optional: without its settings a collector knows nothing to do.
        {"name": "graft-settings", "configMap": {"name": collector_name(parent)}},
        {"name": "graft-run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        *shadow,
        pod_parts.reports_volume(),
        pod_parts.api_token_volume(),
        pod_parts.credentials_volume(spec.collector_credentials()),
    ]


def _account_metadata(parent: Parent) -> Manifest:
    return parent.metadata(collector_account(parent.name), COLLECTOR)


def _follows(deployment: Manifest | None) -> bool:
    """Whether the pods of a Deployment follow their watches; those that are yet to be made do."""
    if deployment is None:
        return True
    return FOLLOWS in (deployment["spec"]["template"].get("metadata", {}).get("annotations") or {})


def _spec_hash(spec: ModelEndpointSpec, settings: CollectorSettings, *, follows: bool) -> str:
    """Return the hash of all that a collector is built from and told: when it changes, another one takes its place."""
    said = _said(spec).model_dump(mode="json", by_alias=True, exclude_defaults=True, include={"image", "env", "resources", "node_selector"})
    credentials = spec.collector_credentials()
    pulled = [secret["name"] for secret in templates.pull_secrets(spec)]
    named = {
        "settings": settings_hash(settings, follows=follows),
        "credentials": credentials.to_json() if credentials else None,
        "pulled": pulled,
    }
    return templates.hash_of(said | named)


def _said(spec: ModelEndpointSpec) -> Collector:
    assert spec.collector is not None  # noqa: S101 - without it nothing is built (`measuring.plan`)
    return spec.collector


def _folder(file: str) -> str:
    return file.rpartition("/")[0]
