"""
Pure: the routes that follow from the ledger, or of a shadow server from what its ShadowTest says.

    versions = what serves, what may serve again, candidates; and what is not wanted any more until it is drained
"""

from collections.abc import Iterator

from graft_api.dataplane import version_name
from graft_api.ledger import Ledger, LedgerDomain, LedgerVersion
from graft_api.modelendpoint import Domain, Held, ModelEndpointSpec
from graft_api.routes import Arm, EndpointIdentity, GatewaySettings, Route, Routes, Version
from graft_api.tee import Tee
from graft_operator.modelendpoint.observed import AdapterView, Observed
from graft_operator.promotion import arms, machine

MAX_VERSIONS = 64
WHOLE = 10_000
"""The weights of a domain's arms, together."""


def build(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger, epoch: int, tee: Tee | None = None) -> Routes:
    """Return the routes for this ledger: those that are there if nothing differs, else with the next revision."""
    before, held = observed.routes, spec.shadow
    identity = EndpointIdentity(namespace=observed.parent.namespace, name=observed.parent.name, uid=observed.parent.uid)
    made = Routes(
        endpoint=identity,
        epoch=max(epoch, ledger.epoch, before.epoch if before else 0),
        revision=max(ledger.revision, before.revision if before else 0),
        base_digest=ledger.base_digest,
        max_loras=spec.slots(),
        max_lora_rank=spec.rank(),
        signing_keys=[key.pem for key in spec.trusted_keys],
        versions=list(held.versions) if held else _versions(observed, spec, ledger)[:MAX_VERSIONS],
        routes=[_held(domain, held) if held else _route(domain, ledger) for domain in spec.domains],
        gateway=GatewaySettings(**{name: getattr(spec.gateway, name) for name in GatewaySettings.model_fields}),
        tee=tee,
    )
    return _numbered(made, before, _ahead(observed))


def routed(ledger: Ledger, domain: str) -> list[Arm]:
    """Return what serves a domain, and which share of its conversations each."""
    entry = ledger.domain(domain)
    return arms.arms(domain, entry) if entry else [Arm()]


def retreated(observed: Observed, before: Routes, ledger: Ledger, epoch: int) -> Routes:
    """Return the routes that are there without arms that the ledger rejects; the next revision if there were any. All else stays."""
    pairs = [(route, ledger.domain(route.domain)) for route in before.routes]
    routes = [_retreated(route, entry) if entry else route for route, entry in pairs]
    if routes == before.routes:
        return before
    serving = [_of_ledger(entry.name, entry.active) for _, entry in pairs if entry and entry.active]
    update = {"routes": routes, "versions": list(_unique(iter([*before.versions, *serving]))), "epoch": max(epoch, before.epoch)}
    return _numbered(before.model_copy(update=update), before, _ahead(observed))


def _retreated(route: Route, entry: LedgerDomain) -> Route:
    if not any(arm.version and _rejects(entry, arm.version) for arm in route.arms):
        return route
    update = {"arms": arms.arms(entry.name, entry), "trip_wire": arms.trip_wire(entry.name, entry)}
    return route.model_copy(update=update | {"aborted": arms.aborted(entry.name, entry), "revision": 0})


def _rejects(entry: LedgerDomain, version: str) -> bool:
    return any(version_name(entry.name, known.digest) == version for known in entry.rejected if known.lifted_at is None)


def _versions(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger) -> list[Version]:
    """
    Return what is to be loaded. What requests may still reach holds its slot until it is drained; a candidate waits for it.

    What serves is never cut, what conversations are held back on included: it was loaded before it was switched to, so it has a slot.
    """
    before = observed.routes.versions if observed.routes else []
    held = [version for version in before if not _drained(observed, version.name)]
    names, serving = {version.name for version in held}, {arm.version for domain in spec.domains for arm in routed(ledger, domain.name)}
    free, chosen = spec.slots() - len(held), []
    for version in _unique(_wanted(observed, spec, ledger)):
        if version.name in names:
            chosen.append(version)
        elif free > 0 or version.name in serving:
            chosen.append(version)
            free -= 1
    return list(_unique(iter([*chosen, *held])))


def _ahead(observed: Observed) -> tuple[int, int]:
    """Return the newest routes that the fleet knows of: newer than ours after a restore from a backup, and it would ignore ours."""
    reports = [pod.report for pod in observed.gateways] + [pod.report for pod in observed.servers]
    return max(((report.epoch, report.revision) for report in reports if report), default=(0, 0))


