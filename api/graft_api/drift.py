"""
Drift: how far a candidate's answers to a team's principle prompts are from those of the version before it.

    asked for   spec.domains[].promotion.drift, frozen in the gate                                       `DriftPolicy`
    prompts     a ConfigMap of the user's, mounted into the Job; the operator does not read it            `Principles`
    done by     a Job of the serving image, one for each moment; told in its environment                  `DriftTask`
    reported    POST /v1/namespaces/{namespace}/modelendpoints/{name}/drift, again and again until the
                ledger has it and the operator deletes the Job                                            `DriftReport` -> 204
    kept        <collector store>/drift/<domain>/<gate>-<moment>.json                                     `DriftDocument`, the newest
                <collector store>/drift/<domain>/history.json, drift.html                                 what is plotted
"""

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.finetunejob import StoreUri
from graft_api.remote_scorers import EnvironmentName, HttpUrl, Retry
from graft_api.routes import VersionName
from graft_api.schema import Count, Decimal, Digest, DnsLabel, Duration, Model, ObjectName, Rule, Timestamp, Uid

DRIFT = "drift"
"""Value of the component label, and role of reports."""
PRINCIPLES_KEY = "principles.yaml"
PRINCIPLES_DIRECTORY = "/graft/principles"
TASK_VARIABLE = "GRAFT_DRIFT_TASK"
"""Environment variable of the Job with its `DriftTask` as JSON."""
HISTORY_JSON, DRIFT_HTML = "history.json", "drift.html"
FARTHEST = 2.0
"""Cosine distance of opposite vectors."""


def drift_account(endpoint: str) -> str:
    """Return the service account of drift Jobs."""
    return f"graft-drift-{endpoint}"


class Embeddings(Model):
    """A model that turns answers into vectors."""

    url: HttpUrl
    """Base of an OpenAI-compatible API, such as http://embeddings:8000/v1; `/embeddings` is added."""
    model: Annotated[str, Field(max_length=256, min_length=1)]
    """Pinned: vectors of a model that calls itself otherwise are refused."""
    token_env: EnvironmentName | None = None
    """Environment variable with the bearer token: one of `spec.collector.env`."""
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 60
    retry: Retry = Field(default_factory=Retry)


class DriftPolicy(Model):
    """
    What a candidate's answers to the principle prompts must be like, before it serves and once it does.

    Before activation it must be shown to be near: for every principle the upper end of the 95 % interval of the mean cosine distance is at
    most `limit`, else the candidate is blocked. Once all conversations are on it, it is asked again: a principle whose
    lower end is beyond `limit` rolls it back.
    """

    principles: ObjectName
    """ConfigMap of the namespace with the key principles.yaml."""
    principles_digest: Digest | None = None
    """Of that key's bytes: with it, whoever edits the ConfigMap without changing this policy stops promotion."""
    embeddings: Embeddings
    limit: Annotated[str, Decimal(gt=0, lt=2)] = "0.3"
    """Cosine distance: 0 means the same direction, 1 unrelated, 2 opposite."""
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    """Of one answer."""
    deadline: Annotated[str, Duration(ge="30s", le="24h")] = "15m"
    """Of one attempt."""
    attempts: Annotated[int, Field(ge=1, le=128)] = 30
    """
    To measure it: an embeddings endpoint may be away. The pause between two doubles from a minute to an hour: 30 bridge a day, 100 four.
    When none is left, a candidate that does not serve yet ends NotProven, and one that does is not confirmed.
    """


class Principle(Model):
    """One of the things that must not change."""

    name: DnsLabel
    prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=16_384)]], Field(min_length=3, max_length=64)]
    """Ways to ask for it. The interval is over these: of fewer than three nothing can be said."""
    system: Annotated[str, Field(max_length=16_384)] | None = None


class Principles(Model):
    """What principles.yaml holds."""

    principles: Annotated[list[Principle], Field(min_length=1, max_length=32)]

    rules: ClassVar = (
        Rule(
            cel="self.principles.all(m, self.principles.exists_one(n, n.name == m.name))",
            message="every principle needs a name of its own",
            check=lambda self: len({principle.name for principle in self.principles}) == len(self.principles),
            field=".principles",
        ),
    )


