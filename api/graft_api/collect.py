"""
The collector of an endpoint: what it is told to measure, what it keeps, what it reports.

    settings   a ConfigMap, mounted as `collector.json`: `CollectorSettings`. Read at start; `watches` are followed, whoever changes
               anything else replaces the pod.
    kept       <store>/pairs/<day>/<sequence>-<writer>.jsonl.zst   `PairLine`s
               <store>/commits/<thousands>/<sequence>.json         what counts: a segment counts once its commit is there
               <store>/snapshots/<sequence>.json                   all commits up to this one, added up; then these lose their sums
               <store>/indexes/<last>-<first>.json                 the commits between two snapshots without their sums
               <store>/observed.json                               for how long was looked since the last commit
               <store>/report.html, report.json                    of a test that has ended
    reported   POST /v1/namespaces/{namespace}/modelendpoints/{name}/collector   `CollectorReport` -> 204
"""

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.comparison import Comparison, Kind, Limits, Metric, Verdict
from graft_api.finetunejob import StoreUri
from graft_api.measures import HARDWARE, YES_OR_NO, Measure
from graft_api.routes import VersionName
from graft_api.schema import Count, Decimal, Digest, DnsLabel, Model, ObjectName, Rule, Uid
from graft_api.scorers import Scorer
from graft_api.watch import Watched, WatchTask

COLLECTOR = "collector"
"""Value of the component label, and role of reports."""
COLLECTOR_PORT = 8000
COLLECTOR_HEALTH_PORT = 8002
"""/metrics, /readyz, /livez."""
COLLECTOR_DIRECTORY = "/graft/collector"
SETTINGS_KEY = "collector.json"
SHADOW_TOKEN_FILE = "/graft/shadow/token"  # noqa: S105 - a path
"""The collector's token for the shadow server's door."""


def collector_service(endpoint: str) -> str:
    """Return the Service that gateways send exchanges to."""
    return f"{endpoint}-collector"


def collector_account(endpoint: str) -> str:
    """Return the service account of collector pods."""
    return f"graft-collector-{endpoint}"


class Content(enum.StrEnum):
    """What is kept of requests and answers."""

    FULL = "Full"
    """Their text."""
    REDACTED = "Redacted"
    """
    Keyed hashes and lengths; the key is forgotten with the process, so nobody can look up a text. Conversations and requests have
    pseudonyms by a key of the test's, which is in no object of the API and not in the store.
    """
    NONE = "None"
    """Neither: measurements alone, and conversations by their pseudonyms."""


ONE_SOURCE = Rule(
    cel="has(self.measure) != has(self.scorer)",
    message="set exactly one of measure and scorer",
    check=lambda self: (self.measure is None) != (self.scorer is None),
)


def _kind_fits(measured: "MeasuredMetric") -> bool:
    if measured.measure is None:
        judge = measured.scorer is not None and measured.scorer.llm_judge is not None
        return measured.metric.kind is Kind.MEAN if judge else measured.metric.kind is not Kind.QUANTILE
    return (measured.metric.kind is Kind.PROPORTION) == (measured.measure in YES_OR_NO)


class MeasuredMetric(Model):
    """
    A metric and where its values come from.

    Of a scorer a proportion takes right or wrong (an error rate, which should be low, counts the wrong ones), a mean takes the score.
    An LLM judge holds the candidate's answer against production's; production's own value is the tie, 0.5.
    """

    metric: Metric
    measure: Measure | None = None
    scorer: Scorer | None = None
    """With its `sample`: the share of requests, and the budget of one ShadowTest."""

    rules: ClassVar = (
        ONE_SOURCE,
        Rule(
            cel="has(self.measure) ? (self.metric.kind == 'Proportion') == (self.measure in ['ServerError', 'Refusal', 'ToolCallValidity'])"
            " : (has(self.scorer.llmJudge) ? self.metric.kind == 'Mean' : self.metric.kind != 'Quantile')",
            message="a scorer has Proportion or Mean, an llmJudge Mean; ServerError, Refusal and ToolCallValidity have Proportion, the"
            " other measures Mean or Quantile",
            check=_kind_fits,
            field=".metric.kind",
        ),
    )


