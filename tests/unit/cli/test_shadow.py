"""`graft shadow` from the command line, on files as users have them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
import zstandard
from simulated_pairs import METRICS, simulated

from graft_api.collect import PairLine
from graft_api.schema import parse
from graft_api.shadowtest import ShadowTest
from graft_cli import main
from graft_evaluation.pairs.lines import write_line
from graft_evaluation.report.document import Report


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.yaml").write_text(METRICS)
    return tmp_path


def packed(lines: list[PairLine]) -> bytes:
    return zstandard.compress(b"".join(map(write_line, lines)))


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["graft", "shadow", *map(str, arguments)])
    code = main.main()
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("errors", "code", "outcome"),
    [
        pytest.param(0.10, 0, "Passed: compile errors fell by", id="a better candidate passes"),
        pytest.param(0.45, 1, "Failed: harm: compile errors got worse", id="a worse one fails"),
        pytest.param(0.28, 3, "Inconclusive: ", id="one that is no better is undecided"),
    ],
)
def test_the_exit_code_is_the_verdict(errors, code, outcome, folder, monkeypatch, capsys):
    (folder / "pairs.jsonl.zst").write_bytes(packed(simulated(400, errors)))
    got, out, _ = run(monkeypatch, capsys, "--pairs", folder)
    assert got == code
    assert outcome in out.splitlines()[-1]
    assert "conversations" in out


def test_broken_scorers_are_undecided(folder, monkeypatch, capsys):
    lines = simulated(400, 0.1)
    broken = [line.model_copy(update={"broken": {"production": {"score": "no answer"}}}) for line in lines[:200]] + lines[200:]
    (folder / "pairs.jsonl.zst").write_bytes(packed(broken))
    code, out, _ = run(monkeypatch, capsys, "--pairs", folder)
    assert code == 3
    assert out.splitlines()[-1].startswith("Error: the scorer of score failed")


def test_packed_plain_split_and_shuffled_files_say_the_same(folder, monkeypatch, capsys):
    lines = simulated(300, 0.1)
    whole, parts = folder / "whole.jsonl.zst", folder / "parts"
    whole.write_bytes(packed(lines))
    parts.mkdir()
    (parts / "b.jsonl").write_bytes(b"\n".join(write_line(line) for line in lines[:100]))
    (parts / "a.jsonl.zst").write_bytes(packed(lines[200:]) + packed(lines[100:200]))
    metrics = folder / "metrics.yaml"
    first, second = (run(monkeypatch, capsys, "--pairs", path, "--metrics", metrics) for path in (whole, parts))
    assert first[:2] == second[:2]


def test_a_line_that_is_there_twice_counts_once(folder, monkeypatch, capsys):
    lines = simulated(300, 0.1)
    (folder / "a.jsonl").write_bytes(b"".join(map(write_line, lines)))
    once = run(monkeypatch, capsys, "--pairs", folder)
    (folder / "b.jsonl").write_bytes(b"".join(map(write_line, lines[:7])))
    twice = run(monkeypatch, capsys, "--pairs", folder)
    assert once[:2] == twice[:2]
    assert "7 lines repeat" in twice[2]


def test_the_report_is_written_both_ways(folder, monkeypatch, capsys):
    (folder / "pairs.jsonl").write_bytes(b"".join(map(write_line, simulated(200, 0.1))))
    code, out, _ = run(monkeypatch, capsys, "--pairs", folder, "--html", folder / "r.html", "--json", folder / "r.json")
    report = Report.model_validate_json((folder / "r.json").read_text())
    assert (code, report.test) == (0, "dsl-3")
    assert report.verdict.sentence in out
    assert report.verdict.metrics[0].sentence in (folder / "r.html").read_text()


def test_segments_that_no_commit_names_are_not_read(folder, monkeypatch, capsys):
    lines = simulated(300, 0.1)
    for name, part in (("1-a", lines[:500]), ("2-a", lines[500:]), ("2-b", simulated(50, 0.9, seed=9))):
        path = folder / "pairs" / "2027-01-15" / f"0000000{name}.jsonl.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(part))
    (folder / "commits" / "00000").mkdir(parents=True)
    for number, segment in ((1, "00000001-a"), (2, "00000002-a"), (3, None), (4, "00000004-a")):
        told = None if segment is None else {"path": f"pairs/2027-01-15/{segment}.jsonl.zst"}
        (folder / "commits" / "00000" / f"0000000{number}.json").write_text(json.dumps({"segment": told}))
    (folder.parent / "alone.jsonl").write_bytes(b"".join(map(write_line, lines)))
    _, out, err = run(monkeypatch, capsys, "--pairs", folder)
    _, alone, _ = run(monkeypatch, capsys, "--pairs", folder.parent / "alone.jsonl", "--metrics", folder / "metrics.yaml")
    assert out == alone
    assert "1 files are in no commit" in err
    assert "1 committed files are gone" in err


GOOD = write_line(simulated(1, 0.1)[0]).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(GOOD + "{\n", "pairs.jsonl:2: Invalid JSON", id="no JSON"),
        pytest.param(GOOD + GOOD.replace('"firstTurn":true,', ""), "pairs.jsonl:2: firstTurn: Field required", id="a field is missing"),
        pytest.param(GOOD.replace('"at":18', '"at":-18'), "pairs.jsonl:1: at: Input should be greater", id="a time before 1970"),
        pytest.param(
            GOOD.replace('"score":[', '"score":[NaN, 1.0], "x":['), "pairs.jsonl:1: values.production.score: nan is no number", id="NaN"
        ),
        pytest.param(
            GOOD.replace('"compile-errors":[', '"compile-errors":[0.5, 1.0], "x":['),
            "pairs.jsonl:1: values.production.compile-errors: 0.5 is neither 0 nor 1",
            id="half an error",
        ),
        pytest.param(
            GOOD + GOOD.replace('"number":0', '"number":7').replace('"ended":"Complete"', '"ended":"Completed"', 1),
            "pairs.jsonl:2: production.ended: 'Completed' is none of Complete, Length, Empty, Timeout, Error",
            id="another end",
        ),
        pytest.param(GOOD.replace('"seconds":', '"seconds":-', 1), "pairs.jsonl:1: production.seconds: -", id="negative seconds"),
        pytest.param(
            GOOD.replace('"requestId":"request-0"', '"requestId":null'),
            "pairs.jsonl:1: requestId: must be a string, and is null",
            id="null",
        ),
        pytest.param("", "there are no pairs in these files", id="nothing"),
        pytest.param(
            GOOD.replace('"score":', '"scores":'), "score: no pair has it under production; it has compile-errors, scores", id="name"
        ),
    ],
)
def test_bad_lines_are_named_with_file_line_and_field(text, said, folder, monkeypatch, capsys):
    (folder / "pairs.jsonl").write_text(text)
    code, out, err = run(monkeypatch, capsys, "--pairs", folder / "pairs.jsonl")
    assert (code, out) == (2, "")
    assert said in err


def test_names_that_nobody_knows_are_told(folder, monkeypatch, capsys):
    lines = [json.loads(write_line(line)) for line in simulated(300, 0.1)]
    for line in lines[:20]:
        line["exclusions"] = {"prodction": ["other", "Both"]}
    for line in lines[:3]:
        line["values"]["contrl"] = {"latency": [1, 2]}
        line["production"]["second"] = 1
        line["newer"] = {"a": 1}
    lines[0]["values"]["production"]["scores"] = [1, 1]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, err = run(monkeypatch, capsys, "--pairs", folder)
    (folder / "pairs.jsonl").write_bytes(b"".join(map(write_line, simulated(300, 0.1))))
    assert (code, out, "") == run(monkeypatch, capsys, "--pairs", folder)
    assert sorted(err.splitlines()) == [
        "note: 1 lines have values of metrics that were not asked for: production.scores",
        "note: 20 lines are left out of contrasts nobody knows: prodction",
        "note: 3 lines have fields that no pair has, and were read without them: newer",
        "note: 3 lines have fields that no pair has, and were read without them: production.second",
        "note: 3 lines have values in contrasts nobody knows: contrl",
    ]


def test_a_hostile_file_has_no_more_names_than_can_be_read(folder, monkeypatch, capsys):
    line = json.loads(GOOD)
    texts = (json.dumps(line | {"number": number, f"f{number}\x1b[2J": 1}) for number in range(200))
    (folder / "pairs.jsonl").write_text("\n".join(texts))
    _, _, err = run(monkeypatch, capsys, "--pairs", folder)
    assert "168 lines have fields that no pair has, and were read without them: others" in err
    assert len(err.splitlines()) == 33
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(("--concurrency", "4"), "--concurrency: belongs to --requests", id="concurrency"),
        pytest.param(("--patience", "4"), "--patience: belongs to --requests", id="patience"),
        pytest.param(("--html", "no/r.html"), "--html: no/r.html: No such file or directory; make the folder no first", id="html"),
        pytest.param(("--json", "."), "--json: .: is a folder; name a file", id="json"),
    ],
)
def test_options_are_refused_before_anything_is_read(given, said, tmp_path, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "--pairs", tmp_path / "none", *given)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}")


def test_a_newer_collectors_endings_are_read(folder, monkeypatch, capsys):
    """Of a collector's settings: its own files may say what this version does not know."""
    measured = {"metric": yaml.safe_load(METRICS)["production"][0], "measure": "Refusal"}
    compare = {"test": "t", "uid": "u", "domain": "dsl", "incumbent": "a", "candidate": "b", "seed": 1, "store": "s3://b/f"}
    compare |= {"metrics": [measured], "shadow": {"address": "s:8000"}}
    (folder / "metrics.yaml").write_text(yaml.safe_dump({"compare": compare}))
    (folder / "pairs.jsonl").write_text(GOOD.replace('"ended":"Complete"', '"ended":"Cancelled"'))
    assert run(monkeypatch, capsys, "--pairs", folder)[0] == 3


