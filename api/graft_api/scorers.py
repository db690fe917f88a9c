"""
Scorers as the user writes them; `graft_evaluation` carries them out.

Exactly one scorer is set. The same block is read by the trainer for the hold-out and by the collector for production.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from graft_api.remote_scorers import HttpScorer, LlmJudgeScorer
from graft_api.sandboxed_scorers import CommandScorer, GrammarScorer, SmtScorer
from graft_api.schema import Decimal, Model, Rule

CelType = Literal[
    "bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration", "dyn",
    "list<string>", "list<int>", "list<double>", "list<dyn>",
    "map<string,string>", "map<string,int>", "map<string,bool>", "map<string,dyn>",
]  # fmt: skip


class ExactScorer(Model):
    """The answer equals the reference, after trimming and, if wanted, ignoring case."""

    ignore_case: bool = False


class RegexScorer(Model):
    """The answer matches an RE2 pattern (linear time: a pattern cannot hang a job)."""

    pattern: Annotated[str, Field(max_length=4096, min_length=1)]
    full_match: bool = True


class JsonSchemaScorer(Model):
    """
    The answer is JSON that a JSON Schema (draft 2020-12) accepts: its form, not its values; add an exact suite for those.

    Patterns in it take linear time, so they know no look-around and no back-references.
    """

    document: Annotated[str, Field(max_length=65536, min_length=2)]
    """The schema, as a JSON text."""


class CelVariable(Model):
    """A variable that expressions may use."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[a-zA-Z_][a-zA-Z0-9_.]*$")]
    type: CelType


class CelScorer(Model):
    """The answer compiles, type checking included, as a CEL expression over the declared variables."""

    variables: Annotated[list[CelVariable], Field(max_length=64)] = Field(default_factory=list)
    result_type: CelType = "bool"


class RefusalScorer(Model):
    """Whether the answer refuses to answer, by RE2 patterns on its beginning, without regard to case. Needs no reference."""

    expect: Literal["Answer", "Refusal"] = "Answer"
    """What is right: an answer, or, on questions that must not be answered, a refusal."""
    patterns: Annotated[list[Annotated[str, Field(max_length=1024, min_length=1)]], Field(max_length=64)] | None = None
    """Default: graft's list of English phrases."""
    more_patterns: Annotated[list[Annotated[str, Field(max_length=1024, min_length=1)]], Field(max_length=64)] | None = None
    """In addition to `patterns` or their default."""
    examined_characters: Annotated[int, Field(ge=1, le=65536)] = 400
    """A refusal comes first; later on the same words quote or warn."""


class ToolCallsScorer(Model):
    """
    Every tool call of the answer names a tool that was offered, with arguments that its JSON Schema accepts.

    Structured calls are judged as the server gave them; otherwise they are read out of the answer's text.
    """

    required: bool = False
    """An answer without a call is wrong."""
    tools: Annotated[str, Field(max_length=65536, min_length=2)] | None = None
    """The tools, as a JSON text of OpenAI's `tools` array. Default: the request's; rows of a hold-out have none, so a job must say it."""
    syntax: Literal["Hermes", "Json"] = "Hermes"
    """Of calls in text. Hermes: `<tool_call>{"name", "arguments"}</tool_call>`. Json: the answer is one such object or a list of them."""


class Sample(Model):
    """How much of what could be scored is scored: for scorers that cost."""

    share: Annotated[str, Decimal(gt=0, le=1)] = "1"
    """Of the examples; chosen by hash, for both models the same."""
    max_requests: Annotated[int, Field(ge=1)] | None = None
    """
    Budget of one job or one ShadowTest, which spends it over its `duration`; of one day (UTC) where production is observed. A judge spends
    two an answer, all others one; repeats after failures are not counted.
    """


SCORER_MEMBERS = (
    "exact", "regex", "json_schema", "cel", "refusal", "tool_calls", "grammar", "smt", "command", "llm_judge", "http",
)  # fmt: skip


class Scorer(Model):
    """How one answer is judged: from 0 to 1, and right or wrong."""

    exact: ExactScorer | None = None
    regex: RegexScorer | None = None
    json_schema: JsonSchemaScorer | None = None
    cel: CelScorer | None = None
    refusal: RefusalScorer | None = None
    tool_calls: ToolCallsScorer | None = None
    grammar: GrammarScorer | None = None
    smt: SmtScorer | None = None
    command: CommandScorer | None = None
    llm_judge: LlmJudgeScorer | None = None
    http: HttpScorer | None = None
    sample: Sample | None = None

    rules: ClassVar = (
        Rule(
            cel=f"[{', '.join(f'has(self.{to_camel(name)})' for name in SCORER_MEMBERS)}].filter(x, x).size() == 1",
            message=f"set exactly one of {', '.join(map(to_camel, SCORER_MEMBERS))}",
            check=lambda self: sum(getattr(self, name) is not None for name in SCORER_MEMBERS) == 1,
        ),
        Rule(
            cel="!has(self.sample) || !has(self.sample.maxRequests) || !has(self.llmJudge) || self.sample.maxRequests >= 2",
            message="a judge spends two requests an answer; set at least 2",
            check=lambda self: (
                self.llm_judge is None or self.sample is None or self.sample.max_requests is None or self.sample.max_requests >= 2
            ),
            field=".sample.maxRequests",
        ),
    )

    def tokens(self) -> dict[str, str]:
        """Return the environment variables that it takes tokens from, by field."""
        asked = {"llmJudge": self.llm_judge, "http": self.http}
        return {f"{name}.tokenEnv": one.token_env for name, one in asked.items() if one is not None and one.token_env is not None}
