"""
Looking at everything again, now and then: the safety net under the watches.

Events get lost; an object that vanishes while a watch is down is never reported. So, once per period, the names of all
objects that are not finished are listed (metadata only, page by page) and put on their queue, spread over the period.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import KubeError
from graft_operator.engine.kube import EVERYTHING, Kube, Selection
from graft_operator.engine.queue import Key, WorkQueue
from graft_operator.engine.resources import Object, Resource
from graft_operator.engine.watch import own_key

logger = logging.getLogger(__name__)


@dataclass
class ResyncSource:
    """A kind to look at again. Leave finished objects out: `Selection(fields="status.phase!=Succeeded,...")`."""

    resource: Resource
    queue: WorkQueue
    selection: Selection = EVERYTHING
    key: Callable[[Object], Key | None] = own_key
    known: set[Key] = field(default_factory=set)
    """What the last listing had, to tell what has vanished since."""


class Resync:
    """Lists every source once per period."""

    def __init__(
        self, kube: Kube, sources: Sequence[ResyncSource], clock: Clock, random: Random, period: timedelta = timedelta(minutes=15)
    ) -> None:
        self._kube = kube
        self._sources = sources
        self._clock = clock
        self._random = random
        self._period = period

    async def run(self) -> None:
        """For ever. The watches list everything when they start, so the first listing comes a period later."""
        while True:
            await self._clock.sleep(self._period.total_seconds() * self._random.uniform(0.9, 1.1))
            for source in self._sources:
                try:
                    await self.list_once(source)
                except KubeError as error:
                    logger.warning("resync of %s failed, next try in %s: %s", source.resource.plural, self._period, error)

    async def list_once(self, source: ResyncSource) -> None:
        """
        Queue what is there, spread over the period, and at once what was there the last time and is not any more.

        What has finished since the last listing counts as vanished: one pass more, which finds nothing to do.
        """
        present: set[Key] = set()
        async for metadata in self._kube.list_metadata(source.resource, source.selection):
            key = source.key({"metadata": metadata})
            if key and key not in present:
                present.add(key)
                source.queue.add_after(key, self._period * self._random.random())
        for key in source.known - present:
            source.queue.add(key)
        source.known = present
