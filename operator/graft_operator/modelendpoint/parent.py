"""Whose children they are, and what this operator makes them with."""

from dataclasses import dataclass
from typing import Any

from graft_api import dataplane as plane
from graft_api.modelendpoint import ModelEndpointSpec
from graft_operator.engine.ownership import controller_reference

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Platform:
    """What this operator builds pods with, whatever the endpoint."""

    serving_image: str
    vllm_image: str
    reports_url: str
    serving_pull_policy: str = "IfNotPresent"
    vllm_pull_policy: str = "IfNotPresent"
    log_level: str = "INFO"


@dataclass(frozen=True)
class Parent:
    """The ModelEndpoint that children belong to."""

    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, resource: Manifest) -> "Parent":
        """Read the identity from the object."""
        meta = resource["metadata"]
        return cls(meta["namespace"], meta["name"], meta["uid"])

    def owner(self) -> Manifest:
        """Return the controller reference."""
        return controller_reference("ModelEndpoint", self.name, self.uid)

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
        return {"app.kubernetes.io/managed-by": "graft", **self.selector(component)}

    def selector(self, component: str) -> dict[str, str]:
        """Return what pods of one component are found by, also those of a Deployment that is not graft's."""
        return {plane.COMPONENT_LABEL: component, plane.ENDPOINT_LABEL: self.name}


def server_name(parent: Parent) -> str:
    """Return the name of the server Deployment, and of its disruption budget and network policy."""
    return plane.server_service(parent.name)


def gateway_name(parent: Parent) -> str:
    """Return the name of the gateway Deployment, and of its disruption budget and network policy."""
    return plane.gateway_service(parent.name)


def server_account(parent: Parent, spec: ModelEndpointSpec) -> str:
    """Return the service account of server pods: the user's for workload identity, else graft's."""
    return (spec.credentials.service_account_name if spec.credentials else None) or plane.server_account(parent.name)
