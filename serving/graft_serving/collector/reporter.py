"""What the operator is told of a comparison and of production: readings of the last commit, with how things stand at this moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from graft_api.collect import CollectorReport, CollectorSettings, Compare, ObservedReading, Reported
from graft_api.comparison import Comparison
from graft_api.watch import Watched
from graft_serving.collector.chain import Chain
from graft_serving.collector.commits import Sum
from graft_serving.collector.comparing import Comparing, Equipment
from graft_serving.collector.observed import SUM, ObservedSum
from graft_serving.collector.readings import MOST_BROKEN, comparison, lost, nothing
from graft_serving.collector.windows import windows

MOST_CAUSES = 32
LONGEST = 160
"""Characters of a sentence of `Comparison.broken`."""
READ_SECONDS = 10.0
"""At least between two readings: each takes a second or so of CPU."""


class Reporter:
    """Reads after each commit and note, in the thread that committed; `picture` only puts together what is known."""

    def __init__(self, boot: str, settings: CollectorSettings, now: Callable[[], float], changed: Callable[[], None]) -> None:
        """`now`: seconds since 1970. `changed` is called from another thread when there is a new reading."""
        self._boot = boot
        self._settings = settings
        self._now = now
        self._changed = changed
        self._comparison: Comparison | None = None
        self._read_at = -math.inf
        self._commit, self._hours = 0, 0.0
        self._digest: str | None = None
        self._lane: Comparing | None = None
        self._with: Equipment | None = None
        self._reported: Reported | None = None
        self._observed: ObservedReading | None = None
        self._observed_at = -math.inf
        self._watched: Callable[[], list[Watched]] = list
        self._store_away: Callable[[], bool] = bool
        self.pictured = 0
        """Sequence number of the last report that was put together."""

    def watch(self, lane: Comparing, equipment: Equipment) -> None:
        """Report of this comparison from now on."""
        self._lane, self._with = lane, equipment

    def watches(self, watched: Callable[[], list[Watched]]) -> None:
        """Report from now on what this says of watches."""
        self._watched = watched

    def observes(self, store_away: Callable[[], bool]) -> None:
        """Report from now on what this says of the store of what is observed."""
        self._store_away = store_away

    def wrote(self, reported: Reported) -> None:
        """Tell of a test's report from now on."""
        self._reported = reported
        self._changed()

    def read(self) -> None:
        """Take a new reading. Nothing may be committed meanwhile."""
        compare = self._settings.compare
        if compare is None or self._with is None or not self._due(compare):
            return
        self._read_at = self._now()
        chain = self._with.journal.chain
        total = chain.total
        self._commit, self._digest = total.sequence, total.digest
        self._hours = max(total.progress.observed_seconds, chain.noted_seconds) / 3600
        self._comparison = comparison(compare, total, self._with.scoring.invalid, self._now())
        self._changed()

    def count(self, chain: Chain[Sum]) -> None:
        """Take a new reading of production, in the thread that committed. Nothing may be committed meanwhile."""
        observe, now = self._settings.observe, self._now()
        if observe is None or abs(now - self._observed_at) < READ_SECONDS:
            return
        self._observed_at = now
        self._observed = windows(observe, cast("ObservedSum", chain.total.sums[SUM]), now)

    def broke(self, why: Sequence[str]) -> None:
        """Tell from now on, beside what was read before, that nothing more can be measured. `why`: sentences, at least one."""
        if self._settings.compare is None:
            return
        known = self._comparison or nothing(self._settings.compare)
        self._comparison = known.model_copy(update={"broken": [told[:LONGEST] for told in why][:MOST_BROKEN]})
        self._changed()

    def _due(self, compare: Compare) -> bool:
        return abs(self._now() - self._read_at) >= min(READ_SECONDS, 0.9 * compare.segments.seconds)

    def picture(self, sequence: int) -> CollectorReport:
        """Return the report of this moment."""
        self.pictured = sequence
        if self._with is None or self._lane is None or self._settings.compare is None:
            return CollectorReport(
                boot=self._boot,
                sequence=sequence,
                mode=self._settings.mode,
                store_away=self._store_away(),
                reported=self._reported,
                observed=self._observed,
                watched=self._watched(),
            )
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
            commit_digest=self._digest,
            lineage={str(sequence): digest for sequence, digest in equipment.journal.chain.lineage.items()},
            comparison=self._comparison,
            waiting=lane.waiting,
            lost=dict(list(lost(equipment.journal.progress(), self._now()).items())[:MOST_CAUSES]),
            shadow_away=equipment.gate.away,
            store_away=equipment.journal.store_away or self._store_away(),
            reported=self._reported,
            observed=self._observed,
            watched=self._watched(),
        )
