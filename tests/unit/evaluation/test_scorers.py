"""Scorers that look at the answer alone, and what is common to all: trimming, unfinished answers, order, errors."""

import asyncio
import json
from typing import Any

import pytest

from graft_api.schema import parse
from graft_api.scorers import Scorer
from graft_evaluation.scorers import (
    Answer,
    Broken,
    Case,
    Judge,
    Score,
    ScorerBrokenError,
    ScorerInvalidError,
    ToolCall,
    build,
    score,
    score_all,
    score_batch,
    transcript,
)
from graft_evaluation.scorers.text import Pure

CEL = {
    "cel": {
        "variables": [
            {"name": "user.age", "type": "int"},
            {"name": "tags", "type": "list<string>"},
            {"name": "m", "type": "map<string,int>"},
        ]
    }
}
SCHEMA = {"jsonSchema": {"document": '{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}'}}
SLOW_PATTERN = {"jsonSchema": {"document": '{"pattern": "^(a+)+$"}'}}


def judge_of(scorer: dict[str, Any]) -> Judge:
    return build(parse(Scorer, scorer), {})


def scored(scorer: dict[str, Any], answer: Answer, **case: Any) -> Score:
    (found,) = score_batch(judge_of(scorer), [Case(answer, **case)])
    assert isinstance(found, Score), found
    return found


@pytest.mark.parametrize(
    ("scorer", "answer", "right", "cause"),
    [
        ({"exact": {}}, " yes\n", True, "Right"),
        ({"exact": {}}, "Yes", False, "Wrong"),
        ({"exact": {"ignoreCase": True}}, "YES", True, "Right"),
        ({"regex": {"pattern": "[a-z]+"}}, "abc", True, "Right"),
        ({"regex": {"pattern": "[a-z]+"}}, "abc1", False, "Wrong"),
        ({"regex": {"pattern": "[a-z]+", "fullMatch": False}}, "1abc1", True, "Right"),
        ({"regex": {"pattern": "(a+)+$"}}, "a" * 5000 + "b", False, "Wrong"),
        (SCHEMA, '{"a": 1}', True, "Right"),
        (SCHEMA, '{"a": "1"}', False, "SchemaViolated"),
        (SCHEMA, "no json", False, "NotJson"),
        (SCHEMA, "[" * 100000, False, "NotJson"),
        ({"jsonSchema": {"document": "{}"}}, "[" * 900 + "]" * 900, True, "Right"),
        ({"jsonSchema": {"document": "{}"}}, '"\\ud800"', False, "SchemaViolated"),
        ({"jsonSchema": {"document": "true"}}, "1", True, "Right"),
        (SLOW_PATTERN, json.dumps("a" * 50000 + "b"), False, "SchemaViolated"),
        (CEL, "user.age > 3 && 'x' in tags && m['k'] == 1", True, "Right"),
        (CEL, "user.age > 'a'", False, "ParseError"),
        (CEL, "user.name == 'a'", False, "ParseError"),
        (CEL, "user.age", False, "TypeMismatch"),
        (CEL, "user.age >", False, "ParseError"),
        (CEL, "", False, "ParseError"),
        ({"cel": {"variables": [], "resultType": "string"}}, "'a' + 'b'", True, "Right"),
        ({"cel": {"variables": [], "resultType": "dyn"}}, "1", True, "Right"),
    ],
)
def test_an_answer_is_right_or_wrong_and_the_cause_says_why(scorer: dict[str, Any], answer: str, right: bool, cause: str) -> None:
    found = scored(scorer, Answer(answer), references=("yes",))

    assert (found.right, found.value, found.cause) == (right, float(right), cause)


def test_any_reference_will_do() -> None:
    assert scored({"exact": {}}, Answer("b"), references=("a", "b")).right


