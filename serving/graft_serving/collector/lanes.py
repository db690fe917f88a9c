"""The two lanes put together: what each works with, how it begins, runs and ends."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from graft_api.collect import Compare, Observe
from graft_evaluation.pairs.contrasts import plans
from graft_evaluation.pairs.scoring import Scoring
from graft_runtime.environment import MissingSetting
from graft_serving.backoff import Backoff
from graft_serving.collector.chain import Chain
from graft_serving.collector.commits import DamagedError, FencedError
from graft_serving.collector.comparing import Comparing, Equipment
from graft_serving.collector.ingest import Lane
from graft_serving.collector.journal import Clock, Journal
from graft_serving.collector.judging import Judging
from graft_serving.collector.observed import ObservedSegment, observed_algebra
from graft_serving.collector.observing import Observing
from graft_serving.collector.pseudonyms import pseudonym_key
from graft_serving.collector.redactor import Redactor
from graft_serving.collector.reporter import Reporter
from graft_serving.collector.segments import PairSegment, pair_algebra, test_digest
from graft_serving.collector.shadow import Gate, ShadowServer
from graft_serving.collector.spending import Spending
from graft_serving.collector.store import StoreAwayError, away, open_store
from graft_serving.rotated_file import token_file

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Between two tries of a shadow server that is away."""
SHADOW = "shadow"


@dataclass(frozen=True)
class Surroundings:
    """What both lanes need of their process."""

    boot: str
    credentials: Path
    environment: Mapping[str, str]
    clock: Clock
    random: Random
    run_directory: Path | None = None
    """In the pod's memory. None: nothing outlives the process."""


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
    give_up: Callable[[Sequence[str]], None] | None = None
    """Told why nothing can be measured any more; the process goes on, with what else it does. None: it ends."""
    unfit: Sequence[str] = ()
    """Why it cannot begin; for one with `give_up`."""
    resumed: bool = False
    """Exchanges may be offered."""
    over: bool = False
    """It has given up: nothing is written any more."""

    async def run(self) -> None:
        """Run until cancelled. Raises `FencedError`, and `DamagedError` where it cannot give up."""
        try:
            if self.unfit:
                self._give_up(self.unfit)
            else:
                await self._run()
        except* (DamagedError, FencedError) as errors:
            for error in errors.exceptions:
                logger.critical("%s: %s", self.name, error)  # its words are ours; the process's last line has none
            if self.give_up is None or errors.subgroup(FencedError):
                raise
            self._give_up([f"the store: {error}" for error in errors.exceptions])
        finally:
            await self.close()
        await asyncio.Event().wait()

    def _give_up(self, why: Sequence[str]) -> None:
        """Started again, a process would find the same: whoever waits for it is told, and what comes is nobody's."""
        assert self.give_up is not None  # noqa: S101
        self.over = self.resumed = True
        self.give_up(why)

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
        if self.resumed and not self.over:
            await self.finish()
            self.journal.numbers.let_go()
            await self.journal.commit(self.committed)


def compare_lane(settings: Compare, around: Surroundings, reporter: Reporter) -> tuple[LaneService, Comparing, Equipment]:
    """Return the lane of a test; one whose scorers cannot all be built says so and compares nothing. Raises `MissingSetting`."""
    contrasts, shadow = plans(settings), settings.shadow
    chain = Chain(_store(settings.store, around), around.boot, pair_algebra(contrasts), test_digest(settings))
    journal = Journal(chain, settings.segments, partial(PairSegment, contrasts), around.clock)
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, around.random)
    spending = Spending(settings.metrics, settings.duration_seconds, lambda: journal.observed.seconds)
    scoring = Scoring(settings.metrics, around.environment, spending.spend)
    equipment = Equipment(
        journal=journal,
        shadow=ShadowServer(shadow, token_file(Path(shadow.token_file)).read if shadow.token_file else None),
        gate=Gate(backoff, partial(_look, journal)),
        scoring=scoring,
        redactor=Redactor(settings.content, secrets.token_bytes(32), _pseudonyms(settings.uid, around)),
    )
    lane = Comparing(settings, equipment)
    reporter.watch(lane, equipment)

    def restore() -> None:
        spending.restore(chain.total.progress.spent)
        journal.spent = lambda: dict(spending.spent)

    def give_up(why: Sequence[str]) -> None:
        lane.end()
        reporter.broke(why)

    unfit = [f"the scorer of {name}: {why}" for name, why in scoring.unbuilt.items()]
    service = LaneService(
        "compare", lane, journal, lane.run, lane.drain, restore, reporter.read, scoring.aclose, give_up=give_up, unfit=unfit
    )
    return service, lane, equipment


def observe_lane(
    settings: Observe, around: Surroundings, reporter: Reporter | None = None, judging: Judging | None = None
) -> tuple[LaneService, Observing]:
    """
    Return the lane of production. Raises `MissingSetting`.

    Without a reporter nobody is told what it counts. `judging`: of the same domains, where another lane needs it, too; it is closed with
    this lane.
    """
    judging = judging or Judging(settings.domains, around.environment, around.clock)
    chain = Chain(_store(settings.store, around), around.boot, observed_algebra())
    journal = Journal(chain, settings.segments, ObservedSegment, around.clock)
    lane = Observing(settings, journal, judging)
    committed = partial(reporter.count, chain) if reporter else _nothing
    if reporter:
        reporter.observes(lambda: journal.store_away)
    return LaneService("observe", lane, journal, lane.run, lane.drain, lane.restore, committed, judging.aclose), lane


def _look(journal: Journal[Any], there: bool) -> None:
    """Hours in which the shadow is away are none of the test's."""
    if there:
        journal.observed.has(SHADOW)
    else:
        journal.observed.lacks(SHADOW)


def _store(uri: str, around: Surroundings) -> Any:  # noqa: ANN401 - `Store`, which is a protocol of two classes
    try:
        return open_store(uri, around.credentials)
    except StoreAwayError as error:
        raise MissingSetting(str(error)) from error


def _pseudonyms(uid: str, around: Surroundings) -> bytes:
    try:
        return pseudonym_key(uid, around.credentials, around.run_directory, away)
    except StoreAwayError as error:
        raise MissingSetting(str(error)) from error
    except OSError as error:
        raise MissingSetting(f"the pod's memory volume cannot be used: {error.strerror}") from error


def _nothing() -> None:
    """Nobody is told here: Prometheus reads, and whoever reads the commits."""
