"""Golden manifests: tests/unit/data/<case>/output.yaml is what a FineTuneJob becomes. UPDATE_GOLDEN=1 rewrites them."""

import json
import os
from pathlib import Path

import pytest
import yaml

from graft_api import resolve
from graft_api.finetunejob import FineTuneJob
from graft_api.run import Reporting, RunIdentity, RunManifest
from graft_api.schema import parse
from graft_operator.finetunejob import children
from graft_operator.finetunejob.children import Launch, Parent

DATA = Path(__file__).parents[1] / "data"
SAMPLES = Path(__file__).parents[2] / "data" / "finetunejob" / "good"


def build(resource):
    resource["metadata"] |= {"namespace": "team", "uid": "11111111-2222-3333-4444-555555555555"}
    parent, spec = Parent.of(resource), parse(FineTuneJob, resource).spec
    resolved = resolve.resolve(spec)
    manifest = RunManifest(
        job=RunIdentity(namespace=parent.namespace, name=parent.name, uid=parent.uid),
        spec_hash=resolve.spec_hash(resolved),
        run_uri=resolve.run_uri(resolved, parent.namespace, parent.name),
        spec=resolved,
        reporting=Reporting(url="https://graft-reports.graft-system.svc:8443"),
    )
    launch = Launch(1, spec.backoff_limit, spec.active_deadline_seconds, "graft.dev/trainer:1", "IfNotPresent")
    return [
        children.run_manifest(parent, manifest),
        children.training_job(parent, spec, launch),
        children.report_job(parent, spec, launch.image, launch.pull_policy),
    ]


@pytest.mark.parametrize("case", ["minimal", "full"])
def test_golden_manifests(case):
    built = build(yaml.safe_load((SAMPLES / f"{case}.yaml").read_text()))
    path = DATA / case / "output.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump_all([json.loads(json.dumps(item)) for item in built], sort_keys=False, width=140))
    assert built == list(yaml.safe_load_all(path.read_text()))


@pytest.fixture
def pod():
    return build(yaml.safe_load((SAMPLES / "full.yaml").read_text()))[1]["spec"]["template"]["spec"]


def test_the_signing_key_is_never_where_user_code_runs(pod):
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in [*pod["initContainers"], *pod["containers"]]}
    assert "graft-signing" not in mounts["trainer"]
    assert "graft-signing" in mounts["preflight"] & mounts["publish"]


def test_gpus_are_asked_for_where_training_happens(pod):
    limits = {c["name"]: c["resources"].get("limits", {}) for c in [*pod["initContainers"], *pod["containers"]]}
    assert limits["trainer"]["nvidia.com/gpu"] == "4"
    assert "nvidia.com/gpu" not in limits["publish"]


def test_every_container_is_restricted(pod):
    for container in [*pod["initContainers"], *pod["containers"]]:
        security = container["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
        assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("parent", ["a", "a" * 63, "with.dots." + "b" * 50], ids=["short", "long", "dotted"])
def test_names_fit_and_tell_launches_apart(parent):
    names = {children.job_name(Parent("n", parent, uid), launch) for uid in ("u1", "u2") for launch in (1, 2)}
    assert len(names) == 4
    assert all(len(name) <= 52 for name in names)


def test_only_the_queue_label_is_copied(pod):
    resource = yaml.safe_load((SAMPLES / "full.yaml").read_text())
    resource["metadata"]["labels"] |= {"app.kubernetes.io/instance": "argo"}
    job = build(resource)[1]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert "app.kubernetes.io/instance" not in job["metadata"]["labels"]
    assert "kueue.x-k8s.io/queue-name" not in job["spec"]["template"]["metadata"]["labels"]
    assert "suspend" not in job["spec"]