class Moment(enum.StrEnum):
    """When was asked."""

    TRIAL = "Trial"
    """The candidate's test has begun: what needs no version is tried, so that a mistake is known before a week is over. Decides nothing."""
    BEFORE = "Before"
    """Approved, not activated: the version before serves."""
    AFTER = "After"
    """All conversations are on it, but those that were held back."""


class DriftTask(Model):
    """All that one Job is told."""

    format: Literal[1] = 1
    endpoint: ObjectName
    domain: DnsLabel
    gate: Annotated[int, Field(ge=1)]
    adapter_uid: Uid
    moment: Moment
    attempt: Annotated[int, Field(ge=1)]
    server: Annotated[str, Field(max_length=253, pattern=r"^.+:[0-9]{1,5}$")]
    """`host:port` of the endpoint's doors."""
    token_file: Annotated[str, Field(max_length=1024)] | None = None
    """With the Job's token for them. Absent: a server without a door."""
    incumbent: VersionName
    candidate: VersionName
    policy: DriftPolicy
    store: StoreUri
    """`<collector store>/drift/<domain>`."""
    before: Digest | None = None
    """After activation, of the `DriftDocument` from before it, as the ledger has it. Absent: it is not checked."""


class Contrast(enum.StrEnum):
    """Whose answers are held against whose."""

    VERSIONS = "Versions"
    """The candidate's against the incumbent's, asked at the same time: decides, before and after."""
    CANDIDATE = "Candidate"
    """After activation, the candidate's against its own from before: decides, after."""
    INCUMBENT = "Incumbent"
    """After activation, the same of the incumbent: for people."""
    NOISE = "Noise"
    """The incumbent's against its own, asked twice: for people, never subtracted."""


class DriftReading(Model):
    """One principle and contrast."""

    principle: DnsLabel
    contrast: Contrast
    prompts: Count
    """That were compared: at least one of the two answers has words."""
    mean: Annotated[float, Field(ge=0, le=FARTHEST)]
    """Cosine distance."""
    low: Annotated[float, Field(ge=0, le=FARTHEST)]
    high: Annotated[float, Field(ge=0, le=FARTHEST)]
    """95 %."""


class Drifted(Model):
    """What one moment came to; part of the ledger."""

    at: Timestamp
    principles_digest: Digest
    readings: Annotated[list[DriftReading], Field(max_length=128)]
    document: Digest | None = None
    """Of the `DriftDocument` in the store. Absent: of a trial, which has no readings either, there is none."""


class DriftReport(Model):
    """A Job's whole picture."""

    boot: Annotated[str, Field(max_length=64)]
    sequence: Count
    domain: DnsLabel
    gate: Annotated[int, Field(ge=1)]
    adapter_uid: Uid
    moment: Moment
    attempt: Annotated[int, Field(ge=1)]
    measured: Drifted | None = None
    """Absent: it is under way, or there is a problem."""
    problem: Annotated[str, Field(max_length=256)] | None = None
    """Why it cannot be measured; without content. The attempt is over."""


class Asked(Model):
    """One prompt of one principle."""

    principle: DnsLabel
    prompt: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of it: after activation the same prompts are compared."""
    incumbent: list[float]
    """Embedding of the answer, of length 1 in the Euclidean norm. Empty: so was the answer."""
    candidate: list[float]
    again: list[float]
    """Of the incumbent's second answer."""


class DriftDocument(Model):
    """What is kept of one moment: vectors, no answers."""

    task: DriftTask
    at: Timestamp
    principles_digest: Digest
    embedding_model: str
    asked: list[Asked]
    readings: list[DriftReading]


class Held(Model):
    """What a chart shows of one moment."""

    at: Timestamp
    gate: Annotated[int, Field(ge=1)]
    adapter_uid: Uid
    moment: Moment
    incumbent: VersionName
    candidate: VersionName
    limit: Annotated[str, Decimal(gt=0, lt=2)]
    embedding_model: str
    principles_digest: Digest
    document: Digest | None = None
    """Of the `DriftDocument` in the store. Absent: it was deleted for its age."""
    readings: list[DriftReading]


class DriftHistory(Model):
    """What is kept of all gates of a domain, oldest first: of each gate and moment the newest attempt."""

    endpoint: ObjectName
    domain: DnsLabel
    moments: list[Held]
