"""The report as a value: everything that the page shows, and the JSON document as it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from graft_api.comparison import Comparison, Finite, Limits, Metric, Verdict
from graft_api.schema import Count, Model


class Period(Model):
    """One metric in one stretch of the test."""

    start: Count
    """Seconds since 1970."""
    seconds: Count
    pairs: Count
    clusters: Count
    """Conversations."""
    improvement: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    """95 % interval of this stretch alone. None: too few conversations."""


class Histogram(Model):
    """Both sides' values of one metric."""

    logarithmic: bool
    edges: list[Finite]
    """Of the bins, one more than there are bins; of a proportion the two values."""
    incumbent: list[Count]
    candidate: list[Count]
    """Values per bin."""
    never_incumbent: Count = 0
    never_candidate: Count = 0
    """Answers that never came, or took for ever. Where neither side's came, both are in the bin of the metric's worst, if that has one."""


class MetricPlots(Model):
    """What is drawn of one metric."""

    contrast: str
    metric: Metric
    periods: list[Period]
    histogram: Histogram


class Answer(Model):
    """What one side said to a pair of the worst."""

    ended: str
    seconds: float
    value: Finite | None = None
    """Of the metric. None: never came."""
    text: str | None = None
    """With its tool calls; shortened. None: content was not kept."""


class WorstPair(Model):
    """A pair whose candidate did worse."""

    metric: str
    by: Finite | None
    """In the metric's unit. None: without end, as of an answer that never came."""
    request_id: str
    conversation: str
    at: Count
    request: str | None = None
    incumbent: Answer
    candidate: Answer


class Tally(Model):
    """A count with its two names."""

    of: str
    what: str
    count: Count


class Report(Model):
    """A test's report."""

    format: Literal[1] = 1
    test: str
    incumbent: str
    candidate: str
    first: Count
    last: Count
    """Of the pairs, in seconds since 1970."""
    pairs: Count
    limits: Limits
    verdict: Verdict
    comparison: Comparison | None = None
    """None while the verdict is pending: a number that is shown early is read early."""
    plots: list[MetricPlots] = Field(default_factory=list)
    worst: list[WorstPair] = Field(default_factory=list)
    endings: list[Tally] = Field(default_factory=list)
    """How answers ended, by side."""
    scorer_failures: list[Tally] = Field(default_factory=list)
    """Why scorers failed, by metric."""
    lost: list[Tally] = Field(default_factory=list)
    """What was lost of all domains, by cause, with what the cause means; `comparison.lost_pairs` is this test's share. Only a collector
    knows."""
    notes: list[str] = Field(default_factory=list)
    """What else a reader must know of the pairs."""
