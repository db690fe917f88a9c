"""`graft report` with a kubectl, a browser and a store that are real processes and servers, and say what the test wants."""

import hashlib
import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from simulated_pairs import METRICS, simulated

from graft_api.comparison import Clock, Exclusion
from graft_api.shadowtest import VerdictStatus
from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import Place
from graft_evaluation.pairs.recording import recording
from graft_evaluation.verdict import verdict

PAGE = b"<!doctype html>\n<title>dsl-3: Passed</title>"
DIGEST = f"sha256:{hashlib.sha256(PAGE).hexdigest()}"
AT = "2026-11-21T10:00:00Z"


class Store(ThreadingHTTPServer):
    """Answers as S3 does."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = (200, PAGE)
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers["authorization"]))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/xml")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def store(in_thread):
    return in_thread(Store())


@pytest.fixture
def world(tmp_path, monkeypatch, store):
    """A folder: what kubectl says is `said.json`, what it was asked `asked`, what the browser was given `shown`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    told = f'if [ "$2" = configmaps ]; then cat {tmp_path}/kept.json; else cat {tmp_path}/said.json; fi'
    program(programs / "kubectl", f'echo "$@" >>{tmp_path}/asked; {told}')
    program(programs / "see", f'echo "$1" >{tmp_path}/shown.part; mv {tmp_path}/shown.part {tmp_path}/shown')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("BROWSER", "see")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    signed_in = {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "secret", "ENDPOINT_URL": f"http://127.0.0.1:{store.server_port}"}
    for name, value in signed_in.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return tmp_path


def judged(folder, errors=0.1) -> VerdictStatus:
    (folder / "metrics.yaml").write_text(METRICS)
    lines = ((Place(folder, number), line) for number, line in enumerate(simulated(400, errors)))
    read = recording(question(folder, None), lines)
    found = verdict(read.comparison(), read.question.limits, Clock(elapsed=168, duration=168, max_duration=336))
    told = {name: getattr(found, name) for name in ("sentence", "reasons", "metrics", "exclusions")}
    return VerdictStatus(outcome=found.outcome.value, **told, read_at=AT, observed_hours=168.2, commit=7, evidence_digest=DIGEST)


def ended(folder, errors=0.1, **changes) -> None:
    found = judged(folder, errors)
    report = {"html": "s3://bucket/t/report.html", "json": "s3://bucket/t/report.json", "htmlDigest": DIGEST, "jsonDigest": DIGEST}
    says(folder, {"phase": found.outcome, "verdict": found.to_json(), "report": report} | changes)


def says(folder, status) -> None:
    told = {"metadata": {"name": "dsl-3", "namespace": "ml"}, "spec": {"duration": "168h"}, "status": status}
    (folder / "said.json").write_text(json.dumps(told))


def shown(world) -> str:
    deadline = time.monotonic() + 10
    while not (world / "shown").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return (world / "shown").read_text().strip()


@pytest.mark.parametrize(
    ("errors", "code", "last"),
    [
        pytest.param(0.10, 0, "Passed: compile errors fell by", id="passed"),
        pytest.param(0.45, 1, "Failed: harm: compile errors got worse", id="failed"),
        pytest.param(0.28, 3, "Inconclusive: ", id="inconclusive"),
    ],
)
def test_the_verdict_is_printed_and_the_report_opened(errors, code, last, world, store, graft):
    ended(world, errors)
    got, out, err = graft("report", "dsl-3", "-n", "ml")
    assert got == code
    assert out.splitlines()[-1].startswith(last)
    assert "compile-errors  production  Primary" in out
    assert "after 7 days of observed time" in err
    assert (world / "asked").read_text() == "get shadowtests.graft.dev --namespace ml -o json -- dsl-3\n"
    path = Path(shown(world).removeprefix("file://"))
    assert path.read_bytes() == PAGE
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    ((asked, authorization),) = store.asked
    assert asked == "/bucket/t/report.html"
    assert "Credential=me/" in authorization


@pytest.mark.parametrize(
    ("contrast", "line"),
    [("control", "left out of control: 3 by warm-up (Both)"), (None, "left out: 3 by warm-up (Both)")],
    ids=["of a contrast", "as an older operator told it"],
)
def test_what_was_left_out_is_printed(contrast, line, world, graft):
    found = judged(world)
    found = found.model_copy(update={"exclusions": [Exclusion(cause="warm-up", side="Both", count=3, contrast=contrast)]})
    says(world, {"phase": found.outcome, "verdict": found.to_json()})
    _, out, _ = graft("report", "dsl-3", "--no-open")
    assert out.splitlines()[-3:-1] == [line, ""]


