"""JSON Schema: the answer as a whole, and the arguments of tool calls."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from graft_api.schema import canonical_json
from graft_api.scorers import JsonSchemaScorer, ToolCallsScorer
from graft_evaluation.scorers.text import Pure
from graft_evaluation.scorers.values import Answer, Case, Cause, Score, ScorerBrokenError, ScorerInvalidError, ToolCall

HERMES_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)


def json_schema(scorer: JsonSchemaScorer) -> Pure:
    try:
        document = json.loads(scorer.document)
    except (ValueError, RecursionError) as error:
        raise ScorerInvalidError("jsonSchema.document: not JSON") from error
    validator = _validator(document, "jsonSchema.document")

    def check(case: Case) -> Score:
        try:
            value = json.loads(case.answer.text)
        except (ValueError, RecursionError):
            return Score.of(False, Cause.NOT_JSON)
        accepted = _accepts(validator, value)
        return Score.of(accepted, None if accepted else Cause.SCHEMA_VIOLATED)

    return Pure(check)


def tool_calls(scorer: ToolCallsScorer) -> Pure:
    own = None if scorer.tools is None else _own_tools(scorer.tools)

    def check(case: Case) -> Score:
        try:
            calls = _calls(case.answer, scorer.syntax)
        except (ValueError, RecursionError):
            return Score.of(False, Cause.NOT_JSON)
        if not calls:
            return Score.of(not scorer.required, Cause.NO_CALL if scorer.required else None)
        return _judged(calls, _offered(case) if own is None else own)

    return Pure(check)


def _judged(calls: tuple[ToolCall, ...], offered: Mapping[str, Any]) -> Score:
    for call in calls:
        if call.name not in offered:
            return Score.of(False, Cause.UNKNOWN_TOOL)
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            return Score.of(False, Cause.NOT_JSON)
        if not isinstance(arguments, dict) or not _accepts(offered[call.name], arguments):
            return Score.of(False, Cause.SCHEMA_VIOLATED)
    return Score.of(True)


def _calls(answer: Answer, syntax: str) -> tuple[ToolCall, ...]:
    """Return the calls; raises ValueError where text that should be one is none."""
    if answer.tool_calls is not None:
        return answer.tool_calls
    if syntax == "Hermes":
        return tuple(_call(json.loads(found)) for found in HERMES_CALL.findall(answer.text))
    if not answer.text.lstrip().startswith(("{", "[")):
        return ()
    value = json.loads(answer.text)
    return tuple(_call(item) for item in (value if isinstance(value, list) else [value]))


def _call(value: object) -> ToolCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("a call needs a name")
    return ToolCall(value["name"], json.dumps(value.get("arguments", value.get("parameters", {}))))


def _own_tools(document: str) -> Mapping[str, Any]:
    try:
        tools = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ScorerInvalidError("toolCalls.tools: not JSON") from error
    try:
        return _functions(tools, "toolCalls.tools")
    except (TypeError, KeyError, AttributeError) as error:
        message = 'toolCalls.tools: must be a list of {"type": "function", "function": {"name", "parameters"}}'
        raise ScorerInvalidError(message) from error


def _offered(case: Case) -> Mapping[str, Any]:
    """Return the request's tools; a request whose schemas are none tells nothing about the model."""
    try:
        return _of_request(canonical_json(list(case.tools)).decode())
    except (ScorerInvalidError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ScorerBrokenError("BadToolSchema", "toolCalls: a tool of the request has no JSON Schema that can be used") from error


@functools.lru_cache(maxsize=256)
def _of_request(document: str) -> Mapping[str, Any]:
    """Clients send the same tools again and again."""
    return _functions(json.loads(document), "tools")


def _functions(tools: Any, field: str) -> Mapping[str, Any]:  # noqa: ANN401 - JSON
    found = {}
    for index, tool in enumerate(tools):
        function = tool.get("function", tool)  # OpenAI's Responses API has no `function` between
        found[function["name"]] = _validator(function.get("parameters") or {}, f"{field}[{index}]")
    return found


def _validator(schema: Any, field: str) -> Any:  # noqa: ANN401 - JSON; the library's type
    """
    Return a validator of draft 2020-12.

    Its patterns run in linear time, for a model writes what they are held against. A $ref to another document is an error, never
    a download.
    """
    import jsonschema_rs  # noqa: PLC0415 - only jobs that use it need it

    if not isinstance(schema, dict | bool):  # the library would take a string for a schema's text
        raise ScorerInvalidError(f"{field}: a JSON Schema is an object or a boolean")
    try:
        return jsonschema_rs.Draft202012Validator(schema, retriever=_refuse, pattern_options=jsonschema_rs.RegexOptions())
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        message = str(getattr(error, "message", error)).partition("\n")[0][:300]
        raise ScorerInvalidError(f"{field}: not a JSON Schema (draft 2020-12): {message}") from error


def _accepts(validator: Any, value: object) -> bool:  # noqa: ANN401 - the library's type
    try:
        return bool(validator.is_valid(value))
    except ValueError:  # half a surrogate pair, or deeper than the library goes
        return False


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"$ref to {uri} is not in the document")
