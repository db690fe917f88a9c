"""
Pure: what people have rejected, and what a newer quorum has let in again. A rejection comes before a pin and before any promotion.

Of what serves one rejection by anybody who may approve is enough: it is the rollback by hand. Of what does not serve yet the policy says
whether one is (veto).
"""

from collections.abc import Iterator
from datetime import datetime

from graft_api.ledger import Gate, LedgerDomain, Reason, Rejected
from graft_api.promotion import APPROVERS, ApprovalPolicy
from graft_operator.engine.clock import parse_rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.promotion import quorum
from graft_operator.promotion.arms import serving
from graft_operator.promotion.endings import LONGEST, Ending, ended, rejected, rolled_back, with_rejected, without_previous
from graft_operator.promotion.seen import Seen, Word


def move(seen: Seen, entry: LedgerDomain, now: datetime) -> LedgerDomain | None:
    """
    Return the domain without what was rejected, or with what may serve again; None: nothing is due.

    Where words do not count a rejection of what serves does: a forged one costs a version that had its proof, and leads back to what
    was proven before it; one that is not heard leaves what somebody has seen to be bad.
    """
    cleared = _cleared(seen, entry, now)
    if cleared is not None:
        return cleared
    for digest in dict.fromkeys(_at_stake(seen, entry)):
        if not seen.words_count and not _serves(entry, digest):
            continue
        why = _spoken(seen, entry, digest, now)
        if why is not None:
            return _taken_out(seen, entry, why, now)
    return _lifted(seen, entry, now) if seen.words_count else None


def overruled_before(entry: LedgerDomain, digest: str) -> datetime | None:
    """
    Return when the newest approval of a quorum for a digest was given that lifted its rejection, or, of what serves, that let it in.

    Rejections from before that were outvoted or answered. Without this the old no of somebody who lost would roll back what was let in
    against it.
    """
    moments = [known.lifted_at for known in entry.rejected if known.digest == digest and known.lifted_at is not None]
    if digest in {version.digest for version in (entry.active, entry.previous) if version is not None}:
        gate = serving(entry)
        moments += [approval.at for approval in gate.approvals] if gate and gate.version.digest == digest else []
        moments += [approval.at for told in entry.ended if told.digest == digest for approval in told.approvals]
    return max(map(parse_rfc3339, moments), default=None)


def known_until(seen: Seen, digest: str, now: datetime) -> datetime:
    """Return the time after which a word about a digest is new: words that are there already are older, whatever the clock says."""
    return max([now, *(quorum.moment(word) for word in seen.words if word.digest == digest)])


def _at_stake(seen: Seen, entry: LedgerDomain) -> Iterator[str]:
    """Return the digests that serve, are on their way, or could be: most urgent first."""
    yield from (version.digest for version in entry.versions())
    yield from (candidate.version.digest for candidate in seen.candidates)


def _cleared(seen: Seen, entry: LedgerDomain, now: datetime) -> LedgerDomain | None:
    """Return the domain without a rejected digest in service, on its way, or kept for a rollback."""
    if entry.active is not None and (why := rejected(entry, entry.active.digest)) is not None:
        return rolled_back(seen, entry, None, Ending(Reason.ROLLED_BACK, _rejected_by(why), _aborts(seen, entry)), now)
    if entry.gate is not None and (why := rejected(entry, entry.gate.version.digest)) is not None:
        return ended(seen, entry, entry.gate, Ending(Reason.REJECTED, _rejected_by(why)), now)
    if entry.previous is not None and rejected(entry, entry.previous.digest) is not None:
        return without_previous(entry, now)
    return None


def _spoken(seen: Seen, entry: LedgerDomain, digest: str, now: datetime) -> Rejected | None:
    """Return the rejection of a digest that was spoken since, if it is enough."""
    policy = _policy(seen, entry, digest)
    if policy is None or rejected(entry, digest) is not None:
        return None
    words = [word for word in seen.words if word.digest == digest]
    mark = overruled_before(entry, digest)
    against = quorum.rejections(quorum.standing(policy, words), mark)
    deciding = quorum.count(policy, words, now, overruled_before=mark).vetoed
    if _serves(entry, digest) and against:
        deciding = against[0]
    if deciding is None:
        return None
    others = [word.username for word in against[: against.index(deciding)]][-APPROVERS:]
    return Rejected(
        digest=digest,
        at=against[-1].created_at,
        author=deciding.username,
        others=others,
        approval=deciding.name,
        reason=shorten(deciding.reason, LONGEST),
    )


def _taken_out(seen: Seen, entry: LedgerDomain, why: Rejected, now: datetime) -> LedgerDomain:
    """Return the domain with a rejection, and what follows from it."""
    if entry.active is not None and entry.active.digest == why.digest:
        return rolled_back(seen, entry, why, Ending(Reason.ROLLED_BACK, _rejected_by(why), _aborts(seen, entry)), now)
    return with_rejected(seen, entry, why)


def _lifted(seen: Seen, entry: LedgerDomain, now: datetime) -> LedgerDomain | None:
    """Return the domain with a digest that may be chosen again: a quorum that is newer than its rejection wants it."""
    policy = seen.wanted.promotion
    if policy is None:
        return None
    for known in entry.rejected:
        if known.lifted_at is not None:
            continue
        words = [word for word in seen.words if word.digest == known.digest and quorum.moment(word) > parse_rfc3339(known.at)]
        tally = quorum.count(policy.approval, words, now, evidence=_evidence(entry, known.digest))
        if tally.reached and tally.approved:  # where the policy asks nobody, somebody must have said so for all that
            told = known.model_copy(update={"lifted_at": tally.approved[-1].at, "lifted_by": tally.approved})
            return entry.model_copy(update={"rejected": [told if one is known else one for one in entry.rejected]})
    return None


def _policy(seen: Seen, entry: LedgerDomain, digest: str) -> ApprovalPolicy | None:
    """Return who is asked about a digest: of a gate's as it was when it began, else as it is now."""
    gate: Gate | None = entry.gate
    if gate is not None and (gate.version.digest == digest or seen.wanted.promotion is None):
        return gate.policy.approval
    return seen.wanted.promotion.approval if seen.wanted.promotion else None


def _evidence(entry: LedgerDomain, digest: str) -> str | None:
    """Return the evidence that was last found about a digest."""
    return next((told.evidence_digest for told in reversed(entry.ended) if told.digest == digest and told.evidence_digest), None)


def _serves(entry: LedgerDomain, digest: str) -> bool:
    held_back = entry.previous if serving(entry) else None
    return digest in {version.digest for version in (entry.active, held_back) if version is not None}


def _aborts(seen: Seen, entry: LedgerDomain) -> bool:
    """Whether requests that are under way on what serves end with it."""
    gate = serving(entry)
    policy = gate.policy if gate else seen.wanted.promotion
    return policy is not None and policy.watch.in_flight == "Abort"


def _rejected_by(why: Rejected) -> str:
    spoken = f"AdapterApproval {why.approval} of {why.author}" if why.approval else why.author
    return f"rejected by {spoken}" + (f": {why.reason}" if why.reason else "")


def about(seen: Seen, gate: Gate) -> list[Word]:
    """Return the words about a gate's candidate: approvals of this very adapter, rejections of its digest whoever has it."""
    same = [word for word in seen.words if word.digest == gate.version.digest]
    return [word for word in same if not word.approves or word.adapter == gate.version.adapter]