def test_the_report_is_written_where_it_is_wanted_and_not_opened(world, graft):
    ended(world)
    code, _, err = graft("report", "dsl-3", "--context", "prod", "--out", world / "r.html", "--no-open")
    assert (code, (world / "r.html").read_bytes()) == (0, PAGE)
    assert err.splitlines()[-1] == str(world / "r.html")
    assert "--context prod" in (world / "asked").read_text()
    assert not (world / "shown").exists()


def test_the_verdict_alone_needs_no_store(world, store, graft, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    ended(world)
    assert graft("report", "dsl-3", "--no-open")[0] == 0
    assert store.asked == []


RUNNING = {
    "phase": "Running",
    "elapsed": "12.3h",
    "pairs": 812,
    "conversations": 401,
    "hoursToDetect": 41.2,
    "shadow": "1 of 1 pods has both versions",
    "lost": {"overload": 7},
    "conditions": [
        {"type": "Measuring", "status": "True", "lastTransitionTime": AT, "reason": "PairsCome", "message": "a\x1b[31m pair a second"}
    ],
}


def test_a_test_that_is_not_over_says_how_far_it_is_and_no_metric(world, graft):
    says(world, RUNNING)
    code, out, _ = graft("report", "dsl-3")
    assert code == 3
    assert out.splitlines() == [
        "dsl-3: Running",
        "observed 12.3h of 168h, 812 pairs, 401 conversations",
        "forecast: every effect in question is found with 80 % power after 41.2 hours",
        "shadow server: 1 of 1 pods has both versions",
        "not compared: 7 by overload",
        "Measuring is True, PairsCome: a\N{REPLACEMENT CHARACTER}[31m pair a second",
    ]


@pytest.mark.parametrize(
    ("attempt", "line"),
    [(1, "the first test of this digest, deleted ones included"), (3, "test 3 of this digest, deleted ones included"), (None, None)],
)
def test_how_often_the_artifact_was_tested_is_said(attempt, line, world, graft):
    ended(world)
    found = json.loads((world / "said.json").read_text())["status"]
    numbered = {"attempt": attempt} if attempt else {}
    says(world, found | {"verdict": found["verdict"] | numbered})
    _, _, err = graft("report", "dsl-3", "--no-open")
    assert [told for told in err.splitlines() if "this digest" in told] == ([line] if line else [])
    says(world, RUNNING | numbered)
    assert [told for told in graft("report", "dsl-3")[1].splitlines() if "this digest" in told] == ([line] if line else [])


EVIDENCE = '{"comparison":{},"outcome":"Passed"}'


@pytest.mark.parametrize(
    ("kept", "code", "words"),
    [
        pytest.param(
            {"evidence.json": EVIDENCE}, 0, "dsl-3-evidence-12345678 is what the verdict was read from (sha256:", id="it is there"
        ),
        pytest.param({"evidence.json": EVIDENCE + " "}, 2, "do not approve by this verdict", id="it is another"),
        pytest.param({}, 0, "not checked, ConfigMap dsl-3-evidence-12345678 has no evidence.json", id="it is empty"),
        pytest.param(None, 0, "not checked, ConfigMap dsl-3-evidence-12345678 could not be read: kubectl: ", id="it is gone"),
    ],
)
def test_what_the_verdict_was_read_from_is_checked(kept, code, words, world, graft):
    ended(world)
    told = json.loads((world / "said.json").read_text())
    told["metadata"]["uid"] = "12345678-uid"
    told["status"]["verdict"]["evidenceDigest"] = f"sha256:{hashlib.sha256(EVIDENCE.encode()).hexdigest()}"
    (world / "said.json").write_text(json.dumps(told))
    if kept is not None:
        (world / "kept.json").write_text(json.dumps({"data": kept}))
    got, _, err = graft("report", "dsl-3", "-n", "ml", "--no-open")
    assert (got, words in err) == (code, True)
    assert "get configmaps --namespace ml -o json -- dsl-3-evidence-12345678" in (world / "asked").read_text()


def test_what_a_newer_operator_says_is_passed_over_and_nothing_at_all_is_said(world, graft):
    says(world, {"observedGeneration": -1, "newerField": {"a": 1}})
    code, out, _ = graft("report", "dsl-3")
    assert (code, out) == (3, "dsl-3: not seen by the operator yet\n")


def test_a_report_that_is_not_written_yet_is_waited_for_by_the_user(world, graft):
    problem = {"type": "Reported", "status": "False", "lastTransitionTime": AT, "reason": "NotWritten", "message": "the store is away"}
    ended(world, report=None, conditions=[problem])
    code, out, err = graft("report", "dsl-3")
    assert code == 3
    assert out.splitlines()[-1].startswith("Passed: ")
    assert "the report is not written yet\nReported is False, NotWritten: the store is away" in err


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        pytest.param((200, PAGE + b"<script>"), "is not what the collector wrote", id="somebody changed it"),
        pytest.param((404, b"<Error><Code>NoSuchKey</Code></Error>"), "is not there any more", id="it is gone"),
        pytest.param(
            (403, b"<Error><Code>AccessDenied</Code></Error>"),
            "the store answered AccessDenied; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of somebody who may read it",
            id="the user may not",
        ),
    ],
)
def test_a_report_that_cannot_be_had_is_not_opened(answer, wrong, world, store, graft):
    ended(world)
    store.answer = answer
    code, out, err = graft("report", "dsl-3", "--out", world / "r.html")
    assert code == 2
    assert out.splitlines()[-1].startswith("Passed: ")
    assert f"error: s3://bucket/t{'/report.html: ' if answer[0] != 403 else ': '}{wrong}" in err
    assert not (world / "r.html").exists()
    assert not (world / "shown").exists()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        pytest.param(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), "nothing here says who asks; set AWS_ACCESS_KEY_ID", id="neither"),
        pytest.param(("SECRET_ACCESS_KEY",), "not set: AWS_SECRET_ACCESS_KEY; add it; set", id="one of two"),
    ],
)
def test_who_is_not_signed_in_is_told_what_to_set(missing, said, world, store, graft, monkeypatch):
    ended(world)
    for name in missing:
        monkeypatch.delenv(f"AWS_{name}")
    code, _, err = graft("report", "dsl-3")
    assert code == 2
    assert said in err
    assert store.asked == []


