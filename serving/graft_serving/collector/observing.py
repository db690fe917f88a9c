"""
A sample of production's answers, scored as they come: what launch criteria, the watch and reports read.

    offered -> a domain that is observed, and in its sample? -> is there room? -> read -> score -> counted -> settled
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque

from graft_api.collect import Observe
from graft_api.tee import ExchangeHead
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.frames import Exchange
from graft_serving.collector.journal import Journal
from graft_serving.collector.judging import Gauge, Judging, Outcome
from graft_serving.collector.observed import HOUR_SECONDS, Cell, Key, ObservedSegment
from graft_serving.collector.questions import BY_NAME, CLIENT_LEFT

logger = logging.getLogger(__name__)

OVERLOAD, INTERNAL = "overload", "internal-error"
FINISH_SECONDS = 10.0
"""After SIGTERM."""
NO_VERSION = "none"
"""Of an answer that no version gave."""


class Observing:
    """The lane of an endpoint's production."""

    def __init__(self, settings: Observe, journal: Journal[ObservedSegment], judging: Judging) -> None:
        """`judging` is of the same domains."""
        self._settings = settings
        self._journal = journal
        self._judging = judging
        self._domains = {observed.domain: observed for observed in settings.domains}
        self._queue: deque[Exchange] = deque()
        self._came = asyncio.Semaphore(0)
        self.held = 0
        self.duplicates = 0
        self.counted: dict[tuple[str, str, str], Cell] = {}
        """By domain, version and score, since this process started."""

    @property
    def store_away(self) -> bool:
        """Whether nothing can be written down."""
        return self._journal.store_away

    def restore(self) -> None:
        """Go on with what the last commit says was asked of scorers."""
        self._judging.spent = Counter(self._journal.chain.total.progress.spent)
        self._journal.spent = lambda: dict(self._judging.spent)

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
        self._judging.claim(exchange)
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
                self._judging.release(exchange)

    async def _observe(self, exchange: Exchange) -> None:
        head = exchange.head
        found = [(gauge, await self._judging.outcome(gauge, exchange)) for gauge in self._judging.gauges(head.domain)]
        await self._journal.room()
        for gauge, outcome in found:
            if outcome is not None:
                self._count(head, gauge, outcome)
        self._journal.settle(exchange)

    def _count(self, head: ExchangeHead, gauge: Gauge, outcome: Outcome) -> None:
        version, name = head.version or NO_VERSION, gauge.name
        began = min(head.started, self._journal.clock.now())  # by the gateway's clock, which may be ahead
        kept = self._journal.open.cell(Key(int(began // HOUR_SECONDS), head.domain, version, name))
        shown = self.counted.setdefault((head.domain, version, name), Cell())
        for cell in (kept, shown):
            if isinstance(outcome, str):
                cell.broken[outcome] += 1
            elif outcome is not None:
                cell.add(outcome[0], right=outcome[1])
