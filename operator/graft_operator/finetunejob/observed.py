"""What one pass knows, as values; reading it is `observe.py`, judging it `decide.py`."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from graft_api import resolve
from graft_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus, Phase
from graft_api.reports import TerminalResult
from graft_api.run import MANIFEST_KEY, RunManifest
from graft_api.schema import Invalid, parse
from graft_operator.engine.ownership import controller_uid
from graft_operator.finetunejob.children import COMPONENT_LABEL, LAUNCH_ANNOTATION, Parent

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ContainerEnd:
    """A container that terminated."""

    name: str
    exit_code: int
    reason: str
    message: str

    def last_word(self) -> TerminalResult | None:
        """Return the terminal result that it left, if it left one."""
        try:
            return parse(TerminalResult, json.loads(self.message))
        except (json.JSONDecodeError, Invalid):
            return None


@dataclass(frozen=True)
class Pod:
    """A pod of one of our Jobs."""

    name: str
    uid: str
    job_uid: str
    phase: str
    created_at: str
    ends: tuple[ContainerEnd, ...]
    running: str | None
    """Name of the container that runs."""
    waiting: str
    """Why no container runs yet, in the cluster's words."""


@dataclass(frozen=True)
class Job:
    """One of our Jobs."""

    name: str
    uid: str
    launch: int
    """0 for the report Job."""
    end: Literal["Complete", "Failed"] | None
    end_reason: str
    end_message: str
    suspended: bool
    deleting: bool
    failures: int
    has_ttl: bool
    started_at: str | None
    ended_at: str | None


@dataclass(frozen=True)
class Observed:
    """Everything that one decision is made from."""

    parent: Parent
    generation: int
    spec: FineTuneJobSpec | Invalid
    """As it is now."""
    status: FineTuneJobStatus
    run_uid: str | None
    """uid of the run manifest's ConfigMap, if it exists and is ours."""
    frozen: RunManifest | None = None
    """The run manifest."""
    jobs: tuple[Job, ...] = ()
    pods: tuple[Pod, ...] = ()
    adapter: Manifest | None = None
    policies_missing: tuple[str, ...] = ()
    policies_missing_seconds: float = 0.0

    def running_spec(self) -> FineTuneJobSpec | Invalid:
        """Return what the run goes by: frozen, but for the few fields that may change while it runs."""
        if self.frozen is None:
            return self.spec
        return self.frozen.spec if isinstance(self.spec, Invalid) else resolve.with_live_fields(self.frozen.spec, self.spec)

    def with_child(self, child: Manifest) -> "Observed":
        """Return what is known with a child in it that was just created."""
        match child["kind"]:
            case "ConfigMap":
                return replace(self, run_uid=child["metadata"]["uid"], frozen=read_run(child))
            case "Job":
                return replace(self, jobs=(*self.jobs, read_job(child)))
            case "Adapter":
                return replace(self, adapter=child)
            case kind:
                raise AssertionError(f"{kind} is no child of a FineTuneJob")

    def launch(self, number: int) -> Job | None:
        """Return the Job of a launch."""
        return next((job for job in self.jobs if job.launch == number), None)

    def report_job(self) -> Job | None:
        """Return the Job that reads the run folder."""
        return next((job for job in self.jobs if job.launch == 0), None)

    def pods_of(self, job: Job) -> list[Pod]:
        """Return a Job's pods, newest first."""
        return sorted((pod for pod in self.pods if pod.job_uid == job.uid), key=lambda pod: (pod.created_at, pod.uid), reverse=True)


@dataclass(frozen=True)
class Settings:
    """What the operator brings to a decision."""

    trainer_image: str
    pull_policy: str
    reports_url: str


@dataclass(frozen=True)
class View:
    """Phase with the sentence that explains it."""

    phase: Phase
    reason: str
    message: str
    extra: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Conditions beyond the phase's own row: status, reason, message."""


def read_run(config_map: Manifest) -> RunManifest:
    """Read the frozen spec."""
    return parse(RunManifest, json.loads(config_map["data"][MANIFEST_KEY]))


def read_pod(pod: Manifest) -> Pod:
    """Read the part of a pod that decisions use."""
    status = pod.get("status", {})
    states = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    ends = [(s["name"], s["state"]["terminated"]) for s in states if "terminated" in s.get("state", {})]
    scheduled = next((c for c in status.get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False"), None)
    waits = [s["state"]["waiting"] for s in states if "waiting" in s.get("state", {})]
    told = [f"{w.get('reason', '')}: {w.get('message', '')}".strip(": ") for w in waits if w.get("reason") != "PodInitializing"]
    return Pod(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        job_uid=controller_uid(pod),
        phase=status.get("phase", "Pending"),
        created_at=pod["metadata"]["creationTimestamp"],
        ends=tuple(ContainerEnd(n, e.get("exitCode", -1), e.get("reason", ""), e.get("message", "")) for n, e in ends),
        running=next((s["name"] for s in states if "running" in s.get("state", {})), None),
        waiting=f"Unschedulable: {scheduled.get('message', '')}" if scheduled else next(iter(told), ""),
    )


def read_job(job: Manifest) -> Job:
    """Read the part of a Job that decisions use."""
    meta, spec, status = job["metadata"], job["spec"], job.get("status", {})
    ended = next((c for c in status.get("conditions", []) if c["type"] in {"Complete", "Failed"} and c["status"] == "True"), None)
    return Job(
        name=meta["name"],
        uid=meta["uid"],
        launch=int(meta.get("annotations", {}).get(LAUNCH_ANNOTATION, "0")) if meta["labels"].get(COMPONENT_LABEL) == "trainer" else 0,
        end=ended["type"] if ended else None,
        end_reason=ended.get("reason", "") if ended else "",
        end_message=ended.get("message", "") if ended else "",
        suspended=bool(spec.get("suspend")),
        deleting="deletionTimestamp" in meta,
        failures=status.get("failed", 0),
        has_ttl=spec.get("ttlSecondsAfterFinished") is not None,
        started_at=status.get("startTime"),
        ended_at=status.get("completionTime") or (ended or {}).get("lastTransitionTime"),
    )
