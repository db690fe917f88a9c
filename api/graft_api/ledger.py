"""
The ledger: what serves, and how that came to be. One ConfigMap per ModelEndpoint that nobody owns, meant to be backed up.

It is the truth; statuses are projections of it. An empty status beside a ledger means adopt, never start over.
"""

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.drift import Drifted, Moment
from graft_api.finetunejob import StoreUri
from graft_api.promotion import APPROVERS, Promotion
from graft_api.schema import Count, Digest, DnsLabel, Model, ObjectName, Timestamp, Uid
from graft_api.watch import WatchCount

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", max_length=16)]
"""Of an Adapter, by its name and digest: the beginning of their sha256."""


class LedgerVersion(Model):
    """An adapter as it was activated: enough to serve it again when the Adapter object is not there yet."""

    adapter: ObjectName
    digest: Digest
    uri: StoreUri
    size_bytes: Count


class Switch(Model):
    """One transition of a domain, written before anything is changed."""

    ordinal: Annotated[int, Field(ge=1)]
    at: Timestamp
    reason: Annotated[str, Field(max_length=64)]
    """Pinned, Unpinned, Deleted, ..."""
    message: Annotated[str, Field(max_length=512)] = ""
    before: ObjectName | None = None
    """Adapter that served; absent: the base model."""
    after: ObjectName | None = None


class TestedDigest(Model):
    """How often an artifact was tested for a domain: of many tests one passes by chance, also after the others were deleted."""

    __test__: ClassVar = False  # pytest would collect it

    digest: Digest
    count: Annotated[int, Field(ge=1)]
    """ShadowTests that began."""
    test: ObjectName
    """The last of them."""
    uids: Annotated[list[Uid], Field(max_length=4)] = Field(default_factory=list)
    """Of the last ones without a gap, newest last: each is counted once, whenever it is seen again."""
    outcome: Literal["Passed", "Failed", "Inconclusive", "Error"] | None = None
    """Of the last; absent: it has not ended, or nobody saw how."""

    def attempt(self, uid: str) -> int | None:
        """Return the number of a test, from 1; None: it is not counted, or too long ago to be known by its uid."""
        return self.count - (len(self.uids) - 1 - self.uids.index(uid)) if uid in self.uids else None


class GateState(enum.StrEnum):
    """
    Where a candidate is.

        Testing -> AwaitingApproval -> [Checking ->] Ramping -> Watching -> Confirmed | RolledBack | Unconfirmed -> Confirmed | RolledBack
        and from the first three: NotProven | Drifted | Rejected | Superseded | Deleted | PolicyChanged | Overridden
    """

    TESTING = "Testing"
    AWAITING_APPROVAL = "AwaitingApproval"
    CHECKING = "Checking"
    """It is approved; its answers to the principle prompts are held against those of what serves."""
    RAMPING = "Ramping"
    """Some conversations are on it."""
    WATCHING = "Watching"
    """All are, but those that were held back."""
    UNCONFIRMED = "Unconfirmed"
    """
    The watch has ended by the clock with too little to judge: a human decides. Until then it serves as while it was watched, hold-back and
    limits included.
    """


class CountedApproval(Model):
    """An AdapterApproval that was counted, as it was then: the object may be gone."""

    name: ObjectName
    uid: Uid
    author: Annotated[str, Field(max_length=253)]
    at: Timestamp


class Reason(enum.StrEnum):
    """How a candidate ended."""

    CONFIRMED = "Confirmed"
    ROLLED_BACK = "RolledBack"
    NOT_PROVEN = "NotProven"
    """Its test ended otherwise than Passed, or how far its answers have drifted could not be measured."""
    DRIFTED = "Drifted"
    """Approved, and blocked before it served: its answers to the principle prompts were not shown to be near enough."""
    REJECTED = "Rejected"
    SUPERSEDED = "Superseded"
    DELETED = "Deleted"
    POLICY_CHANGED = "PolicyChanged"
    OVERRIDDEN = "Overridden"
    """By a pin."""


