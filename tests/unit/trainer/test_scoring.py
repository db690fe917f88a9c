"""Scorers on the hold-out: what is refused before training, and what their results come to."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from graft_api.evaluation import Suite
from graft_api.finetunejob import SuiteResult
from graft_api.schema import parse
from graft_evaluation.scorers import Answer
from graft_trainer import scoring
from graft_trainer.errors import BadInputError, EnvironmentFailureError
from graft_trainer.preflight import check_settings


def suite_of(scorer: dict[str, Any], **fields: Any) -> Suite:
    return parse(Suite, {"name": "s", "scorer": scorer} | fields)


def assessed(suite: Suite, base: list[str], adapter: list[str], environment: dict[str, str] | None = None) -> SuiteResult:
    asked = [scoring.Question([number], f"question {number}", ("right",)) for number in range(len(base))]
    return scoring.assess_suite(suite, asked, [Answer(text) for text in base], [Answer(text) for text in adapter], environment or {})


class Service(BaseHTTPRequestHandler):
    """Scores: right is 1, what begins with `late` is 503, what begins with `poor` is half."""

    def do_POST(self) -> None:
        case = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/chat/completions"):
            content = case["messages"][0]["content"]
            # The adapter's answers are at least as long as the reference, so a judge of lengths prefers them.
            parts = [json.loads(line.partition(": ")[2]) for line in content.splitlines() if "answer: " in line]
            better = "tie" if len(parts[0]) == len(parts[1]) else "first" if len(parts[0]) > len(parts[1]) else "second"
            self.say(200, {"model": "judge-1", "choices": [{"message": {"content": json.dumps({"better": better})}}]})
        elif case["answer"].startswith("late"):
            self.say(503, {})
        else:
            self.say(200, {"score": 0.5 if case["answer"].startswith("poor") else case["answer"] == "right"})

    def say(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(in_thread: Callable[[ThreadingHTTPServer], ThreadingHTTPServer]) -> str:
    server = in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Service))
    return f"http://127.0.0.1:{server.server_address[1]}/"


def http(url: str, **settings: Any) -> dict[str, Any]:
    return {"http": {"url": url, "retry": {"attempts": 1}} | settings}


def test_base_and_adapter_are_counted_apart() -> None:
    result = assessed(suite_of({"exact": {}}, accept={"max": "0.5"}), ["wrong", "wrong", "right"], ["right", "wrong", "right"])

    assert (result.examples, result.base.estimate, result.adapter.estimate) == (3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert result.accepted


def test_a_process_judges_both_models() -> None:
    scorer = {"smt": {"prelude": "(declare-const x Int)"}}

    result = assessed(suite_of(scorer), ["(assert (= x x))", "(assert"], ["(assert (> x 1))", "(assert true)"])

    assert (result.base.estimate, result.adapter.estimate) == (1.0, 0.5)
    assert "solver 0.0 s at most" in result.message


def test_a_service_judges_by_degrees(service: str) -> None:
    base, adapter = ["wrong", "poor", "right"], ["poor", "poor", "right"]

    lenient, strict = (assessed(suite_of(http(service, rightFrom=bound)), base, adapter) for bound in ("0.5", "0.51"))

    assert (lenient.base.estimate, lenient.adapter.estimate) == (pytest.approx(1 / 3), 0.0)
    assert (strict.base.estimate, strict.adapter.estimate) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_a_judge_says_how_far_its_orders_agree(service: str) -> None:
    judge = {"llmJudge": {"url": f"{service}v1", "model": "judge-1", "rightOn": "Win"}}

    result = assessed(suite_of(judge, accept={"metric": "accuracy", "min": "0.9"}), ["no", "right"], ["better than that", "longer"])

    assert (result.base.estimate, result.adapter.estimate) == (0.0, 1.0)
    assert "the judge's two orders agree on 100.0%" in result.message


def test_what_a_scorer_broke_on_is_left_out_for_both_models_and_said(service: str) -> None:
    base, adapter = ["wrong"] * 150, ["late", *["right"] * 149]

    result = assessed(suite_of(http(service)), base, adapter)

    assert (result.examples, result.base.estimate, result.adapter.estimate) == (149, 1.0, 0.0)
    assert "1 not scored (Status503 1)" in result.message


def test_too_many_broken_are_the_environments_fault_where_time_may_help(service: str) -> None:
    with pytest.raises(
        EnvironmentFailureError, match=r"suite s: the scorer broke on 2 of 150 examples, at most 1% .*: Status503 2"
    ) as raised:
        assessed(suite_of(http(service)), ["wrong"] * 150, ["late", "late", *["right"] * 148])

    assert raised.value.reason == "ScorerBroken"


def test_too_many_broken_are_the_users_where_it_will_not() -> None:
    scorer = {"command": {"argv": ["/bin/sh", "-c", "exit 3"]}}

    with pytest.raises(BadInputError, match=r"broke on 1 of 1 examples, .*ExitStatus 2; command: exit status 3") as raised:
        assessed(suite_of(scorer), ["a"], ["b"])

    assert raised.value.reason == "ScorerBroken"


def test_a_service_that_refuses_ends_the_run_with_its_field(service: str) -> None:
    with pytest.raises(BadInputError, match=r"spec\.evaluation\.suites \(suite s\)\.scorer\.llmJudge\.model: .*pin that name"):
        assessed(suite_of({"llmJudge": {"url": f"{service}v1", "model": "judge"}}), ["a"], ["b"])


@pytest.mark.parametrize(
    ("fields", "sample", "examples"),
    [
        ({}, {}, 10),
        ({"maxExamples": 4}, {}, 4),
        ({"maxExamples": 40}, {}, 10),
        ({}, {"share": "0.5"}, 5),
        ({"maxExamples": 4}, {"share": "0.5"}, 2),
        ({}, {"share": "0.5", "maxRequests": 6}, 3),
    ],
)
def test_a_sample_is_asked_and_no_more(fields: dict[str, Any], sample: dict[str, Any], examples: int) -> None:
    assert scoring.examples_of(suite_of({"exact": {}, "sample": sample}, **fields), 10) == examples


JUDGE = {"llmJudge": {"url": "http://judge/v1", "model": "m", "tokenEnv": "TOKEN"}}
PAID_JUDGE = {"llmJudge": {"url": "http://judge/v1", "model": "m"}, "sample": {"maxRequests": 800}}


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ({"scorer": {"toolCalls": {}}}, r"suites\[0\]\.scorer\.toolCalls\.tools: must be set in a job"),
        ({"scorer": {"grammar": {"document": "start: ("}}}, r"suites\[0\]\.scorer\.grammar\.document: not a Lark grammar"),
        ({"scorer": {"smt": {"prelude": "(assert x)"}}}, r"suites\[0\]\.scorer\.smt\.prelude: not SMT-LIB2"),
        ({"scorer": JUDGE}, r"suites\[0\]\.scorer\.llmJudge\.tokenEnv: there is no environment variable TOKEN"),
        ({"scorer": {"exact": {}, "sample": {"maxRequests": 1}}}, r"maxRequests: 1 pays for 0 examples at 2 requests each .*at least 2"),
        (
            {"scorer": PAID_JUDGE, "accept": {"max": "0", "minExamples": 500}},
            r"sample\.maxRequests: 800 pays for 200 examples at 4 requests each \(base and adapter\), and 500 .*; set at least 2000",
        ),
    ],
)  # fmt: skip
def test_what_cannot_score_a_holdout_is_refused_before_training(manifest_of: Any, suite: dict[str, Any], words: str) -> None:
    manifest = manifest_of([], evaluation={"suites": [{"name": "s"} | suite]})

    with pytest.raises(BadInputError, match=words):
        check_settings(manifest)


def test_in_a_cluster_a_token_is_declared_in_the_pod_template(manifest_of: Any) -> None:
    token = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "judge", "key": "token"}}}
    suites = {"suites": [{"name": "s", "scorer": JUDGE}]}
    spec = manifest_of([], evaluation=suites, podTemplate={"env": [token]}).spec

    scoring.check_scorers(spec, scoring.declared_environment(spec))
    with pytest.raises(BadInputError, match="TOKEN"):
        scoring.check_scorers(spec, {})


def test_a_shells_token_serves_a_local_run(manifest_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")

    check_settings(manifest_of([], evaluation={"suites": [{"name": "s", "scorer": JUDGE}]}))


def test_a_command_must_be_in_the_training_image(manifest_of: Any) -> None:
    def spec(program: str) -> Any:
        return manifest_of([], evaluation={"suites": [{"name": "s", "scorer": {"command": {"argv": [program]}}}]}).spec

    scoring.check_commands(spec("sh"))
    with pytest.raises(BadInputError, match=r"suites\[0\]\.scorer\.command\.argv\[0\]: 'opa' is not a program in this image"):
        scoring.check_commands(spec("opa"))
