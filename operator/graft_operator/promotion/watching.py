"""
Pure: a candidate that serves, until it is confirmed or taken out again.

What was observed is counted in seconds in which a collector looked: hours in which nobody did confirm nothing. The clock only ends the
watch, and then a human decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from graft_api.comparison import progress
from graft_api.dataplane import version_name
from graft_api.drift import Moment
from graft_api.fleet import Trip
from graft_api.ledger import Gate, GateState, LedgerDomain, Reason, Rejected, WatchRecord
from graft_api.promotion import Promotion
from graft_api.schema import seconds_of
from graft_api.watch import WatchCount, WatchedMetric, WatchReading
from graft_evaluation import watch
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.promotion import drifting, quorum
from graft_operator.promotion.arms import serving, watch_task, watched_metrics
from graft_operator.promotion.endings import GRAFT, LONGEST, Ending, ended, ordinal, rolled_back
from graft_operator.promotion.rejecting import about, known_until
from graft_operator.promotion.seen import Seen

Reader = Callable[[Sequence[WatchedMetric], WatchCount], list[WatchReading]]
"""What the sums of both sides show at this look."""
READER: Reader = watch.read
SERVING = frozenset({GateState.RAMPING, GateState.WATCHING, GateState.UNCONFIRMED})
WRITE_SECONDS = 60.0
MORE, MOST_UNWRITTEN = 1.5, 100
"""Conversations, as a factor and a number, that may be closed and not written."""
"""Of observed time: counts alone are written down no oftener. A collector that dies takes no more than this with it."""
MOST_GONE = 32


def move(seen: Seen, entry: LedgerDomain, now: datetime, read: Reader) -> LedgerDomain | None:
    """Return the domain after the next transition of a candidate that serves; None: nothing is due."""
    gate = entry.gate
    if gate is None or gate.state not in SERVING:
        return None
    if serving(entry) is None or ordinal(entry) != gate.switch:
        return ended(seen, entry, gate, _overridden(seen, entry, gate), now)
    if _is_going(seen, gate):
        return rolled_back(seen, entry, None, Ending(Reason.DELETED, f"Adapter {gate.version.adapter} is being deleted"), now)
    fresh = heard(seen, entry, gate)
    looked = entry.model_copy(update={"gate": fresh})
    readings_now = _read(fresh, read)
    harm = _harm(seen, entry, readings_now) or drifting.beyond(fresh, Moment.AFTER)
    if harm is not None:
        return _rolled_back(seen, looked, fresh, harm, now)
    after = _measuring(seen, looked, fresh, now) or _decided(seen, looked, fresh, now) or _gone_on(seen, looked, fresh, readings_now, now)
    if after is not None:
        return after
    return looked if _worth_writing(gate, fresh) else None


def retreat(seen: Seen, entry: LedgerDomain, now: datetime, read: Reader) -> LedgerDomain | None:
    """Return the domain without a candidate that is shown to do harm; None: nothing is. It neither goes on nor is anything counted."""
    gate = serving(entry)
    if gate is None or ordinal(entry) != gate.switch:
        return None
    fresh = heard(seen, entry, gate)
    harm = _harm(seen, entry, _read(fresh, read))
    return None if harm is None else _rolled_back(seen, entry.model_copy(update={"gate": fresh}), fresh, harm, now)


def readings(seen: Seen, entry: LedgerDomain, read: Reader = READER) -> list[WatchReading]:
    """Return what the watch of a serving candidate shows at this moment; empty: nothing is watched."""
    gate = serving(entry)
    return _read(heard(seen, entry, gate), read) if gate else []


def heard(seen: Seen, entry: LedgerDomain, gate: Gate) -> Gate:
    """Return a gate with what its collector says now, if that is of this very watch."""
    known, record, task = seen.watched, gate.watch, watch_task(entry.name, entry)
    if known is None or record is None or task is None or not task.is_of(known.told):
        return gate
    return gate.model_copy(update={"watch": _folded(record, known.boot, known.told.count)})


def observed_in_step(gate: Gate) -> float:
    """Return the seconds that were observed in the present step of the ramp, or of the watch that follows it."""
    return gate.watch.count().observed_seconds - gate.watch.step_began if gate.watch else 0.0


def deadline(gate: Gate) -> datetime:
    """Return when the watch ends by the clock: after the time that the ramp takes, and the longest that the watch may take."""
    began = parse_rfc3339(gate.watch.began if gate.watch else gate.since)
    ramp = sum(seconds_of(step.duration) for step in gate.policy.ramp)
    return began + timedelta(seconds=ramp + gate.policy.watch.longest())


def missing(gate: Gate, shown: Sequence[WatchReading]) -> list[str]:
    """Return what is not enough yet to confirm a candidate, with number and bound; empty: nothing."""
    window, least = seconds_of(gate.policy.watch.window), gate.policy.watch.min_clusters
    observed = observed_in_step(gate)
    lacks = [f"{progress(observed / 3600, window / 3600)} observed"] if observed < window else []
    known = {reading.name: reading for reading in shown}
    for metric in watched_metrics(gate.policy.watch):
        reading = known.get(metric.name)
        new, held_back = (reading.clusters_new, reading.clusters_held_back) if reading else (0, 0)
        if min(new, held_back) < least:
            lacks.append(f"{metric.name}: {new} new and {held_back} held-back conversations of {least}")
    return lacks + ([lack] if (lack := drifting.lacking(gate)) else [])


def confirming(seen: Seen, gate: Gate, now: datetime) -> quorum.Tally:
    """
    Count who confirms a candidate by hand: words that came after its watch had ended without an answer.

    Of approvals those alone whose author may still approve: the policy by which it came may be days old, and people leave.
    """
    since, policy = parse_rfc3339(gate.since), seen.wanted.promotion
    fresh = [word for word in about(seen, gate) if quorum.moment(word) > since] if seen.words_count else []
    words = [word for word in fresh if not word.approves or policy is None or quorum.may_approve(policy.approval, word)]
    return quorum.count(gate.policy.approval, words, now, evidence=gate.evidence_digest)


def _folded(record: WatchRecord, boot: str, count: WatchCount) -> WatchRecord:
    """Add what a collector has seen since it took it over: its own words replace each other, those of its predecessors are added up."""
    if boot == record.boot:
        older = count.observed_seconds < record.latest.observed_seconds
        return record if older else record.model_copy(update={"latest": count})
    if boot in record.gone:
        return record
    gone = [*record.gone, record.boot][-MOST_GONE:] if record.boot else record.gone
    return record.model_copy(update={"before": record.count(), "boot": boot, "latest": count, "gone": gone})


def _worth_writing(gate: Gate, fresh: Gate) -> bool:
    if gate.watch is None or fresh.watch is None or gate.watch.boot != fresh.watch.boot:
        return gate != fresh
    written, latest = gate.watch.latest, fresh.watch.latest
    # A collector that ends closes all that is open at once: its last word must not be forgotten for having come too soon.
    return (
        latest.observed_seconds - written.observed_seconds >= WRITE_SECONDS or _closed(latest) >= _closed(written) * MORE + MOST_UNWRITTEN
    )


def _closed(count: WatchCount) -> int:
    """Return how many conversations are in the sums of the metric that has most."""
    return max((sums.new.clusters + sums.held_back.clusters for sums in count.metrics), default=0)


def _read(gate: Gate, read: Reader) -> list[WatchReading]:
    return read(watched_metrics(gate.policy.watch), gate.watch.count()) if gate.watch else []


def _harm(seen: Seen, entry: LedgerDomain, shown: Sequence[WatchReading]) -> str | None:
    """Return by what the new version is worse than what was held back, with number and bound; None: nothing was shown."""
    version = version_name(entry.name, entry.active.digest) if entry.active else None
    trip = next((trip for trip in seen.trips if trip.version == version and not _strikes_both(trip)), None)
    if trip is not None:
        compared = f", {trip.held_back:.3g} on what was held back" if trip.held_back is not None else ""
        return f"a gateway took it out: {trip.metric} of {trip.value:.3g} of {trip.requests} requests, bound {trip.bound:.3g}{compared}"
    breach = next((reading for reading in shown if reading.breached), None)
    if breach is None:
        return None
    return breach.sentence or f"{breach.name} is worse: at most {breach.high} better, bound {breach.limit}"


def _strikes_both(trip: Trip) -> bool:
    return trip.held_back is not None and trip.held_back > trip.bound


def _rolled_back(seen: Seen, entry: LedgerDomain, gate: Gate, harm: str, now: datetime) -> LedgerDomain:
    digest = gate.version.digest
    # Approvals that are there already were given for the first time: only what comes later may let it in again.
    since = rfc3339(known_until(seen, digest, now))
    why = Rejected(digest=digest, at=since, author=GRAFT, reason=shorten(harm, LONGEST))
    return rolled_back(seen, entry, why, Ending(Reason.ROLLED_BACK, harm, gate.policy.watch.in_flight == "Abort"), now)


def _measuring(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain | None:
    further = drifting.move(seen, gate, now)
    return entry.model_copy(update={"gate": further}) if further is not None else None


def _decided(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain | None:
    """Return the domain after a human's decision about a watch that ended without an answer."""
    if gate.state is not GateState.UNCONFIRMED:
        return None
    pin = seen.wanted.pin
    if pin is not None and pin.adapter == gate.version.adapter:
        pinned = Ending(Reason.OVERRIDDEN, f"spec.domains[].pin says what serves: Adapter {pin.adapter}")
        return ended(seen, entry, gate, pinned, now).model_copy(update={"previous": None})
    counted = confirming(seen, gate, now)
    if not counted.reached or not counted.approved:
        return None
    authors = ", ".join(approval.author for approval in counted.approved)
    told = f"by {authors} ({len(counted.approved)} of {counted.needed} needed), after a watch with too little to judge"
    return _confirmed(seen, entry, gate, replace(Ending(Reason.CONFIRMED, told), approvals=counted.approved), now)


