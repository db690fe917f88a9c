"""The seam between the reports server and the reconcilers: who speaks, what they say, and the three ways to refuse it."""

from dataclasses import dataclass
from typing import Protocol

from graft_api.collect import CollectorReport
from graft_api.drift import DriftReport
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.reports import ClaimRequest, ProgressReport, TerminalResult


@dataclass(frozen=True)
class Caller:
    """Who a token was proven to belong to: a live pod, its controlling Job, and the FineTuneJob that controls that."""

    pod_name: str
    pod_uid: str
    pod_created_at: str
    """creationTimestamp of the pod: an older pod than the one that holds the claim was superseded."""
    namespace: str
    service_account: str
    """Name without the `system:serviceaccount:` prefix and the namespace."""
    job_name: str
    job_uid: str
    owner_name: str
    owner_uid: str


@dataclass(frozen=True)
class FleetCaller:
    """Who a token was proven to belong to: a live pod of the data plane, and the ModelEndpoint that it works for."""

    pod_name: str
    pod_uid: str
    pod_created_at: str
    namespace: str
    service_account: str
    """`server_account`, `gateway_account` or `collector_account` of the endpoint; servers and collectors may have one of the user's own."""
    role: str
    """`dataplane.SERVER`, `dataplane.GATEWAY`, `collect.COLLECTOR` or `drift.DRIFT`."""
    endpoint_name: str
    endpoint_uid: str


class Refusal(Exception):  # noqa: N818 - it is an answer to the pod, not a fault of ours
    """The report is not taken. The message is sent to the pod, so it holds names and numbers only."""


class Superseded(Refusal):
    """Another pod or attempt took over: 409."""


class NotYours(Refusal):
    """The caller is a pod of graft, but not of this object: 403."""


class Unknown(Refusal):
    """There is no such object, or none with this uid: 403 as well, for the pod must stop either way."""


class ReportSink(Protocol):
    """
    Takes reports on behalf of the FineTuneJobs.

    `caller.owner_name == name` and `caller.namespace == namespace` were checked before. Anything raised that is no `Refusal`
    is answered with 503 and Retry-After: the pod asks again.
    """

    async def claim(self, caller: Caller, namespace: str, name: str, request: ClaimRequest) -> int:
        """Persist that this pod is the attempt, and return its number (from 1). Idempotent for the same pod."""

    async def progress(self, caller: Caller, namespace: str, name: str, report: ProgressReport) -> None:
        """Write the latest progress. Called after the pod had its answer, at most every two seconds for one pod."""

    async def result(self, caller: Caller, namespace: str, name: str, result: TerminalResult) -> None:
        """Persist the terminal result. Idempotent: the pod also leaves it in its termination message."""


class FleetSink(Protocol):
    """Takes reports of the data plane. The caller's endpoint and role were checked before. Never waits and never refuses."""

    def heard_agent(self, caller: FleetCaller, report: AgentReport) -> None:
        """Take a server pod's whole picture."""

    def heard_gateway(self, caller: FleetCaller, report: GatewayReport) -> None:
        """Take a gateway's whole picture."""

    def heard_collector(self, caller: FleetCaller, report: CollectorReport) -> None:
        """Take a collector's whole picture."""

    def heard_drift(self, caller: FleetCaller, report: DriftReport) -> None:
        """Take the whole picture of a Job that measures drift."""
