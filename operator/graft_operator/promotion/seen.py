"""What is known about the candidates of one domain: values that a transition is decided from."""

from collections.abc import Sequence
from dataclasses import dataclass

from graft_api.drift import DriftReport
from graft_api.fleet import Trip
from graft_api.ledger import Gate, LedgerVersion
from graft_api.modelendpoint import Domain
from graft_api.watch import Watched
from graft_operator.shadowtest.turns import TestView


@dataclass(frozen=True)
class Candidate:
    """An Adapter of the endpoint and domain."""

    name: str
    uid: str
    version: LedgerVersion
    created_at: str
    promote: bool
    """`spec.promote`."""
    deleting: bool
    loaded: bool
    """Verified, and its effect proven, on every ready replica, of which there is one at least."""


@dataclass(frozen=True)
class Word:
    """An AdapterApproval of one of these adapters."""

    name: str
    uid: str
    adapter: str
    digest: str
    evidence_digest: str | None
    approves: bool
    username: str
    groups: frozenset[str]
    created_at: str
    reason: str = ""


@dataclass(frozen=True)
class CountedWatch:
    """What the endpoint's collector says of the domain's watch."""

    boot: str
    """Of whoever counts: what another one says is added to what this one has said."""
    told: Watched


@dataclass(frozen=True)
class DriftJob:
    """A Job of the endpoint that measures drift, and what its pods say."""

    name: str
    uid: str
    deleting: bool = False
    over: str | None = None
    """How it ended. A Job that has said what it found says so until it is deleted: one that ends by itself has failed."""
    problem: str = ""
    """Why its pod does not run, in the kubelet's words."""
    reports: Sequence[DriftReport] = ()
    """Of its own pods, newest first."""


@dataclass(frozen=True)
class Seen:
    """Everything that one decision about a domain needs, beside the ledger and the time."""

    endpoint: str
    wanted: Domain
    """As the ModelEndpoint's spec has it now."""
    candidates: Sequence[Candidate] = ()
    words: Sequence[Word] = ()
    """Of this domain's adapters; those that are being deleted are not among them."""
    tests: Sequence[TestView] = ()
    """ShadowTests whose controller is one of these Adapters; `TestView.name` and `uid` tell which."""
    taken: frozenset[str] = frozenset()
    """Names of ShadowTests in the namespace that are not ours."""
    watched: CountedWatch | None = None
    trips: Sequence[Trip] = ()
    """Of live gateways, of this domain."""
    drift_jobs: Sequence[DriftJob] = ()
    """Whose controller is this endpoint, of whichever domain: their names tell."""
    drift_names_taken: frozenset[str] = frozenset()
    """Names that Jobs should have and somebody else's have."""
    words_count: bool = True
    """Whether the policies that make approvals trustworthy are there. Without, nobody's word counts but a rejection of what serves."""

    def own(self, gate: Gate) -> Candidate | None:
        """
        Return a gate's Adapter; None: it is gone, going, or not there (yet: a restore).

        By its version. A deletion ends the gate when it is seen, and the finalizer keeps the object until then: one of another uid is
        the same one, restored from a backup.
        """
        same = (candidate for candidate in self.candidates if candidate.version == gate.version)
        return next((candidate for candidate in same if not candidate.deleting), None)
