"""
The demo is the story of the whole loop: production gets worse, a job is launched, and what it makes is proven, approved, activated and
watched; one candidate is rolled back by itself, the next one confirmed. Here is what must be true after it.
"""

import json
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest
from place import EXAMPLE, ROOT, wait_for

from graft_api.artifact import ArtifactManifest
from graft_api.schema import parse

sys.path.insert(0, str(EXAMPLE))  # the demo's modules, as its script finds them
from production import Production


@pytest.fixture(scope="module")
def demo(graft, chosen):
    """The demo as a user runs it, and its namespace afterwards."""
    try:
        done = subprocess.run([sys.executable, str(EXAMPLE / "demo.py")], capture_output=True, text=True, timeout=1700)
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        yield Production(chosen, graft)
    finally:  # what a failed one leaves would slow every other story down
        graft.run("kubectl", "delete", "namespace", Production.namespace, "--ignore-not-found", "--wait=false")


def objects(demo, kind):
    found = json.loads(demo.tools.run("kubectl", "get", kind, "-n", demo.namespace, "-o", "json"))["items"]
    return sorted(found, key=lambda item: item["metadata"]["creationTimestamp"])


@pytest.mark.timeout(1800, func_only=False)
def test_the_whole_loop(demo):
    harmful, better = (adapter["status"]["promotion"] for adapter in objects(demo, "adapters"))
    assert harmful["state"] == "RolledBack"
    assert "compile:" in harmful["message"], harmful
    assert "worse" in harmful["message"], harmful
    assert sorted(harmful["approvals"]) == ["alice", "bob"], "mallory's word counts for nothing"
    assert better["state"] == "Confirmed"
    assert sorted(better["approvals"]) == ["alice", "carol"]
    (endpoint,) = objects(demo, "modelendpoints")
    (domain,) = endpoint["status"]["domains"]
    assert [(arm.get("adapter"), arm["weight"]) for arm in domain["arms"]] == [(better["adapter"], 10_000)]

    first, second = objects(demo, "finetunejobs")
    assert [job["metadata"]["annotations"]["graft.dev/launch-ordinal"] for job in (first, second)] == ["1", "2"]
    (policy,) = objects(demo, "tuningpolicies")
    (decided,) = policy["status"]["domains"]
    assert (decided["lastLaunch"]["ordinal"], decided["lastLaunch"]["job"]) == (2, second["metadata"]["name"])

    reasons = {event["reason"] for event in objects(demo, "events")}
    assert {"Launched", "AttemptClaimed", "AdapterCreated", "Published", "RolledBack", "Confirmed"} <= reasons, reasons


def test_the_artifact_is_signed_and_says_where_it_comes_from(demo, tmp_path):
    job = objects(demo, "finetunejobs")[-1]
    status = job["status"]
    (compiled,) = status["evaluation"]
    assert compiled["base"]["low"] > 0.2
    assert compiled["adapter"]["high"] < 0.1
    assert compiled["difference"]["high"] < 0
    adapter = objects(demo, "adapters")[-1]
    assert adapter["spec"]["artifact"]["digest"] == status["artifact"]["digest"]
    assert "ownerReferences" not in adapter["metadata"]

    folder = demo.download(status["artifact"]["uri"], tmp_path)
    manifest = parse(ArtifactManifest, json.loads((folder / "manifest.json").read_text()))
    assert manifest.accepted
    assert manifest.job.uid == job["metadata"]["uid"]
    verify = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    verify += ["--signature", str(folder / "model.sig"), "--public_key", str(demo.public_key)]
    verified = subprocess.run(verify, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
    (folder / "adapter_config.json").write_text("{}")
    assert subprocess.run(verify, capture_output=True, text=True).returncode != 0


def test_the_pairs_of_the_test_say_the_same_without_a_cluster(demo, tmp_path):
    """The report, and the verdict computed again from what lies in the store."""
    test = objects(demo, "shadowtests")[-1]
    status = wait_for(lambda: test, lambda found: found["status"].get("report"), 1)["status"]
    (verdict,) = status["verdict"]["metrics"]
    interval = verdict["reading"]["overall"]
    assert 0.02 < interval["low"] <= interval["improvement"] <= interval["high"], verdict["sentence"]
    folder = demo.download(status["resolved"]["store"], tmp_path / "pairs")
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"]["metrics"][0]["reading"]["overall"] == interval
    assert report["verdict"]["sentence"] == status["verdict"]["sentence"]
    assert verdict["sentence"] in (folder / "report.html").read_text()

    for commit in (folder / "commits").rglob("*.json"):
        if int(commit.stem) > status["verdict"]["commit"]:
            commit.unlink()  # of what came until the collector had heard of the verdict
    (folder / "collector.json").write_text(json.dumps({"compare": comparison(test)}))
    command = [str(ROOT / ".venv/bin/graft"), "shadow", "--pairs", str(folder), "--json", str(tmp_path / "offline.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (offline,) = json.loads((tmp_path / "offline.json").read_text())["verdict"]["metrics"]
    assert offline["reading"]["overall"] == interval


def comparison(test):
    """What the collector was told of a test that is over."""
    from graft_operator.shadowtest.settings import compare_settings
    from graft_operator.shadowtest.turns import TestView

    return compare_settings(TestView.of(test), test["metadata"]["namespace"]).to_json()


def test_prometheus_saw_it(demo, chosen):
    """The operator's own metrics: a launch, a rollback, and what came of both candidates."""
    from graft_devcluster import prometheus

    def total(query):
        asked = f"{prometheus.url(chosen)}/api/v1/query?query={urllib.parse.quote(query)}"
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
            found = json.loads(answer.read())["data"]["result"]
        return sum(float(one["value"][1]) for one in found)

    def states(state):
        return total(f'graft_promotion_transitions_total{{namespace="{demo.namespace}",state="{state}"}}')

    assert total(f'graft_policy_decisions_total{{namespace="{demo.namespace}",decision="Launched"}}') == 2
    assert (states("RolledBack"), states("Confirmed")) == (1, 1)


def test_a_rollback_by_hand_stays(demo):
    """What is confirmed is taken out by somebody's word, and neither promotion nor a pin brings it back."""
    better = objects(demo, "adapters")[-1]["metadata"]["name"]
    done = demo.graft("bob", "rollback", "dsl", "--reason", "a complaint")
    assert done.returncode == 0, done.stdout + done.stderr

    def domain():
        return objects(demo, "modelendpoints")[0]["status"]["domains"][0]

    wait_for(lambda: {"domain": domain()}, lambda seen: seen["domain"]["arms"][0].get("adapter") is None, 60)
    pin = [{"op": "add", "path": "/spec/domains/0/pin", "value": {"adapter": better}}]
    demo.tools.run("kubectl", "patch", "modelendpoint", "prod", "-n", demo.namespace, "--type=json", "-p", json.dumps(pin))
    waiting = wait_for(lambda: {"domain": domain()}, lambda seen: "rejected" in (seen["domain"].get("waitingFor") or ""), 60)
    assert waiting["domain"]["arms"][0].get("adapter") is None
