"""The demo is the first story: real data, real improvement, a signed artifact, an Adapter."""

import json
import subprocess
import sys
from pathlib import Path

from graft_api.artifact import ArtifactManifest
from graft_api.schema import parse

ROOT = Path(__file__).parents[2]


def test_the_demo_ends_with_a_better_signed_adapter(graft, chosen):
    done = subprocess.run([sys.executable, str(ROOT / "examples/dsl/demo.py")], capture_output=True, text=True, timeout=800)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    job = json.loads(graft.run("kubectl", "get", "finetunejob", "dsl-rules", "-n", "demo", "-o", "json"))
    status = job["status"]
    compile_suite = status["evaluation"][0]
    assert compile_suite["base"]["low"] > 0.2
    assert compile_suite["adapter"]["high"] < 0.05
    assert compile_suite["difference"]["high"] < 0

    adapter = json.loads(graft.run("kubectl", "get", "adapter", status["adapterRef"]["name"], "-n", "demo", "-o", "json"))
    assert adapter["spec"]["artifact"]["digest"] == status["artifact"]["digest"]
    assert "ownerReferences" not in adapter["metadata"]

    folder = chosen.cache / "demo" / "artifact"
    manifest = parse(ArtifactManifest, json.loads((folder / "manifest.json").read_text()))
    assert manifest.accepted
    assert manifest.job.uid == job["metadata"]["uid"]
    public = chosen.cache / "demo" / "signing-key.pub"
    verify = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        str(folder),
        "--signature",
        str(folder / "model.sig"),
        "--public_key",
        str(public),
    ]
    verified = subprocess.run(verify, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
    (folder / "adapter_config.json").write_text("{}")
    assert subprocess.run(verify, capture_output=True, text=True).returncode != 0

    events = json.loads(graft.run("kubectl", "get", "events", "-n", "demo", "-o", "json"))["items"]
    reasons = {
        event["reason"] for event in events if event["regarding" if "regarding" in event else "involvedObject"]["name"] == "dsl-rules"
    }
    assert {"Launched", "AttemptClaimed", "AdapterCreated", "Published"} <= reasons
