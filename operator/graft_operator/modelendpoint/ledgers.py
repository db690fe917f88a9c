"""
Pure: how the ledger changes. It is written before anything that follows from it, with a precondition on what was read.

Precedence, lowest first: what serves, a candidate's promotion, `pin`, a rejection. An adapter that is being deleted serves no more,
whatever else says so.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial

from graft_api.ledger import Ended, Ledger, LedgerDomain, LedgerVersion
from graft_api.modelendpoint import Domain, ModelEndpointSpec
from graft_api.routes import Route, Routes, Version
from graft_api.schema import canonical_json
from graft_operator.engine.conditions import shorten
from graft_operator.modelendpoint import tested
from graft_operator.modelendpoint.candidates import not_everywhere, recorded, seen
from graft_operator.modelendpoint.observed import AdapterView, Observed
from graft_operator.promotion import arms, machine, transitions, turns
from graft_operator.promotion.endings import HISTORY, switched, without_previous
from graft_operator.promotion.naming import fingerprint

MOST_DOMAINS = 64
"""As many as the ledger's own schema lets it remember."""
MOST_BYTES = 900 * 1024
"""A ConfigMap holds 1 MiB, and some is left for its key and for numbers that grow. What is never left out needs less."""
DRIFT_BYTES = 20 * 1024
"""What is measured of one candidate's drift, of as many principles as there may be, and is never left out."""
ROOM = 700 * 1024
"""No candidate begins beyond this: its policy is never left out, and there must be room for its approvals and its watch."""


def advance(observed: Observed, spec: ModelEndpointSpec, salt: Callable[[str], str], now: datetime) -> Ledger:
    """Return the ledger after the transitions that are due. `salt(domain)` names a new domain's split of conversations."""
    ledger = observed.ledger or adopt(observed.routes, observed.parent.name)
    known = {domain.name: domain for domain in ledger.domains}
    note = noting(observed, now)
    for wanted in spec.domains:
        domain = known.get(wanted.name) or LedgerDomain(name=wanted.name, salt=salt(wanted.name))
        settled = note(domain, _settle(observed, wanted, domain, now))
        begins = _begins(wanted, known)
        known[wanted.name] = machine.advance(seen(observed, begins, settled), settled, now, note=note)
    kept = [tested.count(domain, observed) for domain in _remembered(known, {domain.name for domain in spec.domains})]
    return bounded(ledger.model_copy(update={"domains": kept, "base_digest": base_digest(observed, spec, ledger)}))


def retreated(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger, now: datetime) -> Ledger:
    """Return the ledger without what must not serve on, while admission policies are missing and nothing else is decided."""
    wanted, note = {domain.name: domain for domain in spec.domains}, noting(observed, now)
    known = {entry.name: seen(observed, wanted[entry.name], entry) for entry in ledger.domains if entry.name in wanted}
    kept = [machine.retreat(known[entry.name], entry, now, note=note) if entry.name in known else entry for entry in ledger.domains]
    return ledger if kept == ledger.domains else bounded(ledger.model_copy(update={"domains": kept}))


def noting(observed: Observed, now: datetime) -> machine.Note:
    """Return what notes each transition beside what it changes, in the same write."""
    names = {adapter.spec.artifact.digest: adapter.name for adapter in observed.adapters}
    return partial(transitions.noted, now=now, names=names)


def of_shadow(observed: Observed, spec: ModelEndpointSpec) -> Ledger:
    """Return what stands for the ledger of an endpoint that has none: a ShadowTest says what its servers hold."""
    known = Ledger(endpoint=observed.parent.name, base_digest=observed.routes.base_digest if observed.routes else None)
    return known.model_copy(update={"base_digest": base_digest(observed, spec, known)})


def _remembered(known: dict[str, LedgerDomain], named: set[str]) -> list[LedgerDomain]:
    """Return the domains by name. Of those that the spec does not name any more, the ones with something to tell stay longest."""

    def worth(domain: LedgerDomain) -> tuple[bool, bool, str]:
        return domain.name in named, domain.active is not None, domain.since or ""

    kept = sorted(known.values(), key=worth, reverse=True)[:MOST_DOMAINS]
    return sorted(kept, key=lambda domain: domain.name)


