"""JSON Schema: the answer as a whole, and the arguments of tool calls."""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from graft_api.schema import canonical_json
from graft_api.scorers import JsonSchemaScorer, ToolCallsScorer
from graft_evaluation.sandbox.pool import Program, SandboxLostError, SandboxPool
from graft_evaluation.sandbox.zygote import Limits
from graft_evaluation.scorers.text import Pure
from graft_evaluation.scorers.values import Answer, Case, Cause, Score, ScorerBrokenError, ScorerInvalidError, ToolCall

BAD_SCHEMA = "BadToolSchema"
NO_SCHEMA = "toolCalls: a tool of the request has no JSON Schema that can be used"
PLAIN_BYTES = 65_536
"""A client's tools up to this length, and without references, take no time that anybody notices."""
REFERENCE = re.compile(r'"\$(?:ref|dynamicRef|recursiveRef)"')
LIMITS = Limits(cpu_seconds=1, wall_seconds=10.0, memory_mib=256, output_bytes=1024)
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


@dataclass(frozen=True)
class ToolCallsJudge:
    """
    Holds calls against the tools that were offered.

    The scorer's own tools are its author's. A request's are a client's: schemas that refer to schemas may take for ever, so those are
    held in a sandbox.
    """

    scorer: ToolCallsScorer
    own: Mapping[str, Any] | None
    pool: SandboxPool

    async def judge(self, case: Case) -> Score:
        try:
            calls = _calls(case.answer, self.scorer.syntax)
        except (ValueError, RecursionError):
            return Score.of(False, Cause.NOT_JSON)
        if not calls:
            return Score.of(not self.scorer.required, Cause.NO_CALL if self.scorer.required else None)
        if self.own is not None:
            return judged(calls, self.own)
        return await self._of_request(case, calls)

    async def aclose(self) -> None:
        await self.pool.aclose()

    async def _of_request(self, case: Case, calls: tuple[ToolCall, ...]) -> Score:
        """A request whose schemas are none, or cannot be held against anything in time, tells nothing about the model."""
        try:
            document = canonical_json(list(case.tools)).decode()
            if len(document) <= PLAIN_BYTES and not REFERENCE.search(document):
                return judged(calls, _of_request(document))
        except (ScorerInvalidError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ScorerBrokenError(BAD_SCHEMA, NO_SCHEMA) from error
        try:
            ended = await self.pool.run(json.dumps({"tools": document, "calls": [[call.name, call.arguments] for call in calls]}))
        except SandboxLostError as error:
            raise ScorerBrokenError("SandboxLost", str(error)) from error
        if ended.expired:
            raise ScorerBrokenError("Starved", "toolCalls: the machine gave it too little CPU time")
        if ended.status != 0:
            raise ScorerBrokenError(BAD_SCHEMA, f"toolCalls: a tool's schema took more than {LIMITS.cpu_seconds} s or too much memory")
        said = json.loads(ended.output)
        if "cause" not in said:
            raise ScorerBrokenError(BAD_SCHEMA, NO_SCHEMA)
        return Score.of(said["cause"] is None, None if said["cause"] is None else Cause(said["cause"]))


def tool_calls(scorer: ToolCallsScorer, processes: int) -> ToolCallsJudge:
    own = None if scorer.tools is None else _own_tools(scorer.tools)
    return ToolCallsJudge(scorer, own, SandboxPool(Program("tools", {}, LIMITS), processes))


def judged(calls: Iterable[ToolCall], offered: Mapping[str, Any]) -> Score:
    """Hold calls against validators by name."""
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
        return functions(tools, "toolCalls.tools")
    except (TypeError, KeyError, AttributeError) as error:
        message = 'toolCalls.tools: must be a list of {"type": "function", "function": {"name", "parameters"}}'
        raise ScorerInvalidError(message) from error


@functools.lru_cache(maxsize=256)
def _of_request(document: str) -> Mapping[str, Any]:
    """Clients send the same tools again and again."""
    return functions(json.loads(document), "tools")


def functions(tools: Any, field: str) -> Mapping[str, Any]:  # noqa: ANN401 - JSON
    """Return validators by name. Raises `ScorerInvalidError`, TypeError, KeyError or AttributeError for what are no tools."""
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
