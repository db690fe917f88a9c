"""`graft shadow --requests` against two HTTP servers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from replay_world import METRICS, Model, chat, log

from graft_evaluation.pairs.recorded import files, lines


@pytest.fixture
def servers(in_thread):
    return in_thread(Model("old", wrong=0.4)), in_thread(Model("new", wrong=0.1))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.yaml").write_text(METRICS)
    return tmp_path


def arguments(folder, servers, *more):
    named = {"--requests": folder / "log.jsonl", "--metrics": folder / "metrics.yaml", "--out": folder / "pairs.jsonl.zst"}
    named |= {"--incumbent": servers[0].url, "--candidate": f"{servers[1].url}/v1#new"}
    return ["shadow", *(str(part) for pair in named.items() for part in pair), *map(str, more)]


def pairs(folder):
    return [line for _, line in lines(files(folder / "pairs.jsonl.zst"))]


def test_a_log_is_asked_of_both_and_judged(folder, servers, graft, monkeypatch):
    log(folder / "log.jsonl", [chat(number) for number in range(200)])
    monkeypatch.setenv("CANDIDATE_API_KEY", "k-1")
    code, out, err = graft(*arguments(folder, servers, "--html", folder / "r.html"))
    assert code == 0, out
    assert out.splitlines()[-1].startswith("Passed: compile errors fell by 30.0 points")
    assert "200 of 200 requests" in err
    assert "dsl-replay" in (folder / "r.html").read_text()
    assert (servers[0].keys, servers[1].keys) == ([None], ["Bearer k-1"])
    asked = [body for _, body in servers[1].asked]
    assert sorted(body["messages"][0]["content"] for body in asked) == sorted(f"rule {number}" for number in range(200))
    assert all(body == chat(0, model="new", messages=body["messages"]) for body in asked)
    found = pairs(folder)
    again = [line for line in found if line.incumbent is not None]
    assert 60 < len(again) < 140
    assert len(servers[0].asked) == 200 + len(again)
    assert 60 < sum(bool(line.candidate_first) for line in found) < 140
    assert sum(line.exclusions.get("control") == ("warm-up", "Both") for line in found) == 3
    assert {line.production.told.text.partition(" ")[0] for line in found} == {"allow", "deny"}
    assert os.stat(folder / "pairs.jsonl.zst").st_mode & 0o777 == 0o600  # noqa: PTH116


def test_the_pairs_are_judged_the_same_without_the_servers(folder, servers, graft):
    log(folder / "log.jsonl", [chat(number) for number in range(120)])
    first = graft(*arguments(folder, servers))
    pairs_file = folder / "pairs.jsonl.zst"
    assert graft("shadow", "--pairs", pairs_file)[:2] == first[:2]
    (folder / "metrics.yaml").rename(folder / "other.yaml")
    assert graft("shadow", "--pairs", pairs_file, "--metrics", folder / "other.yaml")[:2] == first[:2]


def test_started_again_it_asks_only_what_is_missing(folder, servers, graft):
    whole = [chat(number) for number in range(150)]
    log(folder / "log.jsonl", whole[:60])
    graft(*arguments(folder, servers))
    packed = (folder / "pairs.jsonl.zst").read_bytes()
    before = len(servers[1].asked)
    # As a process that was killed while it wrote leaves it.
    (folder / "pairs.jsonl.zst").write_bytes(packed + packed[:40])
    log(folder / "log.jsonl", whole)
    code, _, err = graft(*arguments(folder, servers))
    assert code == 0
    assert len(servers[1].asked) - before == 90
    assert sorted(line.number for line in pairs(folder)) == list(range(1, 151))
    assert "150 of 150 requests" in err
    assert "repeat" not in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda f: log(f / "log.jsonl", [chat(9), chat(1)]), "another log: line 1 of", id="another log"),
        pytest.param(
            lambda f: (f / "metrics.yaml").write_text(METRICS.replace("seed: 7", "seed: 8")), "metrics, controlShare or seed", id="seed"
        ),
        pytest.param(lambda f: (f / "pairs.jsonl.zst").write_text("{}\n"), "is no file of pairs, or damaged", id="no pairs"),
    ],
)
def test_two_replays_are_never_mixed(change, said, folder, servers, graft):
    log(folder / "log.jsonl", [chat(0), chat(1)])
    graft(*arguments(folder, servers))
    change(folder)
    asked = len(servers[1].asked)
    code, out, err = graft(*arguments(folder, servers))
    assert (code, out) == (2, "")
    assert said in err
    assert "name another" in err
    assert len(servers[1].asked) == asked


def test_what_a_candidate_does_badly_is_its_outcome(folder, servers, graft):
    log(folder / "log.jsonl", [chat(number) for number in range(4)])
    servers[1].answers = {"rule 0": "hang", "rule 1": "cut", "rule 2": 500}
    code, _, err = graft(*arguments(folder, servers))
    assert code == 3  # too few conversations
    ended = {line.number: line.candidate.ended for line in pairs(folder)}
    assert ended == {1: "Timeout", 2: "Error", 3: "Error", 4: "Complete"}
    values = {line.number: line.values["production"]["compile-errors"] for line in pairs(folder)}
    assert [values[number][1] for number in (1, 2, 3, 4)] == [None, None, None, 1.0]
    assert "2 Error of the candidate, 1 Timeout of the candidate" in err


def test_the_incumbents_second_answer_has_no_part_in_times(folder, in_thread, graft):
    """It finds its prompt in the server's cache."""
    both = in_thread(Model("both"))
    both.models = ["old", "new"]
    log(folder / "log.jsonl", [chat(number) for number in range(30)])
    (folder / "metrics.yaml").write_text(METRICS.replace('controlShare: "0.5"', 'controlShare: "1"'))
    given = arguments(folder, (both, both), "--concurrency", "1")
    given[given.index("--incumbent") + 1] = f"{both.url}#old"
    graft(*given)
    asked = [body["model"] for _, body in both.asked]
    orders = {tuple(asked[at : at + 3]) for at in range(0, 90, 3)}
    assert orders == {("old", "new", "old"), ("new", "old", "old")}