def test_what_kubectl_cannot_do_is_said_in_its_words(world, graft):
    program(world / "bin" / "kubectl", """echo 'Error from server (NotFound): shadowtests "x" not found' >&2; exit 1""")
    code, out, err = graft("report", "x")
    assert (code, out) == (2, "")
    assert err == 'error: kubectl: Error from server (NotFound): shadowtests "x" not found\n'
    log = 'E1121 15:31:00.123456 7 memcache.go:265] "Unhandled Error" err="dial tcp [::1]:8080: connection refused"'
    program(world / "bin" / "kubectl", f"printf '%s\\n' '{log}' '{log}' 'The connection to the server was refused' >&2; exit 1")
    assert graft("report", "x") == (2, "", "error: kubectl: The connection to the server was refused\n")
    program(world / "bin" / "kubectl", f"echo '{log}' >&2; exit 1")
    assert "connection refused" in graft("report", "x")[2]
    program(world / "bin" / "kubectl", "echo deprecated")
    assert "its answer is no ShadowTest" in graft("report", "x")[2]


def test_without_kubectl_nothing_is_guessed(world, graft, monkeypatch):
    monkeypatch.setenv("PATH", str(world))
    code, _, err = graft("report", "x")
    assert code == 2
    assert "kubectl is not installed here" in err


