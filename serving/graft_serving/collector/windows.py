"""What was observed, as the operator is told it: the hours of the sums added up to a few windows that end now."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate

from graft_api.collect import OBSERVED_HOURS, Observe, ObservedCounts, ObservedReading
from graft_serving.collector.observed import COVERED, HOUR_SECONDS, UNIT, ObservedSum

MOST_SCORES = 128
"""Of a report: about 40 KiB of the 256 that the operator takes."""

Row = list[int]
"""One number for each of `OBSERVED_HOURS`."""


def windows(observe: Observe, found: ObservedSum, now: float) -> ObservedReading:
    """
    Return the counts of every score that is right or wrong. `now`: seconds since 1970.

    A window is its whole hours and the one that has begun, so that it is never shorter than it says. An hour later than this one, of a
    clock that was wrong, is in none.
    """
    wanted = _wanted(observe)
    told = set(wanted[:MOST_SCORES])
    rows: dict[tuple[str, str], tuple[Row, Row, Row]] = defaultdict(lambda: (_row(), _row(), _row()))
    seconds = _row()
    hour = int(now // HOUR_SECONDS)
    for key, cell in found.cells.items():
        place = _place(hour - key.hour)
        if place is None:
            continue
        if key.domain == COVERED:
            seconds[place] += min(cell.units, round(_span(key.hour, hour, now) / UNIT))
        elif (key.domain, key.score) in told:
            answers, wrong, broken = rows[key.domain, key.score]
            answers[place] += cell.count
            wrong[place] += cell.count - cell.right
            broken[place] += cell.broken.total()
    counts = [_counts(domain, score, *rows[domain, score]) for domain, score in wanted[:MOST_SCORES]]
    return ObservedReading(at=int(now), covered=_covered(seconds, now), counts=counts, left_out=len(wanted) - len(counts))


def _wanted(observe: Observe) -> list[tuple[str, str]]:
    return sorted((one.domain, score.name) for one in observe.domains for score in one.scores if score.is_share())


def _row() -> Row:
    return [0] * len(OBSERVED_HOURS)


def _place(age: int) -> int | None:
    """Return the shortest window that an hour is in; None for one that is in none. `age`: hours before the one that has begun."""
    place = bisect_left(OBSERVED_HOURS, age)
    return place if age >= 0 and place < len(OBSERVED_HOURS) else None


def _span(hour: int, this: int, now: float) -> float:
    """Return the seconds of an hour that have passed."""
    return now - this * HOUR_SECONDS if hour == this else float(HOUR_SECONDS)


def _counts(domain: str, score: str, answers: Row, wrong: Row, broken: Row) -> ObservedCounts:
    """Every window holds the shorter ones."""
    return ObservedCounts(
        domain=domain, score=score, answers=[*accumulate(answers)], wrong=[*accumulate(wrong)], broken=[*accumulate(broken)]
    )


def _covered(seconds: Row, now: float) -> list[float]:
    begun = now % HOUR_SECONDS
    return [
        min(1.0, total * UNIT / (hours * HOUR_SECONDS + begun)) for hours, total in zip(OBSERVED_HOURS, accumulate(seconds), strict=True)
    ]