def bounded(ledger: Ledger) -> Ledger:
    """
    Return the ledger with as much of its history as there is room for: the last of each domain, which numbers the next, stays.

    With the history goes who approved former candidates and why they ended; then counts of tests, of the artifacts that were tested
    longest ago; then the former candidates themselves. A candidate that is on its way stays whole, and so does what is rejected.
    """
    for kept in range(HISTORY, 1, -1):
        if fits(ledger):
            return ledger
        ledger = _each(ledger, partial(_shortened, most=kept - 1))
    for kept in range(tested.MOST_DIGESTS, 1, -1):
        if fits(ledger):
            return ledger
        ledger = _each(ledger, partial(tested.shortened, digests=kept - 1))
    return ledger if fits(ledger) else _each(ledger, _least)


def _each(ledger: Ledger, change: Callable[[LedgerDomain], LedgerDomain]) -> Ledger:
    return ledger.model_copy(update={"domains": [change(domain) for domain in ledger.domains]})


def _shortened(domain: LedgerDomain, most: int) -> LedgerDomain:
    """Leave out all but so much of what only tells how things came to be. That a candidate had its turn is more than that."""
    bare = [_bare(ended) for ended in domain.ended[:-most]]
    ended, told = [*bare, *domain.ended[-most:]], domain.transitions[-max(most, len(domain.untold())) :]
    return domain.model_copy(update={"history": domain.history[-most:], "ended": ended, "transitions": told})


def _bare(ended: Ended) -> Ended:
    """Leave out who approved a candidate, but for the last of them: rejections from before that were answered."""
    return ended.model_copy(update={"approvals": ended.approvals[-1:], "message": ""})


def _least(domain: LedgerDomain) -> LedgerDomain:
    """
    Leave out all that can be. Of who has had a turn the fingerprints stay, as far as there is room; beyond that no adapter that was there
    when the last of the forgotten candidates ended has one.
    """
    serving = domain.active.digest if domain.active else None
    kept = [ended for ended in domain.ended[:-1] if ended.digest == serving][-1:] + domain.ended[-1:]
    forgotten = [ended for ended in domain.ended if ended not in kept and turns.outlasts(domain, ended)]
    prints = list(dict.fromkeys([*domain.spent, *(fingerprint(ended.adapter, ended.digest) for ended in forgotten)]))
    full = len(prints) > turns.MOST_SPENT
    settled = max([domain.settled or "", *(ended.at for ended in forgotten if full)]) or None
    rejected = [one.model_copy(update={"reason": "", "others": [], "lifted_by": []}) for one in domain.rejected]
    gone = [ended.number for ended in kept if ended.number in domain.gone]
    told = [one.model_copy(update={"message": "", "who": []}) for one in domain.transitions[-1:]]
    update = {
        "ended": [_bare(ended) for ended in kept],
        "gone": gone,
        "rejected": rejected,
        "spent": prints[-turns.MOST_SPENT :],
        "settled": settled,
        "transitions": told,
    }
    return domain.model_copy(update=update)


def fits(ledger: Ledger) -> bool:
    """Whether a ConfigMap holds it."""
    return len(canonical_json(ledger.to_json())) <= MOST_BYTES


def adopt(routes: Routes | None, endpoint: str) -> Ledger:
    """Return a ledger for an endpoint that has none: what its routes say serves, if there are any, else nothing."""
    if routes is None:
        return Ledger(endpoint=endpoint)
    versions = {version.name: version for version in routes.versions}
    domains = [_adopted(route, versions) for route in routes.routes]
    return Ledger(endpoint=endpoint, epoch=routes.epoch, revision=routes.revision, base_digest=routes.base_digest, domains=domains)


def _adopted(route: Route, versions: dict[str, Version]) -> LedgerDomain:
    """Return what a route says of its domain. Of a version that was watched the one before it is known, too: it can go back there."""

    def kept(name: str | None) -> LedgerVersion | None:
        version = versions.get(name or "")
        if version is None:
            return None
        return LedgerVersion(adapter=version.adapter, digest=version.digest, uri=version.uri, size_bytes=version.size_bytes)

    heaviest = max(route.arms, key=lambda arm: arm.weight)
    wire = route.trip_wire
    before = kept(wire.instead) if wire and wire.version == heaviest.version else None
    return LedgerDomain(name=route.domain, salt=route.salt, active=kept(heaviest.version), previous=before)


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
    return _unfit(wanted, domain, adapter) or not_everywhere(observed, adapter)


