"""Read everything that one decision needs, once."""

import asyncio
from typing import Any

from graft_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from graft_api.schema import Invalid, parse
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.ownership import is_controlled_by
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, JOBS, PODS
from graft_operator.finetunejob import children
from graft_operator.finetunejob.children import COMPONENT_LABEL, JOB_LABEL, Parent
from graft_operator.finetunejob.observed import Observed, read_job, read_pod, read_run
from graft_operator.reports.policies import PolicyGuard

Manifest = dict[str, Any]


async def observe(kube: Kube, guard: PolicyGuard, resource: Manifest) -> Observed:
    """Return what is known about one FineTuneJob."""
    parent = Parent.of(resource)
    status = parse(FineTuneJobStatus, resource.get("status") or {})
    # Both labels: that is what the admission policies keep others from setting.
    selection = Selection(parent.namespace, labels=f"{JOB_LABEL}={parent.name},{COMPONENT_LABEL}")
    run, jobs, pods, adapter, missing = await asyncio.gather(
        kube.get(CONFIG_MAPS, parent.namespace, children.manifest_name(parent)),
        kube.list(JOBS, selection),
        kube.list(PODS, selection),
        _adapter(kube, parent, status),
        guard.missing(),
    )
    ours = [job for job in jobs if is_controlled_by(job, parent.uid)]
    uids = {job["metadata"]["uid"] for job in ours}
    run = run if run and is_controlled_by(run, parent.uid) else None
    return Observed(
        parent=parent,
        generation=resource["metadata"]["generation"],
        spec=_spec(resource),
        status=status,
        run_uid=run["metadata"]["uid"] if run else None,
        frozen=read_run(run) if run else None,
        jobs=tuple(map(read_job, ours)),
        pods=tuple(pod for pod in map(read_pod, pods) if pod.job_uid in uids),
        adapter=adapter,
        policies_missing=tuple(missing),
        policies_missing_seconds=guard.missing_seconds,
    )


def _spec(resource: Manifest) -> FineTuneJobSpec | Invalid:
    try:
        return parse(FineTuneJobSpec, resource.get("spec"))
    except Invalid as invalid:
        return Invalid([f"spec.{problem}" for problem in invalid.problems])


async def _adapter(kube: Kube, parent: Parent, status: FineTuneJobStatus) -> Manifest | None:
    if status.artifact is None:
        return None
    return await kube.get(ADAPTERS, parent.namespace, children.adapter_name(parent.name, status.artifact))