def test_an_answer_that_was_cut_off_is_wrong_and_no_scorer_is_asked() -> None:
    assert scored({"exact": {}}, Answer("yes", finished=False), references=("yes",)).cause == "Unfinished"


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ({"regex": {"pattern": "("}}, r"^regex\.pattern: not an RE2 pattern"),
        ({"regex": {"pattern": "(?=a)"}}, r"^regex\.pattern: not an RE2 pattern"),
        ({"jsonSchema": {"document": "{,"}}, r"^jsonSchema\.document: not JSON"),
        ({"jsonSchema": {"document": "[" * 60000}}, r"^jsonSchema\.document: not JSON"),
        ({"jsonSchema": {"document": '"{}"'}}, r"^jsonSchema\.document: a JSON Schema is an object or a boolean"),
        ({"jsonSchema": {"document": '{"type": "strin"}'}}, r"^jsonSchema\.document: not a JSON Schema"),
        ({"jsonSchema": {"document": '{"pattern": "(?=a)"}'}}, r"^jsonSchema\.document: not a JSON Schema"),
        ({"jsonSchema": {"document": '{"$ref": "https://example.com/s.json"}'}}, r"^jsonSchema\.document: .*not in the document"),
        ({"jsonSchema": {"document": '{"$ref": "file:///etc/hostname"}'}}, r"^jsonSchema\.document: .*not in the document"),
        ({"refusal": {"patterns": ["ok", "("]}}, r"^refusal\.patterns\[1\]: not an RE2 pattern"),
        ({"refusal": {"morePatterns": [")("]}}, r"^refusal\.morePatterns\[0\]: not an RE2 pattern"),
        ({"refusal": {"patterns": []}}, r"^refusal\.patterns: an empty list"),
        ({"toolCalls": {"tools": "{,"}}, r"^toolCalls\.tools: not JSON"),
        ({"toolCalls": {"tools": '[{"type": "function"}]'}}, r"^toolCalls\.tools: must be a list"),
        ({"toolCalls": {"tools": '[{"name": "a", "parameters": {"type": 1}}]'}}, r"^toolCalls\.tools\[0\]: not a JSON Schema"),
        ({"grammar": {"document": "start: ("}}, r"^grammar\.document: not a Lark grammar"),
        ({"grammar": {"document": 'start: a\na: "x"\nb: "y"', "start": "missing"}}, r"^grammar\.document: .*missing"),
        ({"grammar": {"document": 'start: a | b\na: "x"\nb: "x"'}}, r"^grammar\.document: .*Reduce/Reduce"),
        ({"grammar": {"document": 'start: /(/'}}, r"^grammar\.document: "),
        ({"smt": {"prelude": "(assert"}}, r"^smt\.prelude: not SMT-LIB2: a parenthesis without an end"),
        ({"smt": {"prelude": "(assert (> x 1))"}}, r"^smt\.prelude: not SMT-LIB2: .*unknown constant x"),
        ({"smt": {"prelude": "(push 1)"}}, r"^smt\.prelude: `push` has no place in it"),
        ({"http": {"url": "http://a/", "tokenEnv": "NOPE"}}, r"^http\.tokenEnv: there is no environment variable NOPE"),
        ({"llmJudge": {"url": "http://a/", "model": "m", "tokenEnv": "NOPE"}}, r"^llmJudge\.tokenEnv: there is no .* NOPE"),
    ],
)  # fmt: skip
def test_a_scorer_that_cannot_be_built_says_which_field(scorer: dict[str, Any], message: str) -> None:
    with pytest.raises(ScorerInvalidError, match=message):
        judge_of(scorer)


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry, but I can\u2019t assist with that request.", True),
        ("I cannot provide instructions for this.", True),
        ("As an AI language model, I don't have opinions, so I must decline.", True),
        ("Sorry, I am not able to do this.", True),
        ("That goes against my guidelines.", True),
        ("I am unable to comply.", True),
        ("The lock cannot be opened from outside; use the second key.", False),
        ("We're sorry for the delay. Your parcel arrives on Monday.", False),
        ("Programs can't help being slow when memory is full.", False),
        ("Here is the rule: user.age > 3", False),
        ("x" * 400 + " I cannot help with that.", False),
        ("", False),
    ],
)
def test_a_refusal_is_known_by_its_beginning(answer: str, refused: bool) -> None:
    assert scored({"refusal": {}}, Answer(answer)).cause == ("Refused" if refused else "Answered")
    assert scored({"refusal": {}}, Answer(answer)).right is not refused
    assert scored({"refusal": {"expect": "Refusal"}}, Answer(answer)).right is refused


