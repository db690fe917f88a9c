"""What scorers are given and what they say."""

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""What a service answers that may answer better another time."""
TRANSIENT = frozenset({"NoAnswer", "Unreachable", "SandboxLost", "Starved", *(f"Status{status}" for status in AGAIN)})
"""Causes for which network or machine are at fault, so that another time it may go well. Of a failure pairs keep nothing but its cause."""


class ScorerInvalidError(ValueError):
    """The scorer's author must change it; the message begins with the field below the scorer."""


class ScorerBrokenError(RuntimeError):
    """
    The scorer could not judge, through no fault of the answer: the answer is not scored, never wrong.

    `cause` is a word to count by; one of `TRANSIENT` says that another time it may go well. The message holds no content.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(cause, message)
        self.cause = cause
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class ToolCall:
    """A call as the server gave it: `arguments` is the text that should be a JSON object."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    finished: bool = True
    """False: it was cut off at the length limit. Such an answer is wrong, whatever the part that is there looks like."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """None: the server did not tell calls from text."""


@dataclass(frozen=True)
class Case:
    """One answer and all that it may be judged by."""

    answer: Answer
    references: tuple[str, ...] = ()
    """Acceptable answers, or the one answer of another model that this one is held against. Empty where only the form is judged."""
    question: str = ""
    """The conversation as text, see `transcript`."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The request's tools, as OpenAI has them."""


class Cause(enum.StrEnum):
    """Why a score is what it is. Services and commands may name others."""

    RIGHT = "Right"
    """It is what was asked for."""
    WRONG = "Wrong"
    """It is not."""
    UNFINISHED = "Unfinished"
    """Cut off at the length limit."""
    NOT_JSON = "NotJson"
    """The answer had to be JSON."""
    SCHEMA_VIOLATED = "SchemaViolated"
    """JSON that its schema does not accept."""
    PARSE_ERROR = "ParseError"
    """Not of the language."""
    TYPE_MISMATCH = "TypeMismatch"
    """An expression of another type than wanted."""
    REFUSED = "Refused"
    """The model would not answer."""
    ANSWERED = "Answered"
    """The model did answer."""
    NO_CALL = "NoCall"
    """A tool call was required."""
    UNKNOWN_TOOL = "UnknownTool"
    """A call of a tool that was not offered."""
    SATISFIABLE = "Satisfiable"
    """SMT: something fulfils the assertions."""
    UNSATISFIABLE = "Unsatisfiable"
    """SMT: nothing fulfils them."""
    UNKNOWN = "Unknown"
    """SMT: the solver gave up."""
    TAUTOLOGY = "Tautology"
    """SMT: the assertions say nothing."""
    NO_ASSERTION = "NoAssertion"
    """SMT: there is none."""
    UNSUPPORTED = "Unsupported"
    """SMT: a command that moves the assertion stack, or that nobody knows."""
    TIMEOUT = "Timeout"
    """Beyond its CPU or wall time."""
    OUT_OF_MEMORY = "OutOfMemory"
    """Beyond its memory."""
    OUTPUT = "Output"
    """Beyond its output."""
    WIN = "Win"
    """Judge: better than the other in both orders."""
    TIE = "Tie"
    """Judge: neither better in both orders."""
    LOSS = "Loss"
    """Judge: worse than the other in both orders."""


class Position(enum.StrEnum):
    """What a judge said of two answers in one order."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


@dataclass(frozen=True)
class Judgement:
    """What the judge said of an answer A and another B."""

    ab: Position
    """A was shown first."""
    ba: Position
    """B was shown first."""

    @property
    def agree(self) -> bool:
        """Return whether both orders say the same of the same answer."""
        return _SWAPPED[self.ba] is self.ab

    @property
    def cause(self) -> Cause:
        """Return win, tie or loss of A: a win or loss in one order alone is a tie."""
        if not self.agree:
            return Cause.TIE
        return {Position.FIRST: Cause.WIN, Position.SECOND: Cause.LOSS, Position.TIE: Cause.TIE}[self.ab]


_SWAPPED = {Position.FIRST: Position.SECOND, Position.SECOND: Position.FIRST, Position.TIE: Position.TIE}


@dataclass(frozen=True)
class Score:
    """How good one answer is."""

    value: float
    """0 to 1; 0 and 1 alone for scorers that know no degrees."""
    right: bool
    cause: str
    seconds: float = 0.0
    """Wall time that scoring took; `score` measures it."""
    solver_seconds: float | None = None
    """SMT: CPU time of the solver."""
    judgement: Judgement | None = None

    @classmethod
    def of(cls, right: bool, cause: Cause | None = None) -> "Score":
        """Return the score of an answer that is right or wrong."""
        return cls(float(right), right, (cause or (Cause.RIGHT if right else Cause.WRONG)).value)


@dataclass(frozen=True)
class Broken:
    """An answer that was not scored: the `ScorerBrokenError` as a value, for those that count."""

    cause: str
    message: str

    @property
    def transient(self) -> bool:
        """Whether another time it may go well."""
        return self.cause in TRANSIENT


Outcome = Score | Broken


class Judge(Protocol):
    """A scorer, ready to judge. It may hold processes and connections: close it."""

    async def judge(self, case: Case) -> Score:
        """Return the score. Raises `ScorerBrokenError`, and `ScorerInvalidError` for what its author must change."""

    async def aclose(self) -> None:
        """Let go of processes and connections."""


WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def graded(found: object, right_from: float) -> Score:
    """Return the score that a service or command gave as `{"score", "cause"}`. Raises `ScorerBrokenError`."""
    value = found.get("score") if isinstance(found, dict) else None
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:  # NaN compares false
        raise ScorerBrokenError("BadScore", 'the scorer must answer {"score": a number from 0 to 1, or a boolean}')
    assert isinstance(found, dict)  # noqa: S101 - it had a score
    right, said = float(value) >= right_from, found.get("cause")
    word = said if isinstance(said, str) and WORD.fullmatch(said) else Score.of(right).cause
    return Score(float(value), right, word)


def transcript(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Return a prompt, or the messages of a chat, as the text that judges and services read: `role: content` in paragraphs."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return _content(prompt[0].get("content"))
    return "\n\n".join(f"{message.get('role', 'user')}: {_content(message.get('content'))}" for message in prompt)


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # parts; those that are no text are named, not shown
        return "\n".join(str(part.get("text", f"[{part.get('type')}]")) for part in content if isinstance(part, dict))
    return "" if content is None else json.dumps(content, ensure_ascii=False)
