"""Read everything that one decision about a TuningPolicy needs, once."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from graft_api.collect import ObservedReading
from graft_api.dataplane import ENDPOINT_LABEL, RECORD_LABEL, ledger_name
from graft_api.launches import LAUNCHES_KEY, LAUNCHES_RECORD, Launches, launches_name
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.schema import Invalid, parse
from graft_api.tuningpolicy import POLICY_LABEL, TuningPolicySpec, TuningPolicyStatus
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, FINE_TUNE_JOBS, MODEL_ENDPOINTS, TUNING_POLICIES
from graft_operator.modelendpoint.observe import Hearsay, read_ledger, read_spec
from graft_operator.modelendpoint.observed import Record
from graft_operator.reports.policies import PolicyGuard
from graft_operator.shadowtest.observe import reports_of
from graft_operator.tuningpolicy.candidates import in_gate
from graft_operator.tuningpolicy.evaluating import Evaluations
from graft_operator.tuningpolicy.observed import JobView, Observed
from graft_operator.tuningpolicy.reading import Evaluation

Manifest = dict[str, Any]


async def observe(kube: Kube, guard: PolicyGuard, hearsay: Hearsay, evaluations: Evaluations, resource: Manifest) -> Observed:
    """Return what is known about one TuningPolicy."""
    metadata, spec = resource["metadata"], _spec(resource)
    namespace, name = metadata["namespace"], metadata["name"]
    (launches, written), jobs, missing, (endpoint, candidates), (rivals, beside) = await asyncio.gather(
        _launches(kube, namespace, spec),
        kube.list(FINE_TUNE_JOBS, Selection(namespace, labels=POLICY_LABEL)),
        guard.missing(),
        _endpoint(kube, namespace, spec),
        _beside(kube, resource, spec),
    )
    views = [view for job in jobs if (view := JobView.of(job)) is not None]
    ours = [view for view in views if view.policy == name]
    return Observed(
        namespace=namespace,
        name=name,
        generation=metadata["generation"],
        spec=spec,
        status=parse(TuningPolicyStatus, resource.get("status") or {}),
        launches=launches,
        record=written,
        jobs=ours,
        others=[
            view for view in views if view.policy != name and not isinstance(spec, Invalid) and view.endpoint == spec.endpoint_ref.name
        ],
        beside=beside,
        taken=await _taken(kube, Key(namespace, name), launches, ours),
        endpoint=endpoint,
        candidates=candidates,
        rivals=rivals,
        evaluation=await _evaluation(hearsay, evaluations, Key(namespace, name), spec),
        policies_missing=tuple(missing),
        policies_missing_seconds=guard.missing_seconds,
    )


async def _launches(kube: Kube, namespace: str, spec: TuningPolicySpec | Invalid) -> tuple[Launches | None, Record | None]:
    if isinstance(spec, Invalid):
        return None, None
    endpoint = spec.endpoint_ref.name
    return read_launches(await kube.get(CONFIG_MAPS, namespace, launches_name(endpoint)), endpoint)


def read_launches(config_map: Manifest | None, endpoint: str) -> tuple[Launches | None, Record | None]:
    """
    Return what is in an endpoint's record, and what a write must replace; without the document the record says why there is none.

    The record label is what counts, for the policy graft-records lets nobody but the operator set it.
    """
    if config_map is None:
        return None, None
    metadata = config_map["metadata"]
    uid, version, labels = metadata["uid"], metadata["resourceVersion"], metadata.get("labels") or {}
    if (labels.get(RECORD_LABEL), labels.get(ENDPOINT_LABEL)) != (LAUNCHES_RECORD, endpoint):
        return None, Record(uid, version, foreign=True)
    try:
        return parse(Launches, json.loads((config_map.get("data") or {})[LAUNCHES_KEY])), Record(uid, version)
    except (KeyError, ValueError) as error:
        return None, Record(uid, version, str(error)[:500])


def _spec(resource: Manifest) -> TuningPolicySpec | Invalid:
    try:
        return parse(TuningPolicySpec, resource.get("spec"))
    except Invalid as invalid:
        return Invalid([f"spec.{problem}" for problem in invalid.problems])


async def _endpoint(kube: Kube, namespace: str, spec: TuningPolicySpec | Invalid) -> tuple[frozenset[str] | None, dict[str, str]]:
    """Return the domains of the endpoint, and which of them have a candidate."""
    if isinstance(spec, Invalid):
        return None, {}
    name = spec.endpoint_ref.name
    resource, ledger, adapters = await asyncio.gather(
        kube.get(MODEL_ENDPOINTS, namespace, name),
        kube.get(CONFIG_MAPS, namespace, ledger_name(name)),
        kube.list(ADAPTERS, Selection(namespace, fields=f"spec.endpointRef.name={name}")),
    )
    found = read_spec(resource) if resource else None
    if not isinstance(found, ModelEndpointSpec):
        return None, {}
    return frozenset(domain.name for domain in found.domains), in_gate(found, *read_ledger(ledger, name), adapters)


async def _beside(kube: Kube, resource: Manifest, spec: TuningPolicySpec | Invalid) -> tuple[dict[str, str], frozenset[str]]:
    """Return the domains that an older policy launches for, and the names of all other policies of the endpoint that are there."""
    if isinstance(spec, Invalid):
        return {}, frozenset()
    namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
    there = [policy for policy in await kube.list(TUNING_POLICIES, Selection(namespace)) if _is_of(policy, spec.endpoint_ref.name)]
    older = sorted((policy for policy in there if _age(policy) < _age(resource)), key=_age, reverse=True)
    rivals = {domain: policy["metadata"]["name"] for policy in older for domain in _launched_by(policy)}
    return rivals, frozenset(policy["metadata"]["name"] for policy in there) - {name}


def _age(policy: Manifest) -> tuple[str, str]:
    return policy["metadata"]["creationTimestamp"], policy["metadata"]["name"]


def _is_of(policy: Manifest, endpoint: str) -> bool:
    named = ((policy.get("spec") or {}).get("endpointRef") or {}).get("name")
    return named == endpoint and "deletionTimestamp" not in policy["metadata"]


def _launched_by(policy: Manifest) -> list[str]:
    spec = policy["spec"]
    return [domain["name"] for domain in spec.get("domains") or [] if "name" in domain] if spec.get("enabled") else []


async def _taken(kube: Kube, key: Key, launches: Launches | None, jobs: Sequence[JobView]) -> frozenset[str]:
    """Return the names of the policy's launches to be done that somebody else's job has."""
    ours = {(view.name, view.ordinal) for view in jobs}
    recorded = [launch for domain in (launches.domains if launches else []) for launch in domain.launches]
    open_ = [launch for launch in recorded if launch.state == "Intended" and launch.policy == key.name]
    waiting = [launch.job for launch in open_ if (launch.job, launch.ordinal) not in ours]
    found = await asyncio.gather(*(kube.get(FINE_TUNE_JOBS, key.namespace, name) for name in waiting))
    return frozenset(name for name, job in zip(waiting, found, strict=True) if job is not None)


async def _evaluation(hearsay: Hearsay, evaluations: Evaluations, key: Key, spec: TuningPolicySpec | Invalid) -> Evaluation | None:
    if isinstance(spec, Invalid):
        return None
    reading = _reading(hearsay, Key(key.namespace, spec.endpoint_ref.name))
    wanted = any(criterion.observed for domain in spec.domains for criterion in domain.judged_by())
    if wanted and reading is None and hearsay.listening():
        return None  # an operator that has just begun has heard nobody: that is no silence yet
    return await evaluations.of(key, spec, reading)


def _reading(hearsay: Hearsay, endpoint: Key) -> ObservedReading | None:
    """Return what the endpoint's collector counts: of two, while one replaces the other, the newest that counts."""
    return next((report.observed for report in reports_of(hearsay, endpoint) if report.observed is not None), None)
