"""
Scorers as the user writes them; `graft_evaluation` carries them out.

Exactly one member is set. The same block is read by the trainer for the hold-out and by the collector for production.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.schema import Model, Rule

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
    """The answer is JSON that a JSON Schema (draft 2020-12) accepts: its form, not its values; add an exact suite for those."""

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


SCORER_MEMBERS = ("exact", "regex", "json_schema", "cel")


class Scorer(Model):
    """How one answer is judged: 1 for right, 0 for wrong."""

    exact: ExactScorer | None = None
    regex: RegexScorer | None = None
    json_schema: JsonSchemaScorer | None = None
    cel: CelScorer | None = None

    rules: ClassVar = (
        Rule(
            cel="[has(self.exact), has(self.regex), has(self.jsonSchema), has(self.cel)].filter(x, x).size() == 1",
            message="set exactly one of exact, regex, jsonSchema, cel",
            check=lambda self: sum(getattr(self, name) is not None for name in SCORER_MEMBERS) == 1,
        ),
    )
