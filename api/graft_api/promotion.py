"""
By what an adapter comes into production, and what takes it out again: the policy of a domain.

It is part of a ModelEndpoint's spec; whoever changes it needs the verb `setpolicy` on it. It is frozen into the ledger when a candidate's
test begins: a later change begins the gate anew, and never makes one that is under way easier.
"""

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from graft_api.collect import METRICS_BY_NAME, Content, MeasuredMetric, Segments
from graft_api.comparison import Limits
from graft_api.drift import DriftPolicy
from graft_api.routes import HardLimits
from graft_api.schema import Decimal, Duration, Model, Rule, seconds_of
from graft_api.shadowtest import MAX_DURATION, ShadowServer
from graft_api.watch import WatchedMetric

APPROVERS = 64


class ShadowPolicy(Model):
    """The ShadowTest that a candidate must pass; the fields mean what they mean there."""

    duration: Annotated[str, Duration(ge="1m", le="2160h")] = "168h"
    max_duration: Annotated[str, Duration(ge="1m", le="4320h")] | None = None
    share: Annotated[str, Decimal(gt=0, le=1)] = "1"
    control_share: Annotated[str, Decimal(gt=0, le=1)] = "0.2"
    metrics: Annotated[list[MeasuredMetric], Field(min_length=1, max_length=16)]
    standard_guardrails: bool = True
    limits: Limits = Field(default_factory=Limits)
    content: Content = Content.REDACTED
    segments: Segments = Field(default_factory=Segments)
    shadow: ShadowServer = Field(default_factory=ShadowServer)

    rules: ClassVar = (
        MAX_DURATION,
        METRICS_BY_NAME,
        Rule(
            cel="self.metrics.exists(m, m.metric.role == 'Primary')",
            message="at least one metric must have the role Primary: what is no better than what serves is not promoted",
            check=lambda self: any(measured.metric.role == "Primary" for measured in self.metrics),
            field=".metrics",
        ),
    )


class Quorum(enum.StrEnum):
    """How many approvals are needed."""

    COUNT = "Count"
    """`required` of those who may."""
    BFT = "Bft"
    """2f + 1 of the n listed approvers, with f = floor((n - 1) / 3): holds against f of them who are bought or broken into."""


