"""
What must hold while a candidate's drift is measured, as docs/promotion.md, docs/drift.md and decision 0015 say it: a second time, in
other words, without the code that is checked. Of the ledger it is read what was written down; what follows from that is said here.

    in its test         a trial, which decides nothing, and goes on whatever else is held up
    before activation   it is near, or it never serves                        begins while it is Checking, and nothing is paused
    after the ramp      it is far, and is out at once; else it goes on         begins while all conversations are on it, paused or not
    an attempt          ends by what its own Job says, or with that Job, or by its deadline; three of them, a minute apart, then two
    never measured      not activated, and not confirmed by itself
"""

from dataclasses import dataclass
from datetime import timedelta

from graft_api.drift import Contrast, Moment
from graft_api.ledger import DriftMoment
from graft_operator.engine.clock import parse_rfc3339
from graft_operator.promotion.naming import drift_job_name

LIMIT, ATTEMPTS = 0.3, 3
DEADLINE, FIRST_PAUSE = timedelta(minutes=15), timedelta(minutes=1)
LENIENCE = timedelta(hours=1)
"""With whoever ends a Job at its deadline."""
ASKED_IN = {"Testing": Moment.TRIAL, "Checking": Moment.BEFORE, "Watching": Moment.AFTER, "Unconfirmed": Moment.AFTER}
OUT = {"RolledBack", "Deleted", "Overridden"}
BLOCKED = {"Drifted", "Rejected", "Superseded", "Deleted", "PolicyChanged", "Overridden"}


@dataclass(frozen=True)
class Said:
    """What a Job says of its attempt: where its readings end, or, without any, that it is over."""

    high: float | None = None
    """Of the candidate against the version before."""
    low: float | None = None
    """The highest of those that may take a version out."""

    def near(self):
        return self.high is not None and self.high <= LIMIT

    def far(self):
        return self.low is not None and self.low > LIMIT


FAILED = Said()


def moment_of(gate):
    """Return what is asked for in a gate's state; None: nothing."""
    return ASKED_IN.get(gate.state) if gate is not None and gate.policy.drift else None


def record(gate, moment):
    """Return what the ledger has of one moment."""
    if gate is None or gate.drift is None:
        return DriftMoment()
    return {Moment.TRIAL: gate.drift.trial, Moment.BEFORE: gate.drift.before, Moment.AFTER: gate.drift.after}[moment]


def job_name(world, gate, moment):
    """Return how the Job of the attempt that is under way is called, or of the next."""
    return drift_job_name("prod", world.wanted.name, gate.number, moment, record(gate, moment).failed + 1)


def said(world, gate, moment):
    """Return what is to be believed of the attempt that is under way, or would begin now; None: nothing yet."""
    known, job = record(gate, moment), world.jobs.get(job_name(world, gate, moment))
    if known.job is not None and (job is None or job.uid != known.job):
        return FAILED
    if job is None or (known.job is None and job.deleting):
        return None
    about = (world.wanted.name, gate.number, gate.adapter_uid, moment, known.failed + 1)
    for report in job.reports:
        if (report.domain, report.gate, report.adapter_uid, report.moment, report.attempt) == about:
            if report.measured is not None:
                return _read(report.measured)
            return FAILED if report.problem is not None or job.over is not None else None
    return FAILED if job.over is not None else None


def _read(measured):
    ends = {contrast: (one.low, one.high) for one in measured.readings for contrast in [one.contrast]}
    decides = [ends[contrast][0] for contrast in (Contrast.VERSIONS, Contrast.CANDIDATE) if contrast in ends]
    return Said(ends[Contrast.VERSIONS][1], max(decides))


