import pytest

from graft_api.schema import parse
from graft_api.scorers import Scorer
from graft_evaluation.scorers import Answer, ScorerInvalidError, build, score

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


@pytest.mark.parametrize(
    ("scorer", "answer", "right"),
    [
        ({"exact": {}}, " yes\n", True),
        ({"exact": {}}, "Yes", False),
        ({"exact": {"ignoreCase": True}}, "YES", True),
        ({"regex": {"pattern": "[a-z]+"}}, "abc", True),
        ({"regex": {"pattern": "[a-z]+"}}, "abc1", False),
        ({"regex": {"pattern": "[a-z]+", "fullMatch": False}}, "1abc1", True),
        ({"regex": {"pattern": "(a+)+$"}}, "a" * 5000 + "b", False),
        (SCHEMA, '{"a": 1}', True),
        (SCHEMA, '{"a": "1"}', False),
        (SCHEMA, "no json", False),
        (SCHEMA, "[" * 100000, False),
        (CEL, "user.age > 3 && 'x' in tags && m['k'] == 1", True),
        (CEL, "user.age > 'a'", False),
        (CEL, "user.name == 'a'", False),
        (CEL, "user.age", False),
        (CEL, "user.age >", False),
        (CEL, "", False),
        ({"cel": {"variables": [], "resultType": "string"}}, "'a' + 'b'", True),
        ({"cel": {"variables": [], "resultType": "dyn"}}, "1", True),
    ],
)
def test_an_answer_is_right_or_wrong(scorer: dict[str, object], answer: str, right: bool) -> None:
    assert score(build(parse(Scorer, scorer)), Answer(answer), ["yes"]) is right


def test_any_reference_will_do() -> None:
    assert score(build(parse(Scorer, {"exact": {}})), Answer("b"), ["a", "b"])


def test_an_answer_that_was_cut_off_is_wrong() -> None:
    assert not score(build(parse(Scorer, {"exact": {}})), Answer("yes", finished=False), ["yes"])


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ({"regex": {"pattern": "("}}, r"^regex\.pattern: not an RE2 pattern"),
        ({"regex": {"pattern": "(?=a)"}}, r"^regex\.pattern: not an RE2 pattern"),
        ({"jsonSchema": {"document": "{,"}}, r"^jsonSchema\.document: not JSON"),
        ({"jsonSchema": {"document": '{"type": "strin"}'}}, r"^jsonSchema\.document: not a JSON Schema"),
    ],
)
def test_a_scorer_that_cannot_be_built_says_which_field(scorer: dict[str, object], message: str) -> None:
    with pytest.raises(ScorerInvalidError, match=message):
        build(parse(Scorer, scorer))


def test_a_schema_never_fetches_another_document() -> None:
    judge = build(parse(Scorer, {"jsonSchema": {"document": '{"$ref": "https://example.com/schema.json"}'}}))

    with pytest.raises(ScorerInvalidError, match=r"\$ref"):
        score(judge, Answer("{}"), [])
