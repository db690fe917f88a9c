"""What needs no scorer: measured of every answer, whoever gave it."""

import enum


class Measure(enum.StrEnum):
    """What needs no scorer."""

    LATENCY = "Latency"
    """Seconds to the end of the answer."""
    FIRST_TOKEN = "TimeToFirstToken"  # noqa: S105 - a token of text
    """Seconds to the first byte of a streamed answer; requests without a stream have none."""
    SERVER_ERROR = "ServerError"
    """1 for an answer that timed out, broke off or is an error of the server."""
    TOKENS = "Tokens"
    """Of the answer, as its server counted them."""
    LENGTH = "Length"
    """Characters of the answer's text."""
    REFUSAL = "Refusal"
    """Whether the answer refuses, by the default phrases."""
    TOOL_CALLS = "ToolCallValidity"
    """Whether every tool call names an offered tool, with arguments that its schema accepts; only of requests that offer tools."""


HARDWARE = frozenset({Measure.LATENCY, Measure.FIRST_TOKEN, Measure.SERVER_ERROR})
"""What depends on the machine as much as on the model: compared between the two versions on the shadow alone, never with production."""
YES_OR_NO = frozenset({Measure.SERVER_ERROR, Measure.REFUSAL, Measure.TOOL_CALLS})