def _gone_on(seen: Seen, entry: LedgerDomain, gate: Gate, shown: Sequence[WatchReading], now: datetime) -> LedgerDomain | None:
    """Return the domain after the next step of the ramp, or after the end of the watch."""
    if gate.state is GateState.RAMPING and not seen.wanted.paused and _step_over(gate.policy, gate):
        return _next_step(entry, gate, now)
    lacks = missing(gate, shown)
    if gate.state is GateState.WATCHING and not lacks:
        return _confirmed(seen, entry, gate, Ending(Reason.CONFIRMED, _proof(gate, shown)), now)
    if gate.state is not GateState.UNCONFIRMED and now >= deadline(gate):
        since = rfc3339(known_until(seen, gate.version.digest, now))
        return entry.model_copy(update={"gate": gate.model_copy(update={"state": GateState.UNCONFIRMED, "since": since})})
    return None


def _step_over(policy: Promotion, gate: Gate) -> bool:
    return observed_in_step(gate) >= seconds_of(policy.ramp[gate.step].duration)


def _next_step(entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain:
    assert gate.watch is not None  # noqa: S101 - it serves
    watched = gate.watch.model_copy(update={"step_began": gate.watch.count().observed_seconds})
    changes: dict[str, object] = {"step": gate.step + 1, "watch": watched}
    if gate.step + 1 == len(gate.policy.ramp):
        changes |= {"state": GateState.WATCHING, "since": rfc3339(now)}
    return entry.model_copy(update={"gate": gate.model_copy(update=changes)})


def _confirmed(seen: Seen, entry: LedgerDomain, gate: Gate, ending: Ending, now: datetime) -> LedgerDomain:
    return ended(seen, entry, gate, ending, now).model_copy(update={"previous": None})


def _proof(gate: Gate, shown: Sequence[WatchReading]) -> str:
    watched = gate.policy.watch
    new = min(reading.clusters_new for reading in shown)
    held_back = min(reading.clusters_held_back for reading in shown)
    time = progress(observed_in_step(gate) / 3600, seconds_of(watched.window) / 3600)
    return f"{time} observed; {new} conversations on it and {held_back} held back, of at least {watched.min_clusters}; no harm shown"


def _overridden(seen: Seen, entry: LedgerDomain, gate: Gate) -> Ending:
    last = entry.history[-1] if entry.history else None
    if _is_going(seen, gate) or (last is not None and last.reason == "Deleted"):
        return Ending(Reason.DELETED, f"Adapter {gate.version.adapter} was deleted")
    return Ending(Reason.OVERRIDDEN, f"what serves was changed: {f'{last.reason}, {last.message}' if last else 'by hand'}")


def _is_going(seen: Seen, gate: Gate) -> bool:
    """Whether the adapter is being deleted. One whose object is not there (yet: a restore) serves from the ledger."""
    return any(candidate.deleting for candidate in seen.candidates if candidate.version == gate.version)
