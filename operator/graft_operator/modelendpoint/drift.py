"""
Pure: the Jobs that measure drift, what they are told, and what stands around them.

A Job is made once, when the ledger says that its attempt is under way, and deleted once the ledger says that it is not. Until then it
repeats what it found: a report that was lost with an operator comes again. It has no ttl, which would take a result away that nobody
has heard.
"""

from collections.abc import Iterator

from graft_api import dataplane as plane
from graft_api import serverpod as pod_parts
from graft_api.drift import DRIFT, PRINCIPLES_DIRECTORY, PRINCIPLES_KEY, TASK_VARIABLE, DriftTask, Moment, drift_account
from graft_api.ledger import Gate, Ledger, LedgerDomain
from graft_api.modelendpoint import Domain, ModelEndpointSpec
from graft_api.schema import canonical_json, seconds_of
from graft_operator.modelendpoint import templates
from graft_operator.modelendpoint.candidates import seen
from graft_operator.modelendpoint.companions import Companions
from graft_operator.modelendpoint.observed import Observed
from graft_operator.modelendpoint.parent import Manifest, Parent, Platform
from graft_operator.promotion import drifting
from graft_operator.promotion.seen import DriftJob

RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}}


def concerns(spec: ModelEndpointSpec, ledger: Ledger) -> bool:
    """Whether drift is measured for a domain, or for a version that came by a policy of before."""
    gates = [entry.gate for domain in spec.domains if (entry := ledger.domain(domain.name)) and entry.gate]
    return spec.shadow is None and spec.collector is not None and (spec.drifts() or any(gate.policy.drift for gate in gates))


def drift_children(parent: Parent, spec: ModelEndpointSpec) -> Companions:
    """
    Return what stands around the Jobs. It stays when nobody asks for drift any more, and goes with the endpoint: an account without rights
    and a policy that lets nobody in are nothing to be rid of.
    """
    account, ours = service_account(parent), account_of(parent, spec) == drift_account(parent.name)
    return Companions(wanted=[*([account] if ours else []), network_policy(parent)], unwanted=[] if ours else [account])


def jobs_wanted(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger, platform: Platform) -> list[Manifest]:
    """Return the Jobs of attempts that are under way in the ledger and were never made."""
    there = {job.name for job in observed.drift_jobs}
    tasks = {_name(observed, wanted, entry, gate, moment): (entry, gate, moment) for wanted, entry, gate, moment in _unmade(spec, ledger)}
    return [
        drift_job(observed.parent, spec, name, task_of(observed.parent, spec, *task), platform)
        for name, task in tasks.items()
        if name not in there and spec.collector is not None
    ]


def jobs_over(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger) -> list[DriftJob]:
    """Return the Jobs that no attempt which is under way needs: it is over, or its gate is, or its domain."""
    needed = {(_name(observed, *way), drifting.record(way[2], way[3]).job) for way in _ways(spec, ledger)}
    return [job for job in observed.drift_jobs if not job.deleting and not {(job.name, job.uid), (job.name, None)} & needed]


def task_of(parent: Parent, spec: ModelEndpointSpec, entry: LedgerDomain, gate: Gate, moment: Moment) -> DriftTask:
    """Return what a Job is told. The incumbent is what serves before the activation, and what is held back after; a trial asks neither."""
    assert spec.collector is not None and gate.policy.drift is not None  # noqa: S101, PT018 - else nothing is asked
    held = entry.previous if moment is Moment.AFTER else entry.active
    before = drifting.record(gate, Moment.BEFORE).measured if moment is Moment.AFTER else None
    return DriftTask(
        endpoint=parent.name,
        domain=entry.name,
        gate=gate.number,
        adapter_uid=gate.adapter_uid,
        moment=moment,
        attempt=drifting.record(gate, moment).attempt(),
        server=f"{plane.server_service(parent.name)}.{parent.namespace}.svc:{plane.DOOR_PORT}",
        token_file=plane.DOOR_TOKEN_FILE,
        incumbent=plane.version_name(entry.name, held.digest) if held else plane.BASE_NAME,
        candidate=plane.version_name(entry.name, gate.version.digest),
        policy=gate.policy.drift,
        store=f"{spec.collector.store.rstrip('/')}/drift/{entry.name}",
        before=before.document if before else None,
    )


