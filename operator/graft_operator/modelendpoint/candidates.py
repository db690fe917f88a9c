"""Pure: what is known of one domain's candidates, as a transition is decided by it, from all that was observed of the endpoint."""

from typing import Any

from graft_api.approval import AdapterApprovalSpec
from graft_api.dataplane import version_name
from graft_api.ledger import LedgerDomain, LedgerVersion
from graft_api.modelendpoint import Domain
from graft_api.schema import Invalid, parse
from graft_operator.modelendpoint.observed import AdapterView, Observed
from graft_operator.promotion.seen import Candidate, CountedWatch, Seen, Word
from graft_operator.shadowtest.turns import TestView

Manifest = dict[str, Any]


def seen(observed: Observed, wanted: Domain, entry: LedgerDomain) -> Seen:
    """Return what one decision about a domain needs beside the ledger and the time."""
    adapters = [adapter for adapter in observed.adapters if adapter.spec.domain == wanted.name]
    uids, names = {adapter.uid for adapter in adapters}, {adapter.name for adapter in adapters} | _known(entry)
    tests = [test for test in observed.tests if observed.test_owners.get(test.name) in uids or _outlived(observed, entry, test)]
    heard = [pod.report for pod in observed.gateways if pod.running and pod.report]
    return Seen(
        endpoint=observed.parent.name,
        wanted=wanted,
        candidates=[_candidate(observed, adapter) for adapter in adapters],
        words=[word for word in observed.words if word.adapter in names],
        tests=tests,
        # One of ours that cannot be read, too: nobody knows what it says, and no other can have its name.
        taken=frozenset(observed.test_owners) - {test.name for test in tests},
        watched=_watched(observed, wanted.name),
        trips=[trip for report in heard for trip in report.trips if trip.domain == wanted.name],
        drift_jobs=observed.drift_jobs,
        drift_names_taken=observed.drift_names_taken,
        words_count=not observed.policies_missing,
    )


def word_of(resource: Manifest) -> Word | None:
    """Return what an AdapterApproval says; nothing if it cannot be read, or is being withdrawn."""
    metadata = resource["metadata"]
    try:
        spec = parse(AdapterApprovalSpec, resource.get("spec"))
    except Invalid:
        return None
    if "deletionTimestamp" in metadata:
        return None
    return Word(
        name=metadata["name"],
        uid=metadata["uid"],
        adapter=spec.adapter_ref.name,
        digest=spec.digest,
        evidence_digest=spec.evidence_digest,
        approves=spec.decision == "Approve",
        username=spec.author.username,
        groups=frozenset(spec.author.groups),
        created_at=metadata["creationTimestamp"],
        reason=spec.reason,
    )


def recorded(adapter: AdapterView) -> LedgerVersion:
    """Return what the ledger keeps of an adapter."""
    artifact = adapter.spec.artifact
    return LedgerVersion(adapter=adapter.name, digest=artifact.digest, uri=artifact.uri, size_bytes=artifact.size_bytes)


def not_everywhere(observed: Observed, adapter: AdapterView) -> str | None:
    """Return on how few of the ready replicas an adapter is loaded; None: it is on all of them, and there is one at least."""
    name = version_name(adapter.spec.domain, adapter.spec.artifact.digest)
    ready = observed.ready_servers()
    missing = [pod for pod in ready if not pod.has(name)]
    if ready and not missing:
        return None
    return f"Adapter {adapter.name} is loaded on {len(ready) - len(missing)} of {len(ready)} ready replicas"


def _known(entry: LedgerDomain) -> set[str]:
    """Return the adapters that the ledger has, also those whose objects are gone: what serves can be rejected for all that."""
    return {version.adapter for version in entry.versions()}


def _outlived(observed: Observed, entry: LedgerDomain, test: TestView) -> bool:
    """Whether it is the gate's own test that has its verdict, while its Adapter is not there any more or was restored with another uid."""
    before = entry.gate.adapter_uid if entry.gate else None
    return before is not None and observed.test_owners.get(test.name) == before and test.status.verdict is not None


def _candidate(observed: Observed, adapter: AdapterView) -> Candidate:
    return Candidate(
        name=adapter.name,
        uid=adapter.uid,
        version=recorded(adapter),
        created_at=adapter.created_at,
        promote=adapter.spec.promote,
        deleting=adapter.deleting,
        loaded=not_everywhere(observed, adapter) is None,
    )


def _watched(observed: Observed, domain: str) -> CountedWatch | None:
    """Return what the collector says of a domain's watch. Only the one that counts: two that took turns would be added up twice."""
    pod = observed.counting()
    report = pod.report if pod else None
    told = next((watched for watched in report.watched if watched.domain == domain), None) if report else None
    return CountedWatch(_counter(report.boot, told.turn), told) if report and told else None


def _counter(boot: str, turn: int) -> str:
    """Return who counts: a process begins again with nothing where its watch has changed while it ran."""
    return f"{boot[:48]}.{turn}" if turn else boot
