"""
Pure: how far a candidate's answers to the principle prompts have drifted, at one moment. It is measured by a Job, in a bounded number of
attempts; here is which attempt is under way, what it came to, and when the next one is due.

    wanted      an attempt is begun in the ledger; then its Job is made, under a name that nobody else's has
    job         the ledger knows its uid: one that is gone has failed, and no other takes its place
    measured    what a pod of this very Job said of this very attempt; a report of anything else counts for nothing
    failed      the Job failed, vanished, reported a problem or did not end in time; the pause after it doubles, to an hour

While the candidate is in its test, a trial goes the same way: it asks no version and decides nothing, but what would keep the check from
being made a week later is known on the first day.
"""

from datetime import datetime, timedelta

from graft_api.drift import Contrast, Drifted, DriftPolicy, DriftReport, Moment
from graft_api.ledger import DriftMoment, DriftRecord, Gate, GateState
from graft_api.schema import seconds_of
from graft_evaluation import drift
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.promotion.naming import drift_job_name
from graft_operator.promotion.seen import DriftJob, Seen

MOMENTS = {
    GateState.TESTING: Moment.TRIAL,
    GateState.CHECKING: Moment.BEFORE,
    GateState.WATCHING: Moment.AFTER,
    # It serves as while it was watched: harm that is shown late takes it out all the same.
    GateState.UNCONFIRMED: Moment.AFTER,
}
DECIDING = frozenset({Contrast.VERSIONS, Contrast.CANDIDATE})
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
"""Between two attempts. An outage of a minute costs a minute, and one of hours does not use up what there is for a day."""
SLACK = timedelta(minutes=5)
"""Beyond its deadline, by which Kubernetes itself ends a Job: one that was never made, or that nobody ends, is over then."""
LONGEST = 256
"""Characters of a problem in the ledger."""
SHOWN = 512
CONCERNS = {Moment.TRIAL: "trial of drift", Moment.BEFORE: "drift before activation", Moment.AFTER: "drift after activation"}


def moment_of(gate: Gate) -> Moment | None:
    """Return what a gate's drift is measured for in its present state; None: it is not."""
    return MOMENTS.get(gate.state) if gate.policy.drift else None


def record(gate: Gate, moment: Moment) -> DriftMoment:
    """Return what the ledger has of one moment."""
    return (gate.drift or DriftRecord()).of(moment)


def under_way(gate: Gate) -> Moment | None:
    """Return the moment of which an attempt is under way; None: no Job of this gate is wanted."""
    moment = moment_of(gate)
    return moment if moment is not None and record(gate, moment).begun is not None else None


def job_name(seen: Seen, gate: Gate, moment: Moment) -> str:
    """Return how the Job of a gate's present attempt is called."""
    return name_of(seen.endpoint, seen.wanted.name, gate, moment)


def name_of(endpoint: str, domain: str, gate: Gate, moment: Moment) -> str:
    """Return the same, for whoever has seen nothing yet."""
    return drift_job_name(endpoint, domain, gate.number, moment, record(gate, moment).attempt())


def move(seen: Seen, gate: Gate, now: datetime) -> Gate | None:
    """Return a gate after the next step of measuring its drift; None: nothing is due."""
    moment = moment_of(gate)
    if moment is None or gate.policy.drift is None:
        return None
    known = record(gate, moment)
    if known.measured is not None:
        return None
    after = _gone_on(seen, gate, moment, now) if known.begun is not None else _begun(seen, gate, moment, now)
    return with_moment(gate, moment, after) if after is not None else None


def with_moment(gate: Gate, moment: Moment, changed: DriftMoment) -> Gate:
    """Return a gate with another record of one moment."""
    held = (gate.drift or DriftRecord()).model_copy(update={moment.value.lower(): changed})
    return gate.model_copy(update={"drift": held})


def beyond(gate: Gate, moment: Moment) -> str | None:
    """Return by what a gate's answers have drifted too far, with number and bound; None: they have not, or it is not known (yet)."""
    measured, policy = record(gate, moment).measured, gate.policy.drift
    if measured is None or policy is None:
        return None
    far = drift.beyond(measured.readings, policy.limit, moment)
    if not far:
        return None
    worst = max(far, key=lambda reading: reading.mean)
    more = f" (and {len(far) - 1} more)" if len(far) > 1 else ""
    return f"{CONCERNS[moment]}: {drift.describe(worst, policy.limit, moment)}{more}"


def shown(gate: Gate) -> str | None:
    """Return of each moment that was measured what is farthest, in words; None: none was."""
    policy = gate.policy.drift
    found = [(moment, measured) for moment in Moment if (measured := record(gate, moment).measured) is not None]
    if policy is None or not found:
        return None
    told = [
        f"{moment.value.lower()} activation: {drift.describe(max(measured.readings, key=lambda one: one.mean), policy.limit, moment)}"
        for moment, measured in found
        if measured.readings
    ]
    return shorten("; ".join(told), SHOWN) or None


