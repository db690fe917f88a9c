"""
From the answers to one question to two values of each metric: in a collector as they come, and offline from a log.

A scorer that breaks is counted as broken and the metric is absent on both sides; it is never a wrong answer. Where it broke on one
side only, that side has an exclusion: a version whose answers break scorers must not be measured by the rest of them. An answer that
never came is never scored: it is the worst value, whatever the scorer, and so is one that is too large to be summed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from graft_api.collect import MeasuredMetric, Sides
from graft_api.comparison import Direction, Kind, Metric
from graft_api.measures import HARDWARE, Measure
from graft_api.scorers import RefusalScorer, Scorer, ToolCallsScorer
from graft_evaluation.paired.outcomes import Answer, counted
from graft_evaluation.pairs.sides import Said, Side, Whose
from graft_evaluation.scorers import Answer as Scored
from graft_evaluation.scorers import Broken, Case, Judge, ScorerInvalidError, build_here, requests_per_answer, sampled, score
from graft_evaluation.scorers import Score as Found

SUGAR: Mapping[Measure, Scorer] = {
    Measure.REFUSAL: Scorer(refusal=RefusalScorer()),
    Measure.TOOL_CALLS: Scorer(tool_calls=ToolCallsScorer()),
}
TIE = 0.5
"""What an answer is worth beside itself."""


Spend = Callable[[str, int, str], bool]
"""(metric, requests, key of the pair) -> whether the budget of its scorer is there for them; then they are spent."""


class Question(Protocol):
    """What was asked."""

    @property
    def text(self) -> str:
        """The conversation, as judges read it."""

    @property
    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """As OpenAI has them."""

    @property
    def stream(self) -> bool:
        """Whether the answer is a stream."""


Asked_co = TypeVar("Asked_co", bound=Question, covariant=True)


@dataclass(frozen=True)
class Trio(Generic[Asked_co]):
    """All that is known of one question."""

    question: Asked_co
    production: Side
    """The answer of record."""
    candidate: Side
    incumbent: Side | None = None
    """The incumbent's once more: of the control share, on the candidate's hardware."""


@dataclass
class Values:
    """Of one contrast."""

    found: dict[str, Sides] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    broke: Whose | None = None
    """The side on which alone a scorer broke; `BOTH` where several metrics differ in it."""


@dataclass(frozen=True)
class _Gauge:
    """One metric, ready."""

    measured: MeasuredMetric
    judge: Judge | None
    scorer: Scorer | None

    @property
    def metric(self) -> Metric:
        return self.measured.metric

    @property
    def against_production(self) -> bool:
        """Whether answers are held against production's, which then needs no scoring itself."""
        return self.scorer is not None and (self.scorer.llm_judge is not None or self.scorer.exact is not None)

    @property
    def tie(self) -> float:
        """What production's own answer is worth, where answers are held against it."""
        return oriented(self.metric, TIE if self.scorer is not None and self.scorer.llm_judge is not None else 1.0)

    def requests(self, *, twice: bool) -> int:
        assert self.scorer is not None  # noqa: S101 - only scorers have budgets
        return ((0 if self.against_production else 1) + 1 + twice) * requests_per_answer(self.scorer)