METRICS_BY_NAME = Rule(
    cel="self.metrics.all(m, self.metrics.exists_one(n, n.metric.name == m.metric.name))",
    message="every metric needs a name of its own",
    check=lambda self: len({measured.metric.name for measured in self.metrics}) == len(self.metrics),
    field=".metrics",
)
"""Of whatever has `metrics`."""


class Segments(Model):
    """How often what was measured is written down: a crash loses what is not."""

    seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    bytes: Annotated[int, Field(ge=65_536, le=1_073_741_824)] = 16_777_216
    """Of pairs before compression; a fuller segment is written earlier."""
    retention_days: Annotated[int, Field(ge=0, le=3650)] = 30
    """Older pairs are deleted, their sums stay. 0: never. What is left when a test ends is the bucket's own lifecycle rules' business."""


class Shadow(Model):
    """The server that answers copies of production's requests."""

    address: Annotated[str, Field(max_length=253, pattern=r"^.+:[0-9]{1,5}$")]
    """`host:port` of its door."""
    token_file: Annotated[str, Field(max_length=1024)] | None = None
    """With the collector's token for that door; `SHADOW_TOKEN_FILE` in a cluster. Absent: a server without a door."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    """Of one answer from its request to its end. Beyond: the version's outcome, as an error is."""
    answer_bytes: Annotated[int, Field(ge=65_536, le=67_108_864)] = 4_194_304
    """A longer answer is taken for one that broke off."""
    waiting_bytes: Annotated[int, Field(ge=1_048_576, le=4_294_967_296)] = 67_108_864
    """Of exchanges that wait for the shadow."""
    waiting_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    """An exchange that has waited for longer is given up."""


class Compare(Model):
    """One ShadowTest."""

    test: ObjectName
    uid: Uid
    domain: DnsLabel
    incumbent: VersionName
    candidate: VersionName
    shadow: Shadow
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    share: Annotated[str, Decimal(gt=0, le=1)] = "1"
    """Of conversations, by hash: those that are compared. The others are as if they had never come."""
    control_share: Annotated[str, Decimal(ge=0, le=1)] = "0.2"
    """Of conversations: both versions are asked on the shadow, in random order."""
    duration_seconds: Annotated[int, Field(ge=1)] = 604_800
    """Over which the budgets of scorers are spent."""
    warm_up_requests: Count = 20
    """Control requests after the shadow came (back) up whose hardware is not compared: caches and compilers are cold."""
    metrics: Annotated[list[MeasuredMetric], Field(min_length=1, max_length=20)]
    content: Content = Content.REDACTED
    store: StoreUri
    segments: Segments = Field(default_factory=Segments)
    limits: Limits = Field(default_factory=Limits)
    allowed_media_hosts: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=32)] = Field(default_factory=list)

    rules: ClassVar = (
        METRICS_BY_NAME,
        Rule(
            cel="double(self.controlShare) > 0.0 || !self.metrics.exists(m, has(m.measure) &&"
            " m.measure in ['Latency', 'TimeToFirstToken', 'ServerError'])",
            message="latency, time to first token and server errors come from the control share, which is 0",
            check=lambda self: float(self.control_share) > 0 or not any(measured.measure in HARDWARE for measured in self.metrics),
            field=".controlShare",
        ),
    )


class ObservedScore(Model):
    """One thing that is said of a sample of production's answers."""

    name: DnsLabel
    measure: Measure | None = None
    scorer: Scorer | None = None
    """Without reference, for production has none."""

    rules: ClassVar = (
        ONE_SOURCE,
        Rule(
            cel="!has(self.scorer) || (!has(self.scorer.exact) && !has(self.scorer.llmJudge))",
            message="exact and llmJudge hold an answer against another one, which production does not have: take them for jobs and"
            " ShadowTests",
            check=lambda self: self.scorer is None or (self.scorer.exact is None and self.scorer.llm_judge is None),
            field=".scorer",
        ),
    )

    def is_share(self) -> bool:
        """Whether it is right or wrong of each answer, so that there is a share of them; else it is a quantity."""
        return self.scorer is not None or self.measure in YES_OR_NO