def news(moment: Moment, was: DriftMoment, known: DriftMoment) -> str:
    """Return what came of an attempt since the record was so; empty: nothing."""
    if known.measured is not None and was.measured is None:
        return f"{CONCERNS[moment]} {'has worked' if moment is Moment.TRIAL else 'was measured'} in attempt {known.attempt()}"
    if known.failed > was.failed:
        return f"{CONCERNS[moment]}: attempt {known.failed} failed: {known.problem}"
    return f"{CONCERNS[moment]}: attempt {known.attempt()} begins" if known.begun is not None and was.begun is None else ""


def lacking(gate: Gate) -> str | None:
    """Return what is to be known still of the drift of a version that serves, before it is confirmed; None: nothing."""
    known = record(gate, Moment.AFTER)
    if gate.policy.drift is None or known.measured is not None:
        return None
    return exhausted(gate, Moment.AFTER) or f"{CONCERNS[Moment.AFTER]}: {tried(gate, Moment.AFTER)}"


def tried(gate: Gate, moment: Moment) -> str:
    """Return which attempt is under way or waited for, and why the last one failed."""
    known, policy = record(gate, moment), gate.policy.drift
    assert policy is not None  # noqa: S101 - it is asked for
    return _which(policy, known) + (f"; the last one failed: {known.problem}" if known.problem else "")


def problem(gate: Gate) -> str | None:
    """Return why the last attempt has failed, of what the state is about; None: none has, or a later one has not."""
    moment = Moment.TRIAL if gate.state is GateState.AWAITING_APPROVAL else moment_of(gate)
    if gate.policy.drift is None or moment is None:
        return None
    known = record(gate, moment)
    return f"{CONCERNS[moment]}: {known.problem}" if known.problem and known.measured is None else None


def warning(gate: Gate) -> str:
    """Return that its drift could not be measured as things are, for a candidate whose check is still to come; empty: nothing is known."""
    known, policy = record(gate, Moment.TRIAL), gate.policy.drift
    if policy is None or known.measured is not None or not known.problem:
        return ""
    over = gate.state is not GateState.TESTING or (known.begun is None and known.failed >= policy.attempts)
    then = f"{known.problem} (last tried at {known.failed_at})" if over else f"{known.problem}; {_which(policy, known)}"
    return f"; its drift could not be measured as it is: {then}"


def trouble(seen: Seen, gate: Gate) -> str:
    """Return why the pod of the attempt that is under way does not run; empty: nothing is known against it."""
    moment = under_way(gate)
    job = _job(seen, gate, moment) if moment is not None else None
    return job.problem if job is not None else ""


def exhausted(gate: Gate, moment: Moment) -> str | None:
    """Return why it will not be measured any more; None: it is measured, or there are attempts left."""
    known, policy = record(gate, moment), gate.policy.drift
    if policy is None or known.measured is not None or known.begun is not None or known.failed < policy.attempts:
        return None
    return f"drift could not be measured: {known.problem} (attempt {known.failed} of {policy.attempts})"


def given_up(gate: Gate, why: str) -> Gate:
    """Return a gate whose drift after activation is not measured any more, if it was not yet: there is nothing to hold it against."""
    policy, known = gate.policy.drift, record(gate, Moment.AFTER)
    if policy is None or known.measured is not None:
        return gate
    over = {"failed": max(known.failed, policy.attempts), "problem": why, "begun": None, "job": None}
    return with_moment(gate, Moment.AFTER, known.model_copy(update=over))


def stopped(gate: Gate, why: str, now: datetime) -> Gate:
    """Return a gate without the attempt that is under way, which counts as one: its Job goes, and the next has another name."""
    moment = under_way(gate)
    return gate if moment is None else with_moment(gate, moment, _failed(record(gate, moment), why, now))


def interrupted(gate: Gate) -> Gate:
    """Return a gate without a trial that is under way: its test is over, and the check itself comes next."""
    known = record(gate, Moment.TRIAL)
    return gate if known.begun is None else with_moment(gate, Moment.TRIAL, known.model_copy(update={"begun": None, "job": None}))


def due(policy: DriftPolicy, known: DriftMoment) -> datetime | None:
    """Return when the next attempt may begin; None: now, or never."""
    if known.failed_at is None or known.failed >= policy.attempts:
        return None
    pause = min(FIRST_PAUSE.total_seconds() * 2.0 ** (known.failed - 1), LONGEST_PAUSE.total_seconds())
    return parse_rfc3339(known.failed_at) + timedelta(seconds=pause)


def _which(policy: DriftPolicy, known: DriftMoment) -> str:
    attempt = f"attempt {known.attempt()} of {policy.attempts}"
    if known.begun is not None:
        return f"{attempt} is under way since {known.begun}"
    next_at = due(policy, known)
    return f"{attempt} begins {f'at {rfc3339(next_at)}' if next_at else 'as soon as it can'}"


