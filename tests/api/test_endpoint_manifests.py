"""The API server takes what a ModelEndpoint becomes, field by field, and what `graft inject` prints, in both of its forms."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "unit" / "data" / "modelendpoint"
INJECT = ROOT / "tests" / "unit" / "data" / "inject"


@pytest.fixture(scope="module")
def kubectl(api_server):
    def run(*arguments, stdin=None):
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(api_server.kubeconfig), "-n", "team", *arguments], input=stdin, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("create", "namespace", "team")
    run("create", "serviceaccount", "default")
    run("label", "namespace", "team", "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
    return run


@pytest.mark.parametrize("case", sorted(folder.name for folder in GOLDEN.iterdir()))
def test_the_api_server_takes_every_manifest_and_every_field(kubectl, case):
    manifests = [
        manifest | {"metadata": {key: value for key, value in manifest["metadata"].items() if key != "ownerReferences"}}
        for manifest in yaml.safe_load_all((GOLDEN / case / "output.yaml").read_text())
    ]
    given = yaml.safe_dump_all(manifests)
    said = kubectl("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-", stdin=given)
    assert len(said.splitlines()) == len(manifests)


PODS = [(case, component) for case in ("minimal", "full", "claim", "measured") for component in ("server", "gateway")]
PODS += [("measured", "collector"), ("shadow", "server")]


@pytest.mark.parametrize(("case", "component"), PODS)
def test_pods_are_allowed_where_pod_security_is_restricted(kubectl, case, component):
    manifests = yaml.safe_load_all((GOLDEN / case / "output.yaml").read_text())
    deployment = next(m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"].endswith(component))
    pod = deployment["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
    # What is admitted is the question, not whether its account and classes exist.
    for outside in ("serviceAccountName", "priorityClassName", "runtimeClassName"):
        pod["spec"].pop(outside, None)
    pod["metadata"]["name"] = f"{case}-{component}"
    kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def by_name(template):
    """The same pod whatever the order of its lists."""
    pod = template["spec"]
    for container in pod["containers"]:
        container["env"] = sorted(container.get("env", []), key=lambda item: item["name"])
        container["volumeMounts"] = sorted(container.get("volumeMounts", []), key=lambda item: item["mountPath"])
    for key in ("containers", "volumes"):
        pod[key] = sorted(pod[key], key=lambda item: item["name"])
    return template


@pytest.mark.parametrize("case", sorted(folder.name for folder in INJECT.iterdir()))
def test_the_patch_of_an_injection_comes_to_the_same_as_its_manifest(kubectl, case):
    folder = INJECT / case
    name = yaml.safe_load((folder / "output.yaml").read_text())["metadata"]["name"]
    kubectl("delete", "deployment", name, "--ignore-not-found")
    kubectl("apply", "--validate=strict", "-f", str(folder / "deployment.yaml"))
    applied = kubectl("apply", "--validate=strict", "--dry-run=server", "-o", "json", "-f", str(folder / "output.yaml"))
    patched = kubectl("patch", "deployment", name, "--patch-file", str(folder / "patch.yaml"), "-o", "json")
    assert by_name(json.loads(patched)["spec"]["template"]) == by_name(json.loads(applied)["spec"]["template"])
    again = kubectl("patch", "deployment", name, "--patch-file", str(folder / "patch.yaml"), "-o", "json")
    assert json.loads(again)["metadata"]["generation"] == json.loads(patched)["metadata"]["generation"]


def test_a_patch_takes_away_what_an_earlier_one_needed(kubectl):
    """Credentials were a Secret, and are none now: one volume of either kind."""
    patch = yaml.safe_load((INJECT / "plain" / "patch.yaml").read_text())
    kubectl("delete", "deployment", "vllm", "--ignore-not-found")
    kubectl("apply", "-f", str(INJECT / "grown" / "deployment.yaml"))
    kubectl("patch", "deployment", "vllm", "--patch-file", str(INJECT / "grown" / "patch.yaml"))
    volumes = json.dumps({"spec": {"template": {"spec": {"volumes": patch["spec"]["template"]["spec"]["volumes"]}}}})
    patched = json.loads(kubectl("patch", "deployment", "vllm", "-p", volumes, "-o", "json"))
    credentials = next(v for v in patched["spec"]["template"]["spec"]["volumes"] if v["name"] == "graft-credentials")
    assert credentials == {"name": "graft-credentials", "emptyDir": {}}
