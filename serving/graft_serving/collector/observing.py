"""
A sample of production's answers, scored as they come: what launch criteria, the watch and reports read.

    offered -> a domain that is observed, and in its sample? -> is there room? -> read -> score -> counted -> settled
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from graft_api.collect import YES_OR_NO, Measure, Observe, ObservedDomain, ObservedScore
from graft_api.scorers import Scorer
from graft_api.tee import ExchangeHead
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.scorers import Answer as Scored
from graft_evaluation.scorers import Broken, Case, Judge, ScorerInvalidError, build, requests_per_answer, sampled, score
from graft_serving.collector.answers import Said, read_answer
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.frames import Exchange
from graft_serving.collector.journal import Journal
from graft_serving.collector.observed import Cell, Key, ObservedSegment
from graft_serving.collector.questions import BY_NAME, CLIENT_LEFT, ExcludedError, Question, read_question
from graft_serving.collector.scoring import SUGAR

logger = logging.getLogger(__name__)

OVERLOAD, INTERNAL = "overload", "internal-error"
FINISH_SECONDS = 10.0
"""After SIGTERM."""
NO_VERSION = "none"
"""Of an answer that no version gave."""


@dataclass(frozen=True)
class _Gauge:
    observed: ObservedScore
    judge: Judge | None
    scorer: Scorer | None


class Observing:
    """The lane of an endpoint's production."""

    def __init__(self, settings: Observe, journal: Journal[ObservedSegment], environment: Mapping[str, str]) -> None:
        """Build the scorers. Raises `ScorerInvalidError`."""
        self._settings = settings
        self._journal = journal
        self._domains = {observed.domain: observed for observed in settings.domains}
        self._gauges = {observed.domain: _gauges(observed, environment) for observed in settings.domains}
        self._queue: deque[Exchange] = deque()
        self._came = asyncio.Semaphore(0)
        self._spent: Counter[str] = Counter()
        self.held = 0
        self.duplicates = 0
        self.counted: dict[tuple[str, str, str], Cell] = {}
        """By domain, version and score, since this process started."""
        self.invalid: dict[str, str] = {}

    def restore(self) -> None:
        """Go on with what the last commit says was asked of scorers."""
        self._spent = Counter(self._journal.chain.total.progress.spent)
        self._journal.spent = lambda: dict(self._spent)

    def offer(self, exchange: Exchange) -> None:
        """Take an exchange or leave it. Never waits."""
        if not self._journal.take(exchange):
            self.duplicates += 1
            return
        if not self._chosen(exchange):
            self._journal.settle(exchange)
            return
        self._journal.ours += 1
        if self.held + exchange.size > self._settings.waiting_bytes:
            self._journal.lose(exchange, OVERLOAD)
            return
        self.held += exchange.size
        self._queue.append(exchange)
        self._came.release()

    async def run(self) -> None:
        """Score until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.concurrency):
                group.create_task(self._work())

    async def drain(self) -> None:
        """Score what waits, as far as time goes; the rest is lost, and known to be."""
        clock = self._journal.clock.monotonic
        deadline = clock() + FINISH_SECONDS
        while self.held and clock() < deadline:  # noqa: ASYNC110 - at the end of a process
            await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        """Let go of what scorers hold."""
        for gauges in self._gauges.values():
            for gauge in gauges:
                if gauge.judge is not None:
                    await gauge.judge.aclose()

    def _chosen(self, exchange: Exchange) -> bool:
        head = exchange.head
        domain = self._domains.get(head.domain)
        if domain is None or head.status == CLIENT_LEFT or 400 <= head.status < 500 or head.api not in BY_NAME:
            return False
        return place(0, Purpose.OBSERVE, exchange.key) < float(domain.share)

    async def _work(self) -> None:
        while True:
            await self._came.acquire()
            exchange = self._queue.popleft()
            try:
                await self._observe(exchange)
            except Exception as error:
                logger.error("an answer could not be observed: %s", type(error).__name__, exc_info=error)
                self._journal.lose(exchange, INTERNAL)
            finally:
                self.held -= exchange.size

    async def _observe(self, exchange: Exchange) -> None:
        head = exchange.head
        said = read_answer(head.api, head.status, exchange.answer, stream=head.stream)
        question = _question(exchange)
        found = [(gauge, await self._scored(gauge, exchange, said, question)) for gauge in self._gauges[head.domain]]
        await self._journal.room()
        for gauge, outcome in found:
            if outcome is not None:
                self._count(head, gauge, outcome)
        self._journal.settle(exchange)

    def _count(self, head: ExchangeHead, gauge: _Gauge, outcome: tuple[float, bool | None] | str) -> None:
        version, name = head.version or NO_VERSION, gauge.observed.name
        kept = self._journal.open.cell(Key(int(head.started // 3600), head.domain, version, name))
        shown = self.counted.setdefault((head.domain, version, name), Cell())
        for cell in (kept, shown):
            if isinstance(outcome, str):
                cell.broken[outcome] += 1
            else:
                cell.add(outcome[0], right=outcome[1])

    async def _scored(
        self, gauge: _Gauge, exchange: Exchange, said: Said, question: Question | None
    ) -> tuple[float, bool | None] | str | None:
        """Return value and whether it is right (None of a quantity), a word for what broke, or None: not measured of this answer."""
        head, measure = exchange.head, gauge.observed.measure
        if gauge.judge is None or gauge.scorer is None:
            return _measured(measure, head, said)
        if said.ended is Answer.ERROR or question is None or (measure is Measure.TOOL_CALLS and not question.tools):
            return None
        if not self._affordable(gauge, exchange):
            return None
        case = Case(Scored(said.text, said.ended is not Answer.LENGTH, said.tool_calls), (), question.text, question.tools)
        try:
            outcome = await score(gauge.judge, case)
        except ScorerInvalidError as error:
            if gauge.observed.name not in self.invalid:
                logger.error("the scorer of %s cannot judge: %s", gauge.observed.name, error)
            self.invalid[gauge.observed.name] = str(error)
            return "Invalid"
        return outcome.cause if isinstance(outcome, Broken) else (outcome.value, outcome.right)

    def _affordable(self, gauge: _Gauge, exchange: Exchange) -> bool:
        """Whether this answer is sampled, and today's budget not spent."""
        assert gauge.scorer is not None  # noqa: S101
        sample = gauge.scorer.sample
        if not sampled(sample, exchange.key):
            return False
        if sample is None or sample.max_requests is None:
            return True
        day = datetime.fromtimestamp(self._journal.clock.now(), UTC).date().isoformat()
        place_of, requests = f"{day}/{exchange.head.domain}/{gauge.observed.name}", requests_per_answer(gauge.scorer)
        if self._spent[place_of] + requests > sample.max_requests:
            return False
        for old in [key for key in self._spent if not key.startswith(day)]:
            del self._spent[old]
        self._spent[place_of] += requests
        return True


def _gauges(observed: ObservedDomain, environment: Mapping[str, str]) -> Sequence[_Gauge]:
    found = []
    for one in observed.scores:
        scorer = one.scorer if one.measure is None else SUGAR.get(one.measure)
        try:
            found.append(_Gauge(one, build(scorer, environment) if scorer else None, scorer))
        except ScorerInvalidError as error:
            raise ScorerInvalidError(f"score {one.name} of {observed.domain}: {error}") from error
    return found


def _question(exchange: Exchange) -> Question | None:
    """Return the question, None for one that cannot be read as one: then only what needs none is measured."""
    try:
        return read_question(exchange.head, exchange.request)
    except ExcludedError:
        return None


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