def test_what_the_incumbent_refuses_is_no_pair(folder, servers, graft):
    log(folder / "log.jsonl", [chat(0), chat(1)])
    servers[0].answers = {"rule 0": 400}
    graft(*arguments(folder, servers))
    left_out = {line.number: line.exclusions for line in pairs(folder)}
    assert left_out[1] == {"production": ("request-refused", "Both"), "control": ("request-refused", "Both")}
    assert "production" not in left_out[2]


def test_streams_completions_tools_and_recorded_answers(folder, servers, graft):
    recorded = {"choices": [{"index": 0, "message": {"content": "deny if 1"}, "finish_reason": "stop"}]}
    requests = [
        chat(50, stream=True),
        {"prompt": "rule 51", "max_tokens": 8},
        {"body": chat(52), "response": recorded, "conversation": "c", "at": 1_800_000_000, "seconds": 0.7},
        {"body": chat(53), "response": 'data: {"error": {"message": "died"}}\n\n'},
        chat(54, tools=[{"type": "web_search"}]),
        chat(55, n=2),
    ]
    log(folder / "log.jsonl", requests)
    json_file = folder / "r.json"
    _, out, _ = graft(*arguments(folder, servers, "--json", json_file))
    found = {line.number: line for line in pairs(folder)}
    assert found.keys() == {1, 2, 3}
    assert found[1].candidate.first_byte_seconds is not None
    assert (found[1].candidate.told.text, found[1].candidate.tokens) == ("allow if user.id == 50", 5)
    assert found[2].candidate.told.text == "allow if user.id == 51"
    assert (found[3].production.told.text, found[3].production.seconds, found[3].at) == ("deny if 1", 0.7, 1_800_000_000)
    paths = sorted(path for path, _ in servers[1].asked)
    assert paths == ["/v1/chat/completions", "/v1/chat/completions", "/v1/completions"]
    streamed = next(body for _, body in servers[1].asked if body.get("stream"))
    assert streamed["stream_options"] == {"include_usage": True}
    left_out = json.loads(json_file.read_text())["comparison"]["contrasts"][0]["exclusions"]
    assert "left out of production: 1 by production-failed (Incumbent), 1 by server-tools (Both), 1 by several-answers (Both)" in out
    assert {(one["cause"], one["side"]): one["count"] for one in left_out} == {
        ("production-failed", "Incumbent"): 1,
        ("server-tools", "Both"): 1,
        ("several-answers", "Both"): 1,
    }


def test_what_no_utf8_holds_is_asked_and_written_down(folder, servers, graft):
    log(folder / "log.jsonl", [{"messages": [{"role": "user", "content": "half \ud800"}], "tools": [{"function": {"name": "\ud800"}}]}])
    servers[0].said = servers[1].said = "allow \udc00"
    graft(*arguments(folder, servers))
    (found,) = pairs(folder)
    assert servers[1].asked[0][1]["messages"][0]["content"] == "half \ud800"
    assert (found.candidate.told.text, found.candidate.ended) == ("allow ?", "Complete")


