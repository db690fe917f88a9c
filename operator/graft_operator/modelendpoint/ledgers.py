"""
Pure: how the ledger changes. It is written before anything that follows from it, with a precondition on what was read.

Precedence, lowest first: what serves, `pin`. An adapter that is being deleted serves no more, whatever else says so.
"""

from collections.abc import Callable
from datetime import datetime

from graft_api.dataplane import version_name
from graft_api.ledger import Ledger, LedgerDomain, LedgerVersion, Switch
from graft_api.modelendpoint import Domain, ModelEndpointSpec
from graft_api.routes import Routes
from graft_api.schema import canonical_json
from graft_operator.engine.clock import rfc3339
from graft_operator.modelendpoint.observed import AdapterView, Observed

HISTORY = 32
MOST_DOMAINS = 64
"""As many as the ledger's own schema lets it remember."""
MOST_BYTES = 900 * 1024
"""A ConfigMap holds 1 MiB, and some is left for its key and for numbers that grow. What is never left out needs less."""


def advance(observed: Observed, spec: ModelEndpointSpec, salt: Callable[[str], str], now: datetime) -> Ledger:
    """Return the ledger after the transitions that are due. `salt(domain)` names a new domain's split of conversations."""
    ledger = observed.ledger or adopt(observed.routes, observed.parent.name)
    known = {domain.name: domain for domain in ledger.domains}
    for wanted in spec.domains:
        domain = known.get(wanted.name) or LedgerDomain(name=wanted.name, salt=salt(wanted.name))
        known[wanted.name] = _forget_deleted(observed, _advance(observed, wanted, domain, now))
    kept = _remembered(known, {domain.name for domain in spec.domains})
    return _bounded(ledger.model_copy(update={"domains": kept, "base_digest": base_digest(observed, spec, ledger)}))


def _remembered(known: dict[str, LedgerDomain], named: set[str]) -> list[LedgerDomain]:
    """Return the domains by name. Of those that the spec does not name any more, the ones with something to tell stay longest."""

    def worth(domain: LedgerDomain) -> tuple[bool, bool, str]:
        return domain.name in named, domain.active is not None, domain.since or ""

    kept = sorted(known.values(), key=worth, reverse=True)[:MOST_DOMAINS]
    return sorted(kept, key=lambda domain: domain.name)


def _bounded(ledger: Ledger) -> Ledger:
    """Return the ledger with as much of its history as there is room for: the last of each domain, which numbers the next, stays."""
    for kept in range(HISTORY, 1, -1):
        if len(canonical_json(ledger.to_json())) <= MOST_BYTES:
            break
        domains = [domain.model_copy(update={"history": domain.history[-kept + 1 :]}) for domain in ledger.domains]
        ledger = ledger.model_copy(update={"domains": domains})
    return ledger


def adopt(routes: Routes | None, endpoint: str) -> Ledger:
    """Return a ledger for an endpoint that has none: what its routes say serves, if there are any, else nothing."""
    if routes is None:
        return Ledger(endpoint=endpoint)
    versions = {version.name: version for version in routes.versions}
    domains = []
    for route in routes.routes:
        heaviest = max(route.arms, key=lambda arm: arm.weight)
        version = versions.get(heaviest.version or "")
        active = (
            LedgerVersion(adapter=version.adapter, digest=version.digest, uri=version.uri, size_bytes=version.size_bytes)
            if version
            else None
        )
        domains.append(LedgerDomain(name=route.domain, salt=route.salt, active=active))
    return Ledger(endpoint=endpoint, epoch=routes.epoch, revision=routes.revision, base_digest=routes.base_digest, domains=domains)


def base_digest(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger) -> str | None:
    """Return the base model's digest: as the user says, else as all ready pods agree, else as it was."""
    if spec.base_model.digest:
        return spec.base_model.digest
    found = {pod.report.base_digest for pod in observed.ready_servers() or observed.servers if pod.report and pod.report.base_digest}
    return found.pop() if len(found) == 1 else ledger.base_digest


def waiting_for(observed: Observed, wanted: Domain, domain: LedgerDomain) -> str | None:
    """Return why a domain's pin is not what serves it; None when it is, or there is none."""
    if wanted.pin is None or wanted.pin.base:
        return None
    adapter = observed.adapter(wanted.pin.adapter or "")
    if adapter is None:
        serves = domain.active is not None and domain.active.adapter == wanted.pin.adapter
        return None if serves else f"there is no Adapter {wanted.pin.adapter} for this endpoint"
    if domain.active == recorded(adapter):  # not the name alone: an Adapter that was made anew may be another artifact
        return None
    if adapter.deleting:
        return f"Adapter {adapter.name} is being deleted"
    if adapter.spec.domain != wanted.name:
        return f"Adapter {adapter.name} is for domain {adapter.spec.domain}"
    return _not_everywhere(observed, adapter)


def _advance(observed: Observed, wanted: Domain, domain: LedgerDomain, now: datetime) -> LedgerDomain:
    if domain.active is not None and _is_going(observed, domain.active):
        return _switch(domain, None, "Deleted", f"Adapter {domain.active.adapter} is being deleted", now)
    if wanted.pin is None:
        return domain
    if wanted.pin.base:
        return _switch(domain, None, "Pinned", "pinned to the base model", now) if domain.active else domain
    pinned = observed.adapter(wanted.pin.adapter or "")
    if pinned is None or waiting_for(observed, wanted, domain) is not None:
        return domain
    return _switch(domain, recorded(pinned), "Pinned", f"pinned to Adapter {pinned.name}", now)


def _switch(domain: LedgerDomain, after: LedgerVersion | None, reason: str, message: str, now: datetime) -> LedgerDomain:
    if domain.active == after:
        return domain
    switch = Switch(
        ordinal=(domain.history[-1].ordinal if domain.history else 0) + 1,
        at=rfc3339(now),
        reason=reason,
        message=message,
        before=domain.active.adapter if domain.active else None,
        after=after.adapter if after else None,
    )
    return domain.model_copy(
        update={"active": after, "previous": domain.active, "since": switch.at, "history": [*domain.history, switch][-HISTORY:]}
    )


def _forget_deleted(observed: Observed, domain: LedgerDomain) -> LedgerDomain:
    """An adapter that is being deleted is not kept for a rollback."""
    if domain.previous is not None and _is_going(observed, domain.previous):
        return domain.model_copy(update={"previous": None})
    return domain


def _is_going(observed: Observed, version: LedgerVersion) -> bool:
    adapter = observed.adapter(version.adapter)
    return adapter is not None and adapter.deleting and recorded(adapter) == version


def _not_everywhere(observed: Observed, adapter: AdapterView) -> str | None:
    name = version_name(adapter.spec.domain, adapter.spec.artifact.digest)
    ready = observed.ready_servers()
    missing = [pod for pod in ready if not pod.has(name)]
    if ready and not missing:
        return None
    return f"Adapter {adapter.name} is loaded on {len(ready) - len(missing)} of {len(ready)} ready replicas"


def recorded(adapter: AdapterView) -> LedgerVersion:
    """Return what the ledger keeps of an adapter."""
    artifact = adapter.spec.artifact
    return LedgerVersion(adapter=adapter.name, digest=artifact.digest, uri=artifact.uri, size_bytes=artifact.size_bytes)
