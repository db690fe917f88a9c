"""
TuningPolicy: when to train again, by itself, and what.

It creates FineTuneJobs and nothing else. What was launched for an endpoint lies in a record (`launches`), which outlives the policy: a
status that is lost, or a policy that is restored or renamed, launches nothing a second time.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft_api.criteria import DEFAULT_CRITERIA, Criterion
from graft_api.finetunejob import AdapterTarget, Condition, FineTuneJobSpec, Lora, Training
from graft_api.podtemplate import LabelMap, LocalObjectReference
from graft_api.resolve import DOMAINS, DomainDefaults, unsupported, unsupported_in_cluster
from graft_api.schema import Count, Decimal, DnsLabel, Duration, Invalid, Model, ObjectName, Rule, Timestamp, parse

POLICY_LABEL = "graft.dev/tuningpolicy"
"""On the FineTuneJobs that a policy creates. The operator creates and deletes no others (policy graft-operator-writes)."""
ORDINAL_ANNOTATION = "graft.dev/launch-ordinal"
"""On such a job: which launch of its domain it is."""
DECISIONS = 16
"""Per domain that a status tells of."""


class JobTemplateSpec(FineTuneJobSpec):
    """A FineTuneJob's spec; the domain is the policy's, and the Adapter goes to the policy's endpoint unless said otherwise."""

    domain: DnsLabel | None = None  # type: ignore[assignment]  # a template is no job yet
    """Left out, or the domain's own name."""


class JobTemplate(Model):
    """What is launched."""

    labels: LabelMap | None = None
    """Of the FineTuneJob, such as Kueue's queue. Those of graft.dev/ are the operator's."""
    spec: JobTemplateSpec

    rules: ClassVar = (
        Rule(
            cel="!has(self.labels) || self.labels.all(l, !l.startsWith('graft.dev/'))",
            message="labels of graft.dev/ are the operator's",
            check=lambda self: not any(label.startswith("graft.dev/") for label in self.labels or {}),
            field=".labels",
        ),
    )


class PolicyDomain(Model):
    """One domain: when it is trained again, how often at most, and how."""

    name: DnsLabel
    criteria: Annotated[list[Criterion], Field(min_length=1, max_length=8)] | None = None
    """Any one of them is reason enough. Default by domain: dsl, governance and multimodal have some."""
    cooldown: Annotated[str, Duration(ge="1m", le="8760h")] = "1440h"
    """At least between two launches for this endpoint and domain, by whichever policy, from the launch on, however it ends."""
    approval: Literal["Auto", "Manual"] = "Auto"
    """Manual: a launch that is due waits until its ordinal stands in `launchApproved` (`kubectl graft policy launch`)."""
    launch_approved: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """With approval Manual: the ordinal of the launch that may be done. It approves that one and no other."""
    job_template: JobTemplate

    rules: ClassVar = (
        Rule(
            cel=f"has(self.criteria) || self.name in {sorted(DEFAULT_CRITERIA)}",
            message=f"set criteria: only {', '.join(sorted(DEFAULT_CRITERIA))} bring some of their own",
            check=lambda self: self.criteria is not None or self.name in DEFAULT_CRITERIA,
            field=".criteria",
        ),
        Rule(
            cel="!has(self.criteria) || self.criteria.all(c, self.criteria.exists_one(d, d.name == c.name))",
            message="every criterion needs a name of its own",
            check=lambda self: len({criterion.name for criterion in self.criteria or []}) == len(self.criteria or []),
            field=".criteria",
        ),
        Rule(
            cel="!has(self.jobTemplate.spec.domain) || self.jobTemplate.spec.domain == self.name",
            message="the template's domain is the policy's: leave it out",
            check=lambda self: self.job_template.spec.domain in {None, self.name},
            field=".jobTemplate",
        ),
    )

    def judged_by(self) -> list[Criterion]:
        """Return the criteria that count: its own, or the domain's."""
        return list(self.criteria if self.criteria is not None else DEFAULT_CRITERIA[self.name])

    def job(self, endpoint: str) -> FineTuneJobSpec:
        """
        Return the spec of a job that is launched.

        The least number of examples is written out, so that the job itself refuses too little data whatever a later version's defaults
        are. Raises `Invalid`.
        """
        spec = parse(FineTuneJobSpec, self.job_template.spec.to_json() | {"domain": self.name})
        least = spec.dataset.min_examples or DOMAINS.get(self.name, DomainDefaults()).min_examples
        target = spec.adapter or AdapterTarget(endpoint_ref=LocalObjectReference(name=endpoint))
        return spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"min_examples": least}), "adapter": target})

    def template_problems(self, endpoint: str) -> list[str]:
        """Return why a job could not run, as sentences: better before its launch than after, which begins a cooldown."""
        try:
            job = self.job(endpoint)
        except Invalid as invalid:
            return [f"jobTemplate.spec.{problem}" for problem in invalid.problems]
        return [f"jobTemplate.{problem}" for problem in unsupported(job) + unsupported_in_cluster(job)]


def _adapters_fit(spec: "TuningPolicySpec") -> bool:
    targets = [domain.job_template.spec.adapter for domain in spec.domains]
    return all(target is None or target.endpoint_ref.name == spec.endpoint_ref.name for target in targets)