def test_the_command_does_without_numpy_and_says_what_else_is_missing(world):
    ended(world)
    code = "import sys, graft_cli.main as m; sys.modules.update(numpy=None, minio=None); sys.exit(m.main())"
    done = subprocess.run([sys.executable, "-c", code, "report", "dsl-3"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "minio is not installed here; from a checkout: pip install '.[cli]'" in done.stderr


DRIFTED = {
    "at": AT,
    "gate": 7,
    "adapterUid": "uid",
    "moment": "Before",
    "incumbent": "dsl-old",
    "candidate": "dsl-new",
    "limit": "0.3",
    "embeddingModel": "minilm",
    "principlesDigest": DIGEST,
    "document": DIGEST,
    "readings": [{"principle": "refunds", "contrast": "Versions", "prompts": 5, "mean": 0.2, "low": 0.1, "high": 0.25}],
}
FAR = {"principle": "tone", "contrast": "Versions", "prompts": 5, "mean": 0.5, "low": 0.4, "high": 0.6}


def history(*moments) -> bytes:
    return json.dumps({"endpoint": "prod", "domain": "dsl", "moments": list(moments)}).encode()


def serves(folder, **changes) -> None:
    endpoint = {
        "metadata": {"name": "prod"},
        "spec": {
            "baseModel": {"uri": "s3://models/base"},
            "gateway": {"anonymous": True},
            "domains": [{"name": "dsl"}],
            "collector": {"store": "s3://bucket/t"},
            **changes,
        },
    }
    (folder / "said.json").write_text(json.dumps(endpoint | {"items": [endpoint]}))


@pytest.mark.parametrize(
    ("moments", "code", "said"),
    [
        pytest.param(
            [DRIFTED],
            0,
            "refunds: the candidate's answers are 0.200 [0.100, 0.250] from the incumbent's in cosine distance, within the 0.3 allowed\n"
            "within the limit\n",
            id="near",
        ),
        pytest.param(
            [DRIFTED, DRIFTED | {"readings": [*DRIFTED["readings"], FAR], "newerField": 1}],
            1,
            "tone: the candidate's answers are 0.500 [0.400, 0.600] from the incumbent's in cosine distance, more than the 0.3 allowed\n"
            "not shown to be within the limit\n",
            id="far",
        ),
    ],
)
def test_the_drift_of_a_domain_is_said_and_drawn(moments, code, said, world, store, graft):
    serves(world)
    store.answer = (200, history(*moments))
    got, out, err = graft("report", "--drift", "dsl", "-n", "ml")
    assert (got, out) == (code, said)
    assert "gate 7, dsl-new before activation, 2026-11-21T10:00:00Z, embeddings of minilm" in err
    assert [path for path, _ in store.asked] == ["/bucket/t/drift/dsl/history.json"]
    page = Path(shown(world).removeprefix("file://"))
    assert page.name == "dsl-drift.html"
    assert "Drift of dsl on prod" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600


def test_the_drift_of_a_domain_is_said_alone_where_that_is_wanted(world, store, graft):
    serves(world)
    store.answer = (200, history(DRIFTED))
    assert graft("report", "--drift", "dsl", "--endpoint", "prod", "--no-open")[0] == 0
    assert not (world / "shown").exists()
    assert graft("report", "--drift", "dsl", "--no-open", "--out", world / "d.html")[0] == 0
    assert "within the limit" in (world / "d.html").read_text()


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        pytest.param((404, b"<Error><Code>NoSuchKey</Code></Error>"), 3, "no drift of domain dsl was checked yet", id="nothing yet"),
        pytest.param((200, b"<script>"), 2, "history.json: is not what a check of drift wrote", id="no JSON"),
        pytest.param((200, history({})), 2, "history.json: is not what a check of drift wrote", id="no history"),
        pytest.param((200, history(DRIFTED | {"limit": "<b>"})), 2, "history.json: is not what a check of drift wrote", id="no limit"),
        pytest.param((200, history(DRIFTED | {"at": "never"})), 2, "history.json: is not what a check of drift wrote", id="no time"),
        pytest.param((403, b"<Error><Code>AccessDenied</Code></Error>"), 2, "the store answered AccessDenied", id="the user may not"),
    ],
)
def test_a_history_of_drift_that_cannot_be_had_is_not_drawn(answer, code, told, world, store, graft):
    serves(world)
    store.answer = answer
    got, out, err = graft("report", "--drift", "dsl")
    assert (got, told in out + err) == (code, True)
    assert not (world / "shown").exists()


@pytest.mark.parametrize(
    ("domain", "changes", "told"),
    [
        ("sql", {}, "no ModelEndpoint here has a domain sql"),
        ("dsl", {"collector": None}, "ModelEndpoint prod: without spec.collector nothing is measured"),
    ],
)
def test_drift_is_that_of_a_domain_that_is_measured(domain, changes, told, world, store, graft):
    serves(world, **changes)
    code, _, err = graft("report", "--drift", domain)
    assert (code, told in err) == (2, True)
    assert store.asked == []


@pytest.mark.parametrize("arguments", [(), ("dsl-3", "--drift", "dsl")], ids=["nothing", "both"])
def test_a_report_is_of_one_thing(arguments, world, graft, capsys):
    with pytest.raises(SystemExit, match="2"):
        graft("report", *arguments)
