"""
The life of the operator: what always runs, what only the leader runs, and how all of it ends.

    LedProcess(always=[...], leading=[...], leadership=leadership).run()   ->  exit code

SIGTERM: take no more work, finish what has begun, stop writing, release the lease, exit 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from graft_operator.engine.controller import Controller
from graft_operator.engine.leadership import Leadership
from graft_runtime.process import Process, Service


def controller_service(controller: Controller) -> Service:
    return Service(controller.name, controller.run, controller.drain)


class LedProcess:
    """
    `always` runs from the start, on every replica. `leading` runs while this replica leads, which it asks to only once `prepared` has
    returned: whoever takes the lease takes it from those who could act at once.
    """

    def __init__(
        self,
        always: Sequence[Service],
        leading: Sequence[Service],
        leadership: Leadership | None,
        patience: timedelta = timedelta(seconds=15),
        prepared: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._prepared = prepared
        self._leading = leading
        self._leadership = leadership
        self._process = Process([*always, Service("leading", self._lead, self._drain)], patience)

    @property
    def stopping(self) -> bool:
        """For /readyz: no new requests, please."""
        return self._process.stopping

    def stop(self) -> None:
        """As SIGTERM does."""
        self._process.stop()

    def take_signals(self) -> None:
        """SIGTERM and SIGINT stop the process. For Watcher's `on_spawned` too: kopf puts its own handlers there."""
        self._process.take_signals()

    async def run(self) -> int:
        """The exit code of the process."""
        try:
            return await self._process.run()
        finally:
            # By now every task is finished, so nothing of ours can write after the lease is somebody else's.
            if self._leadership:
                await self._leadership.release()

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._prepared:
                await self._prepared()
            if self._leadership:
                await self._leadership.acquire()
                group.create_task(self._process.keep(Service("lease", self._leadership.hold)), name="lease")
            for service in self._leading:
                group.create_task(self._process.keep(service), name=service.name)

    async def _drain(self) -> None:
        await asyncio.gather(*(service.drain() for service in self._leading if service.drain))
