"""
The operator's process as the chart runs it, with the chart's rights and no more, beside a real API server with controllers.

What it did is read from the API server's audit log and held against docs/rbac.md's source, the rendered chart.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from graft_devcluster.apitier import ApiServer, free_ports
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.resources import (
    ADAPTERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    FINE_TUNE_JOBS,
    JOBS,
    MODEL_ENDPOINTS,
    PODS,
    ROLE_BINDINGS,
    SERVICE_ACCOUNTS,
    SERVICES,
    TUNING_POLICIES,
    Object,
    Resource,
)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "graft"
OPERATOR = "system:serviceaccount:graft-system:graft-operator"
SAMPLE = ROOT / "tests" / "data" / "finetunejob" / "good"
IMPLIED = {"serverresources", "selfsubjectaccessreviews"}
"""What every authenticated user may ask."""


class TokenRequests(Resource):
    @property
    def root(self) -> str:
        return "/api/v1"


@pytest.fixture(scope="module")
def api_server() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        yield server


@pytest.fixture(scope="module")
def chart() -> Any:
    spec = importlib.util.spec_from_file_location("generate", CHART / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer, chart: Any) -> Path:
    """Of the administrator, after the chart was installed."""
    command = [str(chart.helm()), "--kubeconfig", str(api_server.kubeconfig), "--namespace", "graft-system"]
    done = subprocess.run([*command, "install", "graft", str(CHART), "--create-namespace"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return api_server.kubeconfig


@pytest.fixture
async def own_kubeconfig(kube: Kube, kubeconfig: Path, tmp_path: Path, until: Callable[..., Awaitable[Any]]) -> Path:
    """Of the operator: the token of its service account."""
    await until(lambda: kube.get(SERVICE_ACCOUNTS, "graft-system", "graft-operator"))
    requests = TokenRequests("authentication.k8s.io", "v1", "serviceaccounts/graft-operator/token", "TokenRequest")
    answer = await kube.create(requests, {"metadata": {"namespace": "graft-system"}, "spec": {"expirationSeconds": 3600}})
    return with_token(kubeconfig, answer["status"]["token"], tmp_path / "kubeconfig")


def with_token(kubeconfig: Path, token: str, target: Path) -> Path:
    document = yaml.safe_load(kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    target.write_text(json.dumps(document))
    return target


class Bad(BaseHTTPRequestHandler):
    """Stands for a Prometheus of which every query gives 1000."""

    def do_POST(self) -> None:
        body = b'{"status": "success", "data": {"resultType": "scalar", "result": [0, "1000"]}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def prometheus() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Bad) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def health(own_kubeconfig: Path, chart: Any, tmp_path: Path, prometheus: str) -> Iterator[tuple[str, Path]]:
    """A running operator: the URL of its health server, and its log."""
    reports, port = free_ports(2)
    objects = {(o["kind"], o["metadata"]["name"]): o for o in chart.objects(chart.rendered())}
    (container,) = objects["Deployment", "graft-operator"]["spec"]["template"]["spec"]["containers"]
    policies = tmp_path / "policies.yaml"
    policies.write_text(objects["ConfigMap", "graft-policies"]["data"]["policies.yaml"])
    environment = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    environment |= {"GRAFT_NAMESPACE": "graft-system", "GRAFT_POD_NAME": "graft-operator-a", "GRAFT_POD_IP": "10.1.2.3"}
    environment |= {"GRAFT_REPORTS_PORT": str(reports), "GRAFT_HEALTH_PORT": str(port), "GRAFT_POLICIES_FILE": str(policies)}
    environment |= {"KUBECONFIG": str(own_kubeconfig), "PATH": os.environ["PATH"], "GRAFT_PROMETHEUS_URL": prometheus}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # this checkout's code, wherever it is
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "graft_operator.main"], env=environment, stdout=output, stderr=output)
    try:
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        code = process.wait(30)
    assert code == 0, log.read_text()


def audited(api_server: ApiServer) -> list[dict[str, Any]]:
    lines = api_server.audit_log.read_text().splitlines()
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["user"]["username"] == OPERATOR]


def granted(chart: Any) -> set[tuple[str, str, str, str]]:
    """Every (group, resource, name or *, verb) of the operator's roles."""
    roles = [o for o in chart.objects(chart.rendered()) if (o["kind"], o["metadata"]["name"]) in chart._OPERATOR]
    return {
        (group, resource, name, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", ["*"])
        for verb in rule["verbs"]
    }


def is_granted(event: dict[str, Any], rights: set[tuple[str, str, str, str]]) -> bool:
    about = event.get("objectRef") or {}
    resource = about.get("resource", "")
    if not resource or resource in IMPLIED:
        return True
    full = f"{resource}/{about['subresource']}" if about.get("subresource") else resource
    return any((about.get("apiGroup", ""), full, name, event["verb"]) in rights for name in ("*", about.get("name", "")))


ENDPOINT: Object = {
    "baseModel": {"uri": "s3://models/base", "digest": f"sha256:{'0' * 64}"},
    "replicas": 2,
    "gateway": {"anonymous": True},
    "domains": [{"name": "dsl"}],
    "trustedKeys": [],
}
ADAPTER: Object = {
    "artifact": {"uri": "s3://adapters/x", "digest": f"sha256:{'1' * 64}", "sizeBytes": 1},
    "domain": "dsl",
    "baseModelDigest": f"sha256:{'0' * 64}",
    "endpointRef": {"name": "prod"},
}


async def serve(kube: Kube, namespace: str, until: Callable[..., Awaitable[Any]]) -> None:
    """A ModelEndpoint from beginning to end, by way of a server of the user's own: all that is made, changed and deleted for one."""
    await kube.create(MODEL_ENDPOINTS, {"metadata": {"name": "prod", "namespace": namespace}, "spec": ENDPOINT})
    await kube.create(ADAPTERS, {"metadata": {"name": "dsl-1", "namespace": namespace}, "spec": ADAPTER})
    for resource, name in ((DEPLOYMENTS, "prod-server"), (DEPLOYMENTS, "prod-gateway"), (SERVICES, "prod-gateway")):
        await until(lambda resource=resource, name=name: kube.get(resource, namespace, name), 60)
    for name in ("prod-routes", "prod-ledger"):
        await until(lambda name=name: kube.get(CONFIG_MAPS, namespace, name), 60)

    async def status(resource: Resource, name: str) -> Object | None:
        found = await kube.get(resource, namespace, name)
        return ((found or {}).get("status") or {}).get("phase")

    await until(lambda: status(MODEL_ENDPOINTS, "prod"), 60)
    await until(lambda: status(ADAPTERS, "dsl-1"), 60)
    await kube.merge_patch(MODEL_ENDPOINTS, namespace, "prod", {"spec": {"server": {"existing": {"deployment": "vllm"}}}})

    async def absent(resource: Resource, name: str) -> bool:
        return await kube.get(resource, namespace, name) is None

    for resource, name in ((DEPLOYMENTS, "prod-server"), (SERVICE_ACCOUNTS, "graft-server-prod"), (ROLE_BINDINGS, "graft-server-prod")):
        await until(lambda resource=resource, name=name: absent(resource, name), 60)
    await kube.delete(ADAPTERS, namespace, "dsl-1")
    await kube.delete(MODEL_ENDPOINTS, namespace, "prod")
    await until(lambda: absent(ADAPTERS, "dsl-1"), 60)
    await until(lambda: absent(DEPLOYMENTS, "prod-gateway"), 60)


async def launch(kube: Kube, namespace: str, until: Callable[..., Awaitable[Any]]) -> None:
    """A TuningPolicy from its criteria to a job that has ended and is beyond its history limit; without a pod it ends by its deadline."""
    await kube.create(MODEL_ENDPOINTS, {"metadata": {"name": "tuned", "namespace": namespace}, "spec": ENDPOINT})
    job = yaml.safe_load((SAMPLE / "minimal.yaml").read_text())["spec"] | {"domain": "dsl", "activeDeadlineSeconds": 1}
    promql = {"bad": "bad[$window]", "total": "total[$window]", "present": "up"}
    criterion = {"name": "errors", "promql": promql, "window": "1h", "above": "0.03"}
    domain = {"name": "dsl", "criteria": [criterion], "jobTemplate": {"spec": job}}
    spec = {"endpointRef": {"name": "tuned"}, "enabled": True, "interval": "10s", "historyLimit": 0, "domains": [domain]}
    await kube.create(TUNING_POLICIES, {"metadata": {"name": "tuning", "namespace": namespace}, "spec": spec})
    chosen = Selection(namespace, labels="graft.dev/tuningpolicy=tuning")
    await until(lambda: kube.list(FINE_TUNE_JOBS, chosen), 60)

    async def over() -> bool:
        found = await kube.get(TUNING_POLICIES, namespace, "tuning") or {}
        (launched,) = found.get("status", {}).get("domains") or [{}]
        return launched.get("decision") == "Cooldown" and not await kube.list(FINE_TUNE_JOBS, chosen)

    await until(over, 90)
    record = await kube.get(CONFIG_MAPS, namespace, "tuned-launches")
    assert record is not None
    assert [one["state"] for one in json.loads(record["data"]["launches.json"])["domains"][0]["launches"]] == ["Created"]


async def test_it_works_with_its_rights_and_uses_no_others(
    kube: Kube, namespace: str, health: tuple[str, Path], api_server: ApiServer, chart: Any, until: Callable[..., Awaitable[Any]]
) -> None:
    url, log = health
    await until(lambda: kube.get(SERVICE_ACCOUNTS, namespace, "default"))
    body: Object = yaml.safe_load((SAMPLE / "minimal.yaml").read_text())
    body["metadata"] = {"name": "tune", "namespace": namespace}
    await kube.create(FINE_TUNE_JOBS, body)

    async def ready() -> bool:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientConnectorError:
                return False

    async def pods() -> list[Object]:
        return await kube.list(PODS, Selection(namespace))

    try:
        await until(ready, 60)
        await until(lambda: kube.list(JOBS, Selection(namespace)), 60)
        (pod,) = await until(pods, 60)
        assert pod["spec"]["serviceAccountName"] in ("graft-trainer", body["spec"].get("credentials", {}).get("serviceAccountName"))
        trusted = await kube.get(CONFIG_MAPS, namespace, "graft-ca")
        assert trusted is not None
        assert "BEGIN CERTIFICATE" in trusted["data"]["ca.crt"]
        slice_ = await until(lambda: kube.get(ENDPOINT_SLICES, "graft-system", "graft-reports"))
        assert slice_["endpoints"][0]["addresses"] == ["10.1.2.3"]
        await kube.delete(FINE_TUNE_JOBS, namespace, "tune")
        await serve(kube, namespace, until)
        await launch(kube, namespace, until)
    except TimeoutError:
        pytest.fail(log.read_text())
    events = await until(lambda: audited(api_server))
    refused = [event for event in events if event.get("responseStatus", {}).get("code") == 403]
    assert not refused, [event["requestURI"] for event in refused]
    rights = granted(chart)
    beyond = [event for event in events if not is_granted(event, rights)]
    assert not beyond, [(event["verb"], event["requestURI"]) for event in beyond]
    assert {event["verb"] for event in events} >= {"get", "list", "watch", "create", "patch"}
