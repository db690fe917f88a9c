"""
New versions beside those before them, of every conversation that gateways tell of: what is counted of them, in memory alone.

    offered -> of a watched domain, and of one of its two versions? -> is there room? -> measured -> added to its conversation -> closed

Nothing of it lies in the store: a collector that is started again begins with nothing, under another boot, and the operator adds up.
Watches begin and end while this runs; those that go on notice nothing of it.
What clients broke off or asked wrongly has no values. An answer of the base model in a version's place is a server error of that
version, and nothing else: who asked for the version did not get it, and how well or fast the base model answers is no merit of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from graft_api.comparison import Direction, Kind
from graft_api.measures import Measure
from graft_api.tee import ExchangeHead
from graft_api.watch import WatchCount, Watched, WatchedMetric, WatchTask
from graft_serving.collector.conversations import CONVERSATION_BYTES, METRIC_BYTES, Arm, Conversation, Conversations
from graft_serving.collector.frames import Exchange
from graft_serving.collector.journal import Clock
from graft_serving.collector.judging import Gauge, Judging, Outcome
from graft_serving.collector.numbers import Numbers
from graft_serving.collector.observed_time import ContactTime
from graft_serving.collector.questions import BY_NAME, CLIENT_LEFT
from graft_serving.gateway.errors import Cause

logger = logging.getLogger(__name__)

CONCURRENCY = 8
WAITING_BYTES = 64 * 1024 * 1024
"""Of exchanges that are not measured yet."""
OPEN_BYTES, MOST_OPEN = 64 * 1024 * 1024, 200_000
"""Of open conversations, and how many of them, of all watches together."""
CONTACT_SECONDS = 60.0
"""Gateways say something every `tee_sender.SAY_SECONDS`, 30: longer gaps than two of them are nobody's observation."""
SWEEP_SECONDS = 1.0
CHANGED_SECONDS = 2.0
"""At least, between two calls to report what was closed meanwhile: each costs the operator a pass, and the first one none of this time."""
FINISH_SECONDS = 5.0
"""After SIGTERM."""
LARGEST = 1e9
"""A value beyond is a mistake of somebody's: its square would leave nothing of the others."""
OVERLOAD, INTERNAL, BROKEN = "overload", "internal-error", "scorer-broke"


@dataclass(frozen=True)
class _Question:
    """A metric, and what measures it; None: nothing does."""

    metric: WatchedMetric
    gauge: Gauge | None


@dataclass
class WatchedDomain:
    """One watch."""

    task: WatchTask
    questions: Sequence[_Question]
    conversations: Conversations
    turn: int
    """See `graft_api.watch.Watched`."""
    observed: ContactTime
    values: Counter[tuple[Arm, str]] = field(default_factory=Counter)
    """By arm and metric: values of open and closed conversations."""

    def arm(self, version: str) -> Arm | None:
        """Return where a version is in this watch."""
        return {self.task.new: Arm.NEW, self.task.held_back: Arm.HELD_BACK}.get(version)


@dataclass(frozen=True)
class _Waiting:
    exchange: Exchange
    watch: WatchedDomain
    conversation: Conversation


