"""Pure: whether a ShadowTest can be carried out as things are, and what it would use."""

import hashlib

from graft_api.adapter import AdapterSpec
from graft_api.health import FIT
from graft_api.modelendpoint import Collector, ModelEndpointSpec
from graft_api.schema import Invalid, canonical_json, seconds_of
from graft_api.shadowtest import ResolvedTest, ShadowTestSpec, shadow_endpoint
from graft_operator.shadowtest.guardrails import added
from graft_operator.shadowtest.observed import Candidate, Observed, Production, compared
from graft_operator.shadowtest.settings import SETTINGS_BYTES
from graft_operator.shadowtest.views import View

MADE_FROM = {"base_model", "server", "trusted_keys", "credentials"}
"""Of an endpoint's spec: what its shadow servers are a copy of."""
OTHER_SETTINGS = 32 * 1024
"""Room for what a collector is told beside scorers: guardrails, limits, names, hosts for media."""


def unfit(observed: Observed, spec: ShadowTestSpec) -> View | None:
    """Return what stands against the test; such a test takes nobody's turn."""
    name = spec.adapter_ref.name
    if observed.candidate is None:
        return View("Pending", "AdapterNotFound", f"there is no Adapter {name} in this namespace; create it")
    if isinstance(observed.candidate.spec, Invalid):
        return View("Pending", "AdapterInvalid", f"Adapter {name} has an invalid spec: {observed.candidate.spec}", stalled=True)
    if observed.candidate.deleting:
        return View("Pending", "AdapterNotFound", f"Adapter {name} is being deleted", stalled=True)
    return (
        _unfit_endpoint(observed.production, observed.candidate.spec)
        or _unfit_candidate(observed.candidate)
        or _unmeasurable(observed.production, spec)
        or _too_large(observed.production, spec)
        or _taken(observed)
    )


def _unfit_endpoint(production: Production | None, adapter: AdapterSpec) -> View | None:
    name = adapter.endpoint_ref.name
    if production is None or production.deleting:
        return View("Pending", "EndpointNotFound", f"there is no ModelEndpoint {name}, which the Adapter names; create it")
    if isinstance(production.spec, Invalid):
        return View("Pending", "EndpointInvalid", f"ModelEndpoint {name} has an invalid spec: {production.spec}", stalled=True)
    if (stop := _unfit_kind(name, production.spec) or _unserved(name, production.spec, adapter.domain)) is not None:
        return stop
    if production.ledger is None:
        return View("Pending", "LedgerNotRead", f"ModelEndpoint {name} has no ledger that can be read yet, so nobody can tell what serves")
    return None


def _unfit_kind(name: str, spec: ModelEndpointSpec) -> View | None:
    """Return why the servers of an endpoint cannot be copied, or its requests cannot."""
    if spec.shadow is not None:
        told = f"ModelEndpoint {name} is itself the shadow of {spec.shadow.endpoint}; test an Adapter of that one"
        return View("Pending", "EndpointIsShadow", told, stalled=True)
    if spec.server.existing is not None:
        told = f"the servers of ModelEndpoint {name} are Deployment {spec.server.existing.deployment}, which graft did not build and cannot"
        advice = "let graft build them (leave spec.server.existing out), or compare recorded pairs with graft shadow --pairs"
        return View("Pending", "ExistingServer", f"{told} copy; {advice}", stalled=True)
    if spec.collector is None:
        told = f"ModelEndpoint {name} measures nothing; set its spec.collector.store to s3://bucket/folder"
        return View("Pending", "NoCollector", told, stalled=True)
    return None


def _unserved(name: str, spec: ModelEndpointSpec, domain: str) -> View | None:
    served = [entry.name for entry in spec.domains]
    if domain in served:
        return None
    told = f"the Adapter is for domain {domain}, ModelEndpoint {name} serves {', '.join(served)}; add the domain there"
    return View("Pending", "DomainNotServed", told, stalled=True)


def _unfit_candidate(candidate: Candidate) -> View | None:
    if candidate.phase in FIT:
        return None
    if candidate.phase == "Failed":
        return View("Pending", "AdapterFailed", f"Adapter {candidate.name} failed: {candidate.said}", stalled=True)
    told = f": {candidate.said}" if candidate.said else ""
    return View("Pending", "AdapterNotLoaded", f"Adapter {candidate.name} is {candidate.phase or 'new'}, not Loaded yet{told}")


