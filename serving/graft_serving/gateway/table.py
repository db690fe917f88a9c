"""
The routes in the form in which a request uses them: immutable, so that a switch is one assignment.

A request reads the table once; whatever comes later is for later requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graft_api.dataplane import BASE_NAME
from graft_api.routes import DomainLimits, Fallback, GatewaySettings, Route, Routes
from graft_serving.gateway.conversation import Sample, arm_index, cumulative_weights, sample_of


@dataclass(frozen=True, slots=True)
class Alias:
    """What a client may write as `model`, and what serves it."""

    name: str
    salt: str
    versions: tuple[str, ...]
    """vLLM's name of each arm's model; `base` for the base model."""
    cumulative: tuple[int, ...]
    fallback: Fallback
    limits: DomainLimits | None
    measured: Sample | None = None
    """Which of its conversations the collector is told of; None: of none."""

    def version_for(self, key: bytes) -> str:
        """Return the version that serves the conversation."""
        return self.versions[arm_index(self.salt, key, self.cumulative)]


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All that is decided by routes, at one revision."""

    epoch: int
    revision: int
    aliases: Mapping[str, Alias]
    versions: frozenset[str]
    """All that agents keep loaded, `base` included."""
    settings: GatewaySettings


def compile_table(routes: Routes) -> RoutingTable:
    """Build the table."""
    samples = {each.domain: sample_of(each) for each in routes.tee.domains} if routes.tee else {}
    aliases = {route.domain: _alias(route, samples.get(route.domain)) for route in routes.routes}
    if (base := routes.gateway.base_alias) is not None:
        aliases.setdefault(base, Alias(base, "", (BASE_NAME,), (1,), "Error", None, samples.get(base)))
    return RoutingTable(
        epoch=routes.epoch,
        revision=routes.revision,
        aliases=MappingProxyType(aliases),
        versions=frozenset(version.name for version in routes.versions) | {BASE_NAME},
        settings=routes.gateway,
    )


def _alias(route: Route, measured: Sample | None) -> Alias:
    return Alias(
        name=route.domain,
        salt=route.salt,
        versions=tuple(arm.version or BASE_NAME for arm in route.arms),
        cumulative=cumulative_weights(route.arms),
        fallback=route.fallback,
        limits=route.limits,
        measured=measured,
    )