@pytest.mark.parametrize("cut", [1, 10, 1000])
def test_a_packed_file_that_was_cut_off_is_refused(cut, folder, monkeypatch, capsys):
    (folder / "pairs.jsonl.zst").write_bytes(packed(simulated(100, 0.1))[:-cut])
    code, _, err = run(monkeypatch, capsys, "--pairs", folder)
    assert code == 2
    assert "damaged or cut off" in err


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        pytest.param("production: []", "metrics.yaml: production: List should have at least 1 item", id="no metrics"),
        pytest.param(METRICS.replace("Primary", "Main"), "metrics.yaml: production[0].role: Input should be", id="no such role"),
        pytest.param(METRICS.replace("name: latency", "name: score"), "every metric needs a name of its own", id="one name twice"),
        pytest.param("{", "metrics.yaml: not YAML", id="no YAML"),
        pytest.param("observe: {}", "metrics.yaml: observe.domains: Field required", id="settings of no test"),
    ],
)
def test_bad_metrics_are_named_with_their_field(metrics, said, folder, monkeypatch, capsys):
    (folder / "pairs.jsonl").write_text(GOOD)
    (folder / "metrics.yaml").write_text(metrics)
    code, _, err = run(monkeypatch, capsys, "--pairs", folder)
    assert code == 2
    assert said in err


