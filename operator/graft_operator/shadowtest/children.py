"""Pure builders of a ShadowTest's children: the shadow server, a ModelEndpoint that copies production's, and its verdict's evidence."""

from typing import Any

from graft_api.dataplane import EVIDENCE_RECORD, RECORD_LABEL
from graft_api.modelendpoint import Domain, Gateway, Held, ModelEndpointSpec, Server
from graft_api.podtemplate import PodTemplate
from graft_api.routes import Version
from graft_api.shadowtest import (
    EVIDENCE_KEY,
    TEST_LABEL,
    ResolvedTest,
    ShadowServer,
    ShadowTestSpec,
    evidence_record,
    shadow_endpoint,
)
from graft_operator.engine.ownership import controller_reference
from graft_operator.shadowtest.observed import Observed, Production

Manifest = dict[str, Any]


def shadow_server(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest) -> Manifest | None:
    """
    Return the shadow server as it is made, once; None where what it is to hold cannot be told any more.

    It is created and never changed: what a test compares must not be replaced under it.
    """
    production, versions = observed.production, _versions(observed, resolved)
    if production is None or versions is None or not isinstance(production.spec, ModelEndpointSpec):
        return None
    return {
        "metadata": {
            "name": shadow_endpoint(observed.name),
            "namespace": observed.namespace,
            "labels": {"app.kubernetes.io/managed-by": "graft", TEST_LABEL: observed.name},
            "ownerReferences": [controller_reference("ShadowTest", observed.name, observed.uid)],
        },
        "spec": _spec(production, production.spec, spec, resolved, versions).to_json(),
    }


def evidence(observed: Observed, content: bytes) -> Manifest:
    """Return the record of what a verdict was read from: the operator alone writes it, whoever may read ConfigMaps can check it."""
    labels = {"app.kubernetes.io/managed-by": "graft", RECORD_LABEL: EVIDENCE_RECORD, TEST_LABEL: observed.name}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": evidence_record(observed.name, observed.uid),
            "namespace": observed.namespace,
            "labels": labels,
            "ownerReferences": [controller_reference("ShadowTest", observed.name, observed.uid)],
        },
        "data": {EVIDENCE_KEY: content.decode()},
    }


def _spec(
    production: Production, source: ModelEndpointSpec, spec: ShadowTestSpec, resolved: ResolvedTest, versions: list[Version]
) -> ModelEndpointSpec:
    ledger, writer = production.ledger, source.collector_credentials()
    digest = source.base_model.digest or (ledger.base_digest if ledger else None)
    return ModelEndpointSpec(
        # With the digest that production has found: a folder that was replaced since is another model.
        base_model=source.base_model.model_copy(update={"digest": digest}),
        replicas=spec.shadow.replicas,
        server=_server(source, spec.shadow),
        gateway=Gateway(anonymous=True, replicas=0, base_alias=source.gateway.base_alias),
        domains=[Domain(name=resolved.domain)],
        trusted_keys=source.trusted_keys,
        credentials=source.credentials,
        shadow=Held(endpoint=resolved.endpoint, account=writer.service_account_name if writer else None, versions=versions),
    )


def _server(source: ModelEndpointSpec, shadow: ShadowServer) -> Server:
    """Return production's server: with its slots too, for vLLM's kernels depend on their number."""
    placed = {"resources": shadow.resources, "node_selector": shadow.node_selector, "tolerations": shadow.tolerations}
    said = {key: value for key, value in placed.items() if value is not None}
    template = source.server.pod_template
    if said:
        template = (template or PodTemplate()).model_copy(update=said)
    return source.server.model_copy(update={"pod_template": template, "max_loras": source.slots(), "max_lora_rank": source.rank()})


def _versions(observed: Observed, resolved: ResolvedTest) -> list[Version] | None:
    """Return what the shadow holds, as it was resolved; None where Adapter or ledger say otherwise by now."""
    candidate = observed.candidate.version() if observed.candidate else None
    incumbent = observed.production.incumbent(resolved.domain) if observed.production else None
    if candidate is None or candidate.name != resolved.candidate.version or observed.switched(resolved):
        return None
    held = [version for version in (incumbent, candidate) if version is not None]
    return list({version.name: version for version in held}.values())