class ObservedDomain(Model):
    """A domain whose answers are scored, whichever version gave them."""

    domain: DnsLabel
    share: Annotated[str, Decimal(gt=0, le=1)] = "1"
    """Of the requests that reach the collector, by hash."""
    scores: Annotated[list[ObservedScore], Field(min_length=1, max_length=16)]


class Observe(Model):
    """What is known of production all the time."""

    domains: Annotated[list[ObservedDomain], Field(min_length=1, max_length=64)]
    store: StoreUri
    segments: Segments = Field(default_factory=Segments)
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    waiting_bytes: Annotated[int, Field(ge=1_048_576, le=4_294_967_296)] = 67_108_864


class Mode(enum.StrEnum):
    """What a collector does."""

    OBSERVE = "Observe"
    COMPARE = "Compare"
    """And observes, if it is told what."""


class ReportTask(Model):
    """A ShadowTest that has ended: its report is to be written beside its pairs, as `report.html` and `report.json`."""

    compare: Compare
    """As it was compared."""
    verdict: Verdict
    """As it was read."""
    commit: Count | None = None
    """The last one that the verdict knows of: the report is of the pairs up to it. None: of all."""


class CollectorSettings(Model):
    """All that a collector is told."""

    format: Literal[1] = 1
    observe: Observe | None = None
    compare: Compare | None = None
    report: ReportTask | None = None
    watches: Annotated[list[WatchTask], Field(max_length=31)] = Field(default_factory=list)
    """Versions that were activated a while ago, held against those before them."""

    rules: ClassVar = (
        Rule(
            cel="has(self.observe) || has(self.compare) || has(self.report) || (has(self.watches) && self.watches.size() > 0)",
            message="set observe, compare, report or watches",
            check=lambda self: any(part is not None for part in (self.observe, self.compare, self.report)) or bool(self.watches),
        ),
    )

    @property
    def mode(self) -> Mode:
        """Whether a ShadowTest runs."""
        return Mode.OBSERVE if self.compare is None else Mode.COMPARE


class Told(Model):
    """The text of one side, where content is kept."""

    text: str
    tool_calls: list[tuple[str, str]] | None = None
    """Name and arguments."""


class SideLine(Model):
    """What one side answered."""

    ended: Annotated[str, Field(max_length=16)]
    """Complete, Length, Empty, Timeout, Error."""
    seconds: float
    first_byte_seconds: float | None = None
    tokens: Count | None = None
    characters: Count | None = None
    """Absent where nothing of the content is kept."""
    digest: Annotated[str, Field(max_length=64)] | None = None
    """Keyed; equal within one process for equal answers."""
    told: Told | None = None


Sides = tuple[float | None, float | None]
"""Incumbent's and candidate's value of one metric; None: it never came, and counts as the worst."""


class PairLine(Model):
    """One request that both sides answered: a line of a segment. The summaries are computed from `values` and nothing else."""

    boot: Annotated[str, Field(max_length=64)]
    number: Count
    request_id: Annotated[str, Field(max_length=128)]
    """As clients and gateways call it; a pseudonym where content is redacted, empty where nothing is kept."""
    conversation: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """The gateway's key of it where content is kept, else a pseudonym."""
    first_turn: bool
    at: Count
    """Seconds since 1970."""
    api: Annotated[str, Field(max_length=16)]
    stream: bool
    production: SideLine
    candidate: SideLine
    incumbent: SideLine | None = None
    """Of the control share: the incumbent's answer on the shadow."""
    candidate_first: bool | None = None
    """Of the control share: who was asked first."""
    values: dict[str, dict[str, Sides]]
    """Contrast -> metric -> sides. A metric that was not sampled for this pair is absent."""
    broken: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Contrast -> metric -> why its scorer, not a model, failed."""
    exclusions: dict[str, tuple[str, str]] = Field(default_factory=dict)
    """Contrast that the pair was left out of -> cause and side."""
    request: str | None = None
    """The body, where content is kept."""
    request_digest: Annotated[str, Field(max_length=64)] | None = None
    request_bytes: Count | None = None


REPORT_HTML, REPORT_JSON = "report.html", "report.json"
"""Below a test's store."""


