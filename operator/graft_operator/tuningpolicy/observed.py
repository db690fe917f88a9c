"""What is known about one TuningPolicy: values that a decision is made from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graft_api.health import TERMINAL
from graft_api.launches import Launch, Launches
from graft_api.schema import DNS_LABEL_PATTERN, Invalid
from graft_api.tuningpolicy import ORDINAL_ANNOTATION, POLICY_LABEL, TuningPolicySpec, TuningPolicyStatus
from graft_operator.modelendpoint.observed import Record
from graft_operator.tuningpolicy.reading import Evaluation

Manifest = dict[str, Any]

_ORDINAL = "[1-9][0-9]{0,5}"


@dataclass(frozen=True)
class JobView:
    """A FineTuneJob that a policy launched."""

    name: str
    uid: str
    policy: str
    endpoint: str
    domain: str
    ordinal: int
    created_at: str
    ended: bool
    deleting: bool = False

    @classmethod
    def of(cls, resource: Manifest) -> "JobView | None":
        """Read it; None for one that is no policy's launch."""
        metadata, spec = resource["metadata"], resource.get("spec") or {}
        policy = (metadata.get("labels") or {}).get(POLICY_LABEL, "")
        ordinal = (metadata.get("annotations") or {}).get(ORDINAL_ANNOTATION, "")
        endpoint = ((spec.get("adapter") or {}).get("endpointRef") or {}).get("name")
        # Whoever creates jobs may label them so, and with anything.
        marked = re.fullmatch(DNS_LABEL_PATTERN, policy) and re.fullmatch(_ORDINAL, ordinal)
        if not (marked and endpoint and spec.get("domain")):
            return None
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            policy=policy,
            endpoint=endpoint,
            domain=spec["domain"],
            ordinal=int(ordinal),
            created_at=metadata["creationTimestamp"],
            ended=(resource.get("status") or {}).get("phase") in TERMINAL,
            deleting="deletionTimestamp" in metadata,
        )


@dataclass(frozen=True)
class Observed:
    """Everything that one decision needs."""

    namespace: str
    name: str
    generation: int
    spec: TuningPolicySpec | Invalid
    status: TuningPolicyStatus
    launches: Launches | None = None
    """The record of the endpoint. Absent: there is none, or it cannot be read."""
    record: Record | None = None
    """What a write of it must replace."""
    jobs: Sequence[JobView] = ()
    """Of this policy, for whatever endpoint."""
    others: Sequence[JobView] = ()
    """For the endpoint, of other policies, also of those that are gone."""
    beside: frozenset[str] = frozenset()
    """Other policies of the endpoint: what they have begun they complete themselves."""
    taken: frozenset[str] = frozenset()
    """Names of recorded launches of this policy that somebody else's FineTuneJob has."""
    endpoint: frozenset[str] | None = None
    """Domains of the endpoint. None: there is none, or its spec cannot be read."""
    candidates: Mapping[str, str] = field(default_factory=dict)
    """Domains with a candidate that is on its way already or waits for its turn, in words."""
    rivals: Mapping[str, str] | None = None
    """Domains of this policy that an older policy launches for, and which."""
    evaluation: Evaluation | None = None
    """None: the criteria could not be read yet."""
    policies_missing: Sequence[str] = ()
    policies_missing_seconds: float = 0.0

    def job(self, launch: Launch) -> JobView | None:
        """Return the job of a launch, of whichever policy."""
        wanted = (launch.policy, launch.job, launch.ordinal)
        return next((job for job in (*self.jobs, *self.others) if (job.policy, job.name, job.ordinal) == wanted), None)

    def known_launches(self) -> Launches:
        """Return the record; without one, what the jobs of all policies tell of it: it may have been deleted, or not restored."""
        assert isinstance(self.spec, TuningPolicySpec)  # noqa: S101 - else nobody knows of which endpoint
        return self.launches if self.launches is not None else adopt(self.spec.endpoint_ref.name, (*self.jobs, *self.others))

    def running(self) -> int:
        """Return how many jobs have not ended. A launch that is recorded and has no job yet is completed before any other is judged."""
        return sum(not job.ended for job in self.jobs)

    def with_record(self, launches: Launches, record: Record) -> "Observed":
        """Return what is known after the record was written."""
        return replace(self, launches=launches, record=record)

    def with_job(self, job: JobView) -> "Observed":
        """Return what is known after a job was made."""
        return replace(self, jobs=(*(known for known in self.jobs if known.name != job.name), job))


def adopt(endpoint: str, jobs: Sequence[JobView]) -> Launches:
    """Return a record of the jobs that are there: restored ones are as old as their restoring, so that a cooldown is never too short."""
    launches = Launches(endpoint=endpoint)
    ours = [job for job in jobs if job.endpoint == endpoint]
    # Of two of one ordinal, of which one was forged or comes from another cluster, the newer one counts.
    for job in sorted(ours, key=lambda job: (job.domain, job.ordinal, job.created_at)):
        launch = Launch(
            ordinal=job.ordinal, policy=job.policy, at=job.created_at, job=job.name, why="adopted from the job", state="Created"
        )
        launches = launches.with_domain(launches.domain(job.domain).with_launch(launch))
    return launches
