"""Pure builders of what a TuningPolicy makes: FineTuneJobs that nobody owns, and the endpoint's record of them."""

from typing import Any

from graft_api.dataplane import ENDPOINT_LABEL, RECORD_LABEL
from graft_api.finetunejob import FineTuneJobSpec
from graft_api.launches import LAUNCHES_KEY, LAUNCHES_RECORD, Launch, Launches, launches_name
from graft_api.schema import canonical_json
from graft_api.tuningpolicy import ORDINAL_ANNOTATION, POLICY_LABEL, JobTemplate

Manifest = dict[str, Any]


def job(namespace: str, policy: str, template: JobTemplate, spec: FineTuneJobSpec, launch: Launch) -> Manifest:
    """
    Build the FineTuneJob of a launch.

    Without owner: deleting a policy ends no training, and a restored policy has another uid, by which the garbage collector would take
    what was restored with it.
    """
    labels = dict(template.labels or {}) | {"app.kubernetes.io/managed-by": "graft", POLICY_LABEL: policy}
    annotations = {ORDINAL_ANNOTATION: str(launch.ordinal), "graft.dev/launched-because": launch.why}
    return {
        "metadata": {"name": launch.job, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": spec.to_json(),
    }


def record(namespace: str, launches: Launches) -> Manifest:
    """
    Build the record of what was launched for an endpoint.

    Nobody owns it: it outlives policies and endpoint, and those that are restored, or made anew under another name, go on from it.
    """
    return {
        "metadata": {
            "name": launches_name(launches.endpoint),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "graft", RECORD_LABEL: LAUNCHES_RECORD, ENDPOINT_LABEL: launches.endpoint},
        },
        "data": {LAUNCHES_KEY: canonical_json(launches.to_json()).decode()},
    }
