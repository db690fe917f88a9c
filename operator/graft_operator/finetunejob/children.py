"""
Pure builders of a FineTuneJob's children: plain dicts in, plain dicts out.

Jobs and run manifests are create-only: their templates are immutable, and Kueue edits them. Labels of the parent are not
copied but for Kueue's queue: a parent's labels would make children prunable by whoever tracks the parent.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from graft_api import run as paths
from graft_api.dataplane import RECORD_LABEL
from graft_api.finetunejob import ArtifactReference, FineTuneJobSpec
from graft_api.podtemplate import PodTemplate
from graft_api.reports import AUDIENCE, ExitCode
from graft_api.run import RunManifest
from graft_operator.engine.ownership import controller_reference
from graft_operator.reports import ca

Manifest = dict[str, Any]

COMPONENT_LABEL = "graft.dev/component"
JOB_LABEL = "graft.dev/finetunejob"
LAUNCH_ANNOTATION = "graft.dev/launch"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
NON_ROOT = 65532
TOKEN_SECONDS = 3600

NEVER_RETRIED = [int(ExitCode.BAD_INPUT), int(ExitCode.OUT_OF_MEMORY)]
STEP_RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}}
"""Of the containers beside the training container: they hash and copy files."""


@dataclass(frozen=True)
class Parent:
    """The FineTuneJob that children belong to."""

    namespace: str
    name: str
    uid: str
    queue: str | None = None
    """Kueue's queue, passed on."""

    @classmethod
    def of(cls, resource: Manifest) -> "Parent":
        """Read identity and queue from the object."""
        meta = resource["metadata"]
        return cls(meta["namespace"], meta["name"], meta["uid"], (meta.get("labels") or {}).get(QUEUE_LABEL))

    def owner(self) -> Manifest:
        """Return the controller reference."""
        return controller_reference("FineTuneJob", self.name, self.uid)

    def metadata(self, name: str, component: str) -> Manifest:
        """Return the metadata of one child."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(component),
            "ownerReferences": [self.owner()],
        }

    def labels(self, component: str) -> dict[str, str]:
        """Return what children are found by."""
        return {"app.kubernetes.io/managed-by": "graft", COMPONENT_LABEL: component, JOB_LABEL: self.name}


@dataclass(frozen=True)
class Launch:
    """One Job: the first, or one that resumes what an earlier one left."""

    number: int
    backoff_limit: int
    deadline_seconds: int
    image: str
    pull_policy: str


def child_name(parent: str, role: str, *distinguished_by: object) -> str:
    """Return `<parent>-<role>-<hash>`, at most 52 characters: pods and hostnames add to it."""
    digest = hashlib.sha256("/".join(map(str, distinguished_by)).encode()).hexdigest()[:8]
    suffix = f"-{role}-{digest}"
    return parent[: 52 - len(suffix)].rstrip("-.") + suffix


def manifest_name(parent: Parent) -> str:
    """Return the name of the run manifest's ConfigMap."""
    return child_name(parent.name, "run", parent.uid)


def job_name(parent: Parent, launch: int) -> str:
    """Return the name of a launch's Job."""
    return child_name(parent.name, "train", parent.uid, launch)


def report_job_name(parent: Parent) -> str:
    """Return the name of the Job that reads the run folder as a last resort."""
    return child_name(parent.name, "report", parent.uid)


def adapter_name(job: str, artifact: ArtifactReference) -> str:
    """Return the Adapter's name: one a digest, so that the same artifact never makes two."""
    return f"{job[:54].rstrip('-.')}-{artifact.digest.removeprefix('sha256:')[:8]}"


def run_manifest(parent: Parent, manifest: RunManifest) -> Manifest:
    """Build the immutable ConfigMap that the pods read."""
    metadata = parent.metadata(manifest_name(parent), "trainer")
    metadata["labels"] |= {RECORD_LABEL: "manifest"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": {paths.MANIFEST_KEY: json.dumps(manifest.to_json(), indent=1, sort_keys=True)},
    }


