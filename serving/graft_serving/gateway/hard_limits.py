"""
Whether a new version is beyond a hard limit while the conversations that were held back are not. Pure.

A share of a few requests is beyond a limit by chance now and then, and within two days of a watch it surely is. And when something
strikes both arms alike, the one with more requests crosses the limit first about every other time. So a share must also be higher than
chance makes it.

    enough was held back in the window     higher than its share there, or counted anew            likelihood ratio
    less                                   counted anew from when the limit is passed, both arms:
      something was                        higher than its share since                             likelihood ratio
      nothing was                          once that is no chance any more, or it is long enough   see `Bounds.conversations_alone`

Counted anew, because of a window that an outage began in, what was held back and went well came before the outage; with one request a
second, and one of twenty held back, every fifth window has none of them at all. By the limit alone nearly every outage of a minute tripped
such a version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from graft_api.routes import HardLimits

LEAST_HELD_BACK = 5
"""With fewer requests on the other arms a window has nothing to compare with, and what comes from now on is compared."""
NONE_BY_CHANCE = 0.001
"""That of so many conversations none was held back."""
REQUESTS_ALONE = 1000
"""
After so many without one that was held back the limit decides alone: where a few conversations are all there is, or next to nothing is
held back, there never may be one, and a version that fails each request must go in the end.
"""
EVIDENCE = math.log(100.0)
"""
So many nats better than "they are the same" the shares that were counted must explain what was counted. Twice that is chi-squared with
one degree of freedom where they are the same (Wilks 1938): one-sided p = 0.0012 for one look.
"""
WINDOW_EVIDENCE = math.log(1000.0)
"""
The same, of a window. When an outage begins the share in it rises from 0, and so many nats are there, next to exactly, while none of the
few that were held back has failed: with a probability of exp(-nats), once for every outage.
"""


Metric = Literal["errors", "latency"]


class Counted(Protocol):
    """Requests of a window, and how many of them were bad in one way or the other."""

    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def slow(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """`HardLimits` as numbers. Nothing is beyond a share of 1."""

    error_share: float
    latency_seconds: float
    """Infinite: nothing is slow."""
    latency_share: float
    min_requests: int
    window_seconds: int
    held_back: float
    """Share of conversations that the route has on other arms."""

    @property
    def conversations_alone(self) -> float:
        """
        So many conversations since the limit was passed, and none of them held back, are no chance any more.

        Each is held back by a hash of its own, so that none of n is with probability (1 - share) ^ n. By conversations and not by
        requests: in an outage clients try the same one again.
        """
        return math.log(NONE_BY_CHANCE) / math.log(1.0 - self.held_back) if 0.0 < self.held_back < 1.0 else 0.0

    @property
    def least_held_back(self) -> float:
        """So many requests on the other arms say something."""
        return max(LEAST_HELD_BACK, self.min_requests / 4)


class Breach(NamedTuple):
    """A limit that was crossed, and the shares of the window's requests."""

    metric: Metric
    value: float
    bound: float
    held_back: float | None
    """None: none was held back."""
    requests: int


class _Share(NamedTuple):
    bad: int
    requests: int

    @property
    def value(self) -> float:
        """Division rounds to the nearest, as reading a decimal does: 3 of 30 is not beyond "0.1"."""
        return self.bad / self.requests


class Anew(Protocol):
    """What was counted since a limit was passed, of requests that began then."""

    @property
    def watched(self) -> Counted: ...
    @property
    def others(self) -> Counted: ...
    @property
    def elsewhere(self) -> Counted:
        """Of other domains."""

    @property
    def conversations(self) -> int:
        """On the watched version."""


def bounds_of(limits: HardLimits, held_back: float) -> Bounds:
    """Return the numbers. `held_back`: share of conversations on other arms."""
    return Bounds(
        error_share=1.0 if limits.error_share is None else float(limits.error_share),
        latency_seconds=math.inf if limits.latency_seconds is None else float(limits.latency_seconds),
        latency_share=float(limits.latency_share),
        min_requests=limits.min_requests,
        window_seconds=limits.window_seconds,
        held_back=held_back,
    )


