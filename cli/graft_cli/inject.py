"""`graft inject`: agent and door for the pods of a user's own vLLM Deployment, so that a ModelEndpoint can serve through them."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from graft_api import dataplane as plane
from graft_api import serverpod, vllm
from graft_api.modelendpoint import ModelEndpoint
from graft_api.schema import Invalid, parse
from graft_api.serverpod import Sidecars
from graft_cli.vllm_arguments import CommandLine, rewrite

Manifest = dict[str, Any]

DEFAULT_REPORTS_URL = "https://graft-reports.graft-system.svc:8443"
TAKEN_PORTS = (plane.DOOR_PORT, plane.SERVER_PORT, plane.AGENT_HEALTH_PORT)
OF_THE_SERVER = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink")
BOOKKEEPING = ("kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision")


@dataclass(frozen=True)
class Injected:
    """The Deployment as it must be, the patch that makes it so, and what to tell."""

    deployment: Manifest
    patch: Manifest
    changed: list[str]
    remaining: list[str]


class Plain(yaml.SafeDumper):
    """Writes everything out: a probe that is the same as another one is no reason for an anchor."""

    def ignore_aliases(self, data: object) -> bool:
        """Never make one."""
        return True


def inject(options: Namespace) -> int:
    """Print the Deployment or the patch to stdout, and to stderr what changed and what remains to be done."""
    endpoint = _endpoint(options.endpoint)
    name = endpoint.spec.server.existing.deployment if endpoint.spec.server.existing else None
    if name is None:
        raise Invalid([f"{options.endpoint}: spec.server.existing is not set: graft makes the Deployment of this endpoint itself"])
    settings = Sidecars(
        endpoint=str(endpoint.metadata.get("name", "")),
        image=options.serving_image or default_image(),
        pull_policy="IfNotPresent",
        reports_url=options.reports_url,
    )
    done = injected(_deployment(options.file, name), endpoint, settings, options.container)
    yaml.dump(done.patch if options.output == "patch" else done.deployment, sys.stdout, Plain, sort_keys=False, width=140)
    print("changed:", *(f"  {line}" for line in done.changed), "remains to be done:", sep="\n", file=sys.stderr)
    print(*(f"  {line}" for line in done.remaining), sep="\n", file=sys.stderr)
    return 0


def default_image() -> str:
    """Return the serving image of this version."""
    return f"ghcr.io/graft-dev/serving:{version('graft')}"


def injected(deployment: Manifest, endpoint: ModelEndpoint, settings: Sidecars, container: str | None = None) -> Injected:
    """Return the Deployment with agent and door. Doing it again changes nothing. Raises `Invalid`."""
    before = _without_ours(deployment["spec"]["template"]["spec"])
    server = _server(before, container)
    line = rewrite(server.get("command"), server.get("args"), endpoint.spec)
    problems = [*_problems_of_namespaces(deployment, endpoint), *_problems_of_pod(before, server)]
    problems += [*_problems_of_labels(deployment, settings.endpoint), *(f"container {server['name']}: {said}" for said in line.problems)]
    if problems:
        raise Invalid(problems)
    changed_server = _changed_server(server, line, endpoint)
    beside = serverpod.sidecars(settings, endpoint.spec)
    shared = {
        "enableServiceLinks": False,
        "automountServiceAccountToken": before.get("automountServiceAccountToken", False),
        "terminationGracePeriodSeconds": max(serverpod.grace_seconds(endpoint.spec), before.get("terminationGracePeriodSeconds", 0)),
    }
    volumes = serverpod.volumes(settings.endpoint, endpoint.spec)
    labels = {plane.COMPONENT_LABEL: plane.SERVER, plane.ENDPOINT_LABEL: settings.endpoint}
    containers = [changed_server if one is server else one for one in before["containers"]]
    pod = before | shared | {"containers": [*containers, *beside], "volumes": [*before.get("volumes", []), *volumes]}
    patched = shared | {"containers": [_server_patch(server, changed_server), *beside], "volumes": _exactly(volumes)}
    return Injected(
        deployment=_with_pod(deployment, labels, pod),
        patch={"spec": {"template": {"metadata": {"labels": labels}, "spec": patched}}},
        changed=list(_changes(before, server, line)),
        remaining=list(_remaining(deployment, endpoint, server, settings.image)),
    )


def _changed_server(server: Manifest, line: CommandLine, endpoint: ModelEndpoint) -> Manifest:
    """
    Return the user's container with vLLM behind the door.

    Its ports and its readiness probe go: nobody reaches vLLM there any more, and the agent says when a pod can serve.
    """
    ours = {item["name"]: item for item in serverpod.variables(vllm.SERVING_ENVIRONMENT)}
    theirs = [item for item in server.get("env", []) if item["name"] not in ours]
    mounts = [mount for mount in server.get("volumeMounts", []) if not _is_ours(mount)]
    adapters = serverpod.mount("graft-adapters", plane.ADAPTERS_DIRECTORY, read_only=True)
    probes = serverpod.server_probes(endpoint.spec)
    hooks = {key: value for key, value in server.get("lifecycle", {}).items() if key != "preStop"}
    kept = {key: value for key, value in server.items() if key not in {"ports", "readinessProbe"}}
    return (
        kept
        | ({"command": line.command} if line.command else {})
        | {"args": line.args, "env": [*theirs, *ours.values()], "volumeMounts": [*mounts, adapters]}
        | probes
        | {"lifecycle": hooks | probes["lifecycle"]}
    )


def _server_patch(before: Manifest, after: Manifest) -> Manifest:
    """Return the strategic merge patch of vLLM's container. What another kind of probe or hook left must not stay beside ours."""

    def replaced(key: str, inside: Manifest, value: Manifest) -> Manifest:
        return {"$patch": "replace", **value} if key in inside else value

    sources = {item["name"]: item for item in before.get("env", [])}
    ours = [item for item in after["env"] if item["name"] in vllm.SERVING_ENVIRONMENT]
    patch: Manifest = {
        "name": before["name"],
        "args": after["args"],
        "env": [item | ({"valueFrom": None} if "valueFrom" in sources.get(item["name"], {}) else {}) for item in ours],
        "volumeMounts": [mount for mount in after["volumeMounts"] if _is_ours(mount)],
        "lifecycle": {"preStop": replaced("preStop", before.get("lifecycle", {}), after["lifecycle"]["preStop"])},
    }
    patch |= {probe: replaced(probe, before, after[probe]) for probe in ("startupProbe", "livenessProbe")}
    if before.get("command") != after.get("command"):
        patch["command"] = after["command"]
    if "readinessProbe" in before:
        patch["readinessProbe"] = None
    if "ports" in before:
        patch["ports"] = [{"containerPort": port["containerPort"], "$patch": "delete"} for port in before["ports"]]
    return patch


