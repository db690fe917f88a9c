"""
What the data plane says: agents and gateways to the operator (reports), agents to gateways (state).

    POST /v1/namespaces/{namespace}/modelendpoints/{name}/agent     AgentReport   -> 204
    POST /v1/namespaces/{namespace}/modelendpoints/{name}/gateway   GatewayReport -> 204
    GET  <door>/graft/state[?after=<generation>]                    AgentState

Reports are whole pictures, sent on every change and at least every ten seconds: losing one is harmless, and an operator that
was restarted knows its fleet again after ten seconds.
"""

import enum
from typing import Annotated, Literal

from pydantic import Field

from graft_api.routes import VersionName
from graft_api.schema import Count, Digest, DnsLabel, Model, Timestamp

REPORT_SECONDS = 10.0
SILENT_SECONDS = 35.0
"""After this long without a report a live pod counts as silent."""
ATTEMPT_SECONDS = 120.0
"""Bound of the first attempt to load what is routed: for so long after its vLLM or agent has started a pod may say nothing."""


class VersionState(enum.StrEnum):
    """Where one version is on one pod."""

    WAITING = "Waiting"
    """For vLLM, for a slot, or for another version's turn."""
    FETCHING = "Fetching"
    VERIFYING = "Verifying"
    LOADING = "Loading"
    PROBING = "Probing"
    READY = "Ready"
    """Loaded, and its effect is what the package says: may serve."""
    FAILED = "Failed"
    """Serves nothing on this pod; `reason` says why."""
    UNLOADING = "Unloading"
    """Not wanted any more, but still loaded: it is listed until vLLM has let go of it."""


class LoadFailure(enum.StrEnum):
    """Why a version does not serve on a pod."""

    NOT_FOUND = "NotFound"
    STORE_UNAVAILABLE = "StoreUnavailable"
    CREDENTIALS_REFUSED = "CredentialsRefused"
    TOO_LARGE = "TooLarge"
    """Beyond the size that was announced, or beyond the cache."""
    DIGEST_MISMATCH = "DigestMismatch"
    """A file or the manifest is not the one that was promised."""
    UNLISTED_FILE = "UnlistedFile"
    UNSAFE_PATH = "UnsafePath"
    """A listed path leaves the folder."""
    INVALID_ARTIFACT = "InvalidArtifact"
    SIGNATURE_INVALID = "SignatureInvalid"
    """Unsigned, tampered with, or signed by a key that is not trusted."""
    WRONG_BASE = "WrongBase"
    WRONG_DOMAIN = "WrongDomain"
    RANK_TOO_HIGH = "RankTooHigh"
    SERVER_DIFFERS = "ServerDiffers"
    """This pod's vLLM was started with fewer slots, or a lower highest rank, than the endpoint has by now."""
    UNSUPPORTED_ADAPTER = "UnsupportedAdapter"
    """DoRA, modules_to_save and others that vLLM refuses or silently ignores."""
    LOAD_REFUSED = "LoadRefused"
    """vLLM said no; the message has its words."""
    NO_EFFECT = "NoEffect"
    """Answers are the base model's."""
    WRONG_EFFECT = "WrongEffect"
    """Answers are neither the base model's nor the adapter's own."""
    BASE_DIFFERS = "BaseDiffers"
    """The base model here does not give what the package says the base gives."""
    PROBE_FAILED = "ProbeFailed"
    """vLLM did not answer the probes."""


RETRIED = frozenset(
    {
        LoadFailure.STORE_UNAVAILABLE,
        LoadFailure.CREDENTIALS_REFUSED,
        LoadFailure.NOT_FOUND,
        LoadFailure.PROBE_FAILED,
        LoadFailure.SERVER_DIFFERS,
    }
)
"""
They may pass: tried again with back-off (ServerDiffers: by the pod that replaces this one). The others stay until the version
changes or vLLM restarts.
"""


class ProbeReading(Model):
    """
    What the effect probe measured, over all continuation tokens of the package's probes.

    With d_ref = reference(adapter) - reference(base) and d = measured(adapter) - measured(base), vectors of log-probability
    differences: `share` = <d, d_ref> / <d_ref, d_ref> is 1 for the adapter itself, 0 for the base, about 0.5 with half its alpha.
    """

    share: float
    residual: float
    """|d - share * d_ref| / |d_ref|."""
    noise: float
    """Root mean square of two readings of the base, nats per token."""
    effect: float
    """Root mean square of d_ref, nats per token."""
    base_deviation: float
    """Root mean square of measured(base) - reference(base), nats per token."""
    tokens: Count


class VersionReport(Model):
    """One version on one pod."""

    name: VersionName
    digest: Digest | None = None
    """Absent while Unloading: vLLM knows names."""
    state: VersionState
    reason: LoadFailure | None = None
    message: Annotated[str, Field(max_length=512)] = ""
    """Names, numbers and bounds; never content."""
    probe: ProbeReading | None = None
    """Absent while not probed, and for a package without references (ProbeWeak)."""
    weak: bool = False
    """Ready, but the package has no references: only structure and presence were checked."""
    seconds: Annotated[dict[str, float], Field(max_length=8)] = Field(default_factory=dict)
    """fetch, verify, load, probe."""


class AgentReport(Model):
    """A server pod's whole picture."""

    boot: Annotated[str, Field(max_length=64)]
    """Of the agent's process."""
    sequence: Count
    epoch: Count
    revision: Count
    """Of the routes that it works on."""
    server: Literal["Starting", "Serving", "Down", "Draining"]
    server_starts: Count = 0
    """How often the agent has seen vLLM come up."""
    base_digest: Digest | None = None
    versions: Annotated[list[VersionReport], Field(max_length=128)] = Field(default_factory=list)
    """What the routes want of this pod, then what its vLLM has besides (Unloading)."""


class AgentState(Model):
    """What gateways need of one pod, from its agent directly."""

    boot: Annotated[str, Field(max_length=64)]
    generation: Count
    """Grows with every change within a boot."""
    serving: bool
    """The base model answers, one attempt to load what is routed was made since vLLM came up, and the pod is not draining."""
    versions: Annotated[list[VersionName], Field(max_length=64)] = Field(default_factory=list)
    """Those that may be asked for here."""


class Trip(Model):
    """In a gateway's report: it has taken a version out."""

    domain: DnsLabel
    version: VersionName
    metric: Literal["errors", "latency"]
    value: Annotated[float, Field(ge=0, le=1)]
    """Share of the window's requests."""
    bound: Annotated[float, Field(ge=0, le=1)]
    held_back: Annotated[float, Field(ge=0, le=1)] | None = None
    """
    The same of the conversations that were held back; where the window had few, of those since the limit was passed. None: there was none.
    """
    requests: Count
    at: Timestamp


class GatewayReport(Model):
    """A gateway's whole picture."""

    boot: Annotated[str, Field(max_length=64)]
    sequence: Count
    epoch: Count
    revision: Count
    """Of the routes by which every request is routed that is accepted from now on: the acknowledgement."""
    in_flight: Annotated[dict[VersionName, Count], Field(max_length=128)] = Field(default_factory=dict)
    """Requests by version, `base` included. Absent: none."""
    pods: Annotated[dict[VersionName, Count], Field(max_length=128)] = Field(default_factory=dict)
    """On how many pods this gateway can reach each version."""
    draining: bool = False
    trips: Annotated[list[Trip], Field(max_length=31)] = Field(default_factory=list)
    """Versions that this gateway has taken out by itself, until routes come that have them no more."""
