"""
One ShadowTest, exchange by exchange:

    offered -> is it in this test? -> is there room? -> may it be asked again? -> ask the shadow -> score -> line -> settled

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
from graft_evaluation.pairs.scoring import Scoring, Trio
from graft_evaluation.pairs.sides import Side, Whose
from graft_serving.collector.admission import Admission
from graft_serving.collector.answers import read_answer
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.frames import Exchange
from graft_serving.collector.journal import Journal
from graft_serving.collector.questions import ExcludedError, Question, check_head, read_question
from graft_serving.collector.redactor import Redactor
from graft_serving.collector.segments import PairSegment
from graft_serving.collector.shadow import AwayError, Gate, GivenUpError, Reply, ShadowServer

logger = logging.getLogger(__name__)

SCORER_BROKE = "scorer-broke"
OVERLOAD, SHADOW_AWAY, INTERNAL, CUT_OFF = "overload", "shadow-away", "internal-error", "cut-off"
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
    trio: Trio[Question]
    candidate_first: bool | None
    cold: bool
    """The control pair's times are not compared: the shadow has just come up."""


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
        self._stopping = self._ended = False
        self._workers: list[asyncio.Task[None]] = []
        self._begun: set[str] = set()
        """Keys of the exchanges whose candidate was asked."""
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
        if self._ended:
            return
        if not self._journal.take(exchange):
            self.duplicates += 1
            return
        head = exchange.head
        if head.domain != self._settings.domain or not self._shared(head.conversation):
            self._journal.settle(exchange)
            return
        self._journal.ours += 1
        try:
            check_head(head, self._settings.incumbent)
        except ExcludedError as excluded:
            self._exclude(exchange, excluded)
            return
        now = self._journal.clock.monotonic()
        if not self._admission.admits(head.conversation, self.held, now):
            self._journal.lose(exchange, OVERLOAD)
            return
        self.held += exchange.size
        self._queue.append(_Waiting(exchange, now))
        self._came.release()

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._workers = [group.create_task(self._work()) for _ in range(self._settings.shadow.concurrency)]

    def end(self) -> None:
        """Compare nothing any more: what comes is taken and forgotten. Nobody may be at work."""
        self._ended = True
        self._queue.clear()
        self.held = 0

    async def drain(self, seconds: float = FINISH_SECONDS) -> None:
        """
        Begin nothing new and let what is being asked come to an end; what waits is lost, and known to be.

        So is what the candidate has not answered by then, as a cause of its own: it was asked, and slow ones are cut off more often.
        """
        self._stopping = True
        deadline = self._journal.clock.monotonic() + seconds
        while self._asking and self._journal.clock.monotonic() < deadline:  # noqa: ASYNC110 - at the end of a process
            await asyncio.sleep(0.02)
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await self._came.acquire()
            waiting = self._queue.popleft()
            if self._stopping:
                continue
            self._asking += 1
            try:
                await self._compare(waiting)
            except asyncio.CancelledError:
                if waiting.exchange.key in self._begun:
                    self._journal.lose(waiting.exchange, CUT_OFF)
                raise
            except Exception as error:
                logger.error("an exchange could not be compared: %s", type(error).__name__, exc_info=error)
                self._journal.lose(waiting.exchange, INTERNAL)
            finally:
                self._asking -= 1
                self._begun.discard(waiting.exchange.key)
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
        # Before the first question: what a candidate does to the server must not hide in the warm-up after it.
        cold, returns = self._cold(), self._with.gate.returns
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
        trio = Trio(question, production, candidate.side, incumbent.side if incumbent else None)
        return _Asked(trio, first, cold or self._with.gate.returns != returns)

    async def _ask_one(self, waiting: _Waiting, question: Question, version: str) -> Reply:
        deadline = waiting.since + self._settings.shadow.waiting_seconds
        clock, key = self._journal.clock.monotonic, waiting.exchange.key

        async def asked() -> Reply:
            if version != self._settings.candidate:
                return await self._with.shadow.ask(question, version, waiting.exchange.head)
            self._begun.add(key)
            try:
                return await self._with.shadow.ask(question, version, waiting.exchange.head)
            except AwayError:
                self._begun.discard(key)
                raise

        return await self._with.gate.ask(asked, lambda: clock() > deadline)

    def _shared(self, conversation: str) -> bool:
        return place(self._settings.seed, Purpose.SHARE, conversation) < float(self._settings.share)

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
        if hardware := self._hardware(asked):
            values[CONTROL] = hardware
        elif asked.candidate_first is not None and (left_out := _left_out(asked)):
            exclusions[CONTROL] = left_out
        elif trio.incumbent is not None:
            values[CONTROL] = {}
        return PairLine(
            boot=exchange.boot,
            number=head.number,
            request_id=redactor.request_id(head.request_id),
            conversation=redactor.conversation(head.conversation),
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

    def _hardware(self, asked: _Asked) -> dict[str, Sides]:
        scoring, trio = self._with.scoring, asked.trio
        if _crashed(asked):
            return scoring.crash(trio.candidate)
        return {} if trio.incumbent is None else scoring.hardware(trio.question, trio.incumbent, trio.candidate, cold=asked.cold)

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


def _crashed(asked: _Asked) -> bool:
    """
    Whether the candidate's answer was the shadow's last for as long as anybody waits.

    That is its outcome, not the shadow's: left out on both sides, a candidate that brings its server down would look as if it did not.
    """
    failed = asked.trio.candidate.said.ended in {Answer.ERROR, Answer.TIMEOUT}
    return asked.candidate_first is True and asked.trio.incumbent is None and failed


def _left_out(asked: _Asked) -> tuple[str, str] | None:
    if asked.trio.incumbent is None:
        return SHADOW_AWAY, (Whose.CANDIDATE if _crashed(asked) else Whose.BOTH).value
    return ("warm-up", Whose.BOTH.value) if asked.cold else None
