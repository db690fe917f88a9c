"""
ShadowTest: an adapter held against what serves, on production's own requests, with a verdict that is read once.

What follows from others stays unset in the spec (the incumbent from what serves, the store from the endpoint) and is shown in
`status.resolved`, as it was when the test began.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft_api.collect import METRICS_BY_NAME, Content, MeasuredMetric, Segments
from graft_api.comparison import Exclusion, Limits, Metric, MetricVerdict
from graft_api.finetunejob import Condition, OutputUri, StoreUri
from graft_api.measures import Measure
from graft_api.podtemplate import LocalObjectReference, Resources, StringMap, Toleration
from graft_api.routes import MediaHost, VersionName
from graft_api.schema import Count, Decimal, Digest, DnsLabel, Duration, Model, ObjectName, Rule, Timestamp, Uid, seconds_of

TEST_LABEL = "graft.dev/shadowtest"
"""On the ModelEndpoint that a test makes. Such endpoints are written by the operator alone (policy graft-shadows)."""


def shadow_endpoint(test: str) -> str:
    """Return the ModelEndpoint that a test makes: the shadow server."""
    return f"{test}-shadow"


EVIDENCE_KEY = "evidence.json"
"""In the ConfigMap of `evidence_record`: canonical JSON of spec, resolved, comparison and outcome."""


def evidence_record(test: str, uid: str) -> str:
    """Return the ConfigMap that holds what a verdict was read from. It is written before the verdict, and goes with its test."""
    return f"{test}-evidence-{uid[:8]}"


class ShadowServer(Model):
    """The servers that answer copies: as production's are started, but for what is said here."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    resources: Resources | None = None
    """Default: as in production."""
    node_selector: StringMap | None = None
    """Default: as in production."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = None
    """Default: as in production."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests that the collector asks at the same time, of all replicas together."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    """Of one answer. A later one is the version's outcome, as an error is."""
    warm_up_requests: Count = 20
    """After a start: requests whose times are not compared."""
    keep: bool = False
    """Leave the shadow server when the test is over, for a look at it. It goes with the ShadowTest."""


MAX_DURATION = Rule(
    cel="!has(self.maxDuration) || duration(self.maxDuration) >= duration(self.duration)",
    message="maxDuration is at least duration",
    check=lambda self: self.max_duration is None or seconds_of(self.max_duration) >= seconds_of(self.duration),
    field=".maxDuration",
)


class ShadowTestSpec(Model):
    """Which adapter, for how long, and what it must show. Immutable: another question is another test."""

    adapter_ref: LocalObjectReference
    """The candidate. It names its endpoint and domain; the incumbent is what serves the domain when the test begins."""
    duration: Annotated[str, Duration(ge="1m", le="2160h")] = "168h"
    """Of observed time: hours without a collector do not count."""
    max_duration: Annotated[str, Duration(ge="1m", le="4320h")] | None = None
    """A test that has too little at its horizon goes on until then. Default: twice `duration`."""
    share: Annotated[str, Decimal(gt=0, le=1)] = "1"
    """Of conversations."""
    control_share: Annotated[str, Decimal(ge=0, le=1)] = "0.2"
    """Of these: both versions are asked on the shadow server, which is how latency and server errors are compared."""
    metrics: Annotated[list[MeasuredMetric], Field(min_length=1, max_length=16)]
    standard_guardrails: bool = True
    """
    Adds guardrails where no metric has such a measure: refusals at most 2 points more and, with a control share, server errors at
    most 0.5 points more and the 95th percentile of latency at most 10 % longer. That of the time to the first token is added for
    information: where production does not stream there is none, and a guardrail that is not measured can never pass.
    """
    limits: Limits = Field(default_factory=Limits)
    content: Content = Content.REDACTED
    """What is kept of requests and answers."""
    segments: Segments = Field(default_factory=Segments)
    store: OutputUri | None = None
    """
    s3://bucket/folder, with the credentials of the endpoint's collector; the pairs lie in `<name>-<uid>` below it.

    Default: `shadowtests` below the collector's store.
    """
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """Of sampling and of the order in which versions are asked. Default: from the test's uid. The bound: numbers that JSON has exactly."""
    shadow: ShadowServer = Field(default_factory=ShadowServer)

    rules: ClassVar = (
        MAX_DURATION,
        METRICS_BY_NAME,
        Rule(
            cel="self.metrics.exists(m, m.metric.role != 'Informational')",
            message="at least one metric must decide: give it the role Primary or Guardrail",
            check=lambda self: any(measured.metric.role != "Informational" for measured in self.metrics),
            field=".metrics",
        ),
        Rule(
            cel="double(self.controlShare) > 0.0 || !self.metrics.exists(m, has(m.measure) &&"
            " m.measure in ['Latency', 'TimeToFirstToken', 'ServerError'])",
            message="latency, time to first token and server errors come from the control share, which is 0",
            check=lambda self: (
                float(self.control_share) > 0
                or not any(measured.measure in {"Latency", "TimeToFirstToken", "ServerError"} for measured in self.metrics)
            ),
            field=".controlShare",
        ),
        Rule(
            cel="double(self.controlShare) > 0.0 ||"
            " (has(self.limits) && has(self.limits.requireInstrument) && !self.limits.requireInstrument)",
            message="a pass needs the instrument check, which comes from the control share, which is 0: set a controlShare above 0,"
            " or limits.requireInstrument: false to pass without",
            check=lambda self: float(self.control_share) > 0 or not self.limits.require_instrument,
            field=".controlShare",
        ),
        Rule(
            cel="!has(self.store) || self.store.startsWith('s3://')",
            message="must be s3://bucket/folder",
            check=lambda self: self.store is None or self.store.startswith("s3://"),
            field=".store",
        ),
    )
    transition_rules: ClassVar = ({"rule": "self == oldSelf", "message": "a ShadowTest is immutable; create a new one"},)