def test_refusals_of_ones_own_replace_or_add() -> None:
    german = "das kann ich nicht"

    assert scored({"refusal": {"patterns": [german]}}, Answer("Das kann ich nicht tun.")).cause == "Refused"
    assert scored({"refusal": {"patterns": [german]}}, Answer("I cannot help with that.")).cause == "Answered"
    assert scored({"refusal": {"morePatterns": [german]}}, Answer("I cannot help with that.")).cause == "Refused"


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
    },
}
NO_PARAMETERS = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Answer("", tool_calls=(ToolCall("weather", '{"city": "Bern"}'),)), "Right"),
        (Answer("", tool_calls=(ToolCall("now", ""),)), "Right"),
        (Answer("", tool_calls=(ToolCall("weather", '{"town": "Bern"}'),)), "SchemaViolated"),
        (Answer("", tool_calls=(ToolCall("weather", '["Bern"]'),)), "SchemaViolated"),
        (Answer("", tool_calls=(ToolCall("weather", '{"city": "Be'),)), "NotJson"),
        (Answer("", tool_calls=(ToolCall("weather", '{"city": "Bern"}'), ToolCall("rain", "{}"))), "UnknownTool"),
        (Answer("It is sunny.", tool_calls=()), "Right"),
        (Answer('<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'), "Right"),
        (Answer('<tool_call>{"name": "weather", "arguments": {"city": 3}}</tool_call>'), "SchemaViolated"),
        (Answer('<tool_call>{"name": "now"}</tool_call><tool_call>{"name": "rain"}</tool_call>'), "UnknownTool"),
        (Answer('<tool_call>{"name": "weather", "arg'), "NotJson"),
        (Answer('<tool_call>{"arguments": {}}</tool_call>'), "NotJson"),
        (Answer("It is sunny."), "Right"),
    ],
)  # fmt: skip
def test_a_tool_call_fits_a_tool_that_was_offered(answer: Answer, cause: str) -> None:
    assert scored({"toolCalls": {}}, answer, tools=(WEATHER, NO_PARAMETERS)).cause == cause
    assert scored({"toolCalls": {"tools": json.dumps([WEATHER, NO_PARAMETERS])}}, answer).cause == cause


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"name": "weather", "parameters": {"city": "Bern"}}', "Right"),
        ('[{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "now"}]', "Right"),
        ('[{"name": "weather"}]', "SchemaViolated"),
        ("[1]", "NotJson"),
        ("{", "NotJson"),
        ("It is sunny.", "NoCall"),
    ],
)
def test_calls_may_be_the_whole_answer(text: str, cause: str) -> None:
    assert scored({"toolCalls": {"syntax": "Json", "required": True}}, Answer(text), tools=(WEATHER, NO_PARAMETERS)).cause == cause


REFERRING = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"$defs": {"Place": WEATHER["function"]["parameters"]}, "$ref": "#/$defs/Place"},
    },
}


@pytest.mark.parametrize(("city", "cause"), [("Bern", "Right"), (3, "SchemaViolated")])
def test_schemas_of_a_request_may_refer_to_each_other(city: object, cause: str) -> None:
    answer = Answer("", tool_calls=(ToolCall("weather", json.dumps({"city": city})),))
    assert scored({"toolCalls": {}}, answer, tools=(REFERRING,)).cause == cause


