"""
The life of a process: what always runs, what only the leader runs, and how all of it ends.

    Process(always=[...], leading=[...], leadership=leadership).run()   ->  exit code

SIGTERM: take no more work, finish what has begun, stop writing, release the lease, exit 0. Anything that ends by itself,
well or not, ends the process with 1: kubelet starts it again, which is better than half an operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import uvloop

from graft_operator.engine.controller import Controller
from graft_operator.engine.leadership import Leadership

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """Something that runs until it is cancelled. `drain` is called before, to let it finish what has begun."""

    name: str
    run: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]] | None = None


def controller_service(controller: Controller) -> Service:
    return Service(controller.name, controller.run, controller.drain)


class ServiceEnded(Exception):  # noqa: N818 -- says what happened
    """A service that runs for ever has returned."""


class Process:
    """`always` runs from the start, on every replica. `leading` runs while this replica leads."""

    def __init__(
        self,
        always: Sequence[Service],
        leading: Sequence[Service],
        leadership: Leadership | None,
        patience: timedelta = timedelta(seconds=15),
    ) -> None:
        self._always = always
        self._leading = leading
        self._leadership = leadership
        self._patience = patience
        self._stopping = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """For /readyz: no new requests, please."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """As SIGTERM does."""
        self._stopping.set()

    def take_signals(self) -> None:
        """SIGTERM and SIGINT stop the process. For Watcher's `on_spawned` too: kopf puts its own handlers there."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def run(self) -> int:
        """The exit code of the process."""
        self.take_signals()
        failures: list[Exception] = []
        try:
            async with asyncio.TaskGroup() as group:
                always = [group.create_task(self._forever(service), name=service.name) for service in self._always]
                leading = group.create_task(self._lead(), name="leading")
                await self._stopping.wait()
                await self._drain()
                for task in (leading, *always):
                    task.cancel()
        except* Exception as group_failed:  # noqa: BLE001 -- the edge of the process
            failures = list(_leaves(group_failed))
        finally:
            # By now every task is finished, so nothing of ours can write after the lease is somebody else's.
            if self._leadership:
                await self._leadership.release()
        for failure in failures:
            logger.critical("the process ends: %s: %s", type(failure).__name__, failure, exc_info=failure)
        return 1 if failures else 0

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._leadership:
                await self._leadership.acquire()
                group.create_task(self._forever(Service("lease", self._leadership.hold)), name="lease")
            for service in self._leading:
                group.create_task(self._forever(service), name=service.name)

    async def _drain(self) -> None:
        logger.info("stopping")
        drains = [service.drain() for service in (*self._leading, *self._always) if service.drain]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience.total_seconds()):
                await asyncio.gather(*drains)

    async def _forever(self, service: Service) -> None:
        await service.run()
        if not self.stopping:  # a drained controller ends, and should
            raise ServiceEnded(f"{service.name} has ended")


def _leaves(failed: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in failed.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def run_process(main: Callable[[], Awaitable[int]]) -> int:
    """Run the coroutine function that builds and runs a Process, on uvloop."""

    async def entry() -> int:
        return await main()

    return uvloop.run(entry())