def _begun(seen: Seen, gate: Gate, moment: Moment, now: datetime) -> DriftMoment | None:
    known, policy = record(gate, moment), gate.policy.drift
    assert policy is not None  # noqa: S101 - it is asked for
    held = moment is Moment.BEFORE and seen.wanted.paused
    if held or known.failed >= policy.attempts or not seen.words_count or not (moment is Moment.TRIAL or _loaded(seen, gate)):
        return None
    at = due(policy, known)
    # A clock that was set back must not put it off: attempts are bounded, so that one too early does no harm.
    if at is not None and known.failed_at is not None and parse_rfc3339(known.failed_at) <= now < at:
        return None
    return known.model_copy(update={"begun": rfc3339(now), "job": None})


def _loaded(seen: Seen, gate: Gate) -> bool:
    """Whether all server pods can answer with the candidate: else an attempt is lost for nothing."""
    return any(candidate.loaded and candidate.version == gate.version for candidate in seen.candidates)


def _gone_on(seen: Seen, gate: Gate, moment: Moment, now: datetime) -> DriftMoment | None:
    if not seen.words_count:
        return None  # without the admission policies anybody's pod could be the Job's
    known, job = record(gate, moment), _job(seen, gate, moment)
    if known.job is None:
        if job is not None and not job.deleting:
            return known.model_copy(update={"job": job.uid})
        if (name := job_name(seen, gate, moment)) in seen.drift_names_taken:  # the next attempt has another one
            return _failed(known, f"NameConflict: there is a Job {name} that is not of this endpoint; delete it", now)
        return _overdue(gate, known, "its Job was not made in time", now)
    if job is None or job.uid != known.job:
        return _failed(known, "its Job has vanished", now)
    return _told(seen, gate, moment, job, now) or _ended(gate, known, job, now)


def _told(seen: Seen, gate: Gate, moment: Moment, job: DriftJob, now: datetime) -> DriftMoment | None:
    """Return what a Job says; None: nothing that counts, yet."""
    known, policy = record(gate, moment), gate.policy.drift
    told = next((report for report in job.reports if _about(report, seen, gate, moment)), None)
    if told is None or policy is None:
        return None
    if told.measured is None:
        return _failed(known, told.problem, now) if told.problem is not None else None
    doubt = _doubt(policy, told.measured, moment)
    return _failed(known, doubt, now) if doubt else _measured(known, told.measured)


def _ended(gate: Gate, known: DriftMoment, job: DriftJob, now: datetime) -> DriftMoment | None:
    if job.over is not None:
        return _failed(known, job.over, now)
    return _overdue(gate, known, f"its Job does not end{f': {job.problem}' if job.problem else ''}", now)


def _job(seen: Seen, gate: Gate, moment: Moment) -> DriftJob | None:
    name = job_name(seen, gate, moment)
    return next((job for job in seen.drift_jobs if job.name == name), None)


def _about(report: DriftReport, seen: Seen, gate: Gate, moment: Moment) -> bool:
    said = (report.domain, report.gate, report.adapter_uid, report.moment, report.attempt)
    return said == (seen.wanted.name, gate.number, gate.adapter_uid, moment, record(gate, moment).attempt())


def _doubt(policy: DriftPolicy, measured: Drifted, moment: Moment) -> str | None:
    """Return why a result is none; None: it is one. Nothing that was read says nothing against a candidate, and nothing for it."""
    if policy.principles_digest not in (None, measured.principles_digest):
        wanted = f"promotion.drift.principlesDigest says {policy.principles_digest}"
        return f"ConfigMap {policy.principles} has other principles ({measured.principles_digest}), and {wanted}"
    if moment is Moment.TRIAL:
        return None
    if not any(reading.contrast is Contrast.VERSIONS for reading in measured.readings):
        return f"the result of {moment.value.lower()} activation has no reading of the candidate against the version before"
    return None if measured.document else f"the result of {moment.value.lower()} activation names no document"


def _measured(known: DriftMoment, measured: Drifted) -> DriftMoment:
    """Keep what decides; the rest is in the document, for which there would be no room in the ledger."""
    kept = [reading for reading in measured.readings if reading.contrast in DECIDING]
    return known.model_copy(update={"measured": measured.model_copy(update={"readings": kept}), "begun": None, "job": None, "problem": ""})


def _overdue(gate: Gate, known: DriftMoment, why: str, now: datetime) -> DriftMoment | None:
    policy = gate.policy.drift
    assert known.begun is not None and policy is not None  # noqa: S101, PT018 - it is under way
    over = parse_rfc3339(known.begun) + timedelta(seconds=seconds_of(policy.deadline)) + SLACK
    return _failed(known, why, now) if now >= over else None


def _failed(known: DriftMoment, why: str, now: datetime) -> DriftMoment:
    over = {"failed": known.failed + 1, "failed_at": rfc3339(now), "problem": shorten(why, LONGEST), "begun": None, "job": None}
    return known.model_copy(update=over)
