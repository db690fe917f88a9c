"""`graft approve`, `reject` and `rollback`: a word about an adapter, in the name of whoever asks."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from typing import Literal

from graft_api.approval import AdapterApprovalSpec, Author
from graft_api.modelendpoint import PromotionStatus
from graft_api.promotion import ApprovalPolicy
from graft_api.schema import Invalid, parse
from graft_cli.domains import Candidate, Served, active, by_what_serves, domain_of, read_adapter
from graft_cli.kubectl import Kubectl, Manifest, User
from graft_cli.report import RESOURCE, checked, counted, seen
from graft_cli.verdicts import BAD_INPUT, printable

APPROVALS = "adapterapprovals.graft.dev"
OPEN = frozenset({"AwaitingApproval", "Unconfirmed", "Rejected", "RolledBack"})
"""States in which an approval is asked for, or a quorum that is newer lifts what was said before."""
SERVICE_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True)
class Word:
    """What is to be said."""

    decision: Literal["Approve", "Reject"]
    adapter: str
    digest: str
    evidence: str | None
    reason: str


def approve(options: Namespace) -> int:
    """Show the verdict of the test that counts, and approve the adapter by it: not where it cannot be read. Raises `Invalid`."""
    kubectl = Kubectl.of(options)
    candidate = read_adapter(kubectl, options.adapter)
    promotion = approvable(candidate)
    served = domain_of(kubectl, candidate)
    author = author_of(kubectl.whoami(), served)
    unread = show(kubectl, promotion)
    if unread is not None and not options.unchecked:
        told = f"error: nothing is approved, for ShadowTest {promotion.test} could not be read: {unread}"
        advice = "ask for the right to get shadowtests (ClusterRole graft-approver); if it was deleted, read its report in the store and"
        print(printable(f"{told}\n{advice} approve by the Adapter's word alone with --unchecked"), file=sys.stderr)
        return BAD_INPUT
    word = Word("Approve", candidate.name, promotion.digest, promotion.evidence_digest, options.reason)
    return say(kubectl, word, author, served)


def reject(options: Namespace) -> int:
    """Reject an adapter at its digest, wherever it is on its way. Raises `Invalid`."""
    kubectl = Kubectl.of(options)
    candidate = read_adapter(kubectl, options.adapter)
    served = domain_of(kubectl, candidate)
    digest, promotion = candidate.spec.artifact.digest, candidate.status.promotion
    evidence = promotion.evidence_digest if promotion and promotion.digest == digest else None
    word = Word("Reject", candidate.name, digest, evidence, options.reason)
    return say(kubectl, word, author_of(kubectl.whoami(), served), served)


def rollback(options: Namespace) -> int:
    """Reject what serves a domain, which takes it out. Raises `Invalid`."""
    kubectl = Kubectl.of(options)
    served = by_what_serves(kubectl, options.what, options.endpoint)
    adapter, digest = serving(served)
    word = Word("Reject", adapter, digest, None, options.reason or f"rollback of domain {served.wanted.name}")
    return say(kubectl, word, author_of(kubectl.whoami(), served), served)


def approvable(candidate: Candidate) -> PromotionStatus:
    """Return what there is to approve. Raises `Invalid`."""
    promotion, digest = candidate.status.promotion, candidate.spec.artifact.digest
    if promotion is None:
        raise Invalid([f"Adapter {candidate.name} is no candidate (yet): its status has no promotion; kubectl get adapter says why"])
    if promotion.digest != digest:
        raise Invalid(
            [f"Adapter {candidate.name} has digest {digest}, and what was tested has {promotion.digest}: it is another one by now"]
        )
    if promotion.state not in OPEN or promotion.evidence_digest is None or promotion.test is None:
        told = f": {promotion.message}" if promotion.message else ""
        raise Invalid([f"Adapter {candidate.name} is {promotion.state}, and there is nothing to approve{told}"])
    return promotion


def show(kubectl: Kubectl, promotion: PromotionStatus) -> str | None:
    """Print what is approved; return why the test could not be read. Raises `Invalid` where it says otherwise than the adapter does."""
    name = str(promotion.test)
    try:
        test = seen(kubectl.told(RESOURCE, name))
    except Invalid as gone:
        # What was found lies in the ledger, too, and the Adapter says it.
        print(printable(f"{name}: {promotion.verdict or 'its verdict is not known any more'}"))
        return "; ".join(gone.problems)
    verdict = test.status.verdict
    if verdict is None or verdict.evidence_digest != promotion.evidence_digest:
        found = verdict.evidence_digest if verdict else "no verdict"
        raise Invalid([f"ShadowTest {name} has {found}, and what is to be approved is {promotion.evidence_digest}: do not approve this"])
    print(printable(f"{name}: {verdict.sentence}"))
    if verdict.attempt is not None:
        print(printable(counted(verdict.attempt, test.status)), file=sys.stderr)
    print(printable(checked(test, verdict, kubectl)), file=sys.stderr)
    return None


def author_of(user: User, served: Served) -> Author:
    """Return in whose name it is said, with the groups that count. Raises `Invalid` where their word would not count."""
    promotion, where = served.wanted.promotion, f"domain {served.wanted.name} of ModelEndpoint {served.endpoint}"
    if promotion is None:
        raise Invalid([f"{where} has no promotion policy, so nobody's word counts; what serves it is changed by kubectl graft pin"])
    policy = promotion.approval
    groups = [] if user.name.startswith(SERVICE_ACCOUNT) else [group for group in policy.groups if group in user.groups]
    if user.name not in policy.users and not groups:
        raise Invalid([f"you are {user.name}, whose word does not count for {where}: {asked(policy)}"])
    return Author(username=user.name, groups=groups)


def asked(policy: ApprovalPolicy) -> str:
    """Return who is asked."""
    named = ", ".join(policy.users), ", ".join(policy.groups)
    told = " and ".join(f"{kind} {names}" for kind, names in zip(("users", "members of"), named, strict=True) if names)
    return f"asked are {told}" if told else "nobody is asked"


def serving(served: Served) -> tuple[str, str]:
    """Return adapter and digest of what a domain was switched to last. Raises `Invalid`."""
    adapter, domain = active(served), served.wanted.name
    if adapter is None:
        raise Invalid([f"domain {domain} of ModelEndpoint {served.endpoint} is served by the base model: there is nothing to take out"])
    digest = next((arm.digest for arm in served.status.arms if arm.adapter == adapter), None) if served.status else None
    if digest is None:
        raise Invalid(
            [f"ModelEndpoint {served.endpoint} does not say by which digest {adapter} serves; try: kubectl graft reject {adapter}"]
        )
    return adapter, digest


def say(kubectl: Kubectl, word: Word, author: Author, served: Served) -> int:
    """Write it down, and say what follows."""
    made = kubectl.create(approval(word, author))
    said = "approves" if word.decision == "Approve" else "rejects"
    print(printable(f"adapterapproval {made['metadata']['name']}: {author.username} {said} {word.adapter} at {word.digest}"))
    if served.wanted.promotion is not None:
        print(follows(word, served.wanted.promotion.approval), file=sys.stderr)
    return 0


def approval(word: Word, author: Author) -> Manifest:
    """Build the AdapterApproval. Raises `Invalid` for a reason that is too long."""
    told = {"adapterRef": {"name": word.adapter}, "digest": word.digest, "decision": word.decision, "reason": word.reason}
    evidence = {"evidenceDigest": word.evidence} if word.evidence else {}
    spec = parse(AdapterApprovalSpec, told | evidence | {"author": author.to_json()})
    # Nobody owns it, so that nobody else can have it collected. Where the name is cut, nothing that no name has stands before the dash.
    name = f"{word.adapter[:40].rstrip('-.')}-{word.decision.lower()}-"
    return {
        "apiVersion": "graft.dev/v1alpha1",
        "kind": "AdapterApproval",
        "metadata": {"generateName": name},
        "spec": spec.to_json(),
    }


def follows(word: Word, policy: ApprovalPolicy) -> str:
    """Return what such a word does."""
    needed = policy.needed()
    if word.decision == "Approve":
        return f"needed: {needed}; {asked(policy)}; who is counted stands in the Adapter's status.promotion"
    before = "one rejection" if policy.veto else f"{needed} of them"
    return (
        f"one rejection takes out what serves, {before} a candidate on its way; an approval that is newer, of as many as it takes, lifts it"
    )