def test_the_budget_of_a_scorer_is_of_all_starts_together(folder, servers, graft):
    whole = [chat(number) for number in range(20)]
    (folder / "metrics.yaml").write_text(
        METRICS.replace('scorer: {regex: {pattern: "allow .*"}}', 'scorer: {regex: {pattern: "allow .*"}, sample: {maxRequests: 15}}')
    )
    for length in (4, 20):
        log(folder / "log.jsonl", whole[:length])
        graft(*arguments(folder, servers, "--concurrency", "1"))
    found = pairs(folder)
    spent = sum(2 + (line.incumbent is not None) for line in found if "compile-errors" in line.values["production"])
    assert len(found) == 20
    assert 13 <= spent <= 15


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param("{", "log.jsonl:2: is not valid JSON; every line is a request's body", id="no JSON"),
        pytest.param("[]", "log.jsonl:2: is no JSON object", id="a list"),
        pytest.param('{"model": "m"}', "log.jsonl:2: body: Field required", id="no question"),
        pytest.param('{"messages": []}', "log.jsonl:2: messages: must be a list of objects", id="no messages"),
        pytest.param('{"body": {"prompt": 7}}', "log.jsonl:2: body.prompt: must be a text", id="a number"),
        pytest.param('{"prompt": "a", "stream": "yes"}', "log.jsonl:2: stream: must be true or false", id="stream"),
        pytest.param('{"prompt": "a", "tools": [1]}', "log.jsonl:2: tools: must be objects", id="tools"),
        pytest.param('{"body": {"prompt": "a"}, "respones": "b"}', "log.jsonl:2: respones: Extra inputs", id="a typing error"),
        pytest.param('{"body": {"prompt": "a"}, "at": "noon"}', "log.jsonl:2: at: Input should be", id="no time"),
    ],
)
def test_bad_lines_are_named_before_anything_is_asked(line, said, folder, servers, graft):
    (folder / "log.jsonl").write_text(json.dumps(chat(0)) + f"\n{line}\n")
    code, out, err = graft(*arguments(folder, servers))
    assert (code, out) == (2, "")
    assert said in err
    assert not servers[0].asked
    assert not (folder / "pairs.jsonl.zst").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"--incumbent": "localhost:80"}, "--incumbent: localhost:80: must be http://host:port", id="no URL"),
        pytest.param({"--candidate": "{new}#old"}, "/v1 has no model old; it has new", id="another model"),
        pytest.param({"--out": "pairs.jsonl"}, "let its name end in .jsonl.zst", id="not packed"),
        pytest.param({"--out": "/no/pairs.zst"}, "--out: /no/pairs.zst: No such file", id="no folder"),
        pytest.param({"--requests": "/no/log"}, "/no/log: No such file", id="no log"),
        pytest.param({"--candidate": None}, "--candidate: name URL[#model] of what is tested", id="no candidate"),
    ],
)
def test_bad_options_are_named(change, said, folder, servers, graft):
    log(folder / "log.jsonl", [chat(0)])
    given = arguments(folder, servers)
    for name, value in change.items():
        at = given.index(name)
        given[at : at + 2] = [] if value is None else [name, value.replace("{new}", servers[1].url)]
    code, _, err = graft(*given)
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("status", "said"), [(401, "refuses the key (401)"), (404, "has no such model or path (404)"), (307, "answers with a redirect (307)")]
)
def test_what_no_repeat_mends_ends_it_at_once(status, said, folder, servers, graft):
    log(folder / "log.jsonl", [chat(number) for number in range(50)])
    servers[1].answers = {"rule 20": status}
    code, _, err = graft(*arguments(folder, servers, "--concurrency", "1"))
    assert code == 2
    assert f"--candidate: {servers[1].url}/v1 {said}" in err
    assert len(pairs(folder)) == 20


def test_a_server_that_goes_away_ends_it_and_loses_nothing(folder, servers, in_thread, graft):
    log(folder / "log.jsonl", [chat(number) for number in range(30)])
    gone = Model("gone")
    gone.server_close()
    code, _, err = graft(*arguments(folder, (gone, servers[1]), "--patience", "1"))
    assert code == 3
    assert f"stopped: the incumbent at {gone.url}/v1 cannot be asked (ClientConnectorError)" in err
    assert "the same command goes on" in err


def test_metrics_without_scorers_are_no_replays(folder, servers, graft):
    log(folder / "log.jsonl", [chat(0)])
    (folder / "metrics.yaml").write_text("production: [{name: a, kind: Proportion, direction: LowerIsBetter, role: Primary}]")
    code, _, err = graft(*arguments(folder, servers))
    assert code == 2
    assert "metrics.yaml: metrics: Field required; a replay scores answers itself" in err


def test_a_scorer_that_cannot_judge_is_named(folder, servers, graft):
    log(folder / "log.jsonl", [chat(0)])
    (folder / "metrics.yaml").write_text(METRICS.replace('"allow .*"', '"("'))
    code, _, err = graft(*arguments(folder, servers))
    assert code == 2
    assert "metric compile-errors: scorer: regex.pattern" in err


