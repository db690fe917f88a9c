"""
One ShadowTest, exchange by exchange:

    offered -> is it this test's? -> is there room? -> may it be asked again? -> ask the shadow -> score -> line -> settled

Everything up to "ask the shadow" is decided without the candidate. From there on nothing is left out any more: what the candidate
does, or fails to do, is its outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, replace
from functools import partial

from graft_api.collect import Compare, PairLine, Sides
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.pairs.contrasts import CONTROL, INSTRUMENT, PRODUCTION
from graft_serving.collector.admission import Admission
from graft_serving.collector.answers import Side, read_answer
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.frames import Exchange
from graft_serving.collector.journal import Journal
from graft_serving.collector.questions import ExcludedError, Question, check_head, read_question
from graft_serving.collector.questions import Side as Whose
from graft_serving.collector.redactor import Redactor
from graft_serving.collector.scoring import Scoring, Trio
from graft_serving.collector.segments import PairSegment
from graft_serving.collector.shadow import Gate, GivenUpError, Reply, ShadowServer

logger = logging.getLogger(__name__)

SCORER_BROKE = "scorer-broke"
OVERLOAD, SHADOW_AWAY, INTERNAL = "overload", "shadow-away", "internal-error"
"""Why this collector leaves out what was this test's."""
FINISH_SECONDS = 10.0
"""After SIGTERM what is being asked has so long to be answered."""


@dataclass(frozen=True)
class Equipment:
    """What a comparison works with."""

    journal: Journal[PairSegment]
    shadow: ShadowServer
    gate: Gate
    scoring: Scoring
    redactor: Redactor


@dataclass(frozen=True)
class _Waiting:
    exchange: Exchange
    since: float


@dataclass(frozen=True)
class _Asked:
    trio: Trio
    candidate_first: bool | None
    cold: bool
    """The control pair's hardware is not compared: the shadow has just come up."""


