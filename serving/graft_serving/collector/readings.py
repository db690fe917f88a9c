"""From what is committed to what the operator reads. Pure, and of committed pairs alone: a restart changes no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from graft_api.collect import Compare
from graft_api.comparison import Comparison, Contrast
from graft_evaluation.paired.reading import Moment, contrast
from graft_serving.collector.chain import Progress, Sum, Total
from graft_serving.collector.comparing import INTERNAL
from graft_serving.collector.numbers import NO_LOSS, Numbers
from graft_serving.collector.pairs import CONTROL, INSTRUMENT, PRODUCTION
from graft_serving.collector.segments import PairSum

MOST_BROKEN = 32


def comparison(compare: Compare, total: Total[Sum], broken: Sequence[str], now: float) -> Comparison:
    """Return everything that a verdict is read from; `now` in seconds since 1970. Takes a second or so of CPU."""
    moment = Moment(int(now), total.progress.observed_seconds / 3600)
    found = {name: _contrast(compare, part, moment) for name, part in total.sums.items()}
    return Comparison(
        contrasts=[found[name] for name in (PRODUCTION, CONTROL) if name in found],
        instrument=found.get(INSTRUMENT),
        broken=[*_internal(total.progress), *broken][:MOST_BROKEN],
        lost_pairs=lost_pairs(total.progress, now),
    )


def lost(progress: Progress, now: float) -> dict[str, int]:
    """Return what was lost, by cause, of all domains and versions."""
    found = {**Numbers(progress.numbers).lost(now)}
    for cause, count in progress.lost.items():
        found[cause] = found.get(cause, 0) + count
    return dict(sorted(found.items()))


def lost_pairs(progress: Progress, now: float) -> int:
    """
    Return how many requests of this test were lost.

    Nobody knows whose an exchange is that never came: of those this test's share is taken to be its share of those that came.
    """
    unknown = sum(count for cause, count in Numbers(progress.numbers).lost(now).items() if cause not in NO_LOSS)
    share = progress.ours / progress.arrived if progress.arrived else 1.0
    return sum(progress.lost.values()) + math.ceil(unknown * share)


def _contrast(compare: Compare, part: Sum, moment: Moment) -> Contrast:
    return contrast(cast("PairSum", part).summary, compare.limits, moment)


def _internal(progress: Progress) -> list[str]:
    count = progress.lost.get(INTERNAL, 0)
    return [f"the collector itself failed on {count} requests; its log says where"] if count else []


def invalid(scorers: Mapping[str, str]) -> list[str]:
    """Return a sentence for each scorer that its author must change."""
    return [f"the scorer of {name}: {why}"[:160] for name, why in sorted(scorers.items())]
