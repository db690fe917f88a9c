import pytest

from graft_api.schema import Invalid, parse
from graft_api.scorers import Sample, Scorer
from graft_evaluation.scorers import Budget, affordable, requests_per_answer, sampled

JUDGE = {"llmJudge": {"url": "http://judge/v1", "model": "m"}}
EXACT: dict[str, object] = {"exact": {}}


@pytest.mark.parametrize(
    ("scorer", "examples", "scored"),
    [
        (EXACT, 30, 30),
        (EXACT | {"sample": {}}, 30, 30),
        (EXACT | {"sample": {"share": "0.1"}}, 30, 3),
        (EXACT | {"sample": {"share": "0.1"}}, 31, 4),
        (EXACT | {"sample": {"share": "1e-4"}}, 30, 1),
        (EXACT | {"sample": {"share": "1e-4"}}, 0, 0),
        (EXACT | {"sample": {"maxRequests": 10}}, 30, 5),
        (JUDGE | {"sample": {"maxRequests": 10}}, 30, 2),
        (JUDGE | {"sample": {"maxRequests": 1000, "share": "0.5"}}, 30, 15),
    ],
)
def test_a_budget_pays_for_both_models_and_both_orders(scorer: dict[str, object], examples: int, scored: int) -> None:
    assert affordable(parse(Scorer, scorer), examples, models=2) == scored


def test_a_judge_costs_two_requests() -> None:
    assert (requests_per_answer(parse(Scorer, JUDGE)), requests_per_answer(parse(Scorer, EXACT))) == (2, 1)


@pytest.mark.parametrize("share", ["0.05", "0.5", "0.999"])
def test_a_share_is_a_share_and_a_larger_one_holds_the_smaller(share: str) -> None:
    keys = [f"conversation-{number}" for number in range(5000)]
    chosen = {key for key in keys if sampled(Sample(share=share), key)}

    # Five standard deviations of the binomial.
    expected, deviation = 5000 * float(share), (5000 * float(share) * (1 - float(share))) ** 0.5
    assert abs(len(chosen) - expected) < 5 * deviation
    assert chosen <= {key for key in keys if sampled(Sample(share="1"), key)} == set(keys)
    assert {key for key in keys if sampled(Sample(share="0.01"), key)} <= chosen
    assert sampled(None, "a")


def test_a_budget_is_spent_whole_or_not_at_all() -> None:
    budget = Budget(3)

    assert [budget.take(2), budget.take(2), budget.take(1), budget.take(1)] == [True, False, True, False]
    assert Budget(None).take(10**9)


@pytest.mark.parametrize(
    ("scorer", "problem"),
    [
        ({}, "set exactly one of exact, regex, jsonSchema, cel, refusal, toolCalls, grammar, smt, command, llmJudge, http"),
        ({"sample": {"share": "0.5"}}, "set exactly one of"),
        (EXACT | JUDGE, "set exactly one of"),
        (EXACT | {"sample": {"share": "0"}}, "sample.share: Value error, 0 must be > 0"),
        (EXACT | {"sample": {"share": 0.5}}, "sample.share: must be a string"),
        (EXACT | {"sample": {"maxRequests": 0}}, "sample.maxRequests: Input should be greater than or equal to 1"),
        (JUDGE | {"sample": {"maxRequests": 1}}, "sample.maxRequests: a judge spends two requests an answer"),
        ({"llmJudge": {"url": "judge", "model": "m"}}, "llmJudge.url: String should match pattern"),
        ({"llmJudge": {"url": "http://u:p@judge/v1", "model": "m"}}, "llmJudge.url: String should match pattern"),
        (
            {"llmJudge": {"url": "http://judge/v1", "model": "m", "prompt": "{question} {first}"}},
            "llmJudge.prompt: must contain {question}",
        ),
        ({"http": {"url": "file:///etc/passwd"}}, "http.url: String should match pattern"),
        ({"http": {"url": "http://a/", "tokenEnv": "A-B"}}, "http.tokenEnv: String should match pattern"),
        ({"http": {"url": "http://a/", "retry": {"attempts": 0}}}, "http.retry.attempts: Input should be greater than or equal to 1"),
        ({"command": {"argv": []}}, "command.argv: List should have at least 1 item"),
        ({"command": {"argv": [""]}}, "command.argv: the first entry names the program"),
        ({"command": {"argv": ["a"], "cpuSeconds": 90}}, "command.timeoutSeconds: cpuSeconds beyond timeoutSeconds"),
        ({"grammar": {"document": "start: a", "parser": "cyk"}}, "grammar.parser: Input should be 'lalr' or 'earley'"),
        ({"smt": {"solverSeconds": 3601}}, "smt.solverSeconds: Input should be less than or equal to 3600"),
        ({"smt": {"memoryMib": 1}}, "smt.memoryMib: Input should be greater than or equal to 64"),
    ],
)
def test_a_wrong_setting_is_named_with_its_bound(scorer: dict[str, object], problem: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse(Scorer, scorer)

    assert any(said.startswith(problem.replace("Value error, ", "")) for said in raised.value.problems), raised.value.problems