class DriftRules:
    """Holds every pass against the rules, and remembers what was shown."""

    def __init__(self):
        self.near = set()
        """Tests of candidates whose answers were found to be near before activation."""
        self.not_far = set()
        """And of those that serve, of which it was found out how far they are, and they are not."""
        self.far = set()
        """Or they are."""

    def restored(self, other):
        """The ledger is as it was then: what was shown since is not in it."""
        self.near, self.not_far = set(other.near), set(other.not_far)

    def copy(self):
        made = DriftRules()
        made.restored(self)
        return made

    def judge(self, world, before, after):
        """Hold a pass that has led from one entry to the other against the rules. `world` is as it was looked at."""
        old, new = before.gate, after.gate
        stays = old is not None and new is not None and old.test == new.test
        if moment_of(old) is not None:
            self.hear(world, old, new if stays else None, after)
        if new is not None and new.policy.drift is not None:
            for moment in Moment:
                self.goes_on(world, old if stays else None, new, moment)

    def hear(self, world, old, new, after):
        """What a Job says has its consequence in the very pass in which it is heard. `new`: none, where the gate has ended."""
        moment = moment_of(old)
        was, now = record(old, moment), record(new, moment)
        told = said(world, old, moment)
        awaits = new is not None and new.state == "AwaitingApproval"
        if was.measured is not None or not world.words_count:
            return
        if moment is Moment.TRIAL and (new is None or new.state != "Testing"):
            return  # its test is over, and with it the trial
        if was.begun is None:
            self.note(old, moment, told)  # of a Job from before the ledger was restored: it counts if its attempt begins now
            return
        if told is None:
            over = world.now >= parse_rfc3339(was.begun) + DEADLINE
            late = world.now >= parse_rfc3339(was.begun) + DEADLINE + LENIENCE
            assert not late or new is None or now.failed > was.failed, "an attempt is over by its deadline"
            fails = over or awaits or (new is not None and new.number != old.number)
            assert fails or new is None or now.failed == was.failed, "an attempt goes on until something ends it"
        elif told is FAILED:
            assert new is None or now.failed == was.failed + 1, "a failed attempt is counted"
            assert new is None or now.problem, "and told why"
        elif moment is Moment.TRIAL:
            assert now.measured is not None, "what was found is written down"
        elif moment is Moment.BEFORE:
            self.hear_before(old, new, told, after)
        else:
            self.hear_after(old, new, told, after)

    def note(self, gate, moment, told):
        """Remember what was shown."""
        if told is None or told is FAILED or moment is Moment.TRIAL:
            return
        if moment is Moment.AFTER:
            (self.far if told.far() else self.not_far).add(gate.test)
        elif told.near():
            self.near.add(gate.test)

    def hear_before(self, old, new, told, after):
        ending = next((one.reason for one in after.ended if one.number == old.number), None)
        awaits = new is not None and new.state == "AwaitingApproval"
        if not told.near():
            assert awaits or ending in BLOCKED, "what is not shown to be near is blocked"
        elif not awaits:
            self.note(old, Moment.BEFORE, told)
            assert new is None or record(new, Moment.BEFORE).measured is not None, "what was found is written down"

    def hear_after(self, old, new, told, after):
        ending = next((one.reason for one in after.ended if one.number == old.number), None)
        self.note(old, Moment.AFTER, told)
        if told.far():
            assert ending in OUT, "what is shown to be far is out at once"
            assert after.active != old.version or ending == "Overridden", "and serves no more"
        else:
            held = new is None or record(new, Moment.AFTER).measured is not None or new.number != old.number
            assert held, "what was found is written down"

    def goes_on(self, world, old, new, moment):
        """What is written of a gate's drift follows from what was there, and from nothing else. `old`: none, where it has just begun."""
        was, now = record(old, moment), record(new, moment)
        if moment is Moment.TRIAL and new.state != "Testing":
            was = was.model_copy(update={"begun": None, "job": None})  # its test is over, and with it the trial
        anew = old is not None and old.number != new.number
        assert now.failed <= ATTEMPTS, "attempts are bounded"
        assert now.failed >= was.failed, "no attempt is forgotten"
        assert world.words_count or anew or now == was, "while policies are missing nobody's word is taken"
        tried = was.begun is not None or (old is not None and said(world, old, moment) is not None)
        assert now.failed == was.failed or tried or anew, "none fails that was not under way"
        assert was.measured is None or now.measured == was.measured, "what was found stays"
        assert now.begun is None or (now.failed < ATTEMPTS and now.measured is None), "none is under way for nothing"
        if now.begun is not None and (was.begun is None or was.failed != now.failed):
            self.begins(world, new, moment)
        if now.measured is not None and was.measured is None:
            told = said(world, old or new, moment)
            assert told is not None, "nothing is measured but by the Job of this very attempt"
            assert told == _read(now.measured), "and as it says it"
        if new.state == "Ramping" and moment is Moment.AFTER:
            assert now.begun is None and now.measured is None, "after the ramp is asked, not while it goes on"  # noqa: PT018
        if anew and moment is Moment.AFTER and was.measured is None:
            assert now.failed == ATTEMPTS, "the version before is gone: there is nothing to hold it against"
        if moment is moment_of(new):
            self.due(world, new, moment)

    def begins(self, world, new, moment):
        now = record(new, moment)
        assert moment is moment_of(new), "an attempt begins where its moment is"
        assert world.words_count
        assert moment is Moment.TRIAL or loaded(world, new), "not before all can answer with it"
        assert moment is not Moment.BEFORE or not world.wanted.paused, "paused: none begins before activation"
        assert now.failed == 0 or not waits(world, now), "there is a pause between two"

    def due(self, world, new, moment):
        now = record(new, moment)
        held = moment is Moment.BEFORE and world.wanted.paused
        if (
            now.measured is None
            and now.failed < ATTEMPTS
            and world.words_count
            and (moment is Moment.TRIAL or loaded(world, new))
            and not held
            and not waits(world, now)
        ):
            assert now.begun is not None, "an attempt begins once nothing keeps it"


def loaded(world, gate):
    return any(candidate.loaded and candidate.version == gate.version for candidate in world.candidates.values())


def waits(world, known):
    """Whether the pause after the last failure goes on: a minute, then two. A clock that was set back does not make it longer."""
    if known.failed_at is None or known.failed >= ATTEMPTS:
        return False
    failed_at = parse_rfc3339(known.failed_at)
    return failed_at <= world.now < failed_at + FIRST_PAUSE * 2 ** (known.failed - 1)
