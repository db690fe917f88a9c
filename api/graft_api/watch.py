"""
Two versions of a domain side by side in production: what is counted of them, who counts, and how it is read.

    CollectorSettings.watches   what a collector is told
    CollectorReport.watched     what it has counted since it took them over
    the ledger                  what all collectors have counted together: nothing of it lies in a store
"""

from typing import Annotated, ClassVar

from pydantic import Field

from graft_api.comparison import Direction, Kind
from graft_api.measures import YES_OR_NO, Measure
from graft_api.routes import VersionName
from graft_api.schema import Count, DnsLabel, Model, Rule, Uid


class WatchedMetric(Model):
    """What is compared between the conversations on the new version and those that were held back."""

    name: DnsLabel
    """Of a score of `collector.observe` of this domain, or any name for a measure."""
    measure: Measure | None = None
    """Instead of a score: what needs no scorer."""
    kind: Kind = Kind.PROPORTION
    direction: Direction = Direction.LOWER
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """In the metric's own unit: worse by more than this is a breach."""

    rules: ClassVar = (
        Rule(
            cel="self.kind != 'Quantile'",
            message="means and proportions are watched, not quantiles: for latency take its mean, or a hard limit",
            check=lambda self: self.kind is not Kind.QUANTILE,
            field=".kind",
        ),
        Rule(
            cel="!has(self.measure) || self.kind != 'Proportion' || self.measure in ['ServerError', 'Refusal', 'ToolCallValidity']",
            message="this measure is a quantity: set kind Mean",
            check=lambda self: self.measure is None or self.kind is not Kind.PROPORTION or self.measure in YES_OR_NO,
            field=".kind",
        ),
    )


class Moments(Model):
    """
    Sums over the closed conversations of one arm, of one metric, which add up in any order.

    With n_i values of sum y_i in conversation i, of weight w_i: `clusters` = number of i, `values` = sum of w_i n_i, `total` = sum of
    w_i y_i, `values_squared` = sum of (w_i n_i)^2, `product` = sum of w_i^2 n_i y_i, `total_squared` = sum of (w_i y_i)^2: all that a
    ratio of means and its variance need. The last three again with w_i (1 - w_i) in place of w_i^2, as the `crossed_` ones: by them it is
    known what variance the *other* arm's mean has if its conversations are like these, for the two arms' weights differ by time.

    The weight is the share of the conversations of the same revision of the routes that were on the *other* arm, 0.05 on the new
    version beside a hold-back of 5 % (overlap weights: Li, Morgan and Zaslavsky 2018, Journal of the American Statistical Association
    113:390). So both arms speak of the same times: with sums that know no weights an outage that falls into a late step of a ramp would
    be in most of what is known of the new version, and in little of what is known of the other. Conversations of a revision that only
    one arm had weigh nothing, and are not counted.
    """

    clusters: Count = 0
    values: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    total: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    values_squared: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    product: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    total_squared: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    crossed_values_squared: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    crossed_product: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    crossed_total_squared: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def plus(self, other: "Moments") -> "Moments":
        """Add another's."""
        return Moments(**{name: getattr(self, name) + getattr(other, name) for name in Moments.model_fields})


class WatchedSums(Model):
    """One metric's sums on both sides."""

    name: DnsLabel
    new: Moments = Field(default_factory=Moments)
    held_back: Moments = Field(default_factory=Moments)


class WatchCount(Model):
    """What a collector has seen of one watch since it took it over, or what all have together."""

    observed_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """In which a collector took what gateways told it."""
    metrics: Annotated[list[WatchedSums], Field(max_length=17)] = Field(default_factory=list)

    def plus(self, other: "WatchCount") -> "WatchCount":
        """Add what another collector has seen."""
        mine = {sums.name: sums for sums in self.metrics}
        for sums in other.metrics:
            known = mine.get(sums.name, WatchedSums(name=sums.name))
            mine[sums.name] = WatchedSums(name=sums.name, new=known.new.plus(sums.new), held_back=known.held_back.plus(sums.held_back))
        return WatchCount(
            observed_seconds=self.observed_seconds + other.observed_seconds, metrics=sorted(mine.values(), key=lambda sums: sums.name)
        )


class WatchTask(Model):
    """What a collector is told of a watch, in `CollectorSettings.watches`."""

    domain: DnsLabel
    gate: Count
    """`Gate.number`: names the watch together with the domain and all of what follows, for a restored ledger numbers anew."""
    adapter_uid: Uid | None = None
    """`Gate.adapter_uid`. None: an operator told this that did not say whose watch it is."""
    new: VersionName
    held_back: VersionName
    """`base` for the base model."""
    metrics: Annotated[list[WatchedMetric], Field(min_length=1, max_length=17)]
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 1800
    """A conversation with nothing new for so long is closed, and counted."""

    def is_of(self, told: "Watched") -> bool:
        """Whether a collector speaks of this watch: of this gate's candidate, beside what is held back now."""
        if (told.domain, told.gate) != (self.domain, self.gate):
            return False
        # What a collector does not say was never asked of it: it is older than the question.
        said = ((told.adapter_uid, self.adapter_uid), (told.new, self.new), (told.held_back, self.held_back))
        return all(theirs is None or theirs == ours for theirs, ours in said)


class Watched(Model):
    """What a collector tells of a watch, in `CollectorReport.watched`: since it took it over."""

    domain: DnsLabel
    gate: Count
    adapter_uid: Uid | None = None
    new: VersionName | None = None
    held_back: VersionName | None = None
    """As in its `WatchTask`: what was counted."""
    count: WatchCount
    turn: Count = 0
    """Which of the counts that this process has begun. Another one begins with nothing, so it takes the boot's place beside it."""


class WatchReading(Model):
    """One metric of a watch, as people are shown it and as a breach is decided by it."""

    name: DnsLabel
    new: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Mean per value on the new version. None: nothing closed yet."""
    held_back: Annotated[float, Field(allow_inf_nan=False)] | None = None
    clusters_new: Count = 0
    clusters_held_back: Count = 0
    high: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Upper bound of the improvement at every look at once. None: too little to look at."""
    limit: Annotated[float, Field(allow_inf_nan=False)]
    """-margin. A breach is shown when `high` is below it."""
    breached: bool = False
    sentence: Annotated[str, Field(max_length=320)] = ""