class TuningPolicySpec(Model):
    """Which endpoint is looked at, and what is done when it gets worse. Off unless it is enabled: then it only says what it sees."""

    endpoint_ref: LocalObjectReference
    enabled: bool = False
    """False: criteria are read and shown, nothing is launched."""
    interval: Annotated[str, Duration(ge="10s", le="24h")] = "5m"
    """Between two readings of the criteria."""
    max_concurrent: Annotated[int, Field(ge=1, le=16)] = 1
    """Jobs of this policy that have not ended. A launch beyond waits."""
    history_limit: Annotated[int, Field(ge=0, le=16)] = 8
    """Jobs of this policy that have ended and stay; older ones are deleted, their Adapters and artifacts never."""
    domains: Annotated[list[PolicyDomain], Field(min_length=1, max_length=8)]

    rules: ClassVar = (
        Rule(
            cel="self.domains.all(d, self.domains.exists_one(e, e.name == d.name))",
            message="every domain is listed once",
            check=lambda self: len({domain.name for domain in self.domains}) == len(self.domains),
            field=".domains",
        ),
        Rule(
            cel="self.domains.all(d, !has(d.jobTemplate.spec.adapter) ||"
            " d.jobTemplate.spec.adapter.endpointRef.name == self.endpointRef.name)",
            message="jobs make Adapters of the policy's own endpoint: leave jobTemplate.spec.adapter.endpointRef at endpointRef",
            check=_adapters_fit,
            field=".domains",
        ),
    )


Met = Literal["Met", "NotMet", "Unknown"]


class CriterionStatus(Model):
    """A criterion as it was last read."""

    name: DnsLabel
    result: Met
    """Unknown launches nothing."""
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    low: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Of the 95 % interval (Wilson). Absent: there are no counts."""
    high: Annotated[float, Field(allow_inf_nan=False)] | None = None
    samples: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    coverage: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Share of the window in which data were collected."""
    sentence: Annotated[str, Field(max_length=512)]
    """With number, bound and threshold."""


Verdict = Literal["Launched", "NotMet", "Unknown", "Disabled", "Cooldown", "Busy", "CandidateInGate", "AwaitingApproval", "Refused"]
"""
What was decided for a domain. Cooldown, Busy, CandidateInGate and AwaitingApproval: a criterion is met, and something else keeps it;
Refused: the job could not be launched.
"""


class DecisionStatus(Model):
    """What was decided, once or several times in a row."""

    decision: Verdict
    message: Annotated[str, Field(max_length=1024)]
    """The last time."""
    since: Timestamp
    at: Timestamp
    """The last time."""
    count: Annotated[int, Field(ge=1)]
    ordinal: Annotated[int, Field(ge=1)] | None = None
    """Of the launch."""


class LaunchStatus(Model):
    """A launch of a domain."""

    ordinal: Annotated[int, Field(ge=1)]
    policy: ObjectName | None = None
    """That launched: a cooldown counts from other policies' launches, too."""
    at: Timestamp
    job: ObjectName
    created: bool
    """False: it is recorded, and the job is not there yet."""


class ResolvedTemplate(Model):
    """What a job of this domain would use after domain and method defaults."""

    method: Literal["qlora", "lora", "full"]
    lora: Lora | None = None
    training: Training
    min_examples: Count
    """Of training rows. The job itself counts them, and ends as Failed with fewer."""
    holdout_fraction: Annotated[str, Decimal()] | None = None
    validation_fraction: Annotated[str, Decimal()]
    precision: Literal["bfloat16", "float16", "float32", "nf4"]
    thresholds: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=16)]


class PolicyDomainStatus(Model):
    """One domain."""

    name: DnsLabel
    decision: Verdict | None = None
    """The last."""
    criteria: Annotated[list[CriterionStatus], Field(max_length=8)] = Field(default_factory=list)
    last_launch: LaunchStatus | None = None
    not_before: Timestamp | None = None
    """When the cooldown ends."""
    awaiting: Annotated[int, Field(ge=1)] | None = None
    """The launch that waits for approval."""
    decisions: Annotated[list[DecisionStatus], Field(max_length=DECISIONS)] = Field(default_factory=list)
    """Newest last."""
    resolved: ResolvedTemplate | None = None


PolicyPhase = Literal["Pending", "Disabled", "Watching", "AwaitingApproval", "Degraded", "Failed"]


class TuningPolicyStatus(Model):
    """What the operator saw and decided. Never an input."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    phase: PolicyPhase | None = None
    evaluated_at: Timestamp | None = None
    running: Count | None = None
    """Jobs of this policy that have not ended."""
    launches: Count | None = None
    """Of its domains, ever, by whichever policy."""
    domains: Annotated[list[PolicyDomainStatus], Field(max_length=8)] | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None


class TuningPolicy(Model):
    """Creates FineTuneJobs when production gets worse."""

    api_version: Literal["graft.dev/v1alpha1"]
    kind: Literal["TuningPolicy"]
    metadata: dict[str, Any]
    spec: TuningPolicySpec
    rules: ClassVar = (
        Rule(
            cel="self.metadata.name.size() <= 40 && !self.metadata.name.contains('.')",
            message="the name is part of the names of jobs: at most 40 characters, no dots",
            check=lambda self: len(self.metadata.get("name", "")) <= 40 and "." not in self.metadata.get("name", ""),
        ),
    )
    status: TuningPolicyStatus | None = None