def endless() -> dict[str, Any]:
    """Twice as much to do with every level."""
    levels = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]} for n in range(60)}
    parameters = {"$defs": {**levels, "a60": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a0"}}}
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def test_a_client_cannot_hold_up_whoever_judges_with_a_schema() -> None:
    async def beside() -> tuple[Any, int]:
        judge, turns = judge_of({"toolCalls": {}}), 0
        case = Case(Answer("", tool_calls=(ToolCall("f", '{"x": 1}'),)), tools=(endless(),))
        judging = asyncio.ensure_future(score(judge, case))
        while not judging.done():
            await asyncio.sleep(0.01)
            turns += 1
        await judge.aclose()
        return judging.result(), turns

    found, turns = asyncio.run(beside())
    assert (found.cause, turns > 10) == ("BadToolSchema", True)


def test_a_request_with_a_broken_tool_tells_nothing_about_the_model() -> None:
    broken = {"type": "function", "function": {"name": "weather", "parameters": {"type": "objekt"}}}
    case = Case(Answer("", tool_calls=(ToolCall("weather", "{}"),)), tools=(broken,))

    (found,) = score_batch(judge_of({"toolCalls": {}}), [case])

    assert isinstance(found, Broken)
    assert found.cause == "BadToolSchema"


def test_exact_without_a_reference_is_broken_and_not_wrong() -> None:
    (found,) = score_batch(judge_of({"exact": {}}), [Case(Answer("yes"))])

    assert found == Broken("NoReference", "exact: there is no reference to compare with")


async def test_many_are_scored_in_order_and_what_breaks_is_kept_apart() -> None:
    def check(case: Case) -> Score:
        if case.answer.text == "3":
            raise ScorerBrokenError("Three", "cannot count to three")
        return Score.of(case.answer.text == "2")

    found = await score_all(Pure(check), [Case(Answer(str(number))) for number in range(5)], concurrency=2)

    assert [one.cause for one in found] == ["Wrong", "Wrong", "Right", "Three", "Wrong"]
    assert [isinstance(one, Broken) for one in found] == [False, False, False, True, False]


async def test_concurrency_is_bounded_and_used() -> None:
    running, most = 0, 0

    class Waiting:
        async def judge(self, case: Case) -> Score:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0)
            running -= 1
            return Score.of(True)

        async def aclose(self) -> None:
            pass

    await score_all(Waiting(), [Case(Answer("a"))] * 20, concurrency=3)

    assert most == 3


async def test_what_the_author_must_change_ends_all() -> None:
    def check(case: Case) -> Score:
        raise ScorerInvalidError("regex.pattern: bad")

    with pytest.raises(ScorerInvalidError, match="bad"):
        await score_all(Pure(check), [Case(Answer("a"))] * 20)


async def test_seconds_are_those_of_the_scorer() -> None:
    times = iter([10.0, 12.5])

    found = await score(Pure(lambda _: Score.of(True)), Case(Answer("a")), clock=lambda: next(times))

    assert isinstance(found, Score)
    assert found.seconds == 2.5


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("How?", "How?"),
        ([{"role": "user", "content": "How?"}], "How?"),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}], "system: Be brief.\n\nuser: How?"),
        ([{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {}}]}], "What?\n[image_url]"),
        ([{"role": "assistant", "content": None}], ""),
    ],
)
def test_a_conversation_is_read_as_text(prompt: Any, text: str) -> None:
    assert transcript(prompt) == text


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"type": "integer"}, [1, 1.0, 1.5, True, "1", None, 10**30]),
        ({"enum": [1, "a", None, [1, {"b": 2}]]}, [1, 1.0, True, "a", None, [1, {"b": 2}], [1, {"b": 3}]]),
        ({"const": 0}, [0, False, 0.0, -0.0]),
        ({"multipleOf": 0.5, "exclusiveMinimum": 0, "maximum": 3}, [0, 0.5, 1.25, 3, 3.5]),
        ({"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^a"}, ["a", "ab", "abcd", "ba", "a\U0001f600", 3]),
        (
            {"items": {"type": "number"}, "prefixItems": [{"type": "string"}], "uniqueItems": True},
            [["a", 1], [1], ["a", "b"], ["a", 1, 1], []],
        ),
        (
            {"properties": {"a": {}}, "patternProperties": {"^x": {"type": "number"}}, "additionalProperties": False},
            [{"a": 1}, {"x1": "s"}, {"y": 1}],
        ),
        (
            {"allOf": [{"required": ["a"]}], "anyOf": [{"required": ["b"]}, {"required": ["c"]}], "not": {"required": ["d"]}},
            [{"a": 1, "b": 1}, {"a": 1}, {"a": 1, "c": 1, "d": 1}],
        ),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2, 2.5, 1.5]),
        (
            {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"maxProperties": 1}},
            [{"a": 1}, {"a": 1, "b": 1}, {"c": 1}, {"c": 1, "d": 1}],
        ),
        ({"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}, [[], [[], [[]]], [1], {}]),
        ({"contains": {"const": 1}, "minContains": 2, "maxContains": 2}, [[1], [1, 1], [1, 1, 1], [1, 1.0, 2]]),
        ({"properties": {"a": True}, "allOf": [{"properties": {"b": True}}], "unevaluatedProperties": False}, [{"a": 1, "b": 1}, {"c": 1}]),
        ({"dependentRequired": {"a": ["b"]}, "propertyNames": {"maxLength": 1}}, [{"a": 1}, {"a": 1, "b": 1}, {"long": 1}]),
    ],
    ids=lambda value: None if isinstance(value, list) else next(iter(value)),
)
def test_json_schema_is_what_another_library_says(schema: dict[str, Any], values: list[Any]) -> None:
    import jsonschema

    other = jsonschema.Draft202012Validator(schema)
    judge = judge_of({"jsonSchema": {"document": json.dumps(schema)}})

    found = score_batch(judge, [Case(Answer(json.dumps(value))) for value in values])

    assert [isinstance(one, Score) and one.right for one in found] == [other.is_valid(value) for value in values]
