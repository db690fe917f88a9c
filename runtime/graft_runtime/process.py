"""
The life of a process: services that run until SIGTERM, then they finish what has begun, then the end.

    Process([Service("clients", serve, drain), Service("health", health.run)]).run()   ->  exit code

A service that ends by itself, well or not, ends the process with 1: the kubelet starts it again, which is better than half
a process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import uvloop

logger = logging.getLogger(__name__)

YOUNG_OBJECTS = 10_000
"""The collector of cycles looks only after so many new objects: requests under way are no garbage, and Python's 700 are a few of them."""


@dataclass(frozen=True)
class Service:
    """Something that runs until it is cancelled. `drain` is called before, to let it finish what has begun."""

    name: str
    run: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]] | None = None


class ServiceEnded(Exception):  # noqa: N818 - says what happened
    """A service that runs for ever has returned."""


class Process:
    """All drains are called at once after SIGTERM. They have `patience` together; None: each limits its own time."""

    def __init__(self, services: Sequence[Service], patience: timedelta | None = None) -> None:
        self._services = services
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
        """SIGTERM and SIGINT stop the process. For whoever has to take them back from a library, too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def run(self) -> int:
        """Return the exit code of the process."""
        _leave_out_what_stays()
        self.take_signals()
        failures: list[Exception] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.keep(service), name=service.name) for service in self._services]
                await self._stopping.wait()
                logger.info("stopping")
                await self._drain()
                for task in tasks:
                    task.cancel()
        except* Exception as group_failed:  # noqa: BLE001 - the edge of the process
            failures = list(_leaves(group_failed))
        for failure in failures:
            logger.critical("the process ends", exc_info=failure)
        return 1 if failures else 0

    async def keep(self, service: Service) -> None:
        """Run a service. Raises `ServiceEnded` if it ends before the process is stopped; a drained one may, and should."""
        await service.run()
        if not self.stopping:
            raise ServiceEnded(f"{service.name} has ended")

    async def _drain(self) -> None:
        seconds = None if self._patience is None else self._patience.total_seconds()
        try:
            async with asyncio.timeout(seconds) as limit:
                await asyncio.gather(*(service.drain() for service in self._services if service.drain))
        except TimeoutError:
            if not limit.expired():
                raise


def _leave_out_what_stays() -> None:
    """Take modules, classes and the wired parts out of what the collector of cycles walks: a full walk holds up every stream."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _leaves(failed: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in failed.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def run_process(main: Callable[[], Awaitable[int]]) -> int:
    """Run the coroutine function that builds and runs a `Process`, on uvloop."""

    async def entry() -> int:
        return await main()

    return uvloop.run(entry())
