"""The part of a pod that a user may set: typed, so that nothing can loosen the pod's security context."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.schema import DnsLabel, Model, ObjectName, Rule

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
# No empty, `.` or `..` segment: a path must not arrive elsewhere than it says.
MOUNT_PATH_PATTERN = r"^(/([^/:.]|\.[^/:.])[^/:]*)+$"

Quantity = Annotated[str, Field(max_length=32, pattern=QUANTITY_PATTERN)]
QuantityMap = Annotated[dict[str, Quantity], Field(max_length=16)]
LabelMap = Annotated[dict[str, Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]], Field(max_length=32)]
StringMap = Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)]


class Resources(Model):
    """Requests and limits of the main container. GPUs follow from `workers.gpusPerWorker` and `server.gpus`."""

    requests: QuantityMap | None = None
    limits: QuantityMap | None = None

    rules: ClassVar = (
        Rule(
            cel="[has(self.requests) ? self.requests : {}, has(self.limits) ? self.limits : {}].all(m, !('nvidia.com/gpu' in m))",
            message="ask for GPUs with spec.workers.gpusPerWorker (training) or spec.server.gpus (serving)",
            check=lambda self: "nvidia.com/gpu" not in ((self.requests or {}) | (self.limits or {})),
        ),
    )


class Toleration(Model):
    """As in core/v1."""

    key: Annotated[str, Field(max_length=253)] | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Annotated[str, Field(max_length=63)] | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class KeySelector(Model):
    """One key of a Secret or ConfigMap in the job's namespace."""

    name: ObjectName
    key: Annotated[str, Field(max_length=253, min_length=1)]
    optional: bool | None = None


class EnvVarSource(Model):
    """Where a variable's value comes from."""

    secret_key_ref: KeySelector | None = None
    config_map_key_ref: KeySelector | None = None

    rules: ClassVar = (
        Rule(
            cel="has(self.secretKeyRef) != has(self.configMapKeyRef)",
            message="set exactly one of secretKeyRef, configMapKeyRef",
            check=lambda self: (self.secret_key_ref is None) != (self.config_map_key_ref is None),
        ),
    )


class EnvVar(Model):
    """A variable of the training container."""

    name: Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Field(max_length=4096)] | None = None
    value_from: EnvVarSource | None = None

    rules: ClassVar = (
        Rule(
            cel="!(has(self.value) && has(self.valueFrom))",
            message="set value or valueFrom, not both",
            check=lambda self: self.value is None or self.value_from is None,
        ),
        Rule(
            cel="!self.name.startsWith('GRAFT_')",
            message="names that begin with GRAFT_ are graft's own",
            check=lambda self: not self.name.startswith("GRAFT_"),
            field=".name",
        ),
    )


class ClaimVolume(Model):
    """A PersistentVolumeClaim of the job's namespace."""

    claim_name: ObjectName
    read_only: bool | None = None


class EmptyDir(Model):
    """Scratch space that lives as long as the pod."""

    medium: Literal["", "Memory"] | None = None
    size_limit: Quantity | None = None


class ConfigMapVolume(Model):
    """A ConfigMap of the job's namespace, as files."""

    name: ObjectName


class Volume(Model):
    """A volume that the training container may mount. Host paths are not offered: pods are PodSecurity restricted."""

    name: DnsLabel
    persistent_volume_claim: ClaimVolume | None = None
    empty_dir: EmptyDir | None = None
    config_map: ConfigMapVolume | None = None

    rules: ClassVar = (
        Rule(
            cel="[has(self.persistentVolumeClaim), has(self.emptyDir), has(self.configMap)].filter(x, x).size() == 1",
            message="set exactly one of persistentVolumeClaim, emptyDir, configMap",
            check=lambda self: sum(v is not None for v in (self.persistent_volume_claim, self.empty_dir, self.config_map)) == 1,
        ),
        Rule(
            cel="!self.name.startsWith('graft-')",
            message="names that begin with graft- are graft's own",
            check=lambda self: not self.name.startswith("graft-"),
            field=".name",
        ),
    )


class VolumeMount(Model):
    """Where a volume of this template appears in the training container, and nowhere else."""

    name: DnsLabel
    mount_path: Annotated[str, Field(max_length=1024, pattern=MOUNT_PATH_PATTERN)]
    sub_path: Annotated[str, Field(max_length=1024)] | None = None
    read_only: bool | None = None

    rules: ClassVar = (
        Rule(
            cel="!(self.mountPath == '/graft' || self.mountPath.startsWith('/graft/'))",
            message="paths below /graft are graft's own",
            check=lambda self: not (self.mount_path == "/graft" or self.mount_path.startswith("/graft/")),
            field=".mountPath",
        ),
    )


class LocalObjectReference(Model):
    """An object of the job's namespace."""

    name: ObjectName


class PodSecurity(Model):
    """Ids only: everything else of the security context is fixed by PodSecurity restricted."""

    run_as_user: Annotated[int, Field(ge=1)] | None = None
    fs_group: Annotated[int, Field(ge=1)] | None = None


class PodTemplate(Model):
    """What a user may add to the training pod."""

    labels: LabelMap | None = None
    annotations: StringMap | None = None
    image: Annotated[str, Field(max_length=512, min_length=1)] | None = None
    """Of the training container, if not the operator's default. Preflight and publish always use the operator's."""
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=8)] | None = None
    node_selector: StringMap | None = None
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = None
    priority_class_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None
    scheduler_name: ObjectName | None = None
    resources: Resources | None = None
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = None
    volumes: Annotated[list[Volume], Field(max_length=16)] | None = None
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=16)] | None = None
    security_context: PodSecurity | None = None
    scratch_size_limit: Quantity | None = None
    """Bound of the working volume that holds model, data and checkpoints."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.labels) || self.labels.all(k, !k.startsWith('graft.dev/') && !k.startsWith('batch.kubernetes.io/'))",
            message="labels of graft.dev/ and batch.kubernetes.io/ are not yours to set",
            check=lambda self: not any(key.startswith(("graft.dev/", "batch.kubernetes.io/")) for key in self.labels or {}),
            field=".labels",
        ),
        Rule(
            cel="!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
            message="every mount needs a volume of its name",
            check=lambda self: {m.name for m in self.volume_mounts or []} <= {v.name for v in self.volumes or []},
            field=".volumeMounts",
        ),
    )
