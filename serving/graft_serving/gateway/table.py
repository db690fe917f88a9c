"""
The routes in the form in which a request uses them: immutable, so that a switch is one assignment.

A request reads the table once; whatever comes later is for later requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

from graft_api.dataplane import BASE_NAME
from graft_api.routes import DomainLimits, Fallback, GatewaySettings, Route, Routes, TripWire
from graft_serving.gateway.conversation import Sample, arm_index, cumulative_weights, salt_key, sample_of


@dataclass(frozen=True, slots=True)
class Alias:
    """What a client may write as `model`, and what serves it."""

    name: str
    salt: bytes
    versions: tuple[str, ...]
    """vLLM's name of each arm's model; `base` for the base model."""
    cumulative: tuple[int, ...]
    fallback: Fallback
    limits: DomainLimits | None
    measured: Sample | None = None
    """Which of its conversations the collector is told of; None: of none."""
    trip_wire: TripWire | None = None

    def version_for(self, key: bytes) -> str:
        """Return the version that serves the conversation."""
        return self.versions[arm_index(self.salt, key, self.cumulative)]

    def share_of(self, version: str) -> float:
        """Return which share of all conversations a version serves."""
        widths = (upper - lower for lower, upper in pairwise((0, *self.cumulative)))
        return sum(width for width, each in zip(widths, self.versions, strict=True) if each == version) / self.cumulative[-1]

    def without(self, version: str, instead: str) -> "Alias":
        """Return the same with another version's conversations on `instead`. All others stay where they are."""
        return replace(self, versions=tuple(instead if each == version else each for each in self.versions))


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All that is decided by routes, at one revision."""

    epoch: int
    revision: int
    aliases: Mapping[str, Alias]
    versions: frozenset[str]
    """All that agents keep loaded, `base` included."""
    aborted: frozenset[tuple[str, str]]
    """(domain, version): what is under way on them ends."""
    settings: GatewaySettings

    def replacing(self, alias: Alias) -> "RoutingTable":
        """Return the same table with this alias in place of the one of its name."""
        return replace(self, aliases=MappingProxyType({**self.aliases, alias.name: alias}))


def compile_table(routes: Routes) -> RoutingTable:
    """Build the table."""
    samples = {each.domain: sample_of(each) for each in routes.tee.domains} if routes.tee else {}
    aliases = {route.domain: _alias(route, samples.get(route.domain)) for route in routes.routes}
    if (base := routes.gateway.base_alias) is not None:
        aliases.setdefault(base, Alias(base, b"", (BASE_NAME,), (1,), "Error", None, samples.get(base)))
    return RoutingTable(
        epoch=routes.epoch,
        revision=routes.revision,
        aliases=MappingProxyType(aliases),
        versions=frozenset(version.name for version in routes.versions) | {BASE_NAME},
        aborted=frozenset((route.domain, version) for route in routes.routes for version in _aborted(route)),
        settings=routes.gateway,
    )


def _alias(route: Route, measured: Sample | None) -> Alias:
    return Alias(
        name=route.domain,
        salt=salt_key(route.salt),
        versions=tuple(arm.version or BASE_NAME for arm in route.arms),
        cumulative=cumulative_weights(route.arms),
        fallback=route.fallback,
        limits=route.limits,
        measured=measured,
        trip_wire=route.trip_wire,
    )


def _aborted(route: Route) -> set[str]:
    """Never what requests are still sent to: they would all be refused."""
    return set(route.aborted) - {arm.version for arm in route.arms}
