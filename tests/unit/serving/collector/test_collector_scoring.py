"""From answers to values: judges, tool calls, what never came, and settings that cannot be meant."""

import json
from contextlib import suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from collector_world import METRICS, chat, settings

from graft_api.collect import MeasuredMetric, Observe
from graft_api.schema import Invalid, parse
from graft_api.tee import ExchangeHead
from graft_evaluation.paired.outcomes import Answer, value
from graft_evaluation.pairs import scoring as scorings
from graft_evaluation.pairs.scoring import Scoring, Trio
from graft_evaluation.pairs.sides import Said, Side, Whose
from graft_evaluation.scorers import Broken, Score, ToolCall
from graft_serving.collector.questions import ExcludedError, read_question

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "required": ["a"]}}}]
ANTHROPIC = [{"name": "look", "input_schema": {"type": "object", "required": ["a"]}}]


def head(api="chat"):
    return ExchangeHead(
        number=1, request_id="r", traceparent="", api=api, domain="dsl", wanted="v", version="v", pod="p", epoch=1, revision=1,
        conversation="0" * 32, named=False, stream=False, status=200, started=1.0, seconds=1.0, tokens_in=1, tokens_out=1,
    )  # fmt: skip


def question(api="chat", **fields):
    body = {"model": "dsl", "messages": [{"role": "user", "content": "q"}], **fields}
    return read_question(head(api), json.dumps(body).encode())


def side(text="yes", ended=Answer.COMPLETE, calls=None, tokens=2):
    return Side(Said(ended, text, calls, tokens), 1.0)


def metric(kind, direction, source, **fields):
    described = {"name": "m", "kind": kind, "direction": direction, "role": "Informational", **fields}
    return parse(MeasuredMetric, {"metric": described, **source})


async def measured(one, trio):
    scoring = Scoring([one], {}, lambda metric, requests, key: True)
    candidate, instrument = await scoring.quality(trio, "k")
    await scoring.aclose()
    return candidate, instrument


class Judge:
    """Prefers the longer answer, in whichever order; or is away, or says nonsense."""

    def __init__(self):
        self.asked = 0
        self.nonsense = False

    async def judge(self, request):
        self.asked += 1
        told = (await request.json())["messages"][0]["content"]
        first, second = (json.loads(told.split(f"{name} answer: ")[1].split("\n")[0]) for name in ("First", "Second"))
        better = "first" if len(first) > len(second) else "second" if len(second) > len(first) else "tie"
        return web.json_response({**chat("nonsense" if self.nonsense else json.dumps({"better": better})), "model": "judge-1"})


@pytest.fixture
async def judge():
    fake = Judge()
    made = web.Application()
    made.router.add_post("/v1/chat/completions", fake.judge)
    async with TestServer(made) as server:
        fake.metric = metric(
            "Mean",
            "HigherIsBetter",
            {"scorer": {"llmJudge": {"url": f"http://127.0.0.1:{server.port}/v1", "model": "judge-1"}}},
            worst=0.0,
            best=1.0,
        )
        yield fake


async def test_a_judge_holds_candidate_and_instrument_against_production(judge):
    trio = Trio(question(), side("no, not that"), side("yes, and here is why"), side("no"))
    candidate, instrument = await measured(judge.metric, trio)
    assert candidate.found == {"m": (0.5, 1.0)}
    assert instrument.found == {"m": (0.5, 0.0)}
    assert judge.asked == 4, "two orders each; production is not judged against itself"


async def test_the_same_answer_is_a_tie(judge):
    candidate, _ = await measured(judge.metric, Trio(question(), side("same"), side("same")))
    assert candidate.found == {"m": (0.5, 0.5)}


async def test_a_judge_that_says_nonsense_is_broken(judge):
    judge.nonsense = True
    candidate, _ = await measured(judge.metric, Trio(question(), side("a"), side("bb")))
    assert (candidate.found, candidate.broken) == ({}, {"m": "BadVerdict"})


async def test_a_program_that_the_image_lacks_is_said_before_the_first_answer():
    command = {"argv": ["opa", "eval"], "verdict": "ExitStatus"}
    one = metric("Proportion", "LowerIsBetter", {"scorer": {"command": command}})
    scoring = Scoring([one], {}, lambda metric, requests, key: True)
    assert scoring.unbuilt["m"].startswith("command.argv[0]: 'opa' is not a program in this image (/usr/local/bin:")
    await scoring.aclose()


async def test_an_answer_that_never_came_is_not_judged(judge):
    candidate, _ = await measured(judge.metric, Trio(question(), side("a"), side("", Answer.TIMEOUT)))
    assert candidate.found == {"m": (0.5, None)}
    candidate, _ = await measured(judge.metric, Trio(question(), side("a", Answer.LENGTH), side("b")))
    assert candidate.found == {"m": (None, 0.5)}
    assert judge.asked == 0