def test_the_examples_of_the_documentation_are_asked(folder, servers, graft):
    text = (Path(__file__).parents[3] / "docs" / "shadow.md").read_text()
    (folder / "log.jsonl").write_text(text.split("```jsonl\n")[1].split("```")[0])
    (folder / "metrics.yaml").write_text(next(part for part in text.split("```yaml\n") if "test: dsl-replay" in part).split("```")[0])
    servers[0].said = servers[1].said = "user.age > 17"
    code, out, err = graft(*arguments(folder, servers))
    assert code == 3
    assert "2 conversations, at least 100 are needed" in out
    assert "2 of 2 requests" in err
    values = {line.number: line.values["production"]["compile-errors"] for line in pairs(folder)}
    assert values == {1: (0.0, 0.0), 2: (0.0, 0.0)}
    assert pairs(folder)[1].production.seconds == 0.8 or pairs(folder)[0].production.seconds == 0.8


def test_a_shadowtest_says_what_is_measured(folder, servers, graft):
    example = Path(__file__).parents[3] / "examples" / "dsl" / "shadowtest.yaml"
    log(folder / "log.jsonl", [chat(number) for number in range(3)])
    servers[0].said, servers[1].said = "len(user.groups) > 1", "size(user.groups) > 1"
    given = arguments(folder, servers)
    given[given.index("--metrics") + 1] = str(example)
    code, _, err = graft(*given)
    assert code == 3
    assert err.count("standard guardrails are measured in a cluster alone") == 1
    assert err.index("standard guardrails") < err.index("requests, ")
    assert all(line.values["production"] == {"compile-errors": (1.0, 0.0), "tokens": (5.0, 5.0)} for line in pairs(folder))
    assert all(line.production.told is None for line in pairs(folder))


@pytest.mark.parametrize(
    ("conversations", "said"),
    [
        (60, ' times, limits.minClusters is 40: this cannot pass; use controlShare: "0.9" or more'),
        (30, "warning: the log has 30 conversations, limits.minClusters is 40: this cannot pass; use a longer log"),
        (200, None),
    ],
)
def test_a_log_that_cannot_pass_is_told_before_anything_is_asked(conversations, said, folder, servers, graft):
    log(folder / "log.jsonl", [chat(number % conversations) for number in range(200)])
    code, _, err = graft(*arguments(folder, servers))
    if said is None:
        assert (code, "warning: " in err) == (0, False)
    else:
        assert code == 3
        assert said in err.splitlines()[0]


def test_the_share_that_is_advised_is_enough(folder, servers, graft):
    log(folder / "log.jsonl", [chat(number) for number in range(90)])
    (folder / "metrics.yaml").write_text(METRICS.replace('"0.5"', '"0.2"'))
    *_, err = graft(*arguments(folder, servers))
    share = err.splitlines()[0].split('controlShare: "')[1].split('"')[0]
    (folder / "metrics.yaml").write_text(METRICS.replace('"0.5"', f'"{share}"'))
    (folder / "pairs.jsonl.zst").unlink()
    code, _, err = graft(*arguments(folder, servers))
    assert code == 0
    assert "warning: " not in err


def test_a_replay_forecasts_nothing(folder, servers, graft):
    """How long it took is its own doing, and says nothing of traffic."""
    log(folder / "log.jsonl", [{"body": chat(number), "at": 1_800_000_000 + 600 * number} for number in range(200)])
    graft(*arguments(folder, servers, "--html", folder / "r.html", "--json", folder / "r.json"))
    assert "hoursToDetect" not in (folder / "r.json").read_text()
    assert "power after" not in (folder / "r.html").read_text()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_started_again_it_is_one_replay(ended_by, folder, servers, graft):
    log(folder / "log.jsonl", [chat(number) for number in range(120)])
    (folder / "metrics.yaml").write_text(METRICS.replace("timeoutSeconds: 1", "timeoutSeconds: 60"))
    servers[1].let_through.clear()
    given = arguments(folder, servers, "--concurrency", "2")
    # A shell without jobs has what it starts in the background ignore SIGINT; a terminal has not.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "graft_cli.main", *given]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    path, deadline = folder / "pairs.jsonl.zst", time.monotonic() + 15
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(ended_by)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (3 if ended_by is signal.SIGINT else -9)
    assert ("the same command goes on" in err) == (ended_by is signal.SIGINT)
    there = len(pairs(folder))
    assert 0 < there <= 60
    asked = len(servers[1].asked)
    servers[1].let_through.set()
    code, _, _ = graft(*given)
    assert code == 0
    assert sorted(line.number for line in pairs(folder)) == list(range(1, 121))
    assert len(servers[1].asked) == asked + 120 - there  # those that were under way are asked again