ShadowPhase = Literal["Pending", "Queued", "Starting", "Running", "Passed", "Failed", "Inconclusive", "Error"]


class ComparedVersion(Model):
    """One side of a test."""

    version: VersionName
    """`base` for the base model."""
    adapter: ObjectName | None = None
    digest: Digest | None = None


class AddedGuardrail(Model):
    """A standard guardrail that the test has beside its spec's metrics."""

    metric: Metric
    measure: Measure


class ResolvedTest(Model):
    """What the test uses: as it would be while it is queued, the frozen truth from its start on."""

    endpoint: ObjectName
    endpoint_uid: Uid
    domain: DnsLabel
    incumbent: ComparedVersion
    incumbent_switch: Count | None = None
    """
    Ordinal of the domain's last switch in the ledger, 0 before the first: who is switched back is not as if it had never gone. Absent
    in tests that an older operator started: their versions alone are compared.
    """
    candidate: ComparedVersion
    store: StoreUri
    """Of this test alone."""
    seed: Count
    max_duration: Annotated[str, Field(max_length=24)]
    guardrails: Annotated[list[AddedGuardrail], Field(max_length=4)] = Field(default_factory=list)
    """The standard ones that are measured beside the spec's metrics."""
    allowed_media_hosts: Annotated[list[MediaHost], Field(max_length=32)] = Field(default_factory=list)
    """The endpoint's, from which the shadow server may fetch, too."""
    endpoint_spec_digest: Digest
    """Of what the shadow server was made from: base model, server and keys of the endpoint, as they were."""


class VerdictStatus(Model):
    """The verdict, as it was read, once."""

    outcome: Literal["Passed", "Failed", "Inconclusive", "Error"]
    sentence: Annotated[str, Field(max_length=512)]
    reasons: Annotated[list[Annotated[str, Field(max_length=320)]], Field(max_length=64)] = Field(default_factory=list)
    metrics: Annotated[list[MetricVerdict], Field(max_length=64)] = Field(default_factory=list)
    exclusions: Annotated[list[Exclusion], Field(max_length=64)] = Field(default_factory=list)
    read_at: Timestamp
    observed_hours: Annotated[float, Field(ge=0)]
    commit: Count
    """Of the pairs: the last one that the verdict knows of."""
    attempt: Annotated[int, Field(ge=1)] | None = None
    """As `status.attempt`. Absent in verdicts that an older operator read."""
    evidence_digest: Digest
    """
    Sha256 of the canonical JSON of spec, resolved, comparison and outcome: what approvers approve.

    It lies as `evidence.json` in ConfigMap `<name>-evidence-<first 8 of the uid>`.
    """


class ReportReference(Model):
    """Where people read on."""

    html: StoreUri
    json_: Annotated[StoreUri, Field(alias="json")]
    html_digest: Digest
    json_digest: Digest


class KeptCommit(Model):
    """The last commit of pairs that was heard of: whatever comes later must be built on it."""

    boot: Annotated[str, Field(max_length=64)]
    """Of the collector that told of it."""
    commit: Count
    digest: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]


class ShadowTestStatus(Model):
    """What the operator knows. Never an input of anybody else's."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    phase: ShadowPhase | None = None
    resolved: ResolvedTest | None = None
    shadow: Annotated[str, Field(max_length=512)] | None = None
    """How the shadow server is."""
    attempt: Annotated[int, Field(ge=1)] | None = None
    """It is the n-th test of the candidate's digest for this domain, those that were deleted included."""
    started_at: Timestamp | None = None
    """When the first exchange could be compared."""
    silent_since: Timestamp | None = None
    """Since when the collector has said nothing of the running test."""
    ended_at: Timestamp | None = None
    elapsed: Annotated[str, Field(max_length=24)] | None = None
    """Observed time so far, such as 12.3h; below an hour 12.3m."""
    pairs: Count | None = None
    conversations: Count | None = None
    lost: Annotated[dict[str, Count], Field(max_length=32)] | None = None
    """Exchanges of the endpoint that were chosen and not compared, by cause."""
    last_commit: KeptCommit | None = None
    hours_to_detect: Annotated[float, Field(ge=0)] | None = None
    """
    Forecast: hours of this traffic until every effect in question is detected with 80 % power: a primary's `detectable`, a guardrail's
    margin.
    """
    verdict: VerdictStatus | None = None
    report: ReportReference | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None


class ShadowTest(Model):
    """Holds an adapter against what serves, on copies of production's requests, and says Passed, Failed, Inconclusive or Error."""

    api_version: Literal["graft.dev/v1alpha1"]
    kind: Literal["ShadowTest"]
    metadata: dict[str, Any]
    spec: ShadowTestSpec
    rules: ClassVar = (
        Rule(
            cel="self.metadata.name.size() <= 33 && !self.metadata.name.contains('.')",
            message="the name is part of the name of a ModelEndpoint: at most 33 characters, no dots",
            check=lambda self: len(self.metadata.get("name", "")) <= 33 and "." not in self.metadata.get("name", ""),
        ),
    )
    status: ShadowTestStatus | None = None
