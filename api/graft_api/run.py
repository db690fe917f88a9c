"""
The run manifest: a spec, resolved and frozen, as the training pod reads it.

It lies in an immutable ConfigMap (key `run.json`); a later edit of the spec does not reach a run that has started.
"""

from typing import Annotated, Literal

from pydantic import Field

from graft_api.finetunejob import FineTuneJobSpec, StoreUri
from graft_api.schema import Model, ObjectName, Uid

MANIFEST_KEY = "run.json"

MOUNT_ROOT = "/graft"
RUN_FILE = "/graft/run/run.json"
WORK_DIRECTORY = "/graft/work"
"""Shared by the pod's containers: model, data, checkpoints, the folder to publish."""
TOKEN_FILE = "/graft/reports/token"  # noqa: S105 - a path
CA_FILE = "/graft/reports/ca.crt"
CREDENTIALS_DIRECTORY = "/graft/credentials"
"""One file per variable, as a Secret volume lays them out; absent files mean workload identity."""
SIGNING_KEY_FILE = "/graft/signing/key.pem"
"""Only in the containers preflight and publish: the trainer container runs user code and never sees it."""
TERMINATION_MESSAGE_FILE = "/dev/termination-log"


class RunIdentity(Model):
    """Which job this run is of."""

    namespace: ObjectName
    name: ObjectName
    uid: Uid


class Reporting(Model):
    """Where reports go. Absent without a cluster: then attempt 1 is granted to everybody."""

    url: Annotated[str, Field(max_length=512)]
    """`https://<service>.<namespace>.svc:<port>`"""
    claim_timeout_seconds: Annotated[int, Field(ge=1)] = 900
    """How long a pod waits for an operator that is away before it gives up and frees its GPUs."""
    result_timeout_seconds: Annotated[int, Field(ge=1)] = 60


class RunManifest(Model):
    """Everything that decides the result, and where to report it."""

    api_version: Literal["graft.dev/run/v1alpha1"] = "graft.dev/run/v1alpha1"
    job: RunIdentity
    spec_hash: Annotated[str, Field(max_length=64)]
    source_hash: Annotated[str, Field(max_length=64)] = ""
    """Of the spec as the user wrote it; the operator's, to tell an edit."""
    run_uri: StoreUri
    """`<output.uri>/runs/<namespace>/<name>/<spec hash>`"""
    spec: FineTuneJobSpec
    """Resolved: nothing that follows from domain or method is left open."""
    reporting: Reporting | None = None