@pytest.mark.parametrize("ended", [Answer.LENGTH, Answer.TIMEOUT, Answer.ERROR])
async def test_the_same_version_twice_comes_to_the_same_with_swapped_sides(ended, judge):
    sums = [0.0, 0.0]
    for sides in ((side("a"), side("", ended)), (side("", ended), side("a")), (side("a"), side("a"))):
        candidate, _ = await measured(judge.metric, Trio(question(), *sides))
        found = candidate.found["m"]
        sums = [total + (0.0 if value is None else value) for total, value in zip(sums, found, strict=True)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("kind", ["Mean", "Proportion"])
async def test_the_same_words_are_worth_the_same_on_both_sides(kind):
    one = metric(kind, "HigherIsBetter", {"scorer": {"exact": {}}}, **({"worst": 0.0, "best": 1.0} if kind == "Mean" else {}))
    candidate, _ = await measured(one, Trio(question(), side("same"), side("same")))
    assert candidate.found == {"m": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("production", "other", "whose"),
    [("good", "sick", Whose.CANDIDATE), ("sick", "good", Whose.INCUMBENT), ("sick", "sick", None), ("good", "good", None)],
)
async def test_a_scorer_that_breaks_on_one_side_is_held_against_that_side(production, other, whose, monkeypatch):
    async def sick(judge, case):
        return Broken("Timeout", "") if case.answer.text == "sick" else Score(1.0, True, "Right")

    monkeypatch.setattr(scorings, "score", sick)
    one = metric("Proportion", "HigherIsBetter", {"scorer": {"regex": {"pattern": "x"}}})
    candidate, _ = await measured(one, Trio(question(), side(production), side(other)))
    assert ("m" in candidate.broken) == ("sick" in {production, other})
    assert candidate.broke is whose


async def test_a_judge_that_breaks_has_seen_both_sides(judge):
    judge.nonsense = True
    candidate, _ = await measured(judge.metric, Trio(question(), side("a"), side("bb")))
    assert candidate.broke is None


@pytest.mark.parametrize(("api", "tools"), [("chat", TOOLS), ("messages", ANTHROPIC)])
async def test_tool_calls_are_held_against_the_tools_of_the_request(api, tools):
    one = metric("Proportion", "HigherIsBetter", {"measure": "ToolCallValidity"})
    good, bad = (side("", calls=(ToolCall("look", arguments),)) for arguments in ('{"a": 1}', "{}"))
    candidate, _ = await measured(one, Trio(question(api, tools=tools, max_tokens=9), bad, good))
    assert candidate.found == {"m": (0.0, 1.0)}
    candidate, _ = await measured(one, Trio(question(api, max_tokens=9), bad, good))
    assert candidate.found == {}, "no tools were offered: it says nothing"


@pytest.mark.parametrize("ended", Answer)
@pytest.mark.parametrize("kind", ["Mean", "Quantile"])
async def test_what_never_came_is_what_the_evaluation_takes_for_it(ended, kind):
    one = metric(kind, "LowerIsBetter", {"measure": "Tokens"}, **({"worst": 99.0} if kind == "Mean" else {"quantile": 0.5}))
    candidate, _ = await measured(one, Trio(question(), side(tokens=3), side(ended=ended, tokens=5)))
    found = candidate.found["m"][1]
    worst = value(one.metric, Answer.ERROR, None)
    assert (worst if found is None else found) == value(one.metric, ended, 5.0)


async def test_a_value_that_cannot_be_summed_is_the_worst_of_its_side_and_ends_nothing():
    one = metric("Mean", "LowerIsBetter", {"measure": "Length"}, worst=1.0)
    candidate, _ = await measured(one, Trio(question(), side("x"), side("x" * 70_000)))
    assert (candidate.found, candidate.broken) == ({"m": (1.0, 1.0)}, {}), "nor does it count as worse than the worst"


async def test_a_low_mean_of_a_scorer_counts_what_is_missing_to_the_best():
    one = metric("Mean", "LowerIsBetter", {"scorer": {"regex": {"pattern": "yes"}}}, worst=1.0)
    candidate, _ = await measured(one, Trio(question(), side("no"), side("yes")))
    assert candidate.found == {"m": (1.0, 0.0)}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "q", "type": ["x"]}]},
        {"messages": [{"role": ["user"], "content": {"type": []}}]},
        {"messages": [{"role": "user", "content": [{"type": {}}]}, 7]},
        {"n": [2], "tools": [{"type": {}}]},
    ],
)
def test_an_odd_request_is_no_pair_at_worst(fields):
    with suppress(ExcludedError):
        question(**fields)


def test_stored_state_is_not_asked_again():
    body = {"model": "dsl", "input": "q", "previous_response_id": "resp_1"}
    with pytest.raises(ExcludedError) as excluded:
        read_question(head("responses"), json.dumps(body).encode())
    assert excluded.value.cause == "stored-state"


WRONG = {
    "no source": ({"metrics": [{"metric": METRICS[0]["metric"]}]}, "set exactly one of measure and scorer"),
    "a share of seconds": (
        {"metrics": [{"metric": METRICS[0]["metric"], "measure": "Latency"}]},
        "the other measures Mean or Quantile",
    ),
    "a name twice": ({"metrics": [METRICS[0], METRICS[0]]}, "a name of its own"),
    "latency without a control share": ({"controlShare": "0"}, "come from the control share"),
    "a share above one": ({"controlShare": "1.5"}, "must be >= 0 and <= 1"),
    "an address without a port": ({"shadow": {"address": "host"}}, "shadow.address"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG.keys())
def test_settings_that_cannot_be_meant_are_refused_with_their_field(changes, words):
    with pytest.raises(Invalid, match=words):
        settings("s3://b/t", "host:8000", **changes)


def test_what_is_observed_needs_a_source():
    with pytest.raises(Invalid, match="exactly one"):
        parse(Observe, {"domains": [{"domain": "d", "scores": [{"name": "x"}]}], "store": "s3://b/o"})
