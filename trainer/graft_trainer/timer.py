"""Seconds per stage, handed on from container to container."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from graft_api.finetunejob import Progress, Stage, StageSeconds
from graft_api.schema import Model
from graft_trainer.layout import WorkFolder
from graft_trainer.records import load, save

logger = logging.getLogger(__name__)


class StageTimes(Model):
    """stages.json: what the stages of this attempt took so far."""

    seconds: StageSeconds


class Timer:
    """Which stage runs, since when, and how long the others took, those of earlier containers included."""

    def __init__(self, work: WorkFolder) -> None:
        self._work = work
        earlier = load(StageTimes, work.stages)
        self._done: dict[Stage, float] = dict(earlier.seconds) if earlier else {}
        self._began = 0.0
        self.current: Stage | None = None

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time one stage, and let whoever reports say that it began."""
        self.current, self._began = name, time.monotonic()
        save(self._work.progress, Progress(stage=name))
        yield
        self._done, self.current = self.seconds(), None
        save(self._work.stages, StageTimes(seconds=self._done))
        logger.info("%s took %.1f s", name, self._done[name])

    def seconds(self) -> dict[Stage, float]:
        """Return the seconds of each stage, the running one up to now."""
        running = {self.current: round(time.monotonic() - self._began, 2)} if self.current else {}
        return self._done | running