class ApprovalPolicy(Model):
    """Who must agree before a candidate serves."""

    quorum: Quorum = Quorum.COUNT
    required: Annotated[int, Field(ge=0, le=APPROVERS)] | None = None
    """Of quorum Count; default 1. 0: nobody is asked."""
    users: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=253)]],
        # The API server sees to it that each is there once: as a rule it would cost more than rules may.
        Field(max_length=APPROVERS, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(default_factory=list)
    """Names as the API server knows them. A service account counts only if it is named here: system:serviceaccount:<namespace>:<name>."""
    groups: Annotated[list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=16)] = Field(default_factory=list)
    """Their members may, too; of quorum Count alone, for how many they are is not known. Groups of service accounts count for nothing."""
    expires_after: Annotated[str, Duration(ge="1m", le="2160h")] = "168h"
    """An approval that is older counts no more; one that has been counted in a quorum that was reached stays."""
    veto: bool = True
    """Whether one rejection by somebody who may approve ends the matter. Without: it takes as many as the quorum."""

    rules: ClassVar = (
        Rule(
            cel="self.quorum == 'Bft' ? (!has(self.required) && (!has(self.groups) || self.groups.size() == 0) &&"
            " has(self.users) && self.users.size() >= 4) : true",
            message="quorum Bft counts among the listed users: list at least 4, no groups, and leave out required",
            check=lambda self: self.quorum is not Quorum.BFT or (self.required is None and not self.groups and len(self.users) >= 4),
        ),
        Rule(
            cel="!has(self.required) || !has(self.users) || (has(self.groups) && self.groups.size() > 0) ||"
            " self.users.size() >= self.required",
            message="there are fewer users than are required, and no groups: nobody could ever reach this quorum",
            check=lambda self: bool(self.groups) or not self.users or (self.required or 0) <= len(self.users),
            field=".required",
        ),
        Rule(
            cel="self.quorum != 'Count' || (has(self.required) && self.required == 0) ||"
            " (has(self.users) && self.users.size() > 0) || (has(self.groups) && self.groups.size() > 0)",
            message="somebody must be able to approve: list users or groups, or set required: 0 to ask nobody",
            check=lambda self: self.quorum is not Quorum.COUNT or self.required == 0 or bool(self.users or self.groups),
        ),
    )

    @field_validator("users")
    @classmethod
    def _once(cls, users: list[str]) -> list[str]:
        if len(set(users)) != len(users):
            raise ValueError("every user is listed once")
        return users

    def needed(self) -> int:
        """Return how many distinct approvers it takes."""
        if self.quorum is Quorum.BFT:
            return 2 * ((len(self.users) - 1) // 3) + 1
        return 1 if self.required is None else self.required


class RampStep(Model):
    """A share of conversations, for a while, before all (but the hold-back) go to the new version."""

    share: Annotated[str, Decimal(gt=0, lt=1)]
    duration: Annotated[str, Duration(ge="1s", le="720h")]
    """Of observed time, where the watch has metrics; else of time."""


class WatchPolicy(Model):
    """How long a new version is held against the one before, and what takes it out."""

    window: Annotated[str, Duration(ge="10s", le="2160h")] = "48h"
    """Of observed time: hours in which nobody looked do not count."""
    max_window: Annotated[str, Duration(ge="10s", le="4320h")] | None = None
    """With too little to judge the watch goes on until then, by the clock; then Unconfirmed. Default: twice `window`."""
    holdback: Annotated[str, Decimal(gt=0, le=0.5)] = "0.05"
    """Share of conversations that stay on the previous version for as long."""
    min_clusters: Annotated[int, Field(ge=20, le=1_000_000)] = 100
    """Conversations on each of the two, at least, before a version is confirmed."""
    metrics: Annotated[list[WatchedMetric], Field(max_length=16)] = Field(default_factory=list)
    """Server errors (measure ServerError, margin 0.01) are added unless a metric has that measure."""
    limits: HardLimits = Field(default_factory=HardLimits)
    in_flight: Literal["Finish", "Abort"] = "Finish"
    """On rollback: requests that are under way on the bad version."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.maxWindow) || duration(self.maxWindow) >= duration(self.window)",
            message="maxWindow is at least window",
            check=lambda self: self.max_window is None or seconds_of(self.max_window) >= seconds_of(self.window),
            field=".maxWindow",
        ),
        Rule(
            cel="!has(self.metrics) || self.metrics.all(m, self.metrics.exists_one(n, n.name == m.name))",
            message="every metric needs a name of its own",
            check=lambda self: len({metric.name for metric in self.metrics}) == len(self.metrics),
            field=".metrics",
        ),
    )

    def longest(self) -> int:
        """Return after how many seconds by the clock a watch ends whatever is known."""
        return seconds_of(self.max_window) if self.max_window else 2 * seconds_of(self.window)


class Promotion(Model):
    """By what a domain's adapters become what serves. Without it, only `pin` does."""

    shadow: ShadowPolicy
    approval: ApprovalPolicy
    ramp: Annotated[list[RampStep], Field(max_length=8)] = Field(default_factory=list)
    watch: WatchPolicy = Field(default_factory=WatchPolicy)
    drift: DriftPolicy | None = None
    """Whether its answers to the principle prompts stay near those of the version before it: docs/drift.md. Without it nobody asks."""
    on_newer: Literal["Wait", "Supersede"] = "Wait"
    """
    While a candidate does not serve yet and a newer adapter comes: Wait lets the newer one wait, Supersede gives the older
    one up. What ramps or is watched is never superseded.
    """

    rules: ClassVar = (
        Rule(
            cel="!has(self.ramp) || self.ramp.all(s, double(s.share) <= 1.0 - (has(self.watch) ? double(self.watch.holdback) : 0.05))",
            message="a step of the ramp leaves room for the hold-back: its share is at most 1 - watch.holdback",
            check=lambda self: all(float(step.share) <= 1 - float(self.watch.holdback) for step in self.ramp),
            field=".ramp",
        ),
    )