def _exactly(volumes: list[Manifest]) -> list[Manifest]:
    """Return the volumes so that a patch leaves none of another kind beside them: after a change of the endpoint there may be one."""
    return [{"$retainKeys": list(volume), **volume} for volume in volumes]


def _problems_of_namespaces(deployment: Manifest, endpoint: ModelEndpoint) -> Iterator[str]:
    names = {deployment["metadata"].get("namespace"), endpoint.metadata.get("namespace")} - {None}
    if len(names) > 1:
        yield f"Deployment and ModelEndpoint must be in one namespace, not in {' and '.join(sorted(names))}"


def _problems_of_pod(pod: Manifest, server: Manifest) -> Iterator[str]:
    if pod.get("hostNetwork"):
        yield "hostNetwork: the node's other pods could reach vLLM on its loopback: remove it"
    if pod.get("serviceAccountName", "").startswith("graft-"):
        yield "serviceAccountName: accounts graft-* are for pods that graft makes itself: use one of your own"
    for container in pod["containers"]:
        if container is server:
            continue
        if container["name"] in {"agent", "door"}:
            yield f"container {container['name']}: graft adds one of this name: rename it"
        taken = [port["containerPort"] for port in container.get("ports", []) if port["containerPort"] in TAKEN_PORTS]
        if taken:
            yield f"container {container['name']}: graft needs port {', '.join(map(str, taken))} of the pod: use another one"


def _problems_of_labels(deployment: Manifest, endpoint: str) -> Iterator[str]:
    labels = deployment["spec"]["template"].get("metadata", {}).get("labels", {})
    wanted = {plane.COMPONENT_LABEL: plane.SERVER, plane.ENDPOINT_LABEL: endpoint}
    for key, value in wanted.items():
        if labels.get(key, value) != value:
            yield f"the pods' label {key} is {labels[key]}, and must be {value}: a pod serves one endpoint"