class Reported(Model):
    """What became of a `ReportTask`."""

    test_uid: Uid
    html_digest: Digest | None = None
    """Of what was written. Absent: it could not be."""
    json_digest: Digest | None = None
    problem: Annotated[str, Field(max_length=256)] | None = None
    """Why not. It is not tried again by the same process."""


OBSERVED_HOURS = (1, 6, 24, 72, 168, 336, 720)
"""
Windows of what was observed: so many whole hours, and the hour that has begun. Fixed, so that a report is small and a collector need not
know who reads it.
"""


class ObservedCounts(Model):
    """Answers of one domain that one score was taken of, whichever version gave them: one number for each of `OBSERVED_HOURS`."""

    domain: DnsLabel
    score: DnsLabel
    answers: Annotated[list[Count], Field(min_length=len(OBSERVED_HOURS), max_length=len(OBSERVED_HOURS))]
    wrong: Annotated[list[Count], Field(min_length=len(OBSERVED_HOURS), max_length=len(OBSERVED_HOURS))]
    broken: Annotated[list[Count], Field(min_length=len(OBSERVED_HOURS), max_length=len(OBSERVED_HOURS))]
    """That the scorer failed on. Not among `answers`."""


class ObservedReading(Model):
    """What was observed, as far as it is committed, by a collector that may have been started again in between."""

    at: Count
    """Seconds since 1970: the windows end here."""
    covered: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=len(OBSERVED_HOURS), max_length=len(OBSERVED_HOURS))]
    """Share of each window in which a collector looked."""
    counts: Annotated[list[ObservedCounts], Field(max_length=256)] = Field(default_factory=list)
    """Of the scores that are right or wrong; the others have no share to speak of."""
    left_out: Count = 0
    """Scores that the report had no room for."""


class CollectorReport(Model):
    """A collector's whole picture; of what is committed."""

    boot: Annotated[str, Field(max_length=64)]
    sequence: Count
    mode: Mode
    test: ObjectName | None = None
    test_uid: Uid | None = None
    observed_hours: Annotated[float, Field(ge=0)] = 0.0
    """For how long a collector was there and looked."""
    commit: Count = 0
    """The last one."""
    commit_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """
    Of that commit, and through it of all before it and of the sums that the comparison is read from. None: there is no commit, or the
    last one was written by a collector that knew no digests.

    Whoever keeps the last pair of number and digest of a test may rely on this, in reports with a comparison in which nothing is broken
    (before the first one the store is not read yet). Of the same number the digest is the same; a smaller
    number, another digest of the same number, or none after there was one means that the store was changed behind the collector. Within
    one `boot` a later pair extends the earlier one, for it comes from the process's memory. From one boot to the next it does if the
    kept number is in `lineage` with the kept digest; if it is higher than the least number there and missing, or has another
    digest, it does not; if it is lower than all of them (nobody listened for more than 64 commits), nothing can be said.

    What it cannot show: commits that were appended by somebody else with the store's credentials, for a digest needs no key.
    A collector that runs meanwhile is fenced by them, and ends.
    """
    lineage: Annotated[dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(max_length=64)] = Field(default_factory=dict)
    """Number -> digest of the last commits that this process began with, verified."""
    comparison: Comparison | None = None
    waiting: Count = 0
    """Exchanges."""
    lost: Annotated[dict[str, Count], Field(max_length=32)] = Field(default_factory=dict)
    """
    By cause, of all domains: what gateways told of, what never came, what was left out for want of room.

    `not-repeatable` is no loss; the comparison's `lost_pairs` is without it.
    """
    shadow_away: Annotated[str, Field(max_length=160)] | None = None
    """Why nothing is asked of the shadow at the moment."""
    store_away: bool = False
    """What is measured cannot be written down at the moment."""
    reported: Reported | None = None
    watched: Annotated[list[Watched], Field(max_length=31)] = Field(default_factory=list)
    """Each since this process took it over."""
    observed: ObservedReading | None = None
    """What launch criteria are read from. Absent: nothing is observed, or it is not known yet what was counted already."""
