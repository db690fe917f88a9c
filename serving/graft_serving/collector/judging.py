"""
What is said of one of production's answers: each thing once, whichever lane wants to know.

    claim -> outcome, as often as one likes -> release
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from graft_api.collect import ObservedDomain, ObservedScore
from graft_api.measures import YES_OR_NO, Measure
from graft_api.scorers import Scorer
from graft_api.tee import ExchangeHead
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.pairs.scoring import SUGAR
from graft_evaluation.pairs.sides import Said
from graft_evaluation.scorers import Answer as Scored
from graft_evaluation.scorers import Broken, Case, Judge, ScorerInvalidError, build_here, requests_per_answer, sampled, score
from graft_serving.collector.answers import read_answer
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.frames import Exchange
from graft_serving.collector.journal import Clock
from graft_serving.collector.pacing import Pace
from graft_serving.collector.questions import Prompt, read_prompt

logger = logging.getLogger(__name__)

NOT_BUILT = "NotBuilt"
"""Why an answer was not scored: nobody can, until what the scorer needs is mended. `Judging` has logged what that is."""

Outcome = tuple[float, bool | None] | str | None
"""Value and whether it is right (None of a quantity); a word for what broke; or None: not measured of this answer."""


@dataclass(frozen=True)
class Gauge:
    """One thing that is said of a domain's answers."""

    domain: str
    observed: ObservedScore
    judge: Judge | None
    """None of a measure, and where the scorer cannot be built."""
    scorer: Scorer | None

    @property
    def name(self) -> str:
        """The domain's own name of it."""
        return self.observed.name


@dataclass
class _Claimed:
    """An answer that somebody looks at."""

    exchange: Exchange
    claims: int = 0
    read: tuple[Said, Prompt | None] | None = None
    outcomes: dict[int, asyncio.Task[Outcome]] = field(default_factory=dict)
    """By `id` of the gauge, which lives as long as this process."""


