"""
Carry out the scorers of `graft_api.scorers`: one answer, judged right or wrong.

A scorer never raises on an answer, whatever the model wrote; a scorer that cannot be built raises at once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graft_api.scorers import CelScorer, ExactScorer, JsonSchemaScorer, RegexScorer, Scorer

Judge = Callable[[str, Sequence[str]], bool]
"""(answer, acceptable references) -> right. References are empty where only the answer's form is judged."""


class ScorerInvalidError(ValueError):
    """The scorer's author must change it; the message begins with the field below the scorer."""


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    finished: bool = True
    """False: it was cut off at the length limit. Such an answer is wrong, whatever the part that is there looks like."""


def build(scorer: Scorer) -> Judge:
    """Return the judge that `scorer` describes. Raises `ScorerInvalidError`."""
    if scorer.exact is not None:
        return _exact(scorer.exact)
    if scorer.regex is not None:
        return _regex(scorer.regex)
    if scorer.json_schema is not None:
        return _json_schema(scorer.json_schema)
    assert scorer.cel is not None  # noqa: S101 - the model's rule
    return _cel(scorer.cel)


def score(judge: Judge, answer: Answer, references: Sequence[str]) -> bool:
    """Return whether the answer is right."""
    return answer.finished and judge(answer.text.strip(), references)


def _exact(scorer: ExactScorer) -> Judge:
    def normal(text: str) -> str:
        return text.strip().casefold() if scorer.ignore_case else text.strip()

    return lambda answer, references: normal(answer) in map(normal, references)


def _regex(scorer: RegexScorer) -> Judge:
    import re2  # noqa: PLC0415 - only jobs that use it need it

    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(scorer.pattern, options=options)
    except re2.error as error:
        raise ScorerInvalidError(f"regex.pattern: not an RE2 pattern: {error}") from error
    match = pattern.fullmatch if scorer.full_match else pattern.search
    return lambda answer, _: match(answer) is not None


def _json_schema(scorer: JsonSchemaScorer) -> Judge:
    import jsonschema  # noqa: PLC0415
    import referencing  # noqa: PLC0415

    try:
        schema = json.loads(scorer.document)
        jsonschema.Draft202012Validator.check_schema(schema)
    except ValueError as error:
        raise ScorerInvalidError("jsonSchema.document: not JSON") from error
    except jsonschema.SchemaError as error:
        raise ScorerInvalidError(f"jsonSchema.document: not a JSON Schema (draft 2020-12): {error.message}") from error
    # The empty registry: a $ref to another document is an error, never a download.
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())

    def judge(answer: str, _: Sequence[str]) -> bool:
        try:
            return bool(validator.is_valid(json.loads(answer)))
        except (ValueError, RecursionError):
            return False
        except referencing.exceptions.Unresolvable as error:
            raise ScorerInvalidError(f"jsonSchema.document: $ref {error.ref!r} is not in the document") from error

    return judge


def _cel(scorer: CelScorer) -> Judge:
    from cel_expr_python import cel  # noqa: PLC0415

    environment: Any = cel.NewEnv(variables={variable.name: cel_type(variable.type) for variable in scorer.variables})
    wanted = cel_type(scorer.result_type)

    def judge(answer: str, _: Sequence[str]) -> bool:
        try:
            found = environment.compile(answer).return_type()
        except (RuntimeError, ValueError):  # how the binding reports a syntax or type error, and text that is no UTF-8
            return False
        return bool(scorer.result_type == "dyn" or found == wanted)

    return judge


def cel_type(name: str) -> Any:  # noqa: ANN401 - the binding's type
    """
    Return CEL's type for a `graft_api.scorers.CelType`.

    By the named constants: `cel.Type("INT")` raises nothing, it silently means a protobuf message of that name.
    """
    from cel_expr_python import cel  # noqa: PLC0415

    if name.startswith("list<"):
        return cel.Type.List(cel_type(name[5:-1]))
    if name.startswith("map<"):
        key, _, value = name[4:-1].partition(",")
        return cel.Type.Map(cel_type(key), cel_type(value))
    return getattr(cel.Type, name.upper())
