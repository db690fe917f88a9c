"""`kubectl graft report` as users have it: kubectl finds the plugin, the plugin asks kubectl, and S3."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from graft_api.comparison import Clock
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "evaluation" / "report"))

import s3world
from simulated_pairs import METRICS, simulated

from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import Place
from graft_evaluation.pairs.recording import recording
from graft_evaluation.report.build import report
from graft_evaluation.report.page import page
from graft_evaluation.verdict import verdict

EXAMPLE = Path(__file__).parents[2] / "examples" / "dsl" / "shadowtest.yaml"
pytestmark = pytest.mark.skipif(s3world.binary() is None, reason="needs versitygw: make trainer builds it")


@pytest.fixture
def kubectl(api_server, definitions):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "KUBECONFIG": str(api_server.kubeconfig),
        # kubectl takes every kubectl-* for a plugin.
        "PATH": f"{Path(sys.executable).parent}:{Toolbox(cache_root()).path('kubectl').parent}:{os.environ['PATH']}",
    }

    def run(*arguments, given="", **more):
        command = ["kubectl", *map(str, arguments)]
        return subprocess.run(command, input=given, env=environment | more, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def store(tmp_path):
    with s3world.started(s3world.binary(), tmp_path) as gateway:
        yield gateway


def ended(folder):
    """Return a page and a status, as collector and operator leave them."""
    (folder / "metrics.yaml").write_text(METRICS)
    lines = ((Place(folder, number), line) for number, line in enumerate(simulated(400, 0.1)))
    read = recording(question(folder, None), lines)
    compared = read.comparison()
    found = verdict(compared, read.question.limits, Clock(elapsed=168, duration=168, max_duration=336))
    content = page(report(read, compared, found)).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    told = found.to_json() | {"readAt": "2026-11-21T10:00:00Z", "observedHours": 168.0, "commit": 7, "evidenceDigest": digest}
    reported = {"html": "s3://measured/t/report.html", "json": "s3://measured/t/report.json", "htmlDigest": digest, "jsonDigest": digest}
    return content, {"status": {"phase": "Passed", "verdict": told, "report": reported}}


def test_the_plugin_reads_verdict_and_report(kubectl, store, tmp_path):
    namespace, manifest = f"report-{time.time_ns()}", yaml.safe_load(EXAMPLE.read_text())
    name = manifest["metadata"]["name"]
    assert kubectl("create", "namespace", namespace).returncode == 0
    applied = kubectl("apply", "-n", namespace, "-f", "-", given=json.dumps(manifest))
    assert applied.returncode == 0, applied.stderr
    early = kubectl("graft", "report", name, "-n", namespace)
    assert (early.returncode, early.stdout) == (3, f"{name}: not seen by the operator yet\n")
    absent = kubectl("graft", "report", "other", "-n", namespace)
    assert (absent.returncode, absent.stdout) == (2, "")
    assert 'kubectl: Error from server (NotFound): shadowtests.graft.dev "other" not found' in absent.stderr

    content, status = ended(tmp_path)
    patched = kubectl("patch", "shadowtest", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    assert patched.returncode == 0, patched.stderr
    (tmp_path / "report.html").write_bytes(content)
    store.bucket("measured")
    store.client().fput_object("measured", "t/report.html", str(tmp_path / "report.html"))
    signed_in = {"AWS_ACCESS_KEY_ID": s3world.ACCESS, "AWS_SECRET_ACCESS_KEY": s3world.SECRET, "AWS_ENDPOINT_URL": store.endpoint}
    command = ("graft", "report", name, "-n", namespace, "--out", tmp_path / "mine.html", "--no-open")
    read = kubectl(*command, **signed_in)
    assert read.returncode == 0, read.stderr
    assert read.stdout.splitlines()[-1].startswith("Passed: compile errors fell by")
    assert (tmp_path / "mine.html").read_bytes() == content
    refused = kubectl(*command, **signed_in | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert refused.returncode == 2
    assert "the store answered SignatureDoesNotMatch; set AWS_ACCESS_KEY_ID" in refused.stderr