class Judging:
    """Of all observed and watched domains. For one event loop; close it."""

    def __init__(self, domains: Sequence[ObservedDomain], environment: Mapping[str, str], clock: Clock) -> None:
        """Build the scorers of `domains`. Of one that cannot be built every answer counts as broken; the others go on."""
        self._environment = environment
        self._clock = clock
        self._gauges = {observed.domain: [self._built(observed.domain, one) for one in observed.scores] for observed in domains}
        self._more: list[Gauge] = []
        self._claimed: dict[str, _Claimed] = {}
        self._closed = False
        self._paces: dict[str, Pace] = {}
        """By domain and score."""
        self.spent: Counter[str] = Counter()
        """What scorers with a budget were asked, by day, domain and score."""
        self.invalid: dict[str, str] = {}

    def gauges(self, domain: str) -> Sequence[Gauge]:
        """Return what is observed of a domain."""
        return self._gauges.get(domain, ())

    def measuring(self, domain: str, measure: Measure) -> Gauge:
        """Return what measures this of a domain: what is observed anyway, or another one."""
        known = [*self.gauges(domain), *(gauge for gauge in self._more if gauge.domain == domain)]
        found = next((gauge for gauge in known if gauge.observed.measure is measure), None)
        if found is None:
            found = self._built(domain, ObservedScore(name=measure.value.lower(), measure=measure))
            self._more.append(found)
        return found

    def claim(self, exchange: Exchange) -> None:
        """From now on until `release` what is found out about it is kept."""
        self._claimed.setdefault(exchange.key, _Claimed(exchange)).claims += 1

    def release(self, exchange: Exchange) -> None:
        """The one who claimed it needs it no more."""
        claimed = self._claimed[exchange.key]
        claimed.claims -= 1
        if not claimed.claims:
            del self._claimed[exchange.key]
            for task in claimed.outcomes.values():
                task.cancel()  # does nothing where it is done

    async def outcome(self, gauge: Gauge, exchange: Exchange) -> Outcome:
        """Return what is said of a claimed exchange."""
        claimed = self._claimed[exchange.key]
        if gauge.scorer is None:
            return _measured(gauge.observed.measure, exchange.head, _read(claimed)[0])
        task = claimed.outcomes.get(id(gauge))
        if task is None:
            task = claimed.outcomes[id(gauge)] = asyncio.ensure_future(self._scored(gauge, claimed))
        # Another lane may wait for the same: this one's end is not the end of it.
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Let go of what scorers hold. Every lane that needs them may do it: they end together."""
        if self._closed:
            return
        self._closed = True
        tasks = [task for claimed in self._claimed.values() for task in claimed.outcomes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for gauge in [*(gauge for gauges in self._gauges.values() for gauge in gauges), *self._more]:
            if gauge.judge is not None:
                await gauge.judge.aclose()

    def _built(self, domain: str, observed: ObservedScore) -> Gauge:
        scorer = observed.scorer if observed.measure is None else SUGAR.get(observed.measure)
        try:
            return Gauge(domain, observed, build_here(scorer, self._environment) if scorer else None, scorer)
        except ScorerInvalidError as error:
            logger.error("the scorer of %s of %s cannot be built, its answers count as broken: %s", observed.name, domain, error)
            return Gauge(domain, observed, None, scorer)

    async def _scored(self, gauge: Gauge, claimed: _Claimed) -> Outcome:
        exchange, (said, prompt) = claimed.exchange, _read(claimed)
        assert gauge.scorer is not None  # noqa: S101 - the others are measured
        if said.ended is Answer.ERROR or prompt is None or (gauge.observed.measure is Measure.TOOL_CALLS and not prompt.tools):
            return None
        if gauge.judge is None:
            return NOT_BUILT if sampled(gauge.scorer.sample, exchange.key) else None
        if not self._affordable(gauge, gauge.scorer, exchange):
            return None
        case = Case(Scored(said.text, said.ended is not Answer.LENGTH, said.tool_calls), (), prompt.text, prompt.tools)
        try:
            outcome = await score(gauge.judge, case)
        except ScorerInvalidError as error:
            if gauge.name not in self.invalid:
                logger.error("the scorer of %s cannot judge: %s", gauge.name, error)
            self.invalid[gauge.name] = str(error)
            return "Invalid"
        return outcome.cause if isinstance(outcome, Broken) else (outcome.value, outcome.right)

    def _affordable(self, gauge: Gauge, scorer: Scorer, exchange: Exchange) -> bool:
        """Whether this answer is sampled, and is one of those that today's budget is for."""
        sample = scorer.sample
        if not sampled(sample, exchange.key):
            return False
        if sample is None or sample.max_requests is None:
            return True
        day = datetime.fromtimestamp(self._clock.now(), UTC).date().isoformat()
        of, requests = f"{gauge.domain}/{gauge.name}", requests_per_answer(scorer)
        place_of, pace = f"{day}/{of}", self._paces.setdefault(of, Pace(sample.max_requests))
        if not pace.take(requests, place(0, Purpose.PACE, exchange.key), self._clock.now(), self.spent[place_of]):
            return False
        for old in [key for key in self.spent if not key.startswith(day)]:
            del self.spent[old]
        self.spent[place_of] += requests
        return True


def _read(claimed: _Claimed) -> tuple[Said, Prompt | None]:
    """Return answer and prompt; None for one that no scorer can read: then only what needs none is measured."""
    if claimed.read is None:
        exchange = claimed.exchange
        said = read_answer(exchange.head.api, exchange.head.status, exchange.answer, stream=exchange.head.stream)
        claimed.read = said, read_prompt(exchange.head, exchange.request)
    return claimed.read


def _measured(measure: Measure | None, head: ExchangeHead, said: Said) -> tuple[float, bool | None] | None:
    if measure is Measure.SERVER_ERROR:
        failed = said.ended is Answer.ERROR
        return float(failed), not failed
    if said.ended is Answer.ERROR:
        return None
    quantities: Mapping[Measure | None, float | None] = {
        Measure.LATENCY: head.seconds,
        Measure.FIRST_TOKEN: head.first_byte_seconds if head.stream else None,
        Measure.TOKENS: float(head.tokens_out),
        Measure.LENGTH: float(len(said.text)),
    }
    value = quantities[measure]
    assert measure not in YES_OR_NO  # noqa: S101 - the others have a scorer
    return None if value is None else (value, None)
