"""
What a shadow test measured: the collector reports it, the verdict reads it, people are shown it.

Everything is said as **improvement**: positive is better for the user, whichever way the metric points. A difference is candidate
minus incumbent in the metric's own unit (`Absolute`) or as a share of the incumbent's value (`Relative`).
"""

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.schema import Count, Model, Rule

CONFIDENCE = 0.95
"""Two-sided, so that one end held against a margin is a one-sided test at 2.5 %."""
HARM_ALPHA = 0.01
"""The chance that a test of a candidate that does no harm is stopped for harm, over all its metrics and all its looks."""

MEAN_REACH = 2.0**36
"""Largest value of a mean in units of its resolution: sums of many pairs stay whole numbers below 2^53, which float64 has exactly."""

Name = Annotated[str, Field(min_length=1, max_length=63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def spoken(hours: float) -> str:
    """Return a length of time as a sentence says it: minutes below one hour, days from three on."""
    if hours < 1:
        return f"{round(60 * hours, 1):g} minutes"
    return f"{round(hours, 1):g} hours" if hours < 72 else f"{round(hours / 24, 1):g} days"


def progress(hours: float, whole: float) -> str:
    """Return how much of a length of time is over, both in hours: `12.3 of 168 hours`."""
    if whole < 1:
        return f"{round(60 * hours, 1):g} of {round(60 * whole, 1):g} minutes"
    return f"{round(hours, 1):g} of {round(whole, 1):g} hours"


class Kind(enum.StrEnum):
    """What of a metric's values is compared."""

    PROPORTION = "Proportion"
    """Share of ones among zeros and ones."""
    MEAN = "Mean"
    """Mean of real numbers."""
    QUANTILE = "Quantile"
    """Difference of the two sides' quantiles of a positive quantity, such as seconds."""


class Direction(enum.StrEnum):
    """Which way is better."""

    LOWER = "LowerIsBetter"
    HIGHER = "HigherIsBetter"


class Role(enum.StrEnum):
    """What a metric decides."""

    PRIMARY = "Primary"
    """Must be shown to improve by more than the margin."""
    GUARDRAIL = "Guardrail"
    """Must be shown not to get worse by more than the margin."""
    INFORMATIONAL = "Informational"
    """Decides nothing."""


class Scale(enum.StrEnum):
    """What a margin is counted in."""

    ABSOLUTE = "Absolute"
    """The metric's own unit; for a proportion 0.01 is one percentage point."""
    RELATIVE = "Relative"
    """Share of the incumbent's value."""


def _best_is_better(metric: "Metric") -> bool:
    if metric.best is None:
        return True
    if metric.kind is not Kind.MEAN or metric.worst is None:
        return False
    return metric.best < metric.worst if metric.direction is Direction.LOWER else metric.best > metric.worst


def _worst_is_the_bad_end(metric: "Metric") -> bool:
    if metric.kind is not Kind.PROPORTION or metric.worst is None:
        return True
    return metric.worst == (1.0 if metric.direction is Direction.LOWER else 0.0)


def _within_reach(metric: "Metric") -> bool:
    ends = [abs(end) for end in (metric.worst, metric.best) if end is not None]
    return metric.kind is not Kind.MEAN or all(end <= MEAN_REACH * metric.resolution for end in ends)


class Metric(Model):
    """One question asked of every pair."""

    name: Name
    label: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    """What a sentence calls it. Default: the name, with blanks."""
    unit: Annotated[str, Field(max_length=16)] = ""
    """Of a mean or quantile: s, tokens."""
    kind: Kind
    direction: Direction
    role: Role
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    scale: Scale = Scale.ABSOLUTE
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    worst: Finite | None = None
    """What an answer that never came counts as. Default: of a proportion the bad one of 0 and 1, of a quantity that should be low
    the end of the scale, of one that should be high 0. A mean must say it. No answer counts as worse than this."""
    best: Finite | None = None
    """The other end of a mean's range, where it has one. With both ends known, few differences still give an interval. No answer counts as
    better than this."""
    resolution: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0**-20
    """Means are summed as whole multiples of this, so that a sum is the same in any order. Values reach to 2^36 times it."""
    detectable: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The improvement that a primary or informational metric should be able to show: the forecast says when it will."""

    rules: ClassVar = (
        Rule(
            cel="has(self.quantile) == (self.kind == 'Quantile')",
            message="quantile belongs to kind Quantile, and only to it",
            check=lambda self: (self.quantile is not None) == (self.kind is Kind.QUANTILE),
            field=".quantile",
        ),
        Rule(
            cel="self.kind != 'Mean' || has(self.worst)",
            message="a mean must say what an answer that never came counts as",
            check=lambda self: self.kind is not Kind.MEAN or self.worst is not None,
            field=".worst",
        ),
        Rule(
            cel="!has(self.best) || (self.kind == 'Mean' && (self.direction == 'LowerIsBetter') == (self.best < self.worst))",
            message="best is the end of a mean's range that is better than worst",
            check=_best_is_better,
            field=".best",
        ),
        Rule(
            cel="self.kind != 'Proportion' || !has(self.worst) || self.worst == (self.direction == 'LowerIsBetter' ? 1.0 : 0.0)",
            message="the worst of a proportion is its bad end: 1 where lower is better, 0 where higher is",
            check=_worst_is_the_bad_end,
            field=".worst",
        ),
        Rule(
            cel="self.kind != 'Quantile' || !has(self.worst) || self.worst >= 0.0",
            message="the worst of a quantile is not negative, as the quantity never is",
            check=lambda self: self.kind is not Kind.QUANTILE or self.worst is None or self.worst >= 0,
            field=".worst",
        ),
        Rule(
            cel="self.kind != 'Mean' || ((!has(self.worst) || (self.worst <= 68719476736.0 * self.resolution"
            " && self.worst >= -68719476736.0 * self.resolution)) && (!has(self.best) ||"
            " (self.best <= 68719476736.0 * self.resolution && self.best >= -68719476736.0 * self.resolution)))",
            message="the worst and best of a mean are at most 2^36 times its resolution: give it a coarser resolution",
            check=_within_reach,
            field=".resolution",
        ),
    )

    def called(self) -> str:
        """Return what a sentence calls it."""
        return self.label or self.name.replace("-", " ").replace("_", " ")

    def in_question(self) -> float | None:
        """
        Return the effect that a test should be able to tell, if there is one.

        Of a guardrail its whole margin, the candidate being equal; of a primary how far its `detectable` lies beyond its margin; of
        any other its `detectable`.
        """
        if self.role is Role.GUARDRAIL:
            return self.margin or None
        beyond = (self.detectable or 0.0) - (self.margin if self.role is Role.PRIMARY else 0.0)
        return beyond if beyond > 0 else None


class Method(enum.StrEnum):
    """How an interval was found."""

    BOOTSTRAP = "Bootstrap"
    """Poisson bootstrap clustered on conversation: expanded percentiles, or of a quantile its standard error."""
    SCORE = "Score"
    """Tango's score interval on discordant clusters: few differences."""


class Estimate(Model):
    """One improvement and its 95 % interval."""

    improvement: Finite
    low: Finite
    high: Finite
    incumbent: Finite
    candidate: Finite
    pairs: Count
    method: Method


class HarmReading(Model):
    """One look at the always-valid sequence of one metric."""

    clusters: Count
    """Closed conversations that it has seen."""
    high: Finite | None = None
    """Upper bound of the improvement at every look at once. None: too little to look at."""
    limit: Finite
    """Harm is shown when `high` is below this."""
    shown: bool = False


class MetricReading(Model):
    """What is known of one metric in one contrast."""

    metric: Metric
    clusters: Count = 0
    """Conversations that were measured: fewer than the contrast's where a metric is sampled."""
    pairs: Count = 0
    """Pairs that were measured."""
    overall: Estimate | None = None
    first_turn: Estimate | None = None
    """Pairs that open a conversation: there, both sides answer the same history."""
    reason: Annotated[str, Field(max_length=160)] | None = None
    """Why `overall` is missing."""
    missing_incumbent: Count = 0
    """Values that never came and were counted as the worst."""
    missing_candidate: Count = 0
    scorer_failures: Count = 0
    """Pairs that the scorer, not a model, failed on: sampled, and not among `pairs`."""
    transient_failures: Count = 0
    """Pairs that it failed on because network or machine were at fault: sampled, and in neither of these counts."""
    harm: HarmReading | None = None
    hours_to_detect: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Hours of this traffic, counted from the start, until the effect in question is detected with 80 % power."""

    def sampled(self) -> int:
        """Return how many pairs should have been measured."""
        return self.pairs + self.scorer_failures + self.transient_failures


class Exclusion(Model):
    """Requests that were taken in and then left out of the pairs, for one cause that one side had."""

    cause: Name
    side: Literal["Incumbent", "Candidate", "Both"]
    count: Count
    contrast: Name | None = None
    """What they were left out of, in a verdict. Absent: in the contrast itself, and in verdicts that an older operator read."""


class Contrast(Model):
    """Two sides that answered the same requests."""

    name: Name
    pairs: Count
    first_turn_pairs: Count = 0
    clusters: Count
    """Conversations; an estimate when `clusters_estimated`."""
    clusters_estimated: bool = False
    largest_cluster_share: Share = 0.0
    """The largest conversation's share of pairs; at least this, never less than the truth."""
    exclusions: Annotated[list[Exclusion], Field(max_length=64)] = Field(default_factory=list)
    metrics: Annotated[list[MetricReading], Field(max_length=32)]


class Comparison(Model):
    """Everything that a verdict is read from."""

    contrasts: Annotated[list[Contrast], Field(min_length=1, max_length=4)]
    """Production against candidate, and where there is one the control share: shadow incumbent against candidate."""
    instrument: Contrast | None = None
    """Production against shadow incumbent: the same model twice. What differs here is the instrument's doing."""
    broken: Annotated[list[Annotated[str, Field(max_length=160)]], Field(max_length=32)] = Field(default_factory=list)
    """Scorers and instruments that do not work, with what is wrong."""
    lost_pairs: Count = 0
    """Pairs that were mirrored and never compared: queue full, collector or shadow away."""

    def every(self) -> list[Contrast]:
        """Return all contrasts, the instrument's last."""
        return [*self.contrasts, *([self.instrument] if self.instrument else [])]


class Limits(Model):
    """What must hold before a verdict is read."""

    min_clusters: Annotated[int, Field(ge=20)] = 100
    max_cluster_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of one conversation in all pairs, and in the pairs of each metric."""
    max_exclusion_difference: Share = 0.02
    """Of the two sides' shares of excluded requests; what both sides excluded counts on neither."""
    max_excluded_share: Share = 0.5
    """Of all requests of a contrast, whichever side's doing: what is left then may be requests of another kind."""
    max_lost_share: Share = 0.2
    max_scorer_failures: Share = 0.05
    """Of the pairs that were sampled for the metric."""
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 1800
    """A conversation with nothing new for so long is closed: harm is looked for in closed ones."""
    require_instrument: bool = True
    """Whether a pass needs the same model measured twice. Without, what the instrument adds is taken for the candidate's doing."""


class Clock(Model):
    """Where a test stands, in hours of observed time."""

    elapsed: Annotated[float, Field(ge=0)]
    duration: Annotated[float, Field(gt=0)]
    max_duration: Annotated[float, Field(gt=0)]
    incumbent_switched: bool = False


class Outcome(enum.StrEnum):
    """What became of a test, or of one metric in it."""

    PENDING = "Pending"
    """Not yet read: before the horizon, or extended because there is too little."""
    PASSED = "Passed"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"
    INFORMATIONAL = "Informational"
    """Of a metric that decides nothing."""


class MetricVerdict(Model):
    """One metric, with the number and the bound it was held against."""

    contrast: Name
    name: Name
    role: Role
    outcome: Outcome
    sentence: Annotated[str, Field(max_length=320)]
    reading: MetricReading
    clusters: Count
    pairs: Count


class Verdict(Model):
    """The answer, and every number it rests on."""

    outcome: Outcome
    sentence: Annotated[str, Field(max_length=512)]
    reasons: Annotated[list[Annotated[str, Field(max_length=320)]], Field(max_length=64)] = Field(default_factory=list)
    metrics: Annotated[list[MetricVerdict], Field(max_length=128)] = Field(default_factory=list)
    exclusions: Annotated[list[Exclusion], Field(max_length=320)] = Field(default_factory=list)
    """Each with its contrast."""
