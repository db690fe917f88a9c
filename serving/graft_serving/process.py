"""
The life of a process of the data plane: services that run until SIGTERM, then a drain, then the end.

A service that ends by itself, well or not, ends the process with 1: the kubelet starts it again, which is better than half
a gateway.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import uvloop

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """Something that runs until it is cancelled."""

    name: str
    run: Callable[[], Awaitable[None]]


class ServiceEnded(Exception):  # noqa: N818 - says what happened
    """A service that runs for ever has returned."""


class Process:
    """`drain` is awaited between SIGTERM and the end of the services, and limits its own time."""

    def __init__(self, services: Sequence[Service], drain: Callable[[], Awaitable[None]]) -> None:
        self._services = services
        self._drain = drain
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()

    async def run(self) -> int:
        """Return the exit code of the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        failures: list[Exception] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_forever(service), name=service.name) for service in self._services]
                await self._stop.wait()
                logger.info("stopping")
                await self._drain()
                for task in tasks:
                    task.cancel()
        except* Exception as group_failed:  # noqa: BLE001 - the edge of the process
            failures = list(_leaves(group_failed))
        for failure in failures:
            logger.critical("the process ends", exc_info=failure)
        return 1 if failures else 0


async def _forever(service: Service) -> None:
    await service.run()
    raise ServiceEnded(f"{service.name} has ended")


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
