"""`graft validate`, and what the command says of itself."""

import io
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[3] / "examples" / "dsl"
TEST = """
apiVersion: graft.dev/v1alpha1
kind: ShadowTest
metadata: {name: week, creationTimestamp: 2026-11-21T15:31:00Z}
spec:
  adapterRef: {name: dsl-1a2b3c4d}
  duration: 168h
  metrics:
  - metric: {name: errors, kind: Proportion, direction: LowerIsBetter, role: Primary, margin: 0.02}
    measure: Refusal
"""


@pytest.mark.parametrize(("name", "kind"), [("modelendpoint", "ModelEndpoint prod"), ("shadowtest", "ShadowTest dsl-rules-week")])
def test_the_examples_are_valid(name, kind, graft):
    code, out, err = graft("validate", "-f", EXAMPLES / f"{name}.yaml")
    assert (code, out) == (0, "")
    assert f"{kind} is valid" in err
    assert "not checked here" in err


def test_of_a_job_it_says_what_follows(graft):
    code, out, err = graft("validate", "-f", EXAMPLES / "finetunejob.yaml")
    assert code == 0
    assert yaml.safe_load(out)["baseModel"]["uri"].startswith("s3://")
    assert "suite " in err


def test_the_collector_of_the_example_is_what_the_endpoint_takes(tmp_path, graft):
    text = (EXAMPLES / "modelendpoint.yaml").read_text()
    (tmp_path / "e.yaml").write_text(text.replace("# collector:", "collector:"))
    assert yaml.safe_load((tmp_path / "e.yaml").read_text())["spec"]["collector"]
    assert graft("validate", "-f", tmp_path / "e.yaml")[0] == 0


def test_documents_are_checked_one_by_one(tmp_path, graft):
    job = (EXAMPLES / "finetunejob.yaml").read_text()
    (tmp_path / "all.yaml").write_text("\n---\n".join([job, TEST, "", job]))
    code, out, err = graft("validate", "-f", tmp_path / "all.yaml")
    assert code == 0
    assert len(list(yaml.safe_load_all(out))) == 2
    assert "ShadowTest week is valid" in err
    (tmp_path / "all.yaml").write_text("\n---\n".join([job, TEST.replace("168h", "soon"), TEST.replace("kind: Sha", "kind: sha")]))
    code, out, err = graft("validate", "-f", tmp_path / "all.yaml")
    assert (code, out) == (1, "")
    problems = err.splitlines()
    assert [problem.split(": ")[:3] for problem in problems] == [
        ["error", "document 2", "spec.duration"],
        ["error", "document 3", "kind"],
    ]


def test_standard_input_is_read(graft, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(TEST))
    assert graft("validate", "-f", "-")[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("{"))
    assert "standard input: not YAML" in graft("validate", "-f", "-")[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(TEST.replace("name: week", "labels: {}"), "metadata.name: Field required", id="no name"),
        pytest.param(TEST.replace("name: week", "name: Week"), "metadata.name: must be a string of at most 253 lower-case", id="capitals"),
        pytest.param(TEST.replace("name: week", "name: 7"), "metadata.name: must be a string", id="a number"),
        pytest.param(TEST.replace("duration:", "durations:"), "spec.durations: Extra inputs", id="a typing error"),
        pytest.param(TEST.replace("name: dsl-1a2b3c4d", "name: null"), "spec.adapterRef.name: must be a string, and is null", id="null"),
        pytest.param(
            TEST.replace("name: dsl-1a2b3c4d", "name: 5"), 'name: must be a string; put a number in quotes, such as "', id="number"
        ),
        pytest.param(TEST.replace("ShadowTest", "Pod"), "ShadowTest, AdapterApproval, TuningPolicy, and is Pod", id="kind"),
        pytest.param("kind: FineTuneJob\nmetadata: {name: 7}", "metadata.name: must be a string", id="a job's name"),
        pytest.param("- 1", "kind: must be one of FineTuneJob", id="a list"),
        pytest.param("---\n", "there is nothing in it", id="nothing"),
        pytest.param(TEST + TEST, "apiVersion is there twice; is there a --- missing", id="twice"),
        pytest.param("a: &a [*a]", "not YAML", id="itself"),
    ],
)
def test_what_is_wrong_is_named(text, said, tmp_path, graft):
    (tmp_path / "t.yaml").write_text(text)
    code, out, err = graft("validate", "-f", tmp_path / "t.yaml")
    assert (code, out) == (1, "")
    assert said in err


def test_bytes_that_are_no_text_are_named(tmp_path, graft):
    (tmp_path / "t.yaml").write_bytes(b"\xff\xfe\x00")
    assert graft("validate", "-f", tmp_path / "t.yaml")[0] == 1
    assert "No such file" in graft("validate", "-f", tmp_path / "other.yaml")[2]


def test_the_command_says_what_it_is(graft, capsys):
    for arguments, words in (
        (("--version",), f"graft {version('graft')}"),
        (("--help",), "judge recorded pairs, or replay a log against two"),
        (("run", "--help"), "a FineTuneJob; its URIs are"),
        (("validate", "--help"), "standard input"),
    ):
        with pytest.raises(SystemExit) as ended:
            graft(*arguments)
        assert ended.value.code == 0
        assert words in " ".join(capsys.readouterr().out.split())