def _unmeasurable(production: Production | None, spec: ShadowTestSpec) -> View | None:
    """Return which metric's service could not be asked. All scorers can be used: those that need a reference get production's answer."""
    known = {variable.name for variable in collector_of(production).env or []}
    for measured in spec.metrics:
        for field, token in measured.scorer.tokens().items() if measured.scorer else ():
            if token not in known:
                told = f"metric {measured.metric.name}: {field} {token} is not among spec.collector.env of the ModelEndpoint"
                return View("Pending", "MetricCannotBeMeasured", f"{told}; add it there, with a secretKeyRef", stalled=True)
    return None


def _too_large(production: Production | None, spec: ShadowTestSpec) -> View | None:
    """Return why the collector could not be told of the test: what it observes anyway lies in the same ConfigMap."""
    scorers = [*spec.metrics, *collector_of(production).observe]
    size = len(canonical_json([one.to_json() for one in scorers]))
    if size <= SETTINGS_BYTES - OTHER_SETTINGS:
        return None
    told = f"the test's metrics and the endpoint's spec.collector.observe have {size / 1024:.0f} KiB"
    advice = (
        f"at most {(SETTINGS_BYTES - OTHER_SETTINGS) // 1024} KiB fit into what a collector is told; create a test with smaller scorers"
    )
    return View("Pending", "TooLarge", f"{told}, {advice}, or observe less", stalled=True)


def _taken(observed: Observed) -> View | None:
    if observed.shadow is None or observed.shadow.ours:
        return None
    return name_conflict(observed.name)


def name_conflict(test: str) -> View:
    """Return that the shadow server's name is somebody else's."""
    told = f"ModelEndpoint {shadow_endpoint(test)} exists and belongs to somebody else; delete it, or give the test another name"
    return View("Pending", "NameConflict", told, stalled=True)


def resolve(observed: Observed, spec: ShadowTestSpec) -> ResolvedTest:
    """Return what the test uses. Only of one that nothing stands against."""
    candidate, production = observed.candidate, observed.production
    assert candidate is not None and production is not None  # noqa: S101, PT018 - unfit() has seen to it
    version, endpoint = candidate.version(), production.spec
    assert version is not None and isinstance(endpoint, ModelEndpointSpec)  # noqa: S101, PT018 - likewise
    below = spec.store or f"{collector_of(production).store.rstrip('/')}/shadowtests"
    return ResolvedTest(
        endpoint=production.name,
        endpoint_uid=production.uid,
        domain=version.domain,
        incumbent=compared(production.incumbent(version.domain)),
        incumbent_switch=production.last_switch(version.domain),
        candidate=compared(version),
        store=f"{below.rstrip('/')}/{observed.name}-{observed.uid[:8]}",
        seed=spec.seed if spec.seed is not None else _seed(observed.uid),
        max_duration=spec.max_duration or _twice(spec.duration),
        guardrails=added(spec.metrics, control=float(spec.control_share) > 0) if spec.standard_guardrails else [],
        allowed_media_hosts=endpoint.gateway.allowed_media_hosts,
        endpoint_spec_digest=endpoint_spec_digest(endpoint),
    )


def collector_of(production: Production | None) -> Collector:
    """Return how the endpoint measures. Only of one that does."""
    spec = production.spec if production else None
    assert isinstance(spec, ModelEndpointSpec) and spec.collector is not None  # noqa: S101, PT018 - unfit() has seen to it
    return spec.collector


def endpoint_spec_digest(spec: ModelEndpointSpec) -> str:
    """
    Return the digest of what shadow servers are a copy of.

    Defaults are left out: a field that a newer operator adds changes no endpoint.
    """
    said = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=MADE_FROM)
    made = said | {"slots": spec.slots(), "rank": spec.rank()}
    return f"sha256:{hashlib.sha256(canonical_json(made)).hexdigest()}"


def _twice(duration: str) -> str:
    hours, rest = divmod(2 * seconds_of(duration), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)


def _seed(uid: str) -> int:
    """Return 48 bits, which every reader of JSON has exactly."""
    return int(hashlib.sha256(uid.encode()).hexdigest()[:12], 16)