class Scoring:
    """All metrics of one comparison. Close it."""

    def __init__(self, metrics: Sequence[MeasuredMetric], environment: Mapping[str, str], spend: Spend) -> None:
        """Build the scorers; nothing runs or connects before the first answer. Metrics that are `unbuilt` are not measured."""
        self.unbuilt: dict[str, str] = {}
        """Metric -> why its scorer cannot be built."""
        self.invalid: dict[str, str] = {}
        """Metric -> what its author must change, found while it judged."""
        self._spend = spend
        self._gauges = [gauge for measured in metrics if (gauge := self._gauge(measured, environment)) is not None]

    def _gauge(self, measured: MeasuredMetric, environment: Mapping[str, str]) -> _Gauge | None:
        scorer = measured.scorer if measured.measure is None else SUGAR.get(measured.measure)
        try:
            return _Gauge(measured, build_here(scorer, environment) if scorer else None, scorer)
        except ScorerInvalidError as error:
            self.unbuilt[measured.metric.name] = str(error)
            return None

    def requests(self, metric: str, *, twice: bool) -> int:
        """Return what one pair takes from the budget of a metric's scorer; `twice`: of the control share."""
        return next(gauge for gauge in self._gauges if gauge.metric.name == metric).requests(twice=twice)

    async def quality(self, trio: Trio[Question], key: str) -> tuple[Values, Values | None]:
        """Return what is compared of production and candidate, and of production and the shadow's incumbent where that was asked."""
        candidate, instrument = Values(), None if trio.incumbent is None else Values()
        for gauge in self._gauges:
            if gauge.measured.measure not in HARDWARE and self._due(gauge, trio, key):
                await self._judge(gauge, trio, candidate, instrument)
        return candidate, instrument

    def hardware(self, question: Question, incumbent: Side, candidate: Side, *, cold: bool = False) -> dict[str, Sides]:
        """Return what is compared of two answers of the same hardware; of one that is `cold` no times, but whether they failed."""
        compared = {Measure.SERVER_ERROR} if cold else HARDWARE if question.stream else HARDWARE - {Measure.FIRST_TOKEN}
        return {
            gauge.metric.name: (_hardware(gauge, incumbent), _hardware(gauge, candidate))
            for gauge in self._gauges
            if gauge.measured.measure in compared
        }

    def crash(self, candidate: Side) -> dict[str, Sides]:
        """
        Return what is compared of the two versions on the shadow when the candidate's answer failed and the server was gone with it.

        Nobody knows how the incumbent would have done. That it had answered is the benefit of the doubt; how fast is not known.
        """
        errors = [gauge for gauge in self._gauges if gauge.measured.measure is Measure.SERVER_ERROR]
        return {gauge.metric.name: (oriented(gauge.metric, 1.0), _hardware(gauge, candidate)) for gauge in errors}

    async def aclose(self) -> None:
        """Let go of what scorers hold."""
        for gauge in self._gauges:
            if gauge.judge is not None:
                await gauge.judge.aclose()

    def _due(self, gauge: _Gauge, trio: Trio[Question], key: str) -> bool:
        """Whether this metric is sampled for this pair: decided by hash and budget, without a look at an answer."""
        if gauge.measured.measure is Measure.TOOL_CALLS and not trio.question.tools:
            return False
        if gauge.scorer is None:
            return True
        if not sampled(gauge.scorer.sample, key):
            return False
        return self._spend(gauge.metric.name, gauge.requests(twice=trio.incumbent is not None), key)

    async def _judge(self, gauge: _Gauge, trio: Trio[Question], candidate: Values, instrument: Values | None) -> None:
        name = gauge.metric.name
        production = await self._value(gauge, trio, trio.production, own=True)
        for values, side in ((candidate, trio.candidate), (instrument, trio.incumbent)):
            if values is None or side is None:
                continue
            other = await self._value(gauge, trio, side, own=False)
            if not isinstance(production, str) and not isinstance(other, str):
                values.found[name] = (production, other)
                continue
            values.broken[name] = production if isinstance(production, str) else str(other)
            whose = _broke(production, other)
            if whose is not None and not gauge.against_production:  # such a scorer has seen both answers
                values.broke = whose if values.broke in {None, whose} else Whose.BOTH

    async def _value(self, gauge: _Gauge, trio: Trio[Question], side: Side, *, own: bool) -> float | str | None:
        """Return the value, None where the answer never came, or a word for what broke."""
        metric, said = gauge.metric, side.said
        if not came(metric, said.ended):
            return None
        if gauge.scorer is None or gauge.judge is None:
            measured = _plain(gauge.measured.measure, said)
            return None if measured is None else counted(metric, measured)
        if gauge.against_production and (own or not came(metric, trio.production.said.ended)):
            # Without production's answer there is nothing to hold it against. More than a tie would be a bonus that production, whose
            # own value is never more, cannot have where the candidate's answer did not come.
            return gauge.tie
        case = Case(
            Scored(said.text, said.ended is not Answer.LENGTH, said.tool_calls),
            (trio.production.said.text,) if gauge.against_production else (),
            trio.question.text,
            trio.question.tools,
        )
        return await self._scored(gauge, case)

    async def _scored(self, gauge: _Gauge, case: Case) -> float | str:
        assert gauge.judge is not None  # noqa: S101 - only metrics with a scorer come here
        name = gauge.metric.name
        try:
            outcome = await score(gauge.judge, case)
        except ScorerInvalidError as error:
            self.invalid[name] = str(error)
            return "Invalid"
        if isinstance(outcome, Broken):
            return outcome.cause
        return score_value(gauge.metric, outcome)


def came(metric: Metric, ended: Answer) -> bool:
    """Whether there is anything to measure: `outcomes.value` says the same of what is measured."""
    return ended is Answer.COMPLETE or (ended is Answer.LENGTH and metric.kind is Kind.QUANTILE)


def score_value(metric: Metric, found: Found) -> float:
    """Return what a score counts as: right or wrong in a proportion, the score itself in a mean."""
    return oriented(metric, float(found.right) if metric.kind is Kind.PROPORTION else found.value)


def oriented(metric: Metric, good: float) -> float:
    """Return a score, of which 1 is best, as a metric that should be low counts it: as the share that is wrong."""
    return good if metric.direction is Direction.HIGHER else 1.0 - good


def _plain(measure: Measure | None, said: Said) -> float | None:
    if measure is Measure.TOKENS:
        return None if said.tokens is None else float(said.tokens)
    assert measure is Measure.LENGTH  # noqa: S101 - the others have a scorer, or are hardware
    return float(len(said.text))


def _hardware(gauge: _Gauge, side: Side) -> float | None:
    ended, measure = side.said.ended, gauge.measured.measure
    if measure is Measure.SERVER_ERROR:
        return oriented(gauge.metric, float(ended not in {Answer.ERROR, Answer.TIMEOUT}))
    if not came(gauge.metric, ended):
        return None
    return side.seconds if measure is Measure.LATENCY else side.first_byte_seconds


def _broke(production: float | str | None, other: float | str | None) -> Whose | None:
    if isinstance(production, str) == isinstance(other, str):
        return None
    return Whose.INCUMBENT if isinstance(production, str) else Whose.CANDIDATE