class Comparing:
    """The lane of one test."""

    def __init__(self, settings: Compare, equipment: Equipment) -> None:
        self._settings = settings
        self._with = equipment
        self._journal = equipment.journal
        self._admission = Admission(settings.seed, settings.shadow.waiting_bytes)
        self._queue: deque[_Waiting] = deque()
        self._came = asyncio.Semaphore(0)
        self._asking = 0
        self._stopping = False
        self._warm_since, self._warm_left = -1, 0
        self.held = 0
        """Bytes of exchanges that wait or are being asked."""
        self.duplicates = 0

    @property
    def waiting(self) -> int:
        """Exchanges in the queue."""
        return len(self._queue)

    @property
    def admitted_share(self) -> float:
        """Of conversations; less than 1 while the shadow takes less than comes."""
        return self._admission.share

    def offer(self, exchange: Exchange) -> None:
        """Take an exchange, or decide that it is not compared. Never waits."""
        if not self._journal.take(exchange):
            self.duplicates += 1
            return
        head = exchange.head
        if head.domain != self._settings.domain:
            self._journal.settle(exchange)
            return
        self._journal.ours += 1
        try:
            check_head(head, self._settings.incumbent)
        except ExcludedError as excluded:
            self._exclude(exchange, excluded)
            return
        now = self._journal.clock.monotonic()
        if not self._admission.admits(head.conversation, exchange.size, self.held, now):
            self._journal.lose(exchange, OVERLOAD)
            return
        self.held += exchange.size
        self._queue.append(_Waiting(exchange, now))
        self._came.release()

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.shadow.concurrency):
                group.create_task(self._work())

    async def drain(self, seconds: float = FINISH_SECONDS) -> None:
        """Begin nothing new and let what is being asked come to an end; what waits is lost, and known to be."""
        self._stopping = True
        deadline = self._journal.clock.monotonic() + seconds
        while self._asking and self._journal.clock.monotonic() < deadline:  # noqa: ASYNC110 - at the end of a process
            await asyncio.sleep(0.02)

    async def _work(self) -> None:
        while True:
            await self._came.acquire()
            waiting = self._queue.popleft()
            if self._stopping:
                continue
            self._asking += 1
            try:
                await self._compare(waiting)
            except Exception as error:
                logger.error("an exchange could not be compared: %s", type(error).__name__, exc_info=error)
                self._journal.lose(waiting.exchange, INTERNAL)
            finally:
                self._asking -= 1
                self.held -= waiting.exchange.size

    async def _compare(self, waiting: _Waiting) -> None:
        exchange = waiting.exchange
        try:
            question = read_question(exchange.head, exchange.request, self._settings.allowed_media_hosts)
            production = _production(exchange)
            asked = await self._ask(waiting, question, production)
        except ExcludedError as excluded:
            self._exclude(exchange, excluded)
            return
        except GivenUpError:
            self._journal.lose(exchange, SHADOW_AWAY)
            return
        line = await self._line(exchange, asked)
        await self._journal.room()
        self._journal.open.add(line)
        self._journal.settle(exchange)

    async def _ask(self, waiting: _Waiting, question: Question, production: Side) -> _Asked:
        """Raises `GivenUpError` as long as the candidate was not asked, and never after."""
        head, settings = waiting.exchange.head, self._settings
        ask = partial(self._ask_one, waiting, question)
        if not self._controlled(head.conversation):
            return _Asked(Trio(question, production, (await ask(settings.candidate)).side), None, cold=False)
        first = place(settings.seed, Purpose.ORDER, waiting.exchange.key) < 0.5
        incumbent: Reply | None
        if first:
            candidate = await ask(settings.candidate)
            try:
                incumbent = await ask(settings.incumbent)
            except GivenUpError:
                incumbent = None
        else:
            incumbent = await ask(settings.incumbent)
            candidate = await ask(settings.candidate)
        return _Asked(Trio(question, production, candidate.side, incumbent.side if incumbent else None), first, self._cold())

    async def _ask_one(self, waiting: _Waiting, question: Question, version: str) -> Reply:
        deadline = waiting.since + self._settings.shadow.waiting_seconds
        clock, shadow = self._journal.clock.monotonic, self._with.shadow
        return await self._with.gate.ask(lambda: shadow.ask(question, version, waiting.exchange.head), lambda: clock() > deadline)

    def _controlled(self, conversation: str) -> bool:
        return place(self._settings.seed, Purpose.CONTROL, conversation) < float(self._settings.control_share)

    def _cold(self) -> bool:
        """Whether a control pair is one of the first since the shadow came up. Each counts once."""
        if self._warm_since != self._with.gate.returns:
            self._warm_since, self._warm_left = self._with.gate.returns, self._settings.warm_up_requests
        if not self._warm_left:
            return False
        self._warm_left -= 1
        return True

    async def _line(self, exchange: Exchange, asked: _Asked) -> PairLine:
        trio, head, redactor = asked.trio, exchange.head, self._with.redactor
        quality, instrument = await self._with.scoring.quality(trio, exchange.key)
        values: dict[str, dict[str, Sides]] = {PRODUCTION: quality.found}
        broken = {PRODUCTION: quality.broken} if quality.broken else {}
        exclusions: dict[str, tuple[str, str]] = {}
        if instrument is not None:
            values[INSTRUMENT] = instrument.found
            broken |= {INSTRUMENT: instrument.broken} if instrument.broken else {}
        for name, found in ((PRODUCTION, quality), (INSTRUMENT, instrument)):
            if found is not None and found.broke is not None:
                exclusions[name] = (SCORER_BROKE, found.broke.value)
        if asked.candidate_first is not None and (left_out := _left_out(asked)):
            exclusions[CONTROL] = left_out
        elif trio.incumbent is not None:
            values[CONTROL] = self._with.scoring.hardware(trio).found
        return PairLine(
            boot=exchange.boot,
            number=head.number,
            request_id=head.request_id,
            conversation=head.conversation,
            first_turn=trio.question.first_turn,
            at=max(0, int(head.started)),
            api=head.api,
            stream=head.stream,
            production=redactor.side(trio.production),
            candidate=redactor.side(trio.candidate),
            incumbent=None if trio.incumbent is None else redactor.side(trio.incumbent),
            candidate_first=asked.candidate_first,
            values=values,
            broken=broken,
            exclusions=exclusions,
            **redactor.request(exchange.request),
        )

    def _exclude(self, exchange: Exchange, excluded: ExcludedError) -> None:
        self._journal.open.exclusions[excluded.cause, excluded.side.value] += 1
        self._journal.settle(exchange)


def _production(exchange: Exchange) -> Side:
    """Return production's side. Raises `ExcludedError` for an answer that broke off."""
    head = exchange.head
    said = read_answer(head.api, head.status, exchange.answer, stream=head.stream)
    if said.ended is Answer.ERROR:
        raise ExcludedError("production-failed", Whose.INCUMBENT)
    return Side(replace(said, tokens=head.tokens_out or said.tokens), head.seconds, head.first_byte_seconds if head.stream else None)


def _left_out(asked: _Asked) -> tuple[str, str] | None:
    if asked.trio.incumbent is None:
        return SHADOW_AWAY, Whose.BOTH.value
    return ("warm-up", Whose.BOTH.value) if asked.cold else None
