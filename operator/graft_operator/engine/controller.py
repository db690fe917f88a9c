"""Workers that take keys from a queue, reconcile them and decide what a failure means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import Conflict, LeadershipLost, NotYet, Unavailable, UserMustAct
from graft_operator.engine.queue import Key, QueueClosed, WorkQueue

logger = logging.getLogger(__name__)

_ONE_PASS = timedelta(minutes=5)
"""No pass takes this long: every call to the API server ends within 20 s. A pass that hangs must not keep its worker."""


@dataclass(frozen=True)
class Outcome:
    """What a pass over an object leaves behind: nothing to do until the next change, or until a moment from now."""

    requeue_after: timedelta | None = None


class Result(StrEnum):
    """How a pass ended, as the metrics count it."""

    DONE = "done"
    """The object is as it should be, or waits for a change or a deadline."""
    USER = "user"
    """The user must act. Not tried again."""
    WAIT = "wait"
    """Something is not there yet. Tried again after a delay."""
    CONFLICT = "conflict"
    """Somebody else changed the object in the meantime. Tried again."""
    UNAVAILABLE = "unavailable"
    """The API server could not answer. Tried again."""
    ERROR = "error"
    """Everything else. Tried again, logged once."""


Reconcile = Callable[[Key], Awaitable[Outcome]]


class ReconcileMetrics:
    """What all controllers of a process count, by controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.passes = Counter("graft_reconcile_total", "Passes by how they ended.", ["controller", "result"], registry=registry)
        self.seconds = Histogram(
            "graft_reconcile_seconds",
            "How long a pass took.",
            ["controller"],
            registry=registry,
            buckets=(0.01, 0.05, 0.25, 1, 5, 30),
        )
        self.errors = Counter(
            "graft_reconcile_errors_total", "Passes that failed, by error type.", ["controller", "error"], registry=registry
        )
        self.depth = Gauge("graft_queue_depth", "Keys that wait for a worker.", ["controller"], registry=registry)


class Controller:
    """Runs `reconcile` for every key of its queue, at most `workers` at a time and never one key twice at a time."""

    def __init__(
        self, name: str, reconcile: Reconcile, queue: WorkQueue, clock: Clock, metrics: ReconcileMetrics, workers: int = 4
    ) -> None:
        self.name = name
        self.queue = queue
        self._reconcile = reconcile
        self._clock = clock
        self._metrics = metrics
        self._workers = workers
        self._logged: dict[Key, str] = {}
        metrics.depth.labels(name).set_function(lambda: len(queue))
        for result in Result:  # counted from 0 on: for Prometheus a counter that appears as 1 has never grown
            metrics.passes.labels(name, result)

    async def run(self) -> None:
        """Work until the queue is closed, then only finish what has begun."""
        async with asyncio.TaskGroup() as group:
            timers = group.create_task(self.queue.run(), name=f"{self.name} timers")
            workers = [group.create_task(self._work(), name=f"{self.name} worker {n}") for n in range(self._workers)]
            await asyncio.wait(workers)
            timers.cancel()

    async def drain(self) -> None:
        """Take no more keys; return when those that are worked on are finished."""
        self.queue.close()
        await self.queue.drained()

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except QueueClosed:
                return
            try:
                await self.reconcile_once(key)
            finally:
                self.queue.done(key)

    async def reconcile_once(self, key: Key) -> Result:
        """One pass over one object, with everything that follows from how it ended."""
        began = self._clock.monotonic()
        result = await self._attempt(key)
        self._metrics.seconds.labels(self.name).observe(self._clock.monotonic() - began)
        self._metrics.passes.labels(self.name, result).inc()
        return result

    async def _attempt(self, key: Key) -> Result:
        try:
            async with asyncio.timeout(_ONE_PASS.total_seconds()):
                outcome = await self._reconcile(key)
        except LeadershipLost:
            raise
        except UserMustAct as error:
            self.queue.forget(key)
            self._log_once(key, error, logging.WARNING)
            return Result.USER
        except NotYet as wait:
            self.queue.forget(key)
            self.queue.add_after(key, wait.delay)
            return Result.WAIT
        except Conflict:
            self.queue.add_backoff(key)
            return Result.CONFLICT
        except Unavailable as error:
            self._log_once(key, error, logging.WARNING)
            self.queue.add_backoff(key, at_least=error.retry_after or timedelta())
            return Result.UNAVAILABLE
        except Exception as error:  # noqa: BLE001 -- the edge of one object: whatever happened to it, the others go on
            self._metrics.errors.labels(self.name, type(error).__name__).inc()
            self._log_once(key, error, logging.ERROR)
            self.queue.add_backoff(key)
            return Result.ERROR
        self._settle(key, outcome)
        return Result.DONE

    def _settle(self, key: Key, outcome: Outcome) -> None:
        self.queue.forget(key)
        if self._logged.pop(key, None):
            logger.info("reconciled again", extra=self._subject(key))
        if outcome.requeue_after is not None:
            self.queue.add_after(key, outcome.requeue_after)

    def _log_once(self, key: Key, error: Exception, level: int) -> None:
        """Once per distinct failure: an object that fails for a day is one line, and one more when it fails differently."""
        failure = f"{type(error).__name__}: {error}"
        if self._logged.get(key) == failure:
            return
        self._logged[key] = failure
        traceback = error if level >= logging.ERROR else None
        logger.log(level, "cannot reconcile: %s", failure, exc_info=traceback, extra=self._subject(key))

    def _subject(self, key: Key) -> dict[str, str]:
        return {"controller": self.name, "object": str(key)}