class WatchRecord(Model):
    """The state of a watch, in the ledger: survives the operator, the collector and its store."""

    began: Timestamp
    before: WatchCount = Field(default_factory=WatchCount)
    """Of collectors that are gone."""
    boot: Annotated[str, Field(max_length=64)] | None = None
    """Of the collector that was heard last."""
    latest: WatchCount = Field(default_factory=WatchCount)
    """Of that one."""
    gone: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)] = Field(default_factory=list)
    """Boots of collectors that are gone: a late word of one of them is not counted a second time."""
    step_began: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How many seconds had been observed when the present step of the ramp began, or the watch of all that follows it."""

    def count(self) -> WatchCount:
        """Return all that was seen."""
        return self.before.plus(self.latest)


class DriftMoment(Model):
    """How the measuring of drift at one moment goes."""

    measured: Drifted | None = None
    failed: Count = 0
    """Attempts that are over without a result."""
    failed_at: Timestamp | None = None
    """The last of them."""
    problem: Annotated[str, Field(max_length=256)] = ""
    """Why it failed."""
    begun: Timestamp | None = None
    """The attempt that is under way, number `failed` + 1. Absent: none is."""
    job: Uid | None = None
    """Its Job's. Absent: it is not made yet."""

    def attempt(self) -> int:
        """Return the number of the attempt that is under way, or of the next."""
        return self.failed + 1


class DriftRecord(Model):
    """What was found of a candidate's answers to the principle prompts."""

    trial: DriftMoment = Field(default_factory=DriftMoment)
    before: DriftMoment = Field(default_factory=DriftMoment)
    after: DriftMoment = Field(default_factory=DriftMoment)

    def of(self, moment: Moment) -> DriftMoment:
        """Return one moment."""
        return {Moment.TRIAL: self.trial, Moment.BEFORE: self.before, Moment.AFTER: self.after}[moment]


class Gate(Model):
    """A candidate on its way, as the ledger has it."""

    number: Annotated[int, Field(ge=1)]
    """Counts the candidates of a domain."""
    version: LedgerVersion
    adapter_uid: Uid
    """
    Of its Adapter when the gate began: its test, its watch and its drift are known by it to the end. An Adapter of the same version that
    a restore has made anew has another, and goes on with the gate: a deletion that was seen has ended it.
    """
    missing: Timestamp | None = None
    """Since when there is no such Adapter, of a candidate that does not serve yet; absent: there is one."""
    policy: Promotion
    """As it was when the test began."""
    state: GateState
    since: Timestamp
    """Of this state."""
    began: Timestamp
    test: ObjectName
    """The ShadowTest that counts."""
    test_uid: Uid | None = None
    """Absent: it is not made yet."""
    evidence_digest: Digest | None = None
    """Of its verdict."""
    switch: Count = 0
    """Ordinal of the domain's last switch, as this gate knows it, 0 before the first: any other was done by a pin or a deletion."""
    verdict: Annotated[str, Field(max_length=512)] = ""
    approvals: Annotated[list[CountedApproval], Field(max_length=APPROVERS)] = Field(default_factory=list)
    """That made the quorum."""
    drift: DriftRecord | None = None
    """From its first trial on, where the policy asks for it."""
    step: Count = 0
    """Of the ramp."""
    watch: WatchRecord | None = None
    """From the activation on."""


class Ended(Model):
    """A candidate whose way is over."""

    number: Annotated[int, Field(ge=1)]
    adapter: ObjectName
    adapter_uid: Uid
    """As its gate had it."""
    digest: Digest
    reason: Reason
    message: Annotated[str, Field(max_length=512)] = ""
    """With number and bound."""
    at: Timestamp
    test: ObjectName | None = None
    """Its ShadowTest: who approves a digest anew, after a rejection, looks at it again."""
    evidence_digest: Digest | None = None
    approvals: Annotated[list[CountedApproval], Field(max_length=APPROVERS)] = Field(default_factory=list)
    abort: bool = False
    """Of a rollback: requests that are under way on it are ended, too."""
    served: bool = False
    """It was activated."""

    def had_its_turn(self) -> bool:
        """Whether the adapter is no candidate again: what was taken back before it served, through no doing of its own, is."""
        return self.reason is not Reason.POLICY_CHANGED and (self.served or self.reason is not Reason.OVERRIDDEN)


class Rejected(Model):
    """A digest that may not serve this domain, until a quorum that is newer says otherwise."""

    digest: Digest
    at: Timestamp
    author: Annotated[str, Field(max_length=253)]
    """`graft` for a rollback by itself."""
    others: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=APPROVERS)] = Field(default_factory=list)
    """Whose rejections came before, where it took more than one."""
    approval: ObjectName | None = None
    """The AdapterApproval, where a human did it."""
    reason: Annotated[str, Field(max_length=512)] = ""
    lifted_at: Timestamp | None = None
    """Of the newest approval of the quorum that lifted it. Rejections before that count no more, a later one rejects anew."""
    lifted_by: Annotated[list[CountedApproval], Field(max_length=APPROVERS)] = Field(default_factory=list)
    ends: Count = 0
    """The highest number of a candidate's way at that time: what ended before bars nobody any more, once this is lifted."""


