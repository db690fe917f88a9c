"""What is known about one ShadowTest: values that a decision is made from."""

from collections.abc import Sequence
from dataclasses import dataclass

from graft_api.adapter import AdapterPhase, AdapterSpec
from graft_api.collect import CollectorReport, Reported, collector_account
from graft_api.dataplane import BASE_NAME, version_name
from graft_api.fleet import RETRIED, VersionReport, VersionState
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.routes import Version
from graft_api.schema import Invalid
from graft_api.shadowtest import ComparedVersion, ResolvedTest, ShadowTestSpec, ShadowTestStatus
from graft_operator.modelendpoint.observed import ServerPod
from graft_operator.shadowtest.turns import TestView


@dataclass(frozen=True)
class Candidate:
    """The Adapter under test."""

    name: str
    spec: AdapterSpec | Invalid
    phase: AdapterPhase | None
    said: str
    """By its own Ready condition."""
    deleting: bool

    def version(self) -> Version | None:
        """Return what a server is to load."""
        if isinstance(self.spec, Invalid):
            return None
        artifact, domain = self.spec.artifact, self.spec.domain
        return Version(
            name=version_name(domain, artifact.digest),
            domain=domain,
            adapter=self.name,
            digest=artifact.digest,
            uri=artifact.uri,
            size_bytes=artifact.size_bytes,
        )


@dataclass(frozen=True)
class Production:
    """The ModelEndpoint whose requests are copied."""

    name: str
    uid: str
    spec: ModelEndpointSpec | Invalid
    deleting: bool
    ledger: Ledger | None
    """Absent: there is none yet, or it cannot be read."""

    def incumbent(self, domain: str) -> Version | None:
        """Return what serves a domain; None: the base model. Only where there is a ledger."""
        entry = self.ledger.domain(domain) if self.ledger else None
        if entry is None or entry.active is None:
            return None
        active = entry.active
        return Version(
            name=version_name(domain, active.digest),
            domain=domain,
            adapter=active.adapter,
            digest=active.digest,
            uri=active.uri,
            size_bytes=active.size_bytes,
        )

    def last_switch(self, domain: str) -> int:
        """Return the ordinal of the domain's last switch; 0 before the first."""
        entry = self.ledger.domain(domain) if self.ledger else None
        return entry.history[-1].ordinal if entry and entry.history else 0


@dataclass(frozen=True)
class ShadowView:
    """The ModelEndpoint of the name that the shadow server must have."""

    uid: str
    ours: bool
    deleting: bool
    versions: frozenset[str] | None
    """That its servers are to hold; None: its spec cannot be read."""
    stalled: tuple[str, str] | None = None
    """Reason and message."""
    asking: str | None = None
    """The service account that its doors let in; None: its spec cannot be read."""


@dataclass(frozen=True)
class Observed:
    """Everything that one decision needs."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: ShadowTestSpec | Invalid
    status: ShadowTestStatus
    candidate: Candidate | None = None
    production: Production | None = None
    promotes: bool = False
    """Made by the operator for a candidate's gate, not by somebody who wants to know."""
    tests: Sequence[TestView] = ()
    """All of the namespace, this one too; asked only of a test that waits for its turn."""
    shadow: ShadowView | None = None
    servers: Sequence[ServerPod] = ()
    """Of the shadow."""
    report: CollectorReport | None = None
    """The newest of the endpoint's collector, if it is fresh and about this very test."""
    reported: Reported | None = None
    """What the endpoint's collector said of this test's report."""
    policies_missing: Sequence[str] = ()
    policies_missing_seconds: float = 0.0
    listening: bool = False
    """This operator began to hear the fleet a moment ago: silence means nothing yet."""

    def gate_is_over(self) -> bool:
        """Whether nobody waits for this test any more: it was made for a gate, and the ledger has another one, or none."""
        ledger, spec = self.production.ledger if self.production else None, self.candidate.spec if self.candidate else None
        if not self.promotes or ledger is None or not isinstance(spec, AdapterSpec):
            return False
        entry = ledger.domain(spec.domain)
        gate = entry.gate if entry else None
        return gate is None or gate.test != self.name

    def switched(self, resolved: ResolvedTest) -> bool:
        """Whether another version serves by now, or did in between. Without a ledger nobody can tell."""
        if self.production is None or self.production.ledger is None:
            return False
        if resolved.incumbent_switch not in {None, self.production.last_switch(resolved.domain)}:
            return True
        return compared(self.production.incumbent(resolved.domain)).version != resolved.incumbent.version

    def attempt(self, resolved: ResolvedTest) -> int | None:
        """Return the how manieth test of this artifact it is, as the ledger counts; None: its beginning is not counted yet."""
        ledger = self.production.ledger if self.production else None
        entry = ledger.domain(resolved.domain) if ledger else None
        tested = entry.tested(resolved.candidate.digest or "") if entry else None
        return (tested.attempt(self.uid) if tested else None) or self.status.attempt

    def locked_out(self) -> tuple[str, str] | None:
        """Return the service accounts of the endpoint's collector and of whom the shadow's doors let in, where they differ."""
        spec = self.production.spec if self.production else None
        if self.production is None or not isinstance(spec, ModelEndpointSpec) or self.shadow is None or self.shadow.asking is None:
            return None
        writer = spec.collector_credentials()
        asks = (writer.service_account_name if writer else None) or collector_account(self.production.name)
        return (asks, self.shadow.asking) if asks != self.shadow.asking else None


@dataclass(frozen=True)
class Servers:
    """How far the shadow's servers are."""

    ready: int
    wanted: int
    holding: int
    """Of the ready ones, those that can answer with every version."""
    refused: tuple[str, VersionReport] | None = None
    """A pod that will never hold a version, and what it says of it."""
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether every one of them can be asked for both versions."""
        return self.ready >= self.wanted and self.holding == self.ready > 0

    def told(self) -> str:
        """Return it in words."""
        counts = f"{self.ready} of {self.wanted} shadow servers are ready, {self.holding} of them with both versions"
        return f"{counts}; {self.problem}" if self.problem else counts


def servers(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest) -> Servers:
    """Return how far the shadow's servers are."""
    needed = held_versions(resolved)
    ready = [pod for pod in observed.servers if pod.ready]
    said = [(pod.name, report) for pod in observed.servers for name in sorted(needed) if (report := pod.version(name))]
    failed = [(pod, report) for pod, report in said if report.state is VersionState.FAILED]
    refused = next(((pod, report) for pod, report in failed if report.reason not in RETRIED), None)
    stuck = [f"{pod.name}: {pod.problem[0]} {pod.problem[1]}" for pod in observed.servers if pod.problem]
    stuck += [f"{pod}: {report.name}: {report.reason} {report.message}" for pod, report in failed]
    stuck += [": ".join(observed.shadow.stalled)] if observed.shadow and observed.shadow.stalled else []
    return Servers(
        ready=len(ready),
        wanted=spec.shadow.replicas,
        holding=sum(pod.report is not None and all(pod.has(name) for name in needed) for pod in ready),
        refused=refused,
        problem=next(iter(stuck), "").strip(),
    )


def held_versions(resolved: ResolvedTest) -> frozenset[str]:
    """Return the names of what the shadow holds besides the base model."""
    return frozenset({resolved.incumbent.version, resolved.candidate.version} - {BASE_NAME})


def compared(version: Version | None) -> ComparedVersion:
    """Return one side of a test."""
    if version is None:
        return ComparedVersion(version=BASE_NAME)
    return ComparedVersion(version=version.name, adapter=version.adapter, digest=version.digest)