def test_what_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pairs.jsonl").write_text(GOOD)
    (tmp_path / "metrics.yaml").write_text(METRICS)
    for arguments, said in (
        (("--pairs", tmp_path / "other"), "no such file or folder"),
        (("--pairs", tmp_path / "empty"), "no file that ends in .jsonl.zst"),
        (("--pairs", tmp_path / "pairs.jsonl", "--metrics", tmp_path / "m.yaml"), "m.yaml: No such file"),
        (("--pairs", tmp_path / "pairs.jsonl", "--json", tmp_path / "no" / "r.json"), "r.json: No such file"),
    ):
        code, _, err = run(monkeypatch, capsys, *arguments)
        assert code == 2
        assert said in err


def test_the_other_commands_do_without_numpy():
    program = "import sys, graft_cli.main; sys.exit(bool({'numpy', 'zstandard'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_what_is_not_installed_is_named(folder):
    program = "import sys, graft_cli.main as m; sys.modules['zstandard'] = None; sys.exit(m.main())"
    ended = subprocess.run([sys.executable, "-c", program, "shadow", "--pairs", folder], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: zstandard is not installed here; from a checkout: pip install '.[evaluation]'\n"


def test_the_examples_of_the_documentation_are_read(folder, monkeypatch, capsys):
    text = (Path(__file__).parents[3] / "docs" / "shadow.md").read_text()
    line = text.split("### The format of pairs")[1].split("```jsonl\n")[1].split("```")[0]
    (folder / "metrics.yaml").write_text(next(part for part in text.split("```yaml\n") if "test: dsl-3" in part).split("```")[0])
    (folder / "pairs.jsonl").write_text(line)
    code, out, err = run(monkeypatch, capsys, "--pairs", folder, "--json", folder / "r.json")
    assert code == 3
    assert "1 conversations, at least 100 are needed" in out
    assert err == ""
    comparison = Report.model_validate_json((folder / "r.json").read_text()).comparison
    assert comparison.lost_pairs == 3
    assert comparison.contrasts[0].exclusions[0].cause == "client-left"
    assert [contrast.name for contrast in (*comparison.contrasts, comparison.instrument)] == ["production", "control", "instrument"]


def test_requests_that_became_no_line_are_of_production(folder, monkeypatch, capsys):
    (folder / "metrics.yaml").write_text(METRICS + "exclusions: [{cause: warm-up, side: Both, count: 1, contrast: control}]\n")
    (folder / "pairs.jsonl.zst").write_bytes(packed(simulated(9, 0.1)))
    code, _, err = run(monkeypatch, capsys, "--pairs", folder)
    assert code == 2
    assert "exclusions: requests that became no line are of contrast production" in err


def test_the_tests_of_the_documentation_are_shadowtests():
    root = Path(__file__).parents[3]
    written = next(part for part in (root / "docs" / "shadow.md").read_text().split("```yaml\n") if "kind: ShadowTest" in part)
    scorers = []
    for text in (written.split("```")[0], (root / "examples" / "dsl" / "shadowtest.yaml").read_text()):
        found = parse(ShadowTest, yaml.safe_load(text))
        assert [measured.metric.name for measured in found.spec.metrics] == ["compile-errors", "tokens"]
        scorers.append(found.spec.metrics[0].scorer)
    job = yaml.safe_load((root / "examples" / "dsl" / "finetunejob.yaml").read_text())
    assert scorers[1].to_json() == job["spec"]["evaluation"]["suites"][0]["scorer"]
