"""
What a gateway tells the collector of its endpoint: every request that takes part in measuring, with its answer.

    POST http://<endpoint>-collector:8000/v1/exchanges      body: frames      -> 204, or 429/503 with Retry-After

A frame is `FRAME`, three lengths, and then what they are of: a head (JSON, `ExchangeHead`), the request's body as the client sent it
and the answer's body as the client got it (the events of a stream one after the other). A body without frames only tells the counts.

Numbers count requests that were chosen, from 1, within one `boot` of a gateway, and are given out when a request is chosen. Frames come
in the order in which exchanges ended, so a long answer's number comes after higher ones. A request that is given up before it is sent
uses up its number; `dropped` says how many by cause so far. So the collector can tell what a gateway dropped from what was lost when it
was killed: numbers up to the last one told that are missing and were not told of as dropped.

A batch is sent again only if it was refused for now (429, 5xx) or its answer was lost. In the second case its frames may come twice,
under the same numbers, and perhaps beside others; or they are told of as dropped although they came. Otherwise nothing comes twice.
"""

import enum
import struct
from typing import Annotated

from pydantic import Field

from graft_api.schema import Count, DnsLabel, Model

FRAME = struct.Struct("!III")
"""Lengths of head, request and answer, in bytes."""
EXCHANGES_PATH = "/v1/exchanges"
EXCHANGES_TYPE = "application/vnd.graft.exchanges"
BOOT_HEADER = "x-graft-boot"
DROPPED_HEADER = "x-graft-dropped"
"""JSON object: `Dropped` to the number since this gateway's start. On every batch."""
NUMBERED_HEADER = "x-graft-numbered"
"""The last number that this gateway has given out."""
LARGEST_BATCH = 4 * 1024 * 1024
"""Bytes of frames in one batch, unless a single frame is longer."""
OPT_OUT_HEADER = "x-graft-no-mirror"
"""A request with this header, whatever it says, is not measured, and is not kept."""


Served = Annotated[str, Field(min_length=1, max_length=63)]
"""As `routes.VersionName`, which cannot be used here: the routes hold a `Tee`."""


class Dropped(enum.StrEnum):
    """Why a request that was chosen does not reach the collector. Production never waits for it."""

    QUEUE_FULL = "queue-full"
    """The collector takes less than comes: the queue's bytes are used up."""
    TOO_LARGE = "too-large"
    """One exchange is longer than a whole share of the queue."""
    COLLECTOR_AWAY = "collector-away"
    """Unsent for too long."""
    REFUSED = "refused"
    """The collector answered 4xx other than 429: it would do so again."""
    NOT_REPEATABLE = "not-repeatable"
    """It has tools that run on a server, or state that a server keeps: asked again, it would act again, or mean something else."""


class ExchangeHead(Model):
    """All that is known of one request but its content."""

    number: Count
    request_id: Annotated[str, Field(max_length=128)]
    traceparent: Annotated[str, Field(max_length=64)]
    api: Annotated[str, Field(max_length=16)]
    """chat, completions, responses, messages."""
    domain: DnsLabel
    wanted: Served
    """The version that the route names, `base` included."""
    version: Served | None = None
    """The version that served: `wanted`, or `base` in its place. Absent: no pod had it, and the answer is the gateway's own."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    epoch: Count
    revision: Count
    """Of the routes."""
    conversation: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Key of the conversation: the cluster of the statistics."""
    named: bool
    """The client names its conversations; otherwise their openings do."""
    stream: bool
    status: Annotated[int, Field(ge=0, le=999)]
    """499: the client left."""
    cause: Annotated[str, Field(max_length=64)] | None = None
    started: float
    """Seconds since 1970."""
    seconds: float
    """To the end of the answer."""
    first_byte_seconds: float | None = None
    tokens_in: Count
    tokens_out: Count


class Measuring(Model):
    """In the routes: which conversations of a domain take part. Absent: none."""

    domain: DnsLabel
    share: Annotated[int, Field(ge=1, le=10_000)]
    """
    Basis points of conversations, decided by a hash of salt and conversation before anything else is known of the request. It is
    another hash than that of the arms: those of a salt that both use are independent. Whoever makes the share larger keeps those in it.
    """
    salt: Annotated[str, Field(max_length=64)]


class Tee(Model):
    """In the routes: where gateways send what they tell, and how much they may hold of it."""

    collector: Annotated[str, Field(max_length=253)]
    """`host:port`."""
    queue_bytes: Annotated[int, Field(ge=1_048_576, le=4_294_967_296)] = 67_108_864
    domains: Annotated[list[Measuring], Field(max_length=64)]
