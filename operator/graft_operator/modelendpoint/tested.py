"""
Pure: how often each artifact was tested, as the ledger counts it.

An author who may test the same artifact until one test passes has no verdict but a lottery. So each test is counted when it begins,
where deleting it does not reach, and before the collector is told of it: there is no verdict of a test that is not counted.
"""

from collections.abc import Iterable

from graft_api.health import SHADOW_TERMINAL
from graft_api.ledger import LedgerDomain, TestedDigest
from graft_operator.modelendpoint.observed import Observed
from graft_operator.shadowtest.turns import TestView

MOST_DIGESTS = 64
MOST_UIDS = 4
BEGUN = frozenset({"Starting", "Running"})


def count(domain: LedgerDomain, observed: Observed) -> LedgerDomain:
    """Return the domain with the tests of this endpoint that have begun since, and with how the last of each artifact ended."""
    for test in _of_domain(observed, domain.name):
        domain = _with(domain, test)
    return domain


def is_counted(domain: LedgerDomain | None, test: TestView) -> bool:
    """Whether a test may be given the collector."""
    resolved = test.status.resolved
    entry = domain.tested(resolved.candidate.digest or "") if domain and resolved else None
    return entry is not None and _knows(entry, test)


def shortened(domain: LedgerDomain, digests: int) -> LedgerDomain:
    """Return the domain with the artifacts that were tested last alone."""
    return domain.model_copy(update={"tests": domain.tests[-digests:]}) if len(domain.tests) > digests else domain


def _of_domain(observed: Observed, domain: str) -> Iterable[TestView]:
    for test in sorted(observed.tests, key=TestView.order):
        resolved = test.status.resolved
        if resolved is not None and (resolved.endpoint_uid, resolved.domain) == (observed.parent.uid, domain):
            yield test


def _with(domain: LedgerDomain, test: TestView) -> LedgerDomain:
    resolved = test.status.resolved
    digest = resolved.candidate.digest if resolved else None
    if digest is None:
        return domain  # the base model is nobody's candidate
    entry = domain.tested(digest)
    if entry is not None and _knows(entry, test):
        return _ended(domain, entry, test)
    if test.status.phase not in BEGUN or test.deleting:
        return domain
    others = [tested for tested in domain.tests if tested.digest != digest]
    return domain.model_copy(update={"tests": [*others, _next(entry, digest, test)][-MOST_DIGESTS:]})


def _next(entry: TestedDigest | None, digest: str, test: TestView) -> TestedDigest:
    """Return one more; of a test that has its number already, which a ledger from a backup does not know, as many as it says."""
    if test.status.attempt is not None:
        return TestedDigest(digest=digest, count=test.status.attempt, test=test.name, uids=[test.uid])
    before = entry.uids if entry else []
    return TestedDigest(digest=digest, count=(entry.count if entry else 0) + 1, test=test.name, uids=[*before, test.uid][-MOST_UIDS:])


def _knows(entry: TestedDigest, test: TestView) -> bool:
    return test.uid in entry.uids or (test.status.attempt is not None and test.status.attempt <= entry.count)


def _ended(domain: LedgerDomain, entry: TestedDigest, test: TestView) -> LedgerDomain:
    """Note how the last test of an artifact has ended."""
    if test.status.phase not in SHADOW_TERMINAL or entry.outcome is not None or entry.uids[-1:] != [test.uid]:
        return domain
    told = entry.model_copy(update={"outcome": test.status.phase})
    return domain.model_copy(update={"tests": [told if tested is entry else tested for tested in domain.tests]})
