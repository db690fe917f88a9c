"""Pure: which domains have a candidate on its way, or one that waits for its turn: what is trained now would only queue behind it."""

from collections.abc import Iterable, Mapping
from typing import Any

from graft_api.adapter import AdapterSpec
from graft_api.ledger import Ledger, LedgerDomain, LedgerVersion
from graft_api.modelendpoint import Domain, ModelEndpointSpec
from graft_api.schema import Invalid, parse
from graft_operator.modelendpoint.observed import Record
from graft_operator.promotion.choosing import may_begin
from graft_operator.promotion.seen import Candidate

Manifest = dict[str, Any]


def in_gate(spec: ModelEndpointSpec, ledger: Ledger | None, record: Record | None, adapters: Iterable[Manifest]) -> dict[str, str]:
    """Return by domain who is on its way or waits, in words; domains without are not in it. `adapters`: of this endpoint."""
    if ledger is None and record is not None:
        told = "nobody knows whether a candidate is in the gate: the ledger of the endpoint cannot be read"
        return {domain.name: told for domain in spec.domains}
    known = {entry.name: entry for entry in (ledger.domains if ledger else [])}
    found = [candidate for item in adapters if (candidate := _candidate(item)) is not None]
    told_of = {domain.name: _told(domain, known.get(domain.name), found) for domain in spec.domains}
    return {name: told for name, told in told_of.items() if told}


def _told(domain: Domain, entry: LedgerDomain | None, adapters: Iterable[tuple[str, Candidate]]) -> str:
    entry = entry or LedgerDomain(name=domain.name, salt="")
    if entry.gate is not None:
        return f"Adapter {entry.gate.version.adapter} is {entry.gate.state.value} since {entry.gate.since}"
    if domain.promotion is None:
        return ""  # nothing has a turn
    waiting = sorted(adapter.name for name, adapter in adapters if name == domain.name and adapter.loaded and may_begin(entry, adapter))
    held = " (paused)" if domain.paused else " (pinned)" if domain.pin is not None else ""
    return f"Adapter {waiting[0]} is loaded and has not had its turn{held}" if waiting else ""


def _candidate(resource: Mapping[str, Any]) -> tuple[str, Candidate] | None:
    """Return domain and candidate; None for an Adapter that cannot be read, and so never begins."""
    metadata = resource["metadata"]
    try:
        spec = parse(AdapterSpec, resource.get("spec"))
    except Invalid:
        return None
    artifact = spec.artifact
    return spec.domain, Candidate(
        name=metadata["name"],
        uid=metadata["uid"],
        version=LedgerVersion(adapter=metadata["name"], digest=artifact.digest, uri=artifact.uri, size_bytes=artifact.size_bytes),
        created_at=metadata["creationTimestamp"],
        promote=spec.promote,
        deleting="deletionTimestamp" in metadata,
        # As its own reconciler has said, and the policy graft-status lets nobody else say.
        loaded=(resource.get("status") or {}).get("phase") == "Loaded",
    )