def training_job(parent: Parent, spec: FineTuneJobSpec, launch: Launch) -> Manifest:
    """
    Build the Job of one launch.

    preflight -> trainer -> publish share a volume and run one after the other. User code (the model's, the scorers', the
    user's own image and mounts) is in `trainer` only, and the signing key is mounted everywhere but there.
    """
    metadata = parent.metadata(job_name(parent, launch.number), "trainer")
    metadata["annotations"] = {LAUNCH_ANNOTATION: str(launch.number)}
    if parent.queue:
        metadata["labels"] |= {QUEUE_LABEL: parent.queue}
    trainer = _container("trainer", "train", launch) | {"resources": _training_resources(spec)}
    template = spec.pod_template or PodTemplate()
    trainer["env"] = [*trainer["env"], *_listed(template.env)]
    trainer["image"] = template.image or launch.image
    trainer["volumeMounts"] = [*trainer["volumeMounts"], *_base_model_mounts(spec), *_listed(template.volume_mounts)]
    preflight = _signing(_container("preflight", "preflight", launch))
    preflight["volumeMounts"] = [*preflight["volumeMounts"], *_base_model_mounts(spec)]
    publish = _signing(_container("publish", "publish", launch))
    pod = _pod(parent, spec) | {"initContainers": [preflight, trainer], "containers": [publish]}
    return _job(metadata, pod, parent, spec, launch)


def report_job(parent: Parent, spec: FineTuneJobSpec, image: str, pull_policy: str) -> Manifest:
    """Build the small Job that reads a finished run's folder when no result reached us."""
    launch = Launch(number=0, backoff_limit=3, deadline_seconds=600, image=image, pull_policy=pull_policy)
    metadata = parent.metadata(report_job_name(parent), "report")
    return _job(metadata, _pod(parent, spec) | {"containers": [_container("report", "report", launch)]}, parent, spec, launch)


def adapter(parent: Parent, spec: FineTuneJobSpec, artifact: ArtifactReference, base_model_digest: str) -> Manifest:
    """Build the Adapter: no owner, created once, never applied again."""
    assert spec.adapter is not None  # noqa: S101 - decide() asks for it only then
    return {
        "apiVersion": "graft.dev/v1alpha1",
        "kind": "Adapter",
        "metadata": {"name": adapter_name(parent.name, artifact), "namespace": parent.namespace},
        "spec": {
            "artifact": artifact.to_json(),
            "domain": spec.domain,
            "baseModelDigest": base_model_digest,
            "endpointRef": spec.adapter.endpoint_ref.to_json(),
            "promote": spec.adapter.promote,
            "origin": {"job": parent.name, "uid": parent.uid},
        },
    }


def _job(metadata: Manifest, pod: Manifest, parent: Parent, spec: FineTuneJobSpec, launch: Launch) -> Manifest:
    template = spec.pod_template or PodTemplate()
    containers = [c["name"] for c in [*pod.get("initContainers", []), *pod["containers"]]]
    on_exit = [{"action": "FailJob", "onExitCodes": {"containerName": c, "operator": "In", "values": NEVER_RETRIED}} for c in containers]
    labels = {**(template.labels or {}), **parent.labels(metadata["labels"][COMPONENT_LABEL])}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": launch.backoff_limit,
            "activeDeadlineSeconds": launch.deadline_seconds,
            # A successor starts only when its predecessor's GPUs are free.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}, *on_exit]
            },
            "template": {
                "metadata": {"labels": labels} | ({"annotations": template.annotations} if template.annotations else {}),
                "spec": pod,
            },
        },
    }


def _pod(parent: Parent, spec: FineTuneJobSpec) -> Manifest:
    """Build what all our pods share: PodSecurity restricted, no API token, no injected service variables."""
    template = spec.pod_template or PodTemplate()
    security = template.security_context
    user = (security.run_as_user if security else None) or NON_ROOT
    account = spec.credentials.service_account_name if spec.credentials else None
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": account or ca.TRAINER_SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": (security.fs_group if security else None) or user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": _volumes(parent, spec, template),
    }
    optional = {
        "nodeSelector": template.node_selector,
        "tolerations": _listed(template.tolerations),
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "schedulerName": template.scheduler_name,
        "imagePullSecrets": _listed(template.image_pull_secrets),
    }
    return pod | {key: value for key, value in optional.items() if value}