def drift_job(parent: Parent, spec: ModelEndpointSpec, name: str, task: DriftTask, platform: Platform) -> Manifest:
    """
    Build the Job of one attempt. A pod that a node takes with it is replaced; one that fails ends the attempt, for the ledger counts these
    and knows how long to wait: a Job that tried again by itself would ask and pay for more than the policy says.
    """
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": parent.metadata(name, DRIFT),
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds_of(task.policy.deadline),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]},
            "template": {"metadata": {"labels": parent.labels(DRIFT)}, "spec": _pod(parent, spec, task, platform)},
        },
    }


def account_of(parent: Parent, spec: ModelEndpointSpec) -> str:
    """Return the service account of drift Jobs: the user's for workload identity, else graft's."""
    credentials = spec.collector_credentials()
    return (credentials.service_account_name if credentials else None) or drift_account(parent.name)


def service_account(parent: Parent) -> Manifest:
    """Build the account. It has no rights: all that it is for is to be told from others by doors and the operator."""
    metadata = parent.metadata(drift_account(parent.name), DRIFT)
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": False}


def network_policy(parent: Parent) -> Manifest:
    """Let nobody in: a drift Job has no port."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": parent.metadata(f"{parent.name}-drift", DRIFT),
        "spec": {"podSelector": {"matchLabels": parent.selector(DRIFT)}, "policyTypes": ["Ingress"]},
    }


def _pod(parent: Parent, spec: ModelEndpointSpec, task: DriftTask, platform: Platform) -> Manifest:
    user, policy = pod_parts.NON_ROOT, task.policy
    # Optional: a pod that waits for its volume says nothing, one that finds no principles says so at once.
    principles = {"name": policy.principles, "items": [{"key": PRINCIPLES_KEY, "path": PRINCIPLES_KEY}], "optional": True}
    pod = templates.restricted_pod(account_of(parent, spec), user, user) | {
        "restartPolicy": "Never",
        "containers": [_container(parent, spec, task, platform)],
        "volumes": [
            {"name": "graft-tmp", "emptyDir": {}},
            {"name": "graft-principles", "configMap": principles},
            templates.token_volume("graft-door", plane.door_audience(parent.name)),
            pod_parts.reports_volume(),
            pod_parts.credentials_volume(spec.collector_credentials()),
        ],
    }
    selector = spec.collector.node_selector if spec.collector else None
    optional = {"nodeSelector": selector, "imagePullSecrets": templates.pull_secrets(spec)}
    return pod | {key: value for key, value in optional.items() if value}


def _container(parent: Parent, spec: ModelEndpointSpec, task: DriftTask, platform: Platform) -> Manifest:
    built = pod_parts.container("drift", DRIFT, templates.sidecars_of(parent, platform))
    told = pod_parts.variables({TASK_VARIABLE: canonical_json(task.to_json()).decode()})
    token = task.policy.embeddings.token_env
    theirs = [item.to_json() for item in (spec.collector and spec.collector.env) or [] if item.name == token]
    return built | {
        "env": [*built["env"], *told, *theirs],
        "resources": RESOURCES,
        "volumeMounts": [
            pod_parts.mount("graft-principles", PRINCIPLES_DIRECTORY, read_only=True),
            pod_parts.mount("graft-door", plane.DOOR_TOKEN_FILE.rpartition("/")[0], read_only=True),
            pod_parts.mount("graft-reports", plane.REPORTS_DIRECTORY, read_only=True),
            pod_parts.mount("graft-credentials", plane.CREDENTIALS_DIRECTORY, read_only=True),
            pod_parts.tmp("drift"),
        ],
    }


Way = tuple[Domain, LedgerDomain, Gate, Moment]
"""An attempt that is under way."""


def _ways(spec: ModelEndpointSpec, ledger: Ledger) -> Iterator[Way]:
    for wanted in spec.domains:
        entry = ledger.domain(wanted.name)
        gate = entry.gate if entry else None
        moment = drifting.under_way(gate) if gate else None
        if entry is not None and gate is not None and moment is not None:
            yield wanted, entry, gate, moment


def _unmade(spec: ModelEndpointSpec, ledger: Ledger) -> Iterator[Way]:
    return (way for way in _ways(spec, ledger) if drifting.record(way[2], way[3]).job is None)


def _name(observed: Observed, wanted: Domain, entry: LedgerDomain, gate: Gate, moment: Moment) -> str:
    return drifting.job_name(seen(observed, wanted, entry), gate, moment)
