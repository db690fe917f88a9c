"""Where a domain is served, as the cluster says: the ModelEndpoint, its spec and its status."""

from __future__ import annotations

from dataclasses import dataclass

from graft_api.adapter import AdapterSpec, AdapterStatus
from graft_api.modelendpoint import Domain, DomainStatus, ModelEndpointSpec, ModelEndpointStatus
from graft_api.schema import Invalid, parse
from graft_cli.kubectl import Kubectl, Manifest

ENDPOINTS = "modelendpoints.graft.dev"
ADAPTERS = "adapters.graft.dev"


@dataclass(frozen=True)
class Served:
    """One domain of a ModelEndpoint."""

    endpoint: str
    place: int
    """In `spec.domains`."""
    wanted: Domain
    status: DomainStatus | None

    @property
    def path(self) -> str:
        """Where it lies, as a JSON pointer."""
        return f"/spec/domains/{self.place}"


@dataclass(frozen=True)
class Candidate:
    """An Adapter."""

    name: str
    spec: AdapterSpec
    status: AdapterStatus


def read_adapter(kubectl: Kubectl, name: str) -> Candidate:
    """Read an Adapter. Raises `Invalid`."""
    found = kubectl.get(ADAPTERS, name)
    return Candidate(
        name, parse(AdapterSpec, found.get("spec"), from_newer=True), parse(AdapterStatus, found.get("status") or {}, from_newer=True)
    )


def domain_of(kubectl: Kubectl, candidate: Candidate) -> Served:
    """Return the domain that an adapter is for. Raises `Invalid`."""
    endpoint, domain = candidate.spec.endpoint_ref.name, candidate.spec.domain
    found = next((served for served in _domains(kubectl.get(ENDPOINTS, endpoint)) if served.wanted.name == domain), None)
    if found is None:
        raise Invalid([f"ModelEndpoint {endpoint} serves no domain {domain}, which Adapter {candidate.name} is for"])
    return found


def by_name(kubectl: Kubectl, domain: str, endpoint: str | None) -> Served:
    """Return the domain of this name, of the endpoint that is named, else of the only one that has it. Raises `Invalid`."""
    found = [served for served in _everything(kubectl, endpoint) if served.wanted.name == domain]
    return _only(found, f"domain {domain}", endpoint)


def by_what_serves(kubectl: Kubectl, name: str, endpoint: str | None) -> Served:
    """Return the domain of this name, or the one that an adapter of this name serves. Raises `Invalid`."""
    known = _everything(kubectl, endpoint)
    named = [served for served in known if served.wanted.name == name]
    return _only(
        named or [served for served in known if active(served) == name], f"domain {name}, or one that Adapter {name} serves", endpoint
    )


def active(served: Served) -> str | None:
    """
    Return the adapter that a domain was switched to last: the one that serves, or that others are held against. None: the base model.

    Of a domain whose ledger was adopted no switch is known: there it is what has the first arm.
    """
    if served.status is None:
        return None
    switch = served.status.last_switch
    if switch is None:
        return served.status.arms[0].adapter if served.status.arms else None
    return None if switch.after == "base" else switch.after


def _everything(kubectl: Kubectl, endpoint: str | None) -> list[Served]:
    found = kubectl.listed(ENDPOINTS) if endpoint is None else [kubectl.get(ENDPOINTS, endpoint)]
    return [served for resource in found if "shadow" not in resource.get("spec", {}) for served in _domains(resource)]


def _domains(resource: Manifest) -> list[Served]:
    name = str(resource["metadata"]["name"])
    spec = parse(ModelEndpointSpec, resource.get("spec"), from_newer=True)
    status = parse(ModelEndpointStatus, resource.get("status") or {}, from_newer=True)
    told = {domain.name: domain for domain in status.domains or ()}
    return [Served(name, place, domain, told.get(domain.name)) for place, domain in enumerate(spec.domains)]


def _only(found: list[Served], what: str, endpoint: str | None) -> Served:
    if not found:
        raise Invalid([f"ModelEndpoint {endpoint} has no {what}" if endpoint else f"no ModelEndpoint here has a {what}"])
    if len(found) > 1:
        raise Invalid([f"{', '.join(served.endpoint for served in found)} have a {what}: name one of them with --endpoint"])
    return found[0]
