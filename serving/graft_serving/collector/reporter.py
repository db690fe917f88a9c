"""What the operator is told of a comparison: the reading of the last commit, with how things stand at this moment."""

from __future__ import annotations

import math
from collections.abc import Callable

from graft_api.collect import CollectorReport, CollectorSettings, Compare
from graft_api.comparison import Comparison
from graft_serving.collector.comparing import Comparing, Equipment
from graft_serving.collector.readings import comparison, lost

MOST_CAUSES = 32
READ_SECONDS = 10.0
"""At least between two readings: each takes a second or so of CPU."""


class Reporter:
    """Reads after each commit, in the thread that committed; `picture` only puts together what is known."""

    def __init__(self, boot: str, settings: CollectorSettings, now: Callable[[], float], changed: Callable[[], None]) -> None:
        """`now`: seconds since 1970. `changed` is called from another thread when there is a new reading."""
        self._boot = boot
        self._settings = settings
        self._now = now
        self._changed = changed
        self._comparison: Comparison | None = None
        self._read_at = -math.inf
        self._commit, self._hours = 0, 0.0
        self._lane: Comparing | None = None
        self._with: Equipment | None = None

    def watch(self, lane: Comparing, equipment: Equipment) -> None:
        """Report of this comparison from now on."""
        self._lane, self._with = lane, equipment

    def read(self) -> None:
        """Take a new reading. Nothing may be committed meanwhile."""
        compare = self._settings.compare
        if compare is None or self._with is None or not self._due(compare):
            return
        self._read_at = self._now()
        total = self._with.journal.chain.total
        self._commit, self._hours = total.sequence, total.progress.observed_seconds / 3600
        self._comparison = comparison(compare, total, self._with.scoring.invalid, self._now())
        self._changed()

    def _due(self, compare: Compare) -> bool:
        return abs(self._now() - self._read_at) >= min(READ_SECONDS, 0.9 * compare.segments.seconds)

    def picture(self, sequence: int) -> CollectorReport:
        """Return the report of this moment."""
        mode = self._settings.mode
        if self._with is None or self._lane is None or self._settings.compare is None:
            return CollectorReport(boot=self._boot, sequence=sequence, mode=mode)
        return self._compared(sequence, self._settings.compare, self._with, self._lane)

    def _compared(self, sequence: int, compare: Compare, equipment: Equipment, lane: Comparing) -> CollectorReport:
        return CollectorReport(
            boot=self._boot,
            sequence=sequence,
            mode=self._settings.mode,
            test=compare.test,
            test_uid=compare.uid,
            observed_hours=self._hours,
            commit=self._commit,
            comparison=self._comparison,
            waiting=lane.waiting,
            lost=dict(list(lost(equipment.journal.progress(), self._now()).items())[:MOST_CAUSES]),
            shadow_away=equipment.gate.away,
            store_away=equipment.journal.store_away,
        )