class Watching:
    """The lane of all watches."""

    def __init__(self, tasks: Sequence[WatchTask], judging: Judging, clock: Clock, changed: Callable[[], None]) -> None:
        """`changed` is called when there is something new to report, every few seconds at most."""
        self._judging = judging
        self._clock = clock
        self._changed = changed
        self._reported_at, self._untold = -math.inf, False
        self._observed = ContactTime(clock.monotonic, CONTACT_SECONDS)
        self._queue: deque[_Waiting] = deque()
        self._came = asyncio.Semaphore(0)
        self._turns = count()
        self.watches: Mapping[str, WatchedDomain] = {}
        """By domain."""
        self.numbers = Numbers()
        self.held = 0
        self.left_out: Counter[str] = Counter()
        """Requests, and values that a scorer broke on, by cause."""
        self._watch(tasks)

    def follow(self, tasks: Sequence[WatchTask]) -> None:
        """
        Watch these from now on. One that is the same goes on, with all that is open and counted of it.

        Whatever is different of a watch makes it another one, which begins with nothing: what was asked before is no part of it.
        """
        if list(tasks) == [watch.task for watch in self.watches.values()]:
            return
        self._watch(tasks)
        logger.info("watches of %s", ", ".join(f"{task.domain} (gate {task.gate})" for task in tasks) or "no domain")
        self._changed()

    def _watch(self, tasks: Sequence[WatchTask]) -> None:
        before = self.watches
        self.watches = {task.domain: self._taken_over(task) for task in tasks}
        kept = [id(watch) for watch in self.watches.values()]
        for ended in (watch for watch in before.values() if id(watch) not in kept):
            self.left_out.update(ended.conversations.left_out)
        for watch in self.watches.values():
            watch.conversations.most = _most_open(watch.task, len(tasks))

    def _taken_over(self, task: WatchTask) -> WatchedDomain:
        known = self.watches.get(task.domain)
        if known is not None and known.task == task:
            return known
        # From their next contact on: what gateways had said before was not held against this watch.
        observed = ContactTime(self._clock.monotonic, CONTACT_SECONDS)
        conversations = Conversations([metric.name for metric in task.metrics], task.idle_seconds, _most_open(task, 1))
        questions = [_question(task.domain, metric, self._judging) for metric in task.metrics]
        return WatchedDomain(task, questions, conversations, next(self._turns), observed)

    @property
    def observed_seconds(self) -> float:
        """Return for how long gateways were heard."""
        return self._observed.seconds

    def offer(self, exchange: Exchange) -> None:
        """Take an exchange or leave it. Never waits."""
        head = exchange.head
        if not self.numbers.take(exchange.boot, head.number):
            return
        self.numbers.settle(exchange.boot, head.number)  # nothing is written down: it is in memory, or gone
        watch = self.watches.get(head.domain)
        arm = watch.arm(head.wanted) if watch and _counts(head) else None
        if watch is None or arm is None:
            return
        if self.held + exchange.size > WAITING_BYTES:
            self.left_out[OVERLOAD] += 1
            for observed in self._times():
                observed.miss()
            return
        key, revision = bytes.fromhex(head.conversation), (head.epoch, head.revision)
        conversation = watch.conversations.touch(key, arm, revision, self._clock.monotonic())
        if conversation is None:
            return
        self.held += exchange.size
        self._judging.claim(exchange)
        self._queue.append(_Waiting(exchange, watch, conversation))
        self._came.release()

    def contact(self) -> None:
        """Gateways were heard, and everything that they told of was offered."""
        for observed in self._times():
            observed.heard()

    def _times(self) -> list[ContactTime]:
        return [self._observed, *(watch.observed for watch in self.watches.values())]

    async def run(self) -> None:
        """Measure, and close what is quiet, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(self._work())
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                self.sweep()

    def sweep(self) -> None:
        """Close what is quiet."""
        now = self._clock.monotonic()
        # Every watch, not up to the first one that has something to tell.
        closed = sum([watch.conversations.close_idle(now) for watch in self.watches.values()])
        self._untold = self._untold or closed > 0
        if self._untold and now - self._reported_at >= CHANGED_SECONDS:
            self._reported_at, self._untold = now, False
            self._changed()

    async def drain(self) -> None:
        """
        Measure what waits, as far as time goes, and close everything.

        A conversation that goes on with the next collector is two then, which is better than none of what is known of it.
        """
        deadline = self._clock.monotonic() + FINISH_SECONDS
        while self.held and self._clock.monotonic() < deadline:  # noqa: ASYNC110 - at the end of a process
            await asyncio.sleep(0.02)
        for watch in self.watches.values():
            watch.conversations.close_all()

    def counts(self) -> list[Watched]:
        """Return what was counted since this process took each of them over."""
        return [
            Watched(
                domain=watch.task.domain,
                gate=watch.task.gate,
                adapter_uid=watch.task.adapter_uid,
                new=watch.task.new,
                held_back=watch.task.held_back,
                count=WatchCount(observed_seconds=watch.observed.seconds, metrics=watch.conversations.sums()),
                turn=watch.turn,
            )
            for watch in self.watches.values()
        ]

    async def _work(self) -> None:
        while True:
            await self._came.acquire()
            waiting = self._queue.popleft()
            try:
                await self._measure(waiting)
            except Exception as error:
                logger.error("an answer of a watched version could not be measured: %s", type(error).__name__, exc_info=error)
                self.left_out[INTERNAL] += 1
            finally:
                self.held -= waiting.exchange.size
                self._judging.release(waiting.exchange)
                waiting.watch.conversations.done(waiting.conversation)

    async def _measure(self, waiting: _Waiting) -> None:
        # All of them first: a conversation that is closed meanwhile has all values of a request, or none.
        found = [await self._value(question, waiting.exchange) for question in waiting.watch.questions]
        conversation, watch = waiting.conversation, waiting.watch
        if conversation.closed:
            return
        for place, value in enumerate(found):
            if value is not None:
                watch.conversations.add(conversation, place, value)
                watch.values[conversation.arm, watch.questions[place].metric.name] += 1

    async def _value(self, question: _Question, exchange: Exchange) -> float | None:
        gauge = question.gauge
        if gauge is None:
            return None
        if _fell_back(exchange.head):
            outcome: Outcome = (1.0, False) if gauge.observed.measure is Measure.SERVER_ERROR else None
        else:
            outcome = await self._judging.outcome(gauge, exchange)
        if isinstance(outcome, str):
            self.left_out[BROKEN] += 1
            return None
        value = None if outcome is None else _counted(question.metric, gauge, *outcome)
        return value if value is not None and abs(value) <= LARGEST else None  # which no NaN is


def _most_open(task: WatchTask, among: int) -> int:
    """Return how many conversations of one of so many watches may be open."""
    return max(min(OPEN_BYTES // (CONVERSATION_BYTES + METRIC_BYTES * len(task.metrics)), MOST_OPEN) // among, 1)


def _question(domain: str, metric: WatchedMetric, judging: Judging) -> _Question:
    """Return what measures a metric. Of one that nothing does nothing is ever counted: its watch cannot be confirmed, which people see."""
    if metric.measure is not None:
        gauge: Gauge | None = judging.measuring(domain, metric.measure)
    else:
        gauge = next((gauge for gauge in judging.gauges(domain) if gauge.name == metric.name), None)
    if gauge is None:
        logger.error("%s of the watch of %s: collector.observe has no score of this name for the domain", metric.name, domain)
    elif metric.kind is Kind.PROPORTION and not gauge.observed.is_share():
        logger.error("%s of the watch of %s: a quantity has no proportion, its kind must be Mean", metric.name, domain)
        gauge = None
    return _Question(metric, gauge)


def _counts(head: ExchangeHead) -> bool:
    """Whether it has values at all: not if the client broke it off, or asked for what nobody can give."""
    left = head.status == CLIENT_LEFT or head.cause == Cause.CLIENT_GONE
    return not left and not 400 <= head.status < 500 and head.api in BY_NAME


def _fell_back(head: ExchangeHead) -> bool:
    return head.version is not None and head.version != head.wanted


def _counted(metric: WatchedMetric, gauge: Gauge, value: float, right: bool | None) -> float:
    """
    Return what an outcome counts as: a quantity as it is, a score as the share that is good or, where less is better, that is not.

    As in a ShadowTest, a proportion takes right or wrong, and a mean the score.
    """
    if right is None:
        return value
    good = value if metric.kind is Kind.MEAN and gauge.scorer is not None else float(right)
    return good if metric.direction is Direction.HIGHER else 1.0 - good
