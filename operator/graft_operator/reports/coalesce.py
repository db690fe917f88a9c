"""
Progress: acknowledged at once, the latest kept, written seldom.

A hundred pods that report every second cost the API server at most one write per pod in two seconds, and a slow API server
costs us no memory: there is one slot per pod, and a bound on the slots.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from graft_api.reports import ProgressReport
from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import Conflict, LeadershipLost, Unavailable
from graft_operator.reports.sink import Caller, Refusal

INTERVAL_SECONDS = 2.0
CAPACITY = 4096
WRITERS = 8
"""Writes in flight at once."""
_IDLE_SECONDS = 60.0

logger = logging.getLogger(__name__)

Flush = Callable[[Caller, str, str, ProgressReport], Awaitable[None]]
"""`ReportSink.progress`."""


@dataclass
class _Slot:
    """One pod of one object: what to write next, when it may be written, and what the sink said last."""

    caller: Caller
    namespace: str
    name: str
    due: float
    latest: ProgressReport | None = None
    refusal: Refusal | None = None


class Coalescer:
    """Holds the latest progress of each pod until it may be written. `offer()` never waits; `run()` writes."""

    def __init__(self, flush: Flush, clock: Clock, interval: float = INTERVAL_SECONDS, capacity: int = CAPACITY) -> None:
        self._flush = flush
        self._clock = clock
        self._interval = interval
        self._capacity = capacity
        self._slots: OrderedDict[tuple[str, str, str], _Slot] = OrderedDict()
        self._wakeup = asyncio.Event()
        self.dropped = 0
        """Reports that found no room, for the metrics."""

    def offer(self, caller: Caller, namespace: str, name: str, report: ProgressReport) -> None:
        """
        Keep a report, replacing an older one of the same pod.

        Raises what the sink answered to this pod's earlier progress, if that was a refusal: the pod must stop.
        """
        slot = self._slot(caller, namespace, name)
        if slot is None:
            self.dropped += 1
            return
        if slot.refusal is not None:
            raise type(slot.refusal)(str(slot.refusal))  # a new one: a traceback would grow each time the same is raised
        slot.latest = report
        self._wakeup.set()

    def forget(self, caller: Caller, namespace: str, name: str) -> None:
        """Drop what waits for this pod: a claim was granted, or a result is there."""
        self._slots.pop((namespace, name, caller.pod_uid), None)

    async def run(self) -> None:
        """Write what is due, until cancelled. Only the loss of leadership ends it by itself."""
        while True:
            self._wakeup.clear()
            if due := self._due():
                await self._write(due)
            else:
                await self._clock.sleep(self._pause(), self._wakeup)

    def _slot(self, caller: Caller, namespace: str, name: str) -> _Slot | None:
        key = (namespace, name, caller.pod_uid)
        if key not in self._slots:
            if not self._room():
                return None
            self._slots[key] = _Slot(caller, namespace, name, due=self._clock.monotonic())
        self._slots.move_to_end(key)
        return self._slots[key]

    def _room(self) -> bool:
        """Whether a slot is free, after giving up those that have nothing to write and were not used for longest."""
        if len(self._slots) >= self._capacity:
            idle = next((key for key, slot in self._slots.items() if slot.latest is None), None)
            if idle is None:
                return False
            del self._slots[idle]
        return True

    def _due(self) -> list[_Slot]:
        now = self._clock.monotonic()
        return [slot for slot in self._slots.values() if slot.latest is not None and slot.due <= now][:WRITERS]

    def _pause(self) -> float:
        waiting = [slot.due for slot in self._slots.values() if slot.latest is not None]
        return max(0.0, min(waiting) - self._clock.monotonic()) if waiting else _IDLE_SECONDS

    async def _write(self, slots: list[_Slot]) -> None:
        async with asyncio.TaskGroup() as group:
            for slot in slots:
                group.create_task(self._write_one(slot))

    async def _write_one(self, slot: _Slot) -> None:
        report, slot.latest = slot.latest, None
        slot.due = self._clock.monotonic() + self._interval
        if report is None:
            return
        try:
            await self._flush(slot.caller, slot.namespace, slot.name, report)
        except Refusal as refusal:
            slot.refusal, slot.latest = refusal, None
        except (Unavailable, Conflict) as error:
            # The next report replaces it anyway; keeping this one means that the last before a silence is not lost.
            slot.latest = slot.latest or report
            logger.info("progress of %s/%s waits: %s", slot.namespace, slot.name, error)
        except LeadershipLost:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of one object: losing its progress is harmless, losing the others' is not
            logger.error("progress of %s/%s is lost: %s", slot.namespace, slot.name, type(error).__name__)