def passed(watched: Counted, bounds: Bounds) -> list[Metric]:
    """Return the limits that a version's own share is beyond, more than chance makes it."""
    return [metric for metric in METRICS if _is_passed(_share(metric, watched), _bound(metric, bounds), bounds)]


def back(watched: Counted, bounds: Bounds, metric: Metric) -> bool:
    """Whether a limit that was passed is not any more."""
    share = _share(metric, watched)
    return not share.requests or share.value <= _bound(metric, bounds)


def breach(watched: Counted, others: Counted, anew: Mapping[Metric, Anew], bounds: Bounds) -> Breach | None:
    """
    Return the limit that the watched version is beyond and what was held back is not, if there is one.

    `anew`: of limits that are `passed`, what was counted since then.
    """
    if watched.requests < bounds.min_requests:
        return None
    found = (_beyond(metric, watched, others, anew.get(metric), bounds) for metric in METRICS)
    return next((one for one in found if one is not None), None)


METRICS: tuple[Metric, ...] = ("errors", "latency")


def _beyond(metric: Metric, watched: Counted, others: Counted, anew: Anew | None, bounds: Bounds) -> Breach | None:
    new, old, bound = _share(metric, watched), _share(metric, others), _bound(metric, bounds)
    if new.value <= bound or (old.requests and old.value > bound):
        return None
    enough = old.requests >= bounds.least_held_back
    if enough and _differ(new, old) >= WINDOW_EVIDENCE:
        return Breach(metric, new.value, bound, old.value, new.requests)
    if anew is None or not _stands_anew(metric, anew, bounds, enough=enough):
        return None
    since = _share(metric, anew.others)
    return Breach(metric, new.value, bound, since.value if since.requests else None, new.requests)


def _stands_anew(metric: Metric, anew: Anew, bounds: Bounds, *, enough: bool) -> bool:
    """
    Whether both arms, counted from when the limit was passed, say the same: an outage that began then has struck both.

    `enough`: was held back in the window, whose word is not doubted for less than it would take itself.
    """
    new, old, bound = _share(metric, anew.watched), _share(metric, anew.others), _bound(metric, bounds)
    if bounds.held_back <= 0.0:
        return True
    if not new.requests or new.value <= bound:
        return False
    if old.requests:
        return old.value <= bound and _differ(new, old) >= (WINDOW_EVIDENCE if enough else EVIDENCE)
    if enough:
        return False
    alone = anew.conversations >= bounds.conversations_alone or new.requests >= REQUESTS_ALONE
    return alone and not _strikes_all(new, _share(metric, anew.elsewhere), bound)


def _strikes_all(new: _Share, elsewhere: _Share, bound: float) -> bool:
    """Whether other domains are beyond the limit, too, and at least half as bad: then it may be no doing of this one's version."""
    return elsewhere.requests > 0 and elsewhere.value > bound and 2 * elsewhere.value >= new.value


def _is_passed(share: _Share, bound: float, bounds: Bounds) -> bool:
    if share.requests < bounds.min_requests or share.value <= bound:
        return False
    return share.requests * _divergence(share.value, bound) >= EVIDENCE


def _share(metric: Metric, counted: Counted) -> _Share:
    return _Share(counted.errors if metric == "errors" else counted.slow, counted.requests)


def _bound(metric: Metric, bounds: Bounds) -> float:
    return bounds.error_share if metric == "errors" else bounds.latency_share


def _differ(one: _Share, other: _Share) -> float:
    """Return the logarithm of the ratio of likelihoods: a share for each against one for both, in nats."""
    both = (one.bad + other.bad) / (one.requests + other.requests)
    return one.requests * _divergence(one.value, both) + other.requests * _divergence(other.value, both)


def _divergence(seen: float, supposed: float) -> float:
    """Return Kullback and Leibler's divergence of two proportions, in nats. `supposed` is 0 or 1 only where `seen` is the same."""
    told = seen * math.log(seen / supposed) if seen else 0.0
    return told + ((1.0 - seen) * math.log((1.0 - seen) / (1.0 - supposed)) if seen < 1.0 else 0.0)