def _unfit(wanted: Domain, domain: LedgerDomain, adapter: AdapterView) -> str | None:
    """Return why an adapter may not serve a domain, wherever it is loaded."""
    if adapter.deleting:
        return f"Adapter {adapter.name} is being deleted"
    if adapter.spec.domain != wanted.name:
        return f"Adapter {adapter.name} is for domain {adapter.spec.domain}"
    if (why := machine.rejected(domain, adapter.spec.artifact.digest)) is None:
        return None
    reason = f" ({why.reason})" if why.reason else ""
    told = f"Adapter {adapter.name} was rejected by {why.author} at {why.at}{reason}"
    return shorten(f"{told}; only a quorum of newer approvals lifts that", 512)


def _begins(wanted: Domain, known: dict[str, LedgerDomain]) -> Domain:
    """Return what is wanted of a domain; of one whose policy the ledger has no room for, that no candidate begins."""
    entry = known.get(wanted.name)
    if (entry is not None and entry.gate is not None) or no_room(wanted, known.values()) is None:
        return wanted
    return wanted.model_copy(update={"paused": True})


def no_room(wanted: Domain, domains: Iterable[LedgerDomain]) -> str | None:
    """Return why no candidate of a domain can begin: the ledger keeps its policy whole, for as long as it is on its way."""
    if wanted.promotion is None:
        return None
    domains = list(domains)
    least = [_least(_shortened(tested.shortened(domain, 1), 1)).to_json() for domain in domains]
    measuring = sum(domain.gate is not None and domain.gate.policy.drift is not None for domain in domains) + bool(wanted.promotion.drift)
    size = len(canonical_json([*least, wanted.promotion.to_json()])) + measuring * DRIFT_BYTES
    if size <= ROOM:
        return None
    told = f"no candidate begins: with this policy the ledger would have {size / 1024:.0f} KiB, at most {ROOM // 1024} KiB are possible"
    return f"{told}; make the scorers of promotion.shadow.metrics smaller, or have fewer domains"


def _settle(observed: Observed, wanted: Domain, domain: LedgerDomain, now: datetime) -> LedgerDomain:
    """Return the domain after what comes before any promotion: deletions, then pins."""
    domain = _forget_deleted(observed, domain, now)
    if domain.active is not None and _is_going(observed, domain.active):
        return switched(domain, _before(domain), "Deleted", f"Adapter {domain.active.adapter} is being deleted", now)
    return _pinned(observed, wanted, domain, now)


def _before(domain: LedgerDomain) -> LedgerVersion | None:
    """Return what takes the place of a version that goes: of one that is watched the one before it, which serves beside it."""
    return domain.previous if domain.gate is not None and domain.gate.version == domain.active else None


def _pinned(observed: Observed, wanted: Domain, domain: LedgerDomain, now: datetime) -> LedgerDomain:
    if wanted.pin is None:
        return domain
    if wanted.pin.base:
        return _switch(domain, None, "Pinned", "pinned to the base model", now) if domain.active else domain
    pinned = observed.adapter(wanted.pin.adapter or "")
    if pinned is None or waiting_for(observed, wanted, domain) is not None:
        return domain
    told = f"pinned to Adapter {pinned.name}"
    if domain.active == recorded(pinned) and arms.serving(domain) is not None:  # a pin is for all conversations: none is held back
        return switched(domain, domain.active, "Pinned", told, now)
    return _switch(domain, recorded(pinned), "Pinned", told, now)


def _switch(domain: LedgerDomain, after: LedgerVersion | None, reason: str, message: str, now: datetime) -> LedgerDomain:
    """Return the domain with another version in service; what served before is kept for a rollback."""
    if domain.active == after:
        return domain
    return switched(domain, after, reason, message, now).model_copy(update={"previous": domain.active})


def _forget_deleted(observed: Observed, domain: LedgerDomain, now: datetime) -> LedgerDomain:
    """An adapter that is being deleted is not kept for a rollback."""
    if domain.previous is None or not _is_going(observed, domain.previous):
        return domain
    return without_previous(domain, now)


def _is_going(observed: Observed, version: LedgerVersion) -> bool:
    adapter = observed.adapter(version.adapter)
    return adapter is not None and adapter.deleting and recorded(adapter) == version
