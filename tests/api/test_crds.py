"""The API server accepts the CRDs and judges every sample as pydantic does, CEL included."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from graft_operator.engine.errors import Invalid
from graft_operator.engine.resources import ADAPTER_APPROVALS, ADAPTERS, FINE_TUNE_JOBS, MODEL_ENDPOINTS, SHADOW_TESTS, TUNING_POLICIES

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data"
KINDS = {each.kind: each for each in (FINE_TUNE_JOBS, ADAPTERS, MODEL_ENDPOINTS, SHADOW_TESTS, TUNING_POLICIES, ADAPTER_APPROVALS)}

# Our own rules on names have no fieldPath: metadata is not part of the schema.
SAID_OF_NAMES = {
    "finetunejob": "at most 63 characters",
    "modelendpoint": "at most 40 characters",
    "shadowtest": "at most 33 characters",
    "tuningpolicy": "at most 40 characters",
}


def samples(quality):
    return [pytest.param(path, id=f"{path.parts[-3]}-{path.stem}") for path in sorted(SAMPLES.glob(f"*/{quality}/*.yaml"))]


@pytest.fixture(scope="module")
def kubectl(api_server, definitions):
    def run(*arguments, stdin=None):
        return subprocess.run(
            ["kubectl", "--kubeconfig", str(api_server.kubeconfig), *arguments], input=stdin, capture_output=True, text=True
        )

    run("create", "namespace", "samples")
    return run


async def dry_run(kube, path):
    """What `kubectl create --dry-run=server --validate=strict` asks, without a kubectl for each of hundreds."""
    document = yaml.safe_load(path.read_text())
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    await kube._write("POST", KINDS[document["kind"]].path("samples"), body=document, query=query)


@pytest.mark.parametrize("path", samples("good"))
async def test_good_sample_is_accepted(kubectl, kube, path):
    await dry_run(kube, path)


@pytest.mark.parametrize("path", samples("bad"))
async def test_bad_sample_is_refused_with_its_field(kubectl, kube, path):
    refused = path.read_text().splitlines()[0].removeprefix("# refused: ")
    with pytest.raises(Invalid) as error:
        await dry_run(kube, path)
    said = [str(error.value), *(cause.field for cause in error.value.causes)]
    wanted = SAID_OF_NAMES[path.parts[-3]] if refused == "metadata.name" else refused
    assert any(wanted in words for words in said), said


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


def test_a_shadow_test_is_immutable_and_a_new_one_is_not_taken_for_done(kubectl):
    document = yaml.safe_load((SAMPLES / "shadowtest" / "good" / "minimal.yaml").read_text())
    created = json.loads(kubectl("create", "-n", "samples", "-o", "json", "-f", "-", stdin=json.dumps(document)).stdout)
    assert created["status"] == {"observedGeneration": -1}
    assert (created["spec"]["duration"], created["spec"]["controlShare"]) == ("168h", "0.2")
    done = kubectl("patch", "shadowtest", "minimal", "-n", "samples", "--type=merge", "-p", json.dumps({"spec": {"duration": "1h"}}))
    assert "a ShadowTest is immutable; create a new one" in done.stderr
    labelled = kubectl("label", "shadowtest", "minimal", "-n", "samples", "team=rules")
    assert labelled.returncode == 0, labelled.stderr