class Transition(Model):
    """
    One step of a candidate, one switch of a domain, or one rejection: what people are told of, in an Event and a line of the log.

    Written with what it tells of, in one write; told when that is done. A crash in between loses none.
    """

    ordinal: Annotated[int, Field(ge=1)]
    """Counts those of the domain."""
    at: Timestamp
    before: Annotated[str, Field(max_length=64)] = "None"
    """State. `None`: there was no candidate. Of a switch, its reason."""
    after: Annotated[str, Field(max_length=64)]
    """A state, a reason to end, `Switched`, `Rejected` or `RejectionLifted`."""
    adapter: ObjectName | None = None
    """Absent: the base model; of a rejection, that nobody knows an adapter of this digest."""
    digest: Digest | None = None
    who: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=APPROVERS)] = Field(default_factory=list)
    """Whose words counted. Nobody: graft, by what it saw."""
    message: Annotated[str, Field(max_length=512)] = ""
    evidence: Digest | None = None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """It was in the state before. Absent: in none, or it still is."""


class LedgerDomain(Model):
    """One domain."""

    name: DnsLabel
    salt: Annotated[str, Field(max_length=64)]
    active: LedgerVersion | None = None
    """Absent: the base model."""
    previous: LedgerVersion | None = None
    """Served before; stays loaded for a rollback while slots allow."""
    since: Timestamp | None = None
    history: Annotated[list[Switch], Field(max_length=32)] = Field(default_factory=list)
    """Newest last."""
    tests: Annotated[list[TestedDigest], Field(max_length=64)] = Field(default_factory=list)
    """The one that was tested last comes last; the first is forgotten for another."""
    gate: Gate | None = None
    """The candidate that is on its way, one at a time."""
    ended: Annotated[list[Ended], Field(max_length=32)] = Field(default_factory=list)
    """Newest last."""
    gone: Annotated[list[int], Field(max_length=32)] = Field(default_factory=list)
    """
    Numbers of those of `ended` whose Adapter was deleted: one of the same name and digest is another. One of all others is the same,
    restored from a backup.
    """
    spent: Annotated[list[Fingerprint], Field(max_length=128)] = Field(default_factory=list)
    """Adapters that have had their turn and of which `ended` has nothing: what was replaced, and what it has forgotten. Oldest first."""
    settled: Timestamp | None = None
    """Adapters that were created until then count as having had their turn: `spent` had no room for one that was created then."""
    rejected: Annotated[list[Rejected], Field(max_length=64)] = Field(default_factory=list)
    """Newest last; a digest once."""
    transitions: Annotated[list[Transition], Field(max_length=32)] = Field(default_factory=list)
    """Newest last."""
    told: Count = 0
    """Ordinal of the last of them that people were told of."""

    def versions(self) -> list[LedgerVersion]:
        """Return what serves, what is on its way, and what may serve again, in this order."""
        known = (self.active, self.gate.version if self.gate else None, self.previous)
        return [version for version in known if version is not None]

    def untold(self) -> list[Transition]:
        """Return what people are to be told of."""
        return [one for one in self.transitions if one.ordinal > self.told]

    def ends_of(self, adapter: str, digest: str, uid: str) -> list[Ended]:
        """Return how the ways of an Adapter ended, also if a restore has made it anew; newest last."""
        same = [told for told in self.ended if (told.adapter, told.digest) == (adapter, digest)]
        return [told for told in same if told.adapter_uid == uid or told.number not in self.gone]

    def tested(self, digest: str) -> TestedDigest | None:
        """Return what is known of the tests of an artifact."""
        return next((tested for tested in self.tests if tested.digest == digest), None)


class Ledger(Model):
    """All domains of one endpoint, also those that its spec does not name at the moment."""

    format: Literal[1] = 1
    endpoint: ObjectName
    epoch: Count = 0
    revision: Count = 0
    """Of the routes, so that a restored endpoint goes on counting."""
    base_digest: Digest | None = None
    domains: Annotated[list[LedgerDomain], Field(max_length=64)] = Field(default_factory=list)

    def domain(self, name: str) -> LedgerDomain | None:
        """Return one domain."""
        return next((domain for domain in self.domains if domain.name == name), None)
