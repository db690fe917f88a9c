"""Read everything that one decision needs, once."""

import asyncio
from typing import Any

from graft_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from graft_api.schema import Invalid, parse
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, JOBS, PODS
from graft_operator.finetunejob import children
from graft_operator.finetunejob.children import JOB_LABEL, Parent
from graft_operator.finetunejob.observed import Observed, read_job, read_pod
from graft_operator.reports.policies import PolicyGuard

Manifest = dict[str, Any]


async def observe(kube: Kube, guard: PolicyGuard, resource: Manifest) -> Observed:
    """Return what is known about one FineTuneJob."""
    parent = Parent.of(resource)
    status = parse(FineTuneJobStatus, resource.get("status") or {})
    selection = Selection(parent.namespace, labels=f"{JOB_LABEL}={parent.name}")
    run, jobs, pods, adapter, missing = await asyncio.gather(
        kube.get(CONFIG_MAPS, parent.namespace, children.manifest_name(parent)),
        kube.list(JOBS, selection),
        kube.list(PODS, selection),
        _adapter(kube, parent, status),
        guard.missing(),
    )
    ours = [job for job in jobs if is_controlled_by(job, parent.uid)]
    uids = {job["metadata"]["uid"] for job in ours}
    return Observed(
        parent=parent,
        generation=resource["metadata"]["generation"],
        deleting="deletionTimestamp" in resource["metadata"],
        spec=_spec(resource),
        status=status,
        created_at=resource["metadata"]["creationTimestamp"],
        run_uid=run["metadata"]["uid"] if run and is_controlled_by(run, parent.uid) else None,
        jobs=tuple(map(read_job, ours)),
        pods=tuple(pod for pod in map(read_pod, pods) if pod.job_uid in uids),
        adapter=adapter,
        policies_missing=tuple(missing),
    )


def is_controlled_by(resource: Manifest, uid: str) -> bool:
    """Whether an object's controller is the one with this uid: labels and names can be copied by anybody."""
    owners = resource["metadata"].get("ownerReferences", [])
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)


def _spec(resource: Manifest) -> FineTuneJobSpec | Invalid:
    try:
        return parse(FineTuneJobSpec, resource.get("spec"))
    except Invalid as invalid:
        return Invalid([f"spec.{problem}" for problem in invalid.problems])


async def _adapter(kube: Kube, parent: Parent, status: FineTuneJobStatus) -> Manifest | None:
    if status.artifact is None:
        return None
    return await kube.get(ADAPTERS, parent.namespace, children.adapter_name(parent.name, status.artifact))