def _container(name: str, verb: str, launch: Launch) -> Manifest:
    return {
        "name": name,
        "image": launch.image,
        "imagePullPolicy": launch.pull_policy,
        "command": ["graft-trainer", verb],
        # HOME is the container's own: what user code leaves in a shared one could be imported where the signing key is.
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "PYTHONNOUSERSITE", "value": "1"}],  # noqa: S108 - a mount of its own
        "resources": STEP_RESOURCES,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "graft-work", "mountPath": paths.WORK_DIRECTORY},
            {"name": "graft-tmp", "mountPath": "/tmp", "subPath": name},  # noqa: S108 - Ray's socket paths must be short
            {"name": "graft-shm", "mountPath": "/dev/shm"},  # noqa: S108 - torch and Ray share memory here
            {"name": "graft-run", "mountPath": "/graft/run", "readOnly": True},
            {"name": "graft-reports", "mountPath": "/graft/reports", "readOnly": True},
            {"name": "graft-credentials", "mountPath": paths.CREDENTIALS_DIRECTORY, "readOnly": True},
        ],
    }


def _signing(container: Manifest) -> Manifest:
    mount = {"name": "graft-signing", "mountPath": "/graft/signing", "readOnly": True}
    return container | {"volumeMounts": [*container["volumeMounts"], mount]}


def _training_resources(spec: FineTuneJobSpec) -> Manifest:
    template = spec.pod_template or PodTemplate()
    resources = template.resources.to_json() if template.resources else {}
    if gpus := spec.workers.gpus_per_worker:
        # Extended resources: the request equals the limit and may be left out.
        resources["limits"] = {**resources.get("limits", {}), "nvidia.com/gpu": str(gpus)}
    return resources


def _volumes(parent: Parent, spec: FineTuneJobSpec, template: PodTemplate) -> list[Manifest]:
    token = {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}}
    authority = {"configMap": {"name": ca.CONFIG_MAP, "items": [{"key": ca.CA_KEY, "path": "ca.crt"}]}}
    work = {"sizeLimit": template.scratch_size_limit} if template.scratch_size_limit else {}
    secret = spec.credentials.secret_ref if spec.credentials else None
    # Both Secrets are optional mounts: the first stage says by name what is missing, a kubelet would only wait.
    credentials: Manifest = {"secret": {"secretName": secret.name, "optional": True}} if secret else {"emptyDir": {}}
    key = spec.signing.secret_ref
    items = [{"key": key.key or "key.pem", "path": "key.pem"}]
    return [
        {"name": "graft-work", "emptyDir": work},
        {"name": "graft-tmp", "emptyDir": {}},
        {"name": "graft-shm", "emptyDir": {"medium": "Memory"}},
        {"name": "graft-run", "configMap": {"name": manifest_name(parent)}},
        {"name": "graft-reports", "projected": {"sources": [token, authority]}},
        {"name": "graft-credentials", **credentials},
        {"name": "graft-signing", "secret": {"secretName": key.name, "items": items, "optional": True}},
        *_base_model_volumes(spec),
        *_listed(template.volumes),
    ]


def _claim(spec: FineTuneJobSpec) -> str | None:
    uri = spec.base_model.uri or ""
    return uri.removeprefix("pvc://").partition("/")[0] if uri.startswith("pvc://") else None


def _base_model_volumes(spec: FineTuneJobSpec) -> list[Manifest]:
    claim = _claim(spec)
    return [{"name": "graft-base-model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}] if claim else []


def _base_model_mounts(spec: FineTuneJobSpec) -> list[Manifest]:
    claim = _claim(spec)
    return [{"name": "graft-base-model", "mountPath": f"/graft/pvc/{claim}", "readOnly": True}] if claim else []


def _listed(models: Any) -> list[Manifest]:  # noqa: ANN401 - a list of any of our models, or None
    return [model.to_json() for model in models or []]
