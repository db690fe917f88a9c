"""
Pure: whose word counts, and whether enough of them agree.

Only the API server's own times are held against each other: `createdAt` of one word against that of another. The operator's clock, which
may be minutes off, decides nothing but when an approval has expired.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from graft_api.ledger import CountedApproval
from graft_api.promotion import APPROVERS, ApprovalPolicy, Quorum
from graft_api.schema import seconds_of
from graft_operator.engine.clock import parse_rfc3339
from graft_operator.promotion.seen import Word

SERVICE_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True)
class Tally:
    """How those who may approve have decided about one adapter."""

    approved: list[CountedApproval]
    """Oldest first; of distinct authors."""
    rejected: list[Word]
    """Oldest first; of distinct authors."""
    needed: int
    reached: bool
    """Enough approve, nothing vetoes it, and no rejection is newer than the last approval."""
    vetoed: Word | None
    """The rejection that ended the matter."""


def may_approve(policy: ApprovalPolicy, word: Word) -> bool:
    """
    Whether its author's word counts.

    A service account counts by its own name alone: every one of a namespace is in that namespace's group. Of quorum Bft nobody counts
    but the listed users, for without knowing how many there are no share of them can be trusted.
    """
    if word.username in policy.users:
        return True
    if word.username.startswith(SERVICE_ACCOUNT) or policy.quorum is Quorum.BFT:
        return False
    return not word.groups.isdisjoint(policy.groups)


def standing(policy: ApprovalPolicy, words: Iterable[Word]) -> list[Word]:
    """
    Return the newest word of each author who may approve, oldest first.

    Of two in the same second the rejection is taken: created times are whole seconds, and a wrong rejection costs less.
    """
    newest: dict[str, Word] = {}
    for word in sorted(words, key=_order):
        if may_approve(policy, word):
            newest[word.username] = word
    return sorted(newest.values(), key=_order)


def count(
    policy: ApprovalPolicy,
    words: Iterable[Word],
    now: datetime,
    *,
    evidence: str | None = None,
    counted: Sequence[CountedApproval] = (),
    overruled_before: datetime | None = None,
) -> Tally:
    """
    Count the words about one adapter at one digest.

    Approvals count for this `evidence` digest alone (None: for whichever), and expire, but those that were `counted` in a quorum that
    was reached. Rejections from before `overruled_before` were overruled by a newer quorum, and count no more.
    """
    heard = standing(policy, words)
    kept = {approval.uid for approval in counted}
    fitting = [word for word in heard if word.approves and evidence in (None, word.evidence_digest)]
    approvals = [word for word in fitting if word.uid in kept or not expired(policy, word, now)]
    rejected = rejections(heard, overruled_before)
    needed = policy.needed()
    vetoed = _veto(policy, rejected, needed)
    answered = not rejected or (bool(approvals) and moment(rejected[-1]) < moment(approvals[-1]))
    approved = [CountedApproval(name=word.name, uid=word.uid, author=word.username, at=word.created_at) for word in approvals]
    reached = len(approved) >= needed and vetoed is None and answered
    return Tally(approved[-APPROVERS:], rejected, needed, reached, vetoed)


def rejections(heard: Iterable[Word], overruled_before: datetime | None) -> list[Word]:
    """Return the rejections among standing words that no newer quorum has overruled."""
    return [word for word in heard if not word.approves and (overruled_before is None or moment(word) >= overruled_before)]


def expired(policy: ApprovalPolicy, word: Word, now: datetime) -> bool:
    """Whether an approval is too old to be counted: by when the API server took it."""
    return now >= moment(word) + timedelta(seconds=seconds_of(policy.expires_after))


def moment(word: Word) -> datetime:
    """Return when the API server took it."""
    return parse_rfc3339(word.created_at)


def _veto(policy: ApprovalPolicy, rejected: Sequence[Word], needed: int) -> Word | None:
    """Return the rejection that decides: the first with a veto, without one that which makes as many as the quorum, one at least."""
    deciding = 1 if policy.veto else max(1, needed)
    return rejected[deciding - 1] if len(rejected) >= deciding else None


def _order(word: Word) -> tuple[datetime, bool, str]:
    return moment(word), not word.approves, word.uid