def _changes(pod: Manifest, server: Manifest, line: CommandLine) -> Iterator[str]:
    name = server["name"]
    yield f"containers agent and door are added; pods get the labels {plane.COMPONENT_LABEL} and {plane.ENDPOINT_LABEL}"
    for flag, values in line.taken_out.items():
        yield f"container {name}: {' '.join([flag, *values])} is replaced"
    yield f"container {name}: listens on 127.0.0.1:{plane.SERVER_PORT} only, under the name {plane.BASE_NAME}, with room for adapters"
    if ports := [str(port["containerPort"]) for port in server.get("ports", [])]:
        yield f"container {name}: port {', '.join(ports)} is no longer declared; the pod's port is the door's, {plane.DOOR_PORT}"
    replaced = [key for key in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle") if key in server]
    yield f"container {name}: probes and preStop hook go through the door" + (f", instead of {', '.join(replaced)}" if replaced else "")
    if "automountServiceAccountToken" not in pod:
        yield "automountServiceAccountToken: false: vLLM needs no right in the cluster; set it to true before to keep it"
    yield "enableServiceLinks: false: a Service called vllm would set variables that vLLM reads"


def _remaining(deployment: Manifest, endpoint: ModelEndpoint, server: Manifest, image: str) -> Iterator[str]:
    name, pod = endpoint.metadata.get("name", ""), deployment["spec"]["template"]["spec"]
    yield f"the right to apply this: the verb inject on modelendpoints/{name} (ClusterRole graft-serving-admin)"
    yield f"apply ModelEndpoint {name}: the operator makes the Role {plane.server_account(name)}, the routes and the gateway"
    yield f"nodes must be able to pull {image} (--serving-image), with the Deployment's own imagePullSecrets"
    credentials = endpoint.spec.credentials
    if credentials and credentials.secret_ref:
        yield f"the Secret {credentials.secret_ref.name} must be there: the agent fetches adapters with it"
    if pod.get("automountServiceAccountToken"):
        yield "automountServiceAccountToken is true and stays so: vLLM has a token for the API server, which it hardly needs"
    if ports := [str(port["containerPort"]) for port in server.get("ports", [])]:
        yield f"clients use Service {plane.gateway_service(name)}: those that pointed at port {', '.join(ports)} now meet the door"
    yield f"give the pods' service account the Role: kubectl apply -n {_namespace(deployment, endpoint) or '<namespace>'} -f - with"
    binding = role_binding(name, pod.get("serviceAccountName", "default"), _namespace(deployment, endpoint))
    yield from (f"  {line}" for line in yaml.safe_dump(binding, sort_keys=False).splitlines())


def role_binding(endpoint: str, account: str, namespace: str | None) -> Manifest:
    """Build the binding that the operator does not make: whose account it is, only the user can say."""
    placed = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{plane.server_account(endpoint)}-existing", **placed},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": plane.server_account(endpoint)},
        "subjects": [{"kind": "ServiceAccount", "name": account, **placed}],
    }


def _namespace(deployment: Manifest, endpoint: ModelEndpoint) -> str | None:
    return deployment["metadata"].get("namespace") or endpoint.metadata.get("namespace")


def _with_pod(deployment: Manifest, labels: dict[str, str], pod: Manifest) -> Manifest:
    """Return the Deployment with another pod, and without what the API server wrote into it."""
    metadata = {key: value for key, value in deployment["metadata"].items() if key not in OF_THE_SERVER}
    if annotations := {key: value for key, value in metadata.pop("annotations", {}).items() if key not in BOOKKEEPING}:
        metadata["annotations"] = annotations
    template = deployment["spec"]["template"]
    of_pods = template.get("metadata", {})
    described = {key: value for key, value in of_pods.items() if value is not None} | {"labels": {**of_pods.get("labels", {}), **labels}}
    rest = {key: value for key, value in deployment.items() if key != "status"}
    return rest | {"metadata": metadata, "spec": deployment["spec"] | {"template": template | {"metadata": described, "spec": pod}}}


def _server(pod: Manifest, name: str | None) -> Manifest:
    """Return vLLM's container."""
    named: dict[str, Manifest] = {container["name"]: container for container in pod["containers"]}
    if name is not None and name not in named:
        raise Invalid([f"--container {name}: the pod has {', '.join(named)}"])
    if name is None and len(named) > 1 and "vllm" not in named:
        raise Invalid([f"which of {', '.join(named)} is vLLM? Say so with --container"])
    return named[name or ("vllm" if "vllm" in named else next(iter(named)))]


def _without_ours(pod: Manifest) -> Manifest:
    """Return the pod as it was before an earlier `graft inject`."""
    containers = [container for container in pod["containers"] if (container.get("command") or [""])[0] != "graft-serving"]
    return pod | {"containers": containers, "volumes": [volume for volume in pod.get("volumes", []) if not _is_ours(volume)]}


def _is_ours(named: Manifest) -> bool:
    return str(named["name"]).startswith("graft-")


def _endpoint(file: Path) -> ModelEndpoint:
    found = [document for document in _documents(file) if document.get("kind") == "ModelEndpoint"]
    if len(found) != 1:
        raise Invalid([f"{file}: must hold one ModelEndpoint, not {len(found)}"])
    endpoint = parse(ModelEndpoint, {key: value for key, value in found[0].items() if key != "status"})
    if not endpoint.metadata.get("name"):
        raise Invalid([f"{file}: metadata.name is missing"])
    return endpoint


def _deployment(file: Path, name: str) -> Manifest:
    found = {
        str(document.get("metadata", {}).get("name")): document for document in _documents(file) if document.get("kind") == "Deployment"
    }
    if name not in found:
        raise Invalid([f"{file}: spec.server.existing.deployment is {name}, and the file has {', '.join(found) or 'no Deployment'}"])
    try:
        containers = found[name]["spec"]["template"]["spec"]["containers"]
    except (KeyError, TypeError):
        containers = None
    if not containers:
        raise Invalid([f"{file}: spec.template.spec.containers is missing: this is no complete Deployment"])
    return found[name]


def _documents(file: Path) -> list[Manifest]:
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise Invalid([f"{file}: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise Invalid([f"{file}: not YAML: {error}"]) from error
    return [document for document in documents if isinstance(document, dict)]
