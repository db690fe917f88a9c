"""The two lanes put together: what each works with, how it begins, runs and ends."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from graft_api.collect import Compare, Observe
from graft_evaluation.pairs.contrasts import plans
from graft_evaluation.scorers import ScorerInvalidError
from graft_runtime.environment import MissingSetting
from graft_serving.backoff import Backoff
from graft_serving.collector.chain import Chain, DamagedError, FencedError
from graft_serving.collector.comparing import Comparing, Equipment
from graft_serving.collector.ingest import Lane
from graft_serving.collector.journal import Clock, Journal
from graft_serving.collector.observed import ObservedSegment, observed_algebra
from graft_serving.collector.observing import Observing
from graft_serving.collector.redactor import Redactor
from graft_serving.collector.reporter import Reporter
from graft_serving.collector.scoring import Scoring
from graft_serving.collector.segments import PairSegment, pair_algebra, test_digest
from graft_serving.collector.shadow import Gate, ShadowServer
from graft_serving.collector.store import StoreAwayError, open_store
from graft_serving.rotated_file import token_file

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Between two tries of a shadow server that is away."""


@dataclass(frozen=True)
class Surroundings:
    """What both lanes need of their process."""

    boot: str
    credentials: Path
    environment: Mapping[str, str]
    clock: Clock
    random: Random


@dataclass
class LaneService:
    """A lane as a service: it begins with what was counted already."""

    name: str
    lane: Lane
    journal: Journal[Any]
    work: Callable[[], Coroutine[Any, Any, None]]
    finish: Callable[[], Awaitable[None]]
    restore: Callable[[], None]
    committed: Callable[[], None]
    close: Callable[[], Awaitable[None]]
    resumed: bool = False
    """Exchanges may be offered."""

    async def run(self) -> None:
        """Run until cancelled. Raises `DamagedError`, `FencedError`."""
        try:
            await self._run()
        except* (DamagedError, FencedError) as errors:
            for error in errors.exceptions:
                logger.critical("%s: %s", self.name, error)  # its words are ours; the process's last line has none
            raise
        finally:
            await self.close()

    async def _run(self) -> None:
        await self.journal.resume()
        self.restore()
        await asyncio.to_thread(self.committed)
        self.resumed = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self.work())
            group.create_task(self.journal.run(self.committed))

    async def drain(self) -> None:
        """Finish what has begun, and write it down."""
        if self.resumed:
            await self.finish()
            await self.journal.commit(self.committed)


def compare_lane(settings: Compare, around: Surroundings, reporter: Reporter) -> tuple[LaneService, Comparing, Equipment]:
    """Return the lane of a test. Raises `MissingSetting`."""
    contrasts, shadow = plans(settings), settings.shadow
    chain = Chain(_store(settings.store, around), around.boot, pair_algebra(contrasts), test_digest(settings))
    journal = Journal(chain, settings.segments, partial(PairSegment, contrasts), around.clock)
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, around.random)
    try:
        scoring = Scoring([*settings.metrics], around.environment)
    except ScorerInvalidError as error:
        raise MissingSetting(str(error)) from error
    equipment = Equipment(
        journal=journal,
        shadow=ShadowServer(shadow, token_file(Path(shadow.token_file)).read if shadow.token_file else None),
        gate=Gate(backoff),
        scoring=scoring,
        redactor=Redactor(settings.content, secrets.token_bytes(32)),
    )
    lane = Comparing(settings, equipment)
    reporter.watch(lane, equipment)

    def restore() -> None:
        scoring.restore(chain.total.progress.spent)
        journal.spent = lambda: dict(scoring.spent)

    service = LaneService("compare", lane, journal, lane.run, lane.drain, restore, reporter.read, scoring.aclose)
    return service, lane, equipment


def observe_lane(settings: Observe, around: Surroundings) -> tuple[LaneService, Observing]:
    """Return the lane of production. Raises `MissingSetting`."""
    chain = Chain(_store(settings.store, around), around.boot, observed_algebra())
    journal = Journal(chain, settings.segments, ObservedSegment, around.clock)
    try:
        lane = Observing(settings, journal, around.environment)
    except ScorerInvalidError as error:
        raise MissingSetting(str(error)) from error
    return LaneService("observe", lane, journal, lane.run, lane.drain, lane.restore, _nothing, lane.aclose), lane


def _store(uri: str, around: Surroundings) -> Any:  # noqa: ANN401 - `Store`, which is a protocol of two classes
    try:
        return open_store(uri, around.credentials)
    except StoreAwayError as error:
        raise MissingSetting(str(error)) from error


def _nothing() -> None:
    """Nobody reads observations here: Prometheus does, and whoever reads the commits."""