def _wanted(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger) -> Iterator[Version]:
    """
    Most important first: serving, held back, pinned, on its way, previous, candidates (newest first), and last those that failed or
    may not serve.
    """
    entries = [(domain, entry) for domain in spec.domains if (entry := ledger.domain(domain.name))]
    yield from (_of_ledger(domain.name, entry.active) for domain, entry in entries if entry.active)
    on_its_way = [(domain, entry, entry.gate) for domain, entry in entries if entry.gate]
    watched = [(domain, entry.previous) for domain, entry, gate in on_its_way if gate.version == entry.active]
    yield from (_of_ledger(domain.name, before) for domain, before in watched if before)
    pinned = [observed.adapter(domain.pin.adapter or "") for domain in spec.domains if domain.pin]
    yield from (_of_adapter(adapter) for adapter in pinned if adapter and _may_load(adapter, spec, ledger))
    yield from (_of_ledger(domain.name, gate.version) for domain, _, gate in on_its_way)
    yield from (_of_ledger(domain.name, entry.previous) for domain, entry in entries if entry.previous)
    candidates = sorted(observed.adapters, key=lambda adapter: (adapter.created_at, adapter.name), reverse=True)
    candidates.sort(key=lambda adapter: adapter.failed or _is_rejected(adapter, ledger))
    yield from (_of_adapter(adapter) for adapter in candidates if _may_load(adapter, spec, ledger))


def _is_rejected(adapter: AdapterView, ledger: Ledger) -> bool:
    entry = ledger.domain(adapter.spec.domain)
    return entry is not None and bool(machine.rejected(entry, adapter.spec.artifact.digest))


def _may_load(adapter: AdapterView, spec: ModelEndpointSpec, ledger: Ledger) -> bool:
    served = adapter.spec.domain in {domain.name for domain in spec.domains}
    return served and not adapter.deleting and ledger.base_digest in (None, adapter.spec.base_model_digest)


def _drained(observed: Observed, name: str) -> bool:
    """
    Whether no request can reach a version any more: no arm, acknowledged by every gateway that runs, and nothing in flight.

    A gateway that says nothing delays this; one that is gone does not.
    """
    assert observed.routes is not None  # noqa: S101 - asked of versions in them
    if name in observed.routes.routed():
        return False
    running = [pod for pod in observed.gateways if pod.running]
    return all(pod.acknowledges(observed.routes) and pod.report and not pod.report.in_flight.get(name) for pod in running)


def _route(domain: Domain, ledger: Ledger) -> Route:
    entry = ledger.domain(domain.name) or LedgerDomain(name=domain.name, salt="")
    return Route(
        domain=domain.name,
        revision=0,
        salt=entry.salt,
        arms=arms.arms(domain.name, entry),
        fallback=domain.fallback,
        limits=domain.limits,
        trip_wire=arms.trip_wire(domain.name, entry),
        aborted=arms.aborted(domain.name, entry),
    )


def _held(domain: Domain, held: Held) -> Route:
    """Make every version an arm: a server is Ready after an attempt to load each. No gateway reads this."""
    every = [Arm(version=version.name, weight=WHOLE // len(held.versions)) for version in held.versions]
    return Route(domain=domain.name, revision=0, salt="", arms=every or [Arm()], fallback="Error")


def _of_ledger(domain: str, kept: LedgerVersion) -> Version:
    return Version(
        name=version_name(domain, kept.digest),
        domain=domain,
        adapter=kept.adapter,
        digest=kept.digest,
        uri=kept.uri,
        size_bytes=kept.size_bytes,
    )


def _of_adapter(adapter: AdapterView) -> Version:
    domain, artifact = adapter.spec.domain, adapter.spec.artifact
    return Version(
        name=version_name(domain, artifact.digest),
        domain=domain,
        adapter=adapter.name,
        digest=artifact.digest,
        uri=artifact.uri,
        size_bytes=artifact.size_bytes,
    )


def _unique(versions: Iterator[Version]) -> Iterator[Version]:
    seen: set[str] = set()
    for version in versions:
        if version.name not in seen:
            seen.add(version.name)
            yield version


def _numbered(made: Routes, before: Routes | None, ahead: tuple[int, int]) -> Routes:
    """Number the routes: the same content keeps its revision, each route the revision of its last change."""
    if ahead > (made.epoch, made.revision):
        made, before = made.model_copy(update={"epoch": ahead[0], "revision": ahead[1]}), None
    if before is not None and before.endpoint.uid == made.endpoint.uid:
        kept = {route.domain: route for route in before.routes}
        same = [_kept(route, kept.get(route.domain)) for route in made.routes]
        unchanged = made.model_copy(update={"epoch": before.epoch, "revision": before.revision, "routes": same})
        if unchanged == before:
            return before
        made = made.model_copy(update={"routes": same})
    revision = made.revision + 1
    numbered = [route.model_copy(update={"revision": route.revision or revision}) for route in made.routes]
    return made.model_copy(update={"revision": revision, "routes": numbered})


def _kept(route: Route, before: Route | None) -> Route:
    if before is not None and before.model_copy(update={"revision": 0}) == route:
        return before
    return route
