"""The API server accepts the CRDs and judges every sample as pydantic does, CEL included."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data"

# Our own rules on names have no fieldPath: metadata is not part of the schema.
SAID_OF_NAMES = {"finetunejob": "at most 63 characters", "modelendpoint": "at most 40 characters"}


def samples(quality):
    return [pytest.param(path, id=f"{path.parts[-3]}-{path.stem}") for path in sorted(SAMPLES.glob(f"*/{quality}/*.yaml"))]


@pytest.fixture(scope="module")
def kubectl(api_server):
    def run(*arguments, stdin=None):
        return subprocess.run(
            ["kubectl", "--kubeconfig", str(api_server.kubeconfig), *arguments], input=stdin, capture_output=True, text=True
        )

    applied = run("apply", "--server-side", "-f", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    waited = run("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    assert waited.returncode == 0, waited.stderr
    run("create", "namespace", "samples")
    return run


def dry_run(kubectl, document):
    return kubectl("create", "-n", "samples", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=json.dumps(document))


@pytest.mark.parametrize("path", samples("good"))
def test_good_sample_is_accepted(kubectl, path):
    done = dry_run(kubectl, yaml.safe_load(path.read_text()))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", samples("bad"))
def test_bad_sample_is_refused_with_its_field(kubectl, path):
    refused = path.read_text().splitlines()[0].removeprefix("# refused: ")
    done = dry_run(kubectl, yaml.safe_load(path.read_text()))
    assert done.returncode != 0
    said = done.stderr
    assert (SAID_OF_NAMES[path.parts[-3]] if refused == "metadata.name" else refused) in said, said


def test_a_new_job_is_not_taken_for_done(kubectl):
    document = yaml.safe_load((SAMPLES / "finetunejob" / "good" / "minimal.yaml").read_text())
    done = kubectl("create", "-n", "samples", "-o", "json", "-f", "-", stdin=json.dumps(document))
    created = json.loads(done.stdout)
    assert created["status"] == {"observedGeneration": -1}
    assert created["spec"]["backoffLimit"] == 3
    assert created["spec"]["method"] == "qlora"


def test_a_new_endpoint_is_not_taken_for_done_and_can_be_scaled(kubectl):
    document = yaml.safe_load((SAMPLES / "modelendpoint" / "good" / "minimal.yaml").read_text())
    created = json.loads(kubectl("create", "-n", "samples", "-o", "json", "-f", "-", stdin=json.dumps(document)).stdout)
    assert created["status"] == {"observedGeneration": -1}
    assert created["spec"]["gateway"]["replicas"] == 2
    scaled = kubectl("scale", "-n", "samples", "modelendpoint/minimal", "--replicas=4")
    assert scaled.returncode == 0, scaled.stderr
    assert kubectl("get", "-n", "samples", "modelendpoint/minimal", "-o", "jsonpath={.spec.replicas}").stdout == "4"


def test_an_artifact_is_immutable(kubectl):
    adapter = {
        "apiVersion": "graft.dev/v1alpha1",
        "kind": "Adapter",
        "metadata": {"name": "a", "namespace": "samples"},
        "spec": {
            "artifact": {"uri": "s3://a/b", "digest": "sha256:" + "a" * 64, "sizeBytes": 1},
            "domain": "dsl",
            "baseModelDigest": "sha256:" + "b" * 64,
            "endpointRef": {"name": "prod"},
        },
    }
    assert kubectl("create", "-f", "-", stdin=json.dumps(adapter)).returncode == 0
    patch = json.dumps({"spec": {"artifact": {"digest": "sha256:" + "c" * 64}}})
    done = kubectl("patch", "adapter", "a", "-n", "samples", "--type=merge", "-p", patch)
    assert "immutable" in done.stderr
