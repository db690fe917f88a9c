"""
Pure builders of a ModelEndpoint's children: plain dicts in, plain dicts out.

Deployments are applied when the spec changed or an upgrade is due (`decide.rollout`), companions on every pass, records on top of
what was read. Labels of the parent are not copied: they would make children prunable by whoever tracks the parent.
"""

from graft_api import dataplane as plane
from graft_api.ledger import Gate, Ledger
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.routes import Routes
from graft_api.schema import canonical_json
from graft_operator.engine.ownership import controller_reference
from graft_operator.engine.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)
from graft_operator.modelendpoint import templates
from graft_operator.modelendpoint.companions import Companions, companions
from graft_operator.modelendpoint.parent import Manifest, Parent, Platform, gateway_name, server_name
from graft_operator.promotion import testing

__all__ = ["Companions", "Manifest", "Parent", "Platform", "companions", "gateway_name", "server_name"]

SPEC_HASH = "graft.dev/spec-hash"
"""Annotation of a Deployment: all that the user says about its pods."""
PLATFORM = "graft.dev/platform"
"""Annotation of a Deployment: the template as the operator of that day built it."""
UPGRADE = "graft.dev/upgrade"
"""Annotation of a ModelEndpoint, by which its user asks for today's pods; copied to the Deployments that answer it."""

FETCH_SECONDS = 1800
"""On top of `server.startSeconds`, until a Deployment that does not get on says so: time for the base model to arrive."""

APPLIED = {
    resource.kind: resource
    for resource in (CONFIG_MAPS, DEPLOYMENTS, SERVICES, SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS)
}


def server_deployment(parent: Parent, spec: ModelEndpointSpec, platform: Platform, upgrade: str = "") -> Manifest:
    """
    Build vLLM's Deployment. Autoscalers scale the ModelEndpoint, so `replicas` is always said here.

    Pods without GPUs are replaced one by one by pods that are ready before. With GPUs the old pod goes first: few clusters have
    idle GPUs for a surge, and a rollout that waits for them never ends. One replica is then away for as long as vLLM starts.
    """
    gradual = {"maxUnavailable": 0, "maxSurge": 1} if spec.server.gpus == 0 else {"maxUnavailable": 1, "maxSurge": 0}
    template = templates.server_template(parent, spec, platform)
    metadata = parent.metadata(server_name(parent), plane.SERVER)
    metadata["annotations"] = provenance(templates.server_spec_hash(spec), template, upgrade)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": spec.replicas,
            "selector": {"matchLabels": parent.selector(plane.SERVER)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": gradual},
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": spec.server.start_seconds + FETCH_SECONDS,
            "template": template,
        },
    }


def gateway_deployment(parent: Parent, spec: ModelEndpointSpec, platform: Platform, upgrade: str = "") -> Manifest:
    """Build the gateway's Deployment: a new replica is ready before an old one goes."""
    template = templates.gateway_template(parent, spec, platform)
    metadata = parent.metadata(gateway_name(parent), plane.GATEWAY)
    metadata["annotations"] = provenance(templates.gateway_spec_hash(spec), template, upgrade)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": spec.gateway.replicas,
            "selector": {"matchLabels": parent.selector(plane.GATEWAY)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def routes_config_map(parent: Parent, routes: Routes) -> Manifest:
    """Build the record that gateways and agents watch. It goes with its endpoint."""
    metadata = parent.metadata(plane.routes_name(parent.name), "routes")
    return record(metadata, plane.ROUTES_RECORD, {plane.ROUTES_KEY: routes.to_json()})


def ledger_config_map(parent: Parent, ledger: Ledger) -> Manifest:
    """Build the record of what serves. Nobody owns it: it outlives its endpoint, and a restored one goes on from it."""
    metadata = parent.metadata(plane.ledger_name(parent.name), "ledger")
    del metadata["ownerReferences"]
    return record(metadata, plane.LEDGER_RECORD, {plane.LEDGER_KEY: ledger.to_json()})


def shadow_test(parent: Parent, gate: Gate, adapter_uid: str) -> Manifest:
    """
    Build the ShadowTest that counts for a candidate, from the policy as it was frozen. It is made once and never applied again.

    It goes with its Adapter as that is now, not with the endpoint: of an endpoint that is made anew from its Git, the ledger still knows
    its candidate.
    """
    return {
        "metadata": {
            "name": gate.test,
            "namespace": parent.namespace,
            "labels": {"app.kubernetes.io/managed-by": "graft", plane.ENDPOINT_LABEL: parent.name},
            "ownerReferences": [controller_reference("Adapter", gate.version.adapter, adapter_uid)],
        },
        "spec": testing.spec_of(gate).to_json(),
    }


def resource_of(manifest: Manifest) -> Resource:
    """Return where a child is kept."""
    return APPLIED[manifest["kind"]]


def platform_of(deployment: Manifest | None) -> str | None:
    """Return by what the pods of a Deployment were built; None for one that is not graft's."""
    return (deployment["metadata"].get("annotations") or {}).get(PLATFORM) if deployment else None


def provenance(spec_hash: str, template: Manifest, upgrade: str) -> dict[str, str]:
    """Return why pods are as they are: the user's spec, this operator's way to build them, and the upgrade that was asked for."""
    return {SPEC_HASH: spec_hash, PLATFORM: templates.template_hash(template)} | ({UPGRADE: upgrade} if upgrade else {})


def record(metadata: Manifest, kind: str, data: dict[str, Manifest]) -> Manifest:
    """
    Build a ConfigMap that the operator alone writes.

    Without spaces: it holds 1 MiB, and a full ledger needs most of that (`ledgers.MOST_BYTES`).
    """
    metadata["labels"] |= {plane.RECORD_LABEL: kind}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {key: canonical_json(value).decode() for key, value in data.items()},
    }
