"""
The chart on a real API server with its controllers: what a namespace editor, and even a cluster administrator, cannot forge.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft_devcluster.apitier import ApiServer
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.errors import Forbidden, Unavailable
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import (
    ADAPTERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    FINE_TUNE_JOBS,
    JOBS,
    LEASES,
    MODEL_ENDPOINTS,
    NAMESPACES,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    SHADOW_TESTS,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    Object,
    Resource,
)
from graft_operator.finetunejob.children import COMPONENT_LABEL, JOB_LABEL
from graft_operator.modelendpoint.children import Platform
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.modelendpoint.reconcile import ModelEndpoints
from graft_operator.reports.ca import Trust
from graft_operator.reports.certificates import SecretCertificate, service_names
from graft_operator.reports.chains import Foreign, Unauthenticated
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.identity import Identities
from graft_operator.reports.policies import PolicyGuard, load_expected
from graft_operator.reports.service import ReportsEndpoint
from graft_serving.gateway.endpoint_slices import slices_of

CHART = Path(__file__).parents[2] / "charts" / "graft"
GOLDEN = Path(__file__).parents[1] / "unit" / "data" / "modelendpoint"
POLICIES = [
    "graft-approvals",
    "graft-commands",
    "graft-deployments",
    "graft-jobs",
    "graft-operator-writes",
    "graft-pods",
    "graft-promotion",
    "graft-records",
    "graft-replicasets",
    "graft-scale",
    "graft-services",
    "graft-shadows",
    "graft-status",
    "graft-tests",
    "graft-tokens",
]
INJECTED = GOLDEN.with_name("inject")
OPERATOR = "system:serviceaccount:graft-system:graft-operator"
KUEUE = "system:serviceaccount:kueue-system:kueue-controller-manager"
KUBERAY = "system:serviceaccount:kuberay-system:kuberay-operator"
CONTROLLER = "system:serviceaccount:kube-system:{}"
SETTINGS = [
    *("--set", f"policies.kueue.serviceAccount={KUEUE}"),
    *("--set", f"policies.kuberay.serviceAccount={KUBERAY}"),
    *("--set", "replicas=2"),
    *("--set", "networkPolicy.enabled=true"),
]
NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata:
  name: graft-system
  labels: {pod-security.kubernetes.io/enforce: restricted}
"""
IMAGE = "registry.k8s.io/pause:3.10"

Wait = Callable[..., Awaitable[Any]]
Act = Callable[..., Kube]


@pytest.fixture(scope="module")
def helm() -> str:
    spec = importlib.util.spec_from_file_location("generate", CHART / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return str(generate.helm())


@pytest.fixture(scope="module")
def api_server() -> Iterator[ApiServer]:
    """With controllers: that they are let through is half of what is tested."""
    with ApiServer(controllers=True) as server:
        yield server


@pytest.fixture(scope="module")
def run_helm(api_server: ApiServer, helm: str) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        command = [helm, "--kubeconfig", str(api_server.kubeconfig), "--namespace", "graft-system", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def run_kubectl(api_server: ApiServer) -> Callable[..., str]:
    def run(*arguments: str, text: str) -> str:
        kubectl = str(Toolbox(cache_root()).path("kubectl"))
        command = [kubectl, "--kubeconfig", str(api_server.kubeconfig), *arguments, "-f", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


@pytest.fixture(scope="module")
def installed(run_helm: Callable[..., str], run_kubectl: Callable[..., str]) -> str:
    """As a user installs it, in a namespace that admits restricted pods only."""
    run_kubectl("create", text=NAMESPACE)
    return run_helm("install", "graft", str(CHART), *SETTINGS)


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer, installed: str) -> Path:
    return api_server.kubeconfig


@pytest.fixture
async def acting(kubeconfig: Path) -> AsyncIterator[Act]:
    """A client that is somebody else, for as long as the test runs."""
    async with contextlib.AsyncExitStack() as stack:
        clients: list[Kube] = []

        def act(user: str, *groups: str) -> Kube:
            credentials = load_credentials(kubeconfig)
            session = credentials.open_session()
            session.headers["Impersonate-User"] = user
            for group in (*groups, "system:authenticated"):
                session.headers.add("Impersonate-Group", group)
            clients.append(Kube(credentials, session=session))
            stack.push_async_callback(clients[-1].close)
            return clients[-1]

        yield act


@pytest.fixture
async def namespace(kube: Kube, namespace: str, until: Wait) -> str:
    """A namespace with the policies in force and its default service account."""
    await until(lambda: kube.get(SERVICE_ACCOUNTS, namespace, "default"))
    probe = {"metadata": {"generateName": "probe-", "namespace": namespace, "labels": {"graft.dev/record": "manifest"}}}
    await until(lambda: refused(kube.create(CONFIG_MAPS, probe)))
    return namespace


@pytest.fixture
async def operator(acting: Act) -> Kube:
    return acting(OPERATOR, "system:serviceaccounts")


@pytest.fixture
async def editor(kube: Kube, namespace: str, acting: Act, until: Wait) -> Kube:
    """Somebody with the built-in role edit in the namespace."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}
    await kube.create(ROLE_BINDINGS, {"metadata": {"name": "eve", "namespace": namespace}, "roleRef": role, "subjects": [subject]})
    eve = acting("eve")
    await until(lambda: allowed(eve.get(CONFIG_MAPS, namespace, "anything")))
    return eve


@pytest.fixture
async def administrator(acting: Act, namespace: str) -> Kube:
    return acting("root", "system:masters")


@pytest.fixture(params=["editor", "cluster administrator"])
async def forger(request: pytest.FixtureRequest, editor: Kube, administrator: Kube) -> Kube:
    return editor if request.param == "editor" else administrator


@pytest.fixture
async def running(kube: Kube, operator: Kube, namespace: str, until: Wait) -> tuple[Object, Object]:
    """A Job of graft, made by the operator, and the pod that the Job controller made for it."""
    await Trust(operator, SystemClock(), lambda: "a certificate").ensure(namespace, "of-an-object")
    made = await operator.create(JOBS, job(namespace, "ours", labelled()))
    return made, await until(lambda: pod_of(kube, namespace))


async def pod_of(kube: Kube, namespace: str) -> Object | None:
    return next(iter(await kube.list(PODS, Selection(namespace))), None)


async def refused(call: Awaitable[Any]) -> str | None:
    """What the admission policies said, if they refused it. Any other refusal is the test's own mistake."""
    try:
        await call
    except Forbidden as error:
        words = str(error)
    else:
        return None
    assert "ValidatingAdmissionPolicy" in words, words
    return words


async def allowed(call: Awaitable[Any]) -> bool:
    try:
        await call
    except Forbidden:
        return False
    return True


async def delete_all(kube: Kube, resource: Resource, namespace: str) -> Object:
    """A deletecollection, which the operator itself never needs."""
    return await kube._write("DELETE", resource.path(namespace), body={"propagationPolicy": "Background"})


def config_map(namespace: str, name: str, labels: dict[str, str] | None = None) -> Object:
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels or {}}, "data": {"run.json": "{}"}}


def labelled() -> Object:
    """A pod that uses graft's service account, is labelled, and gets a token: each alone must be enough to be protected."""
    return {"metadata": {"labels": {"graft.dev/component": "trainer"}}, "spec": pod_spec("graft-trainer") | speaking()}


def by_account() -> Object:
    return {"metadata": {}, "spec": pod_spec("graft-trainer")}


def by_label() -> Object:
    return {"metadata": {"labels": {"graft.dev/component": "trainer"}}, "spec": pod_spec("default")}


def by_token() -> Object:
    return {"metadata": {}, "spec": pod_spec("default") | speaking()}


def pod_spec(account: str) -> Object:
    container = {"name": "main", "image": IMAGE}
    return {"serviceAccountName": account, "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}


def speaking(audience: str = "graft.dev") -> Object:
    token = {"serviceAccountToken": {"audience": audience, "path": "token"}}
    return {"volumes": [{"name": "plain", "emptyDir": {}}, {"name": "token", "projected": {"sources": [token]}}]}


def serving(component: str, endpoint: str = "prod") -> dict[str, str]:
    return {"graft.dev/component": component, "graft.dev/modelendpoint": endpoint}


def by_door_token() -> Object:
    return {"metadata": {}, "spec": pod_spec("default") | speaking("graft.dev/door/prod")}


def pod(namespace: str, name: str, template: Object) -> Object:
    return {"metadata": {**template["metadata"], "name": name, "namespace": namespace}, "spec": template["spec"]}


def job(namespace: str, name: str, template: Object, labels: dict[str, str] | None = None) -> Object:
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels or {}}, "spec": {"template": template}}


def claiming(namespace: str, name: str, theirs: Object, labels: dict[str, str] | None = None) -> Object:
    """A pod that says what the Job controller would have said about it: that this Job owns it and is yet to count it."""
    uid = theirs["metadata"]["uid"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": theirs["metadata"]["name"], "uid": uid, "controller": True}
    body = pod(namespace, name, {"metadata": {}, "spec": pod_spec("default")})
    body["metadata"] |= {
        "labels": {"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid} | (labels or {}),
        "ownerReferences": [owner],
        "finalizers": ["batch.kubernetes.io/job-tracking"],
    }
    return body


def succeeded(name: str, message: str) -> Object:
    """The status of a pod whose container ended well and left a message."""
    end = {"exitCode": 0, "message": message}
    status = {"name": name, "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0, "state": {"terminated": end}}
    return {"phase": "Succeeded", "containerStatuses": [status]}


def replica_set(namespace: str, name: str, template: Object, labels: dict[str, str]) -> Object:
    labels = {**template["metadata"].get("labels", {}), **labels}
    spec = {**template["spec"], "restartPolicy": "Always"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


def read_by_the_operator(namespace: str, job_name: str) -> Selection:
    """What finetunejob/observe.py asks for."""
    return Selection(namespace, labels=f"{JOB_LABEL}={job_name},{COMPONENT_LABEL}")


MARKED = pytest.mark.parametrize(
    "template",
    [
        pytest.param(by_account, id="by its service account"),
        pytest.param(by_label, id="by its label"),
        pytest.param(by_token, id="by its token"),
        pytest.param(by_door_token, id="by its token for a door"),
    ],
)


class TestRecords:
    @pytest.mark.parametrize("value", ["manifest", "ca", "routes", "ledger", "anything"])
    async def test_nobody_else_creates_one(self, forger: Kube, namespace: str, value: str) -> None:
        body = config_map(namespace, "forged", {"graft.dev/record": value})
        assert "graft operator alone" in (await refused(forger.create(CONFIG_MAPS, body)) or "")
        assert await refused(forger.apply(CONFIG_MAPS, body))

    async def test_nobody_else_changes_unlabels_or_deletes_one(self, forger: Kube, operator: Kube, namespace: str) -> None:
        await operator.create(CONFIG_MAPS, config_map(namespace, "ours", {"graft.dev/record": "manifest"}))
        changes: list[Object] = [
            {"data": {"run.json": "forged"}},
            {"metadata": {"labels": {"graft.dev/record": None}}},
            {"metadata": {"annotations": {"a": "b"}}},
        ]
        for change in changes:
            assert await refused(forger.merge_patch(CONFIG_MAPS, namespace, "ours", change))
        assert await refused(forger.delete(CONFIG_MAPS, namespace, "ours"))
        assert await refused(delete_all(forger, CONFIG_MAPS, namespace))

    async def test_nobody_else_turns_an_ordinary_one_into_a_record(self, forger: Kube, namespace: str) -> None:
        await forger.create(CONFIG_MAPS, config_map(namespace, "ordinary"))
        change = {"metadata": {"labels": {"graft.dev/record": "manifest"}}}
        assert await refused(forger.merge_patch(CONFIG_MAPS, namespace, "ordinary", change))

    @pytest.mark.parametrize("record", ["ledger", "routes"])
    async def test_who_takes_the_name_of_one_first_decides_nothing(
        self, editor: Kube, operator: Kube, kube: Kube, namespace: str, record: str, until: Wait
    ) -> None:
        """Found in review: an editor may create ConfigMaps of any name, and change later what bears no label."""
        await until(lambda: initialized(kube, ADAPTERS))
        name, key = f"prod-{record}", Key(namespace, "prod")
        await editor.create(CONFIG_MAPS, config_map(namespace, name, {"graft.dev/modelendpoint": "prod"}))
        made = await kube.create(MODEL_ENDPOINTS, endpoint(namespace))
        endpoints = reconciler(operator)
        await endpoints.reconcile(key)
        assert await stalled(kube, namespace) == "NameConflict"
        assert not await kube.list(DEPLOYMENTS, Selection(namespace))
        for labels in ({"graft.dev/record": record}, {"graft.dev/record": record, "graft.dev/modelendpoint": "prod"}):
            assert await refused(editor.merge_patch(CONFIG_MAPS, namespace, name, {"metadata": {"labels": labels}}))

        await editor.delete(CONFIG_MAPS, namespace, name)
        await endpoints.reconcile(key)
        assert await stalled(kube, namespace) is None
        written = await kube.get(CONFIG_MAPS, namespace, name)
        assert written is not None
        assert written["metadata"]["labels"]["graft.dev/record"] == record
        assert await refused(editor.merge_patch(CONFIG_MAPS, namespace, name, {"data": {"routes.json": "{}"}}))
        assert made["metadata"]["uid"] in str(await kube.get(CONFIG_MAPS, namespace, "prod-routes"))

    async def test_ordinary_ones_are_left_alone(self, forger: Kube, namespace: str) -> None:
        await forger.create(CONFIG_MAPS, config_map(namespace, "ordinary", {"other": "label"}))
        await forger.merge_patch(CONFIG_MAPS, namespace, "ordinary", {"data": {"a": "b"}})
        assert await forger.delete(CONFIG_MAPS, namespace, "ordinary")

    async def test_the_operator_writes_them(self, operator: Kube, kube: Kube, namespace: str) -> None:
        await Trust(operator, SystemClock(), lambda: "one").ensure(namespace, "of-an-object")
        await Trust(operator, SystemClock(), lambda: "two").ensure(namespace, "of-an-object")
        written = await kube.get(CONFIG_MAPS, namespace, "graft-ca")
        account = await kube.get(SERVICE_ACCOUNTS, namespace, "graft-trainer")
        assert written is not None
        assert account is not None
        assert written["data"] == {"ca.crt": "two"}
        assert account["automountServiceAccountToken"] is False

    async def test_they_go_with_their_owner_and_their_namespace(self, kube: Kube, operator: Kube, namespace: str, until: Wait) -> None:
        owner = await kube.create(CONFIG_MAPS, config_map(namespace, "owner"))
        body = config_map(namespace, "owned", {"graft.dev/record": "manifest"})
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        body["metadata"]["ownerReferences"] = [reference]
        await operator.create(CONFIG_MAPS, body)
        await operator.create(CONFIG_MAPS, config_map(namespace, "ownerless", {"graft.dev/record": "ledger"}))
        await kube.delete(CONFIG_MAPS, namespace, "owner")
        await until(lambda: absent(kube, CONFIG_MAPS, namespace, "owned"), 60)
        await kube.delete(NAMESPACES, None, namespace)
        await until(lambda: absent(kube, NAMESPACES, None, namespace), 60)


async def initialized(kube: Kube, resource: Resource) -> bool:
    """Whether the API server has come to the end of installing this kind."""
    try:
        await kube.list(resource)
    except Unavailable:
        return False
    return True


def reconciler(operator: Kube) -> ModelEndpoints:
    """The operator's own, with the operator's rights."""
    clock = SystemClock()
    return ModelEndpoints(
        kube=operator,
        clock=clock,
        events=EventRecorder(operator, clock, "test"),
        guard=PolicyGuard(operator, clock, {}),
        platform=Platform("serving:1", "vllm:1", "https://reports:8443"),
        trust=Trust(operator, clock, lambda: "a certificate"),
        hearsay=Hearsay(Fleet(clock, lambda _: None), clock),
        epoch=lambda: 1,
        salt=lambda domain: domain,
    )


async def stalled(kube: Kube, namespace: str) -> str | None:
    """Why the endpoint is, if it is."""
    found = await kube.get(MODEL_ENDPOINTS, namespace, "prod")
    assert found is not None
    reasons = {c["reason"] for c in found["status"]["conditions"] if (c["type"], c["status"]) == ("Stalled", "True")}
    return next(iter(reasons), None)


async def absent(kube: Kube, resource: Resource, namespace: str | None, name: str) -> bool:
    return await kube.get(resource, namespace, name) is None


LABELS = [
    pytest.param({JOB_LABEL: "mine"}, id="with the job's label"),
    pytest.param({JOB_LABEL: "mine", COMPONENT_LABEL: "report"}, id="with both labels"),
    pytest.param({"graft.dev/anything": ""}, id="with a label that nobody reads yet"),
]


class TestPods:
    @MARKED
    async def test_nobody_creates_one_directly(self, forger: Kube, kube: Kube, namespace: str, template: Callable[[], Object]) -> None:
        await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": "graft-trainer", "namespace": namespace}})
        message = await refused(forger.create(PODS, pod(namespace, "forged", template())))
        assert "create a FineTuneJob or a ModelEndpoint instead" in (message or "")

    async def test_the_job_controller_creates_what_the_operator_asked_for(self, running: tuple[Object, Object]) -> None:
        ours, its_pod = running
        assert its_pod["metadata"]["ownerReferences"][0]["uid"] == ours["metadata"]["uid"]

    async def test_nobody_changes_what_it_runs_or_whose_it_is(self, forger: Kube, running: tuple[Object, Object]) -> None:
        metadata = running[1]["metadata"]
        changes: list[Object] = [
            {"spec": {"containers": [{"name": "main", "image": "forged"}]}},
            {"spec": {"activeDeadlineSeconds": 1}},
            {"metadata": {"labels": {"graft.dev/component": None}}},
            {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "other"}}},
            {"metadata": {"ownerReferences": None}},
        ]
        for change in changes:
            assert await refused(strategic(forger, metadata["namespace"], metadata["name"], change)), change

    async def test_not_even_an_administrator_adds_an_ephemeral_container(self, administrator: Kube, running: tuple[Object, Object]) -> None:
        metadata = running[1]["metadata"]
        debug = {"name": "debug", "image": IMAGE, "targetContainerName": "main"}
        change = {"spec": {"ephemeralContainers": [debug]}}
        call = administrator.merge_patch(PODS, metadata["namespace"], metadata["name"], change, subresource="ephemeralcontainers")
        assert await refused(call)

    async def test_annotations_and_deletion_are_free(self, forger: Kube, running: tuple[Object, Object]) -> None:
        metadata = running[1]["metadata"]
        await forger.merge_patch(PODS, metadata["namespace"], metadata["name"], {"metadata": {"annotations": {"a": "b"}}})
        assert await forger.delete(PODS, metadata["namespace"], metadata["name"])

    async def test_a_foreign_pod_does_not_become_one(self, forger: Kube, namespace: str) -> None:
        await forger.create(PODS, pod(namespace, "foreign", {"metadata": {}, "spec": pod_spec("default")}))
        change = {"metadata": {"labels": {"graft.dev/component": "trainer"}}}
        assert await refused(forger.merge_patch(PODS, namespace, "foreign", change))

    @pytest.mark.parametrize("labels", LABELS)
    async def test_nobody_forges_what_a_job_left(
        self, forger: Kube, kube: Kube, namespace: str, running: tuple[Object, Object], labels: dict[str, str]
    ) -> None:
        """Found in review: such a pod exits with 0 and a message of its own, and its Job is ours."""
        body = claiming(namespace, "forged", running[0], labels)
        assert "create a FineTuneJob or a ModelEndpoint instead" in (await refused(forger.create(PODS, body)) or "")
        assert await refused(forger.apply(PODS, body))
        assert await kube.get(PODS, namespace, "forged") is None

    @pytest.mark.parametrize("labels", LABELS)
    async def test_nor_later(
        self, forger: Kube, kube: Kube, namespace: str, running: tuple[Object, Object], labels: dict[str, str]
    ) -> None:
        """Without a label of ours it may claim what it likes, and is not read; it does not get the label later."""
        await forger.create(PODS, claiming(namespace, "claims-at-once", running[0]))
        await forger.create(PODS, pod(namespace, "claims-later", {"metadata": {}, "spec": pod_spec("default")}))
        change = claiming(namespace, "claims-later", running[0])["metadata"]
        await forger.merge_patch(PODS, namespace, "claims-later", {"metadata": {key: change[key] for key in ("labels", "ownerReferences")}})
        for name in ("claims-at-once", "claims-later"):
            assert await refused(forger.merge_patch(PODS, namespace, name, {"metadata": {"labels": labels}}))
        everything = {"metadata": {"labels": change["labels"] | labels, "ownerReferences": change["ownerReferences"]}}
        assert await refused(forger.merge_patch(PODS, namespace, "claims-later", everything))
        assert not await kube.list(PODS, read_by_the_operator(namespace, "mine"))

    async def test_nor_does_a_job_of_one_s_own_bring_such_pods_to_adopt(self, forger: Kube, namespace: str) -> None:
        """A Job with a selector of its own may label its pods as another Job's, and leave them behind."""
        template = {"metadata": {"labels": {"mine": "yes", "batch.kubernetes.io/controller-uid": "ours", JOB_LABEL: "mine"}}}
        body = job(namespace, "stray", template | {"spec": pod_spec("default")})
        body["spec"] |= {"manualSelector": True, "selector": {"matchLabels": {"mine": "yes"}}}
        assert await refused(forger.create(JOBS, body))

    async def test_a_status_comes_from_nodes_alone(self, editor: Kube, kube: Kube, namespace: str, running: tuple[Object, Object]) -> None:
        name, forged = running[1]["metadata"]["name"], {"status": succeeded("main", "forged")}
        await editor.merge_patch(PODS, namespace, name, {**forged, "metadata": {"annotations": {"a": "b"}}})
        await editor.create(PODS, {**pod(namespace, "foreign", {"metadata": {}, "spec": pod_spec("default")}), **forged})
        for found in await kube.list(PODS, Selection(namespace)):
            assert found["status"]["phase"] == "Pending"
            assert "containerStatuses" not in found["status"]
        with pytest.raises(Forbidden, match="pods/status"):
            await editor.merge_patch(PODS, namespace, name, forged, subresource="status")

    async def test_nor_does_a_status_bring_labels_or_owners(
        self, administrator: Kube, kube: Kube, namespace: str, running: tuple[Object, Object]
    ) -> None:
        """Kubernetes takes labels from what is sent as a status; owners it leaves."""
        name = running[1]["metadata"]["name"]
        await administrator.create(PODS, pod(namespace, "foreign", {"metadata": {}, "spec": pod_spec("default")}))
        for target, change in (("foreign", {"graft.dev/component": "server"}), (name, {"graft.dev/component": None}), (name, {"x": "y"})):
            call = administrator.merge_patch(PODS, namespace, target, {"metadata": {"labels": change}}, subresource="status")
            assert "do not change" in (await refused(call) or ""), change
        orphaned: Object = {"metadata": {"ownerReferences": None}, "status": {"message": "a"}}
        changed = await administrator.merge_patch(PODS, namespace, name, orphaned, subresource="status")
        assert changed["metadata"]["ownerReferences"] == running[1]["metadata"]["ownerReferences"]
        assert changed["status"]["message"] == "a"

    async def test_pods_of_other_jobs_are_left_alone(self, forger: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        """Also copies of them with all they have, as backup and virtual clusters make, under a name that could be one of ours."""
        theirs = await forger.create(JOBS, job(namespace, "x-train-1a2b3c4d", {"metadata": {}, "spec": pod_spec("default")}))
        made = await until(lambda: pod_of(kube, namespace))
        name = made["metadata"]["name"]
        assert made["metadata"]["ownerReferences"][0]["uid"] == theirs["metadata"]["uid"]
        await forger.merge_patch(PODS, namespace, name, {"metadata": {"labels": {"x": "y"}}})
        assert await forger.delete(PODS, namespace, name)
        await forger.create(PODS, claiming(namespace, "copied", theirs, {"graft": "no-prefix", "example.com/graft.dev": "no-prefix"}))

    async def test_foreign_pods_are_left_alone(self, forger: Kube, namespace: str) -> None:
        await forger.create(PODS, pod(namespace, "foreign", {"metadata": {}, "spec": pod_spec("default")}))
        await forger.merge_patch(PODS, namespace, "foreign", {"metadata": {"labels": {"x": "y"}}})
        assert await forger.delete(PODS, namespace, "foreign")

    async def test_a_replica_set_brings_pods_but_not_for_a_job_to_adopt(
        self, acting: Act, kube: Kube, namespace: str, running: tuple[Object, Object], until: Wait
    ) -> None:
        deployments = acting(CONTROLLER.format("deployment-controller"), "system:masters")
        own = {"role": "server"}
        await deployments.create(REPLICA_SETS, replica_set(namespace, "server", by_label(), own))
        stray = {"batch.kubernetes.io/controller-uid": running[0]["metadata"]["uid"]}
        await deployments.create(REPLICA_SETS, replica_set(namespace, "stray", by_token(), stray))

        async def failed() -> bool:
            found = await kube.get(REPLICA_SETS, namespace, "stray")
            conditions = ((found or {}).get("status") or {}).get("conditions") or []
            return any("must not carry the labels of a Job" in condition["message"] for condition in conditions)

        await until(failed)
        names = [found["metadata"]["name"] for found in await kube.list(PODS, Selection(namespace))]
        assert any(name.startswith("server-") for name in names)
        assert not any(name.startswith("stray-") for name in names)

    async def test_kuberay_brings_pods_but_not_for_a_job(self, acting: Act, namespace: str, running: tuple[Object, Object]) -> None:
        kuberay = acting(KUBERAY, "system:masters")
        await kuberay.create(PODS, pod(namespace, "worker", by_label()))
        labelled_as_jobs = claiming(namespace, "stray", running[0], {COMPONENT_LABEL: "trainer"})
        owned_by_job = pod(namespace, "stray", by_label())
        owned_by_job["metadata"]["ownerReferences"] = labelled_as_jobs["metadata"].pop("ownerReferences")
        for body in (labelled_as_jobs, owned_by_job):
            assert "does not come from a Job" in (await refused(kuberay.create(PODS, body)) or "")

    @pytest.mark.parametrize("kind", ["statefulset-controller", "daemon-set-controller", "replication-controller", "kuberay"])
    async def test_no_other_controller_brings_servers_or_gateways(self, acting: Act, kube: Kube, namespace: str, kind: str) -> None:
        for account in ("graft-server-prod", "graft-gateway-prod", "graft-trainer"):
            await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": account, "namespace": namespace}})
        controller = acting(KUBERAY if kind == "kuberay" else CONTROLLER.format(kind), "system:masters")
        forged = {
            "label": {"metadata": {"labels": serving("server")}, "spec": pod_spec("default")},
            "server": {"metadata": {}, "spec": pod_spec("graft-server-prod")},
            "gateway": {"metadata": {}, "spec": pod_spec("graft-gateway-prod")},
            "knocks": {"metadata": {}, "spec": pod_spec("default") | speaking("graft.dev/door/prod")},
            "adopted": {"metadata": {"labels": {"pod-template-hash": "x"}}, "spec": pod_spec("graft-trainer")},
        }
        for name, template in forged.items():
            assert await refused(controller.create(PODS, pod(namespace, name, template))), name

    async def test_nor_does_a_job_of_the_operator(self, acting: Act, kube: Kube, namespace: str) -> None:
        """Such as a FineTuneJob that names a gateway's service account as its own."""
        await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": "graft-gateway-prod", "namespace": namespace}})
        jobs = acting(CONTROLLER.format("job-controller"), "system:masters")
        body = pod(namespace, "forged", {"metadata": {}, "spec": pod_spec("graft-gateway-prod") | speaking()})
        assert "come from a ReplicaSet alone" in (await refused(jobs.create(PODS, body)) or "")


async def strategic(kube: Kube, namespace: str, name: str, change: Object) -> Object:
    """A merge patch would drop the containers' other fields; the API server refuses that before any policy looks."""
    if "containers" not in change.get("spec", {}):
        return await kube.merge_patch(PODS, namespace, name, change)
    image = change["spec"]["containers"][0]["image"]
    return await kube.json_patch(PODS, namespace, name, [{"op": "replace", "path": "/spec/containers/0/image", "value": image}])


class TestTokens:
    @pytest.mark.parametrize(
        "audiences",
        [["graft.dev"], ["other", "graft.dev"], ["graft.dev/door/prod"], ["graft.dev/collector/prod"], ["graft.dev/"]],
        ids=["alone", "among others", "for a door", "for a collector", "for nothing yet"],
    )
    async def test_nobody_else_asks_for_one(self, forger: Kube, namespace: str, audiences: list[str]) -> None:
        message = await refused(request_token(forger, namespace, audiences))
        assert "requested by nodes alone" in (message or "")

    async def test_other_audiences_are_left_alone(self, forger: Kube, namespace: str) -> None:
        await request_token(forger, namespace, ["other", "graft.developers", "https://graft.dev/door/prod"])
        await request_token(forger, namespace, [])

    async def test_a_node_asks_for_its_pods(self, kube: Kube, acting: Act, running: tuple[Object, Object]) -> None:
        assert await mounted_token(kube, acting, running[1])


async def mounted_token(kube: Kube, acting: Act, running: Object, audience: str = "graft.dev") -> str:
    """Put a pod on a node, and get its token as the node's kubelet does."""
    metadata = running["metadata"]
    target = {"apiVersion": "v1", "kind": "Node", "name": "n1"}
    if not running["spec"].get("nodeName"):
        binding = {"metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}, "target": target}
        await kube.create(bindings_of(metadata["name"]), binding)
        running["spec"]["nodeName"] = "n1"
    node = acting("system:node:n1", "system:nodes")
    bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
    answer = await request_token(node, metadata["namespace"], [audience], account=running["spec"]["serviceAccountName"], bound=bound)
    return str(answer["status"]["token"])


def bindings_of(name: str) -> Resource:
    return Resource("", "v1", f"pods/{name}/binding", "Binding")


async def request_token(kube: Kube, namespace: str, audiences: list[str], account: str = "default", bound: Object | None = None) -> Object:
    resource = Resource("authentication.k8s.io", "v1", f"serviceaccounts/{account}/token", "TokenRequest")
    core = CoreToken(resource.group, resource.version, resource.plural, resource.kind)
    spec = {"audiences": audiences, "expirationSeconds": 600} | ({"boundObjectRef": bound} if bound else {})
    return await kube.create(core, {"metadata": {"namespace": namespace}, "spec": spec})


class CoreToken(Resource):
    """A kind of one group that is served below the path of another."""

    @property
    def root(self) -> str:
        return "/api/v1"


class TestJobs:
    @MARKED
    async def test_nobody_else_creates_one(self, forger: Kube, namespace: str, template: Callable[[], Object]) -> None:
        message = await refused(forger.create(JOBS, job(namespace, "forged", template())))
        assert "create a FineTuneJob instead" in (message or "")

    @pytest.mark.parametrize("labels", LABELS)
    async def test_nor_one_that_only_is_labelled(self, forger: Kube, namespace: str, labels: dict[str, str]) -> None:
        plain = {"metadata": {}, "spec": pod_spec("default")}
        assert await refused(forger.create(JOBS, job(namespace, "forged", plain, labels)))
        assert await refused(forger.create(JOBS, job(namespace, "forged", plain | {"metadata": {"labels": labels}})))

    async def test_nor_one_that_says_it_is_a_fine_tune_job_s(self, forger: Kube, namespace: str) -> None:
        body = job(namespace, "forged", {"metadata": {}, "spec": pod_spec("default")})
        await forger.create(JOBS, body | {"metadata": body["metadata"] | {"name": "plain"}})
        owner = {"apiVersion": "graft.dev/v1alpha1", "kind": "FineTuneJob", "name": "mine", "uid": "u", "controller": True}
        body["metadata"]["ownerReferences"] = [owner]
        assert await refused(forger.create(JOBS, body))
        for change in ({"ownerReferences": [owner]}, {"labels": {JOB_LABEL: "mine"}}):
            assert await refused(forger.merge_patch(JOBS, namespace, "plain", {"metadata": change}))

    async def test_nor_through_a_status(self, administrator: Kube, namespace: str) -> None:
        """A status takes labels and owners along."""
        await administrator.create(JOBS, job(namespace, "plain", {"metadata": {}, "spec": pod_spec("default")}))
        owner = {"apiVersion": "graft.dev/v1alpha1", "kind": "FineTuneJob", "name": "mine", "uid": "u", "controller": True}
        for change in ({"ownerReferences": [owner]}, {"labels": {JOB_LABEL: "mine"}}):
            assert await refused(administrator.merge_patch(JOBS, namespace, "plain", {"metadata": change}, subresource="status"))

    async def test_nor_through_a_cron_job(self, acting: Act, namespace: str) -> None:
        controller = acting(CONTROLLER.format("cronjob-controller"), "system:masters")
        assert await refused(controller.create(JOBS, job(namespace, "forged-1", by_token())))

    async def test_nobody_else_changes_or_deletes_one(self, forger: Kube, running: tuple[Object, Object]) -> None:
        namespace = running[0]["metadata"]["namespace"]
        changes: list[Object] = [
            {"spec": {"suspend": True}},
            {"spec": {"backoffLimit": 99}},
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}]}},
        ]
        for change in changes:
            assert "change the FineTuneJob" in (await refused(forger.merge_patch(JOBS, namespace, "ours", change)) or "")
        assert "delete the FineTuneJob" in (await refused(forger.delete(JOBS, namespace, "ours")) or "")
        assert await refused(delete_all(forger, JOBS, namespace))

    async def test_other_jobs_are_left_alone(self, forger: Kube, namespace: str) -> None:
        await forger.create(JOBS, job(namespace, "other", {"metadata": {}, "spec": pod_spec("default")}))
        await forger.merge_patch(JOBS, namespace, "other", {"spec": {"suspend": True}})
        assert await forger.delete(JOBS, namespace, "other")

    async def test_kueue_and_the_operator_may(
        self, acting: Act, kube: Kube, operator: Kube, running: tuple[Object, Object], until: Wait
    ) -> None:
        namespace = running[0]["metadata"]["namespace"]
        kueue = acting(KUEUE, "system:masters")
        await kueue.merge_patch(JOBS, namespace, "ours", {"spec": {"suspend": True}})
        await operator.merge_patch(JOBS, namespace, "ours", {"spec": {"ttlSecondsAfterFinished": 0}})
        await operator.delete(JOBS, namespace, "ours", propagation="Foreground")
        await until(lambda: absent(kube, JOBS, namespace, "ours"), 60)

    async def test_an_expired_one_goes_by_itself(self, kube: Kube, operator: Kube, running: tuple[Object, Object], until: Wait) -> None:
        namespace, name = running[1]["metadata"]["namespace"], running[1]["metadata"]["name"]
        await kube.merge_patch(PODS, namespace, name, {"status": succeeded("main", "")}, subresource="status")
        await operator.merge_patch(JOBS, namespace, "ours", {"spec": {"ttlSecondsAfterFinished": 0}})
        await until(lambda: absent(kube, JOBS, namespace, "ours"), 60)
        await until(lambda: absent(kube, PODS, namespace, name), 60)


def deployment(namespace: str, name: str, template: Object, labels: dict[str, str] | None = None, owner: Object | None = None) -> Object:
    """Selects by all labels of its pods, as graft's own do."""
    pod_labels = {"app": name, **template["metadata"].get("labels", {})}
    template = {"metadata": {"labels": pod_labels}, "spec": {**template["spec"], "restartPolicy": "Always"}}
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}} | ({"ownerReferences": [owner]} if owner else {})
    return {"metadata": metadata, "spec": {"selector": {"matchLabels": pod_labels}, "template": template}}


def endpoint_owner(uid: str = "11111111-2222-3333-4444-555555555555") -> Object:
    return {"apiVersion": "graft.dev/v1alpha1", "kind": "ModelEndpoint", "name": "prod", "uid": uid, "controller": True}


def server(namespace: str, owner: Object) -> Object:
    """As the operator makes it."""
    template = {"metadata": {"labels": serving("server")}, "spec": pod_spec("graft-server-prod") | speaking()}
    return deployment(namespace, "prod-server", template, serving("server"), owner)


def gateway(namespace: str, owner: Object) -> Object:
    """Likewise: it speaks to the operator, and knocks at doors."""
    spec = pod_spec("graft-gateway-prod")
    spec["volumes"] = [*speaking()["volumes"], {**speaking("graft.dev/door/prod")["volumes"][1], "name": "door"}]
    template = {"metadata": {"labels": serving("gateway")}, "spec": spec}
    return deployment(namespace, "prod-gateway", template, serving("gateway"), owner)


def own_vllm(labels: dict[str, str] | None = None, account: str = "default") -> Object:
    """Pods of somebody's own vLLM into which agent and door were injected."""
    return {"metadata": {"labels": serving("server") if labels is None else labels}, "spec": pod_spec(account) | speaking()}


def restarted() -> Object:
    """`kubectl rollout restart`."""
    return {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-20T12:00:00Z"}}}}}


def endpoint(namespace: str, existing: str | None = None) -> Object:
    base = {"uri": "s3://models/base", "digest": f"sha256:{'0' * 64}"}
    spec: Object = {"baseModel": base, "gateway": {"anonymous": True}, "domains": [{"name": "dsl"}], "trustedKeys": []}
    if existing:
        spec["server"] = {"existing": {"deployment": existing}}
    return {"metadata": {"name": "prod", "namespace": namespace}, "spec": spec}


def shadow(namespace: str, owner: Object | None = None) -> Object:
    """As the ShadowTest reconciler makes it."""
    body = endpoint(namespace)
    body["metadata"] |= {"name": "first-shadow", "labels": {"graft.dev/shadowtest": "first"}}
    body["metadata"] |= {"ownerReferences": [owner]} if owner else {}
    body["spec"] |= {"gateway": {"anonymous": True, "replicas": 0}, "shadow": {"endpoint": "prod", "versions": []}}
    return body


def collector(namespace: str, owner: Object) -> Object:
    """As the operator makes it: it speaks to the operator, and knocks at the door of a shadow server."""
    spec = pod_spec("graft-collector-prod")
    spec["volumes"] = [*speaking()["volumes"], {**speaking("graft.dev/door/first-shadow")["volumes"][1], "name": "door"}]
    return deployment(
        namespace, "prod-collector", {"metadata": {"labels": serving("collector")}, "spec": spec}, serving("collector"), owner
    )


def scaled(replicas: int) -> Object:
    return {"spec": {"replicas": replicas}}


@pytest.fixture
async def served(kube: Kube, operator: Kube, namespace: str, until: Wait) -> Object:
    """A server Deployment of graft, whose ReplicaSet and pod Kubernetes has made."""
    owner = await kube.create(MODEL_ENDPOINTS, endpoint(namespace))
    await operator.apply(SERVICE_ACCOUNTS, {"metadata": {"name": "graft-server-prod", "namespace": namespace}})
    made = await operator.apply(DEPLOYMENTS, server(namespace, endpoint_owner(owner["metadata"]["uid"])))
    await until(lambda: pod_of(kube, namespace))
    return made


async def only(kube: Kube, resource: Resource, namespace: str) -> Object:
    (found,) = await kube.list(resource, Selection(namespace))
    return found


async def may_inject(kube: Kube, namespace: str, user: str, *endpoints: str) -> None:
    rule: Object = {"apiGroups": ["graft.dev"], "resources": ["modelendpoints"], "verbs": ["inject"]}
    rule |= {"resourceNames": list(endpoints)} if endpoints else {}
    await grant(kube, namespace, user, rule)


async def may_command(kube: Kube, namespace: str, user: str, resource: str, *names: str) -> None:
    rule: Object = {"apiGroups": ["graft.dev"], "resources": [resource], "verbs": ["command"]}
    await grant(kube, namespace, user, rule | ({"resourceNames": list(names)} if names else {}))


async def grant(kube: Kube, namespace: str, user: str, rule: Object) -> None:
    metadata = {"name": f"{user}-{rule['verbs'][0]}-{rule['resources'][0]}", "namespace": namespace}
    await kube.create(ROLES, {"metadata": metadata, "rules": [rule]})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": metadata["name"]}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    await kube.create(ROLE_BINDINGS, {"metadata": metadata, "roleRef": reference, "subjects": [subject]})


class TestDeployments:
    @MARKED
    async def test_an_editor_creates_none(self, editor: Kube, namespace: str, template: Callable[[], Object]) -> None:
        message = await refused(editor.create(DEPLOYMENTS, deployment(namespace, "forged", template())))
        assert "create a ModelEndpoint instead" in (message or "")

    @pytest.mark.parametrize(
        ("labels", "template", "owner"),
        [
            pytest.param(None, by_account(), None, id="with a service account of graft"),
            pytest.param(None, own_vllm(account="graft-server-prod"), None, id="with the service account of servers"),
            pytest.param(None, own_vllm(account="graft-collector-prod"), None, id="with the service account of collectors"),
            pytest.param(None, by_door_token(), None, id="with a token for a door"),
            pytest.param(None, own_vllm(serving("gateway")), None, id="labelled as a gateway"),
            pytest.param(None, own_vllm(serving("collector")), None, id="labelled as a collector"),
            pytest.param(None, own_vllm({"graft.dev/finetunejob": "x"}), None, id="with another label of graft on its pods"),
            pytest.param({"graft.dev/record": "x"}, own_vllm(), None, id="with another label of graft"),
            pytest.param(None, own_vllm(), endpoint_owner(), id="with a ModelEndpoint as owner"),
            pytest.param(None, {"metadata": {}, "spec": pod_spec("default")}, endpoint_owner(), id="with nothing but the owner"),
        ],
    )
    async def test_nor_does_whoever_may_inject(
        self, forger: Kube, kube: Kube, namespace: str, labels: dict[str, str] | None, template: Object, owner: Object | None
    ) -> None:
        await may_inject(kube, namespace, "eve")
        assert await refused(forger.create(DEPLOYMENTS, deployment(namespace, "forged", template, labels, owner)))

    async def test_kubernetes_makes_pods_of_the_operators(self, kube: Kube, namespace: str, served: Object) -> None:
        replica_set = await only(kube, REPLICA_SETS, namespace)
        made = await only(kube, PODS, namespace)
        assert replica_set["metadata"]["ownerReferences"][0]["uid"] == served["metadata"]["uid"]
        assert made["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]

    async def test_nobody_else_changes_scales_restarts_or_deletes_one(self, forger: Kube, namespace: str, served: Object) -> None:
        changes: list[Object] = [
            restarted(),
            scaled(0),
            {"spec": {"paused": True}},
            {"metadata": {"labels": dict.fromkeys(serving("server"))}},
            {"metadata": {"ownerReferences": None}},
        ]
        for change in changes:
            message = await refused(forger.merge_patch(DEPLOYMENTS, namespace, "prod-server", change))
            assert "change its annotation graft.dev/upgrade" in (message or ""), change
        by_scale = forger.merge_patch(DEPLOYMENTS, namespace, "prod-server", scaled(0), subresource="scale")
        assert "kubectl scale modelendpoint" in (await refused(by_scale) or "")
        assert "delete the ModelEndpoint" in (await refused(forger.delete(DEPLOYMENTS, namespace, "prod-server")) or "")
        assert await refused(delete_all(forger, DEPLOYMENTS, namespace))

    async def test_nor_through_its_status(self, administrator: Kube, kube: Kube, namespace: str, served: Object) -> None:
        """A status takes owners along."""
        await administrator.merge_patch(DEPLOYMENTS, namespace, "prod-server", {"status": {"collisionCount": 1}}, subresource="status")
        await administrator.create(DEPLOYMENTS, deployment(namespace, "vllm", own_vllm()))
        change = {"metadata": {"ownerReferences": [endpoint_owner(served["metadata"]["ownerReferences"][0]["uid"])]}}
        assert await refused(administrator.merge_patch(DEPLOYMENTS, namespace, "vllm", change, subresource="status"))
        owned = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "prod-server", "uid": served["metadata"]["uid"], "controller": True}
        for found in await kube.list(REPLICA_SETS, Selection(namespace)):
            call = administrator.merge_patch
            name, change = found["metadata"]["name"], {"metadata": {"ownerReferences": [owned | {"name": "other"}]}}
            assert await refused(call(REPLICA_SETS, namespace, name, change, subresource="status"))
            await call(REPLICA_SETS, namespace, name, {"status": {"observedGeneration": 1}}, subresource="status")

    async def test_an_autoscaler_is_told_what_to_scale(self, acting: Act, namespace: str, served: Object) -> None:
        autoscaler = acting(CONTROLLER.format("horizontal-pod-autoscaler"), "system:masters")
        message = await refused(autoscaler.merge_patch(DEPLOYMENTS, namespace, "prod-server", scaled(2), subresource="scale"))
        assert "whose target is the ModelEndpoint" in (message or "")
        await autoscaler.merge_patch(MODEL_ENDPOINTS, namespace, "prod", scaled(2), subresource="scale")

    async def test_an_editor_scales_the_endpoint(self, editor: Kube, kube: Kube, namespace: str, served: Object, until: Wait) -> None:
        await until(lambda: allowed(editor.merge_patch(MODEL_ENDPOINTS, namespace, "prod", scaled(3), subresource="scale")))
        found = await kube.get(MODEL_ENDPOINTS, namespace, "prod")
        assert found is not None
        assert found["spec"]["replicas"] == 3

    async def test_the_operator_rolls_and_deletes_it(self, operator: Kube, kube: Kube, namespace: str, served: Object, until: Wait) -> None:
        await operator.merge_patch(DEPLOYMENTS, namespace, "prod-server", restarted())

        async def rolled() -> bool:
            return len(await kube.list(REPLICA_SETS, Selection(namespace))) == 2

        async def gone() -> bool:
            return not await kube.list(REPLICA_SETS, Selection(namespace)) + await kube.list(PODS, Selection(namespace))

        await until(rolled)
        await operator.delete(DEPLOYMENTS, namespace, "prod-server", propagation="Foreground")
        await until(gone, 60)

    async def test_it_goes_with_its_endpoint(self, kube: Kube, namespace: str, served: Object, until: Wait) -> None:
        await kube.delete(MODEL_ENDPOINTS, namespace, "prod")
        await until(lambda: absent(kube, DEPLOYMENTS, namespace, "prod-server"), 60)

    async def test_what_an_endpoint_left_behind_is_no_dead_end(
        self, editor: Kube, kube: Kube, namespace: str, served: Object, until: Wait
    ) -> None:
        await kube.delete(MODEL_ENDPOINTS, namespace, "prod", propagation="Orphan")

        async def orphaned() -> bool:
            found = await kube.get(DEPLOYMENTS, namespace, "prod-server")
            return found is not None and not found["metadata"].get("ownerReferences")

        await until(orphaned, 60)
        assert await refused(editor.merge_patch(DEPLOYMENTS, namespace, "prod-server", restarted()))
        await editor.delete(DEPLOYMENTS, namespace, "prod-server", propagation="Orphan")
        await until(lambda: absent(kube, DEPLOYMENTS, namespace, "prod-server"), 60)
        name = (await only(kube, REPLICA_SETS, namespace))["metadata"]["name"]

        async def deleted() -> bool:
            return await allowed(editor.delete(REPLICA_SETS, namespace, name))

        await until(deleted, 60)

    async def test_others_are_left_alone(self, editor: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        await editor.create(DEPLOYMENTS, deployment(namespace, "other", {"metadata": {}, "spec": pod_spec("default")}))
        await until(lambda: pod_of(kube, namespace))
        await editor.merge_patch(DEPLOYMENTS, namespace, "other", restarted())
        await editor.merge_patch(DEPLOYMENTS, namespace, "other", scaled(2), subresource="scale")
        for change in ({"labels": serving("server")}, {"ownerReferences": [endpoint_owner()]}):
            assert await refused(editor.merge_patch(DEPLOYMENTS, namespace, "other", {"metadata": change}))
        assert await editor.delete(DEPLOYMENTS, namespace, "other")


class TestInjection:
    async def test_who_may_inject_brings_a_vllm_of_their_own(self, editor: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        body = deployment(namespace, "vllm", own_vllm())
        assert "graft-serving-admin" in (await refused(editor.create(DEPLOYMENTS, body)) or "")
        await may_inject(kube, namespace, "eve", "prod")
        await until(lambda: allowed(editor.create(DEPLOYMENTS, body)))
        await until(lambda: pod_of(kube, namespace))
        await editor.merge_patch(DEPLOYMENTS, namespace, "vllm", restarted())
        forged = {"spec": {"template": {"spec": {"serviceAccountName": "graft-server-prod"}}}}
        assert await refused(editor.merge_patch(DEPLOYMENTS, namespace, "vllm", forged))

    async def test_into_that_endpoint_alone(self, editor: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        await may_inject(kube, namespace, "eve", "prod")
        await until(lambda: allowed(editor.create(DEPLOYMENTS, deployment(namespace, "vllm", own_vllm()))))
        for name, labels in (("theirs", serving("server", "other")), ("nameless", {})):
            assert await refused(editor.create(DEPLOYMENTS, deployment(namespace, name, own_vllm(labels))))

    async def test_into_one_that_runs_and_out_of_it_again(self, editor: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        await may_inject(kube, namespace, "eve")
        plain = {"metadata": {}, "spec": pod_spec("default")}
        await editor.create(DEPLOYMENTS, deployment(namespace, "vllm", plain))
        into = {"spec": {"template": {"metadata": {"labels": serving("server")}, "spec": speaking()}}}
        await until(lambda: allowed(editor.merge_patch(DEPLOYMENTS, namespace, "vllm", into)))
        out = {"spec": {"template": {"metadata": {"labels": dict.fromkeys(serving("server"))}, "spec": {"volumes": None}}}}
        await editor.merge_patch(DEPLOYMENTS, namespace, "vllm", out)

    async def test_others_scale_and_delete_it_but_do_not_change_it(
        self, administrator: Kube, editor: Kube, kube: Kube, namespace: str, until: Wait
    ) -> None:
        """A cluster administrator holds every verb, `inject` included."""
        body = deployment(namespace, "vllm", own_vllm())
        body["spec"]["selector"] = {"matchLabels": {"app": "vllm"}}
        await administrator.create(DEPLOYMENTS, body)
        await until(lambda: pod_of(kube, namespace))
        image = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "forged"}]
        assert await refused(editor.json_patch(DEPLOYMENTS, namespace, "vllm", image))
        assert await refused(editor.merge_patch(DEPLOYMENTS, namespace, "vllm", restarted()))
        await editor.merge_patch(DEPLOYMENTS, namespace, "vllm", scaled(2), subresource="scale")
        assert await editor.delete(DEPLOYMENTS, namespace, "vllm")


class TestReplicaSets:
    @MARKED
    async def test_nobody_else_creates_one(self, forger: Kube, namespace: str, template: Callable[[], Object]) -> None:
        message = await refused(forger.create(REPLICA_SETS, replica_set(namespace, "forged", template(), {"a": "b"})))
        assert "create a ModelEndpoint instead" in (message or "")

    async def test_nor_one_that_says_it_comes_from_a_deployment_of_graft(self, forger: Kube, namespace: str, served: Object) -> None:
        body = replica_set(namespace, "forged", {"metadata": {}, "spec": pod_spec("graft-server-prod") | speaking()}, {"a": "b"})
        metadata = served["metadata"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        body["metadata"]["ownerReferences"] = [owner]
        assert await refused(forger.create(REPLICA_SETS, body))

    async def test_nobody_else_changes_scales_or_deletes_one(self, forger: Kube, kube: Kube, namespace: str, served: Object) -> None:
        name = (await only(kube, REPLICA_SETS, namespace))["metadata"]["name"]
        for change in (scaled(5), {"metadata": {"ownerReferences": None}}, {"metadata": {"labels": dict.fromkeys(serving("server"))}}):
            assert await refused(forger.merge_patch(REPLICA_SETS, namespace, name, change)), change
        image = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "forged"}]
        assert await refused(forger.json_patch(REPLICA_SETS, namespace, name, image))
        assert await refused(forger.merge_patch(REPLICA_SETS, namespace, name, scaled(5), subresource="scale"))
        assert await refused(forger.delete(REPLICA_SETS, namespace, name))

    async def test_pods_are_free_to_be_deleted_and_come_again(
        self, editor: Kube, kube: Kube, namespace: str, served: Object, until: Wait
    ) -> None:
        first = (await only(kube, PODS, namespace))["metadata"]["uid"]
        await editor.delete(PODS, namespace, (await only(kube, PODS, namespace))["metadata"]["name"])

        async def another() -> bool:
            uids = {found["metadata"]["uid"] for found in await kube.list(PODS, Selection(namespace))}
            return bool(uids - {first})

        await until(another)

    async def test_others_are_left_alone(self, editor: Kube, namespace: str) -> None:
        plain = {"metadata": {}, "spec": pod_spec("default")}
        await editor.create(REPLICA_SETS, replica_set(namespace, "other", plain, {"a": "b"}))
        await editor.merge_patch(REPLICA_SETS, namespace, "other", scaled(0), subresource="scale")
        assert await editor.delete(REPLICA_SETS, namespace, "other")


ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints")


def service(namespace: str, name: str, labels: dict[str, str] | None = None) -> Object:
    """Headless, with the selector of the endpoint's servers."""
    spec = {"clusterIP": "None", "selector": serving("server"), "ports": [{"name": "door", "port": 8000, "protocol": "TCP"}]}
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels or {}}, "spec": spec}


def endpoint_slice(namespace: str, labels: dict[str, str]) -> Object:
    """It names the Service of the servers, and an address that is not theirs."""
    labels = {"kubernetes.io/service-name": "prod-server", **labels}
    metadata = {"name": "prod-server-forged", "namespace": namespace, "labels": labels}
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": [{"addresses": ["10.9.9.9"]}], "ports": []}


def endpoints(namespace: str, name: str, labels: dict[str, str]) -> Object:
    subsets = [{"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 8000}]}]
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "subsets": subsets}


async def listed_by_gateways(kube: Kube, namespace: str) -> list[Object]:
    """What a gateway takes for its servers."""
    return await kube.list(ENDPOINT_SLICES, Selection(namespace, labels=slices_of("prod")))


class TestServices:
    @pytest.fixture
    async def found(self, operator: Kube, kube: Kube, namespace: str, until: Wait) -> Object:
        """The slice that Kubernetes makes for the operator's Service."""
        await operator.apply(SERVICES, service(namespace, "prod-server", serving("server")))
        (made,) = await until(lambda: listed_by_gateways(kube, namespace))
        await until(lambda: kube.get(ENDPOINTS, namespace, "prod-server"))
        return dict(made)

    async def test_nobody_else_creates_one(self, forger: Kube, namespace: str) -> None:
        for labels in (serving("server"), {"graft.dev/anything": ""}):
            message = await refused(forger.create(SERVICES, service(namespace, "forged", labels)))
            assert "change the ModelEndpoint" in (message or "")
        await forger.create(SERVICES, service(namespace, "forged"))
        change = {"metadata": {"labels": serving("server")}}
        assert await refused(forger.merge_patch(SERVICES, namespace, "forged", change))

    async def test_nobody_else_leads_one_elsewhere_or_deletes_it(self, forger: Kube, namespace: str, found: Object) -> None:
        changes: list[Object] = [
            {"spec": {"selector": {"app": "forged"}}},
            {"spec": {"ports": [{"name": "door", "port": 8000, "targetPort": 9}]}},
            {"spec": {"type": "ExternalName", "externalName": "forged.example.com", "clusterIP": None, "clusterIPs": None}},
            {"spec": {"publishNotReadyAddresses": True}},
            {"metadata": {"labels": {"graft.dev/modelendpoint": None, "graft.dev/component": None}}},
            {"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "none"}}},
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}]}},
        ]
        for change in changes:
            assert await refused(forger.merge_patch(SERVICES, namespace, "prod-server", change)), change
        assert await refused(forger.delete(SERVICES, namespace, "prod-server"))
        assert await refused(delete_all(forger, SERVICES, namespace))

    async def test_nor_through_its_status(self, administrator: Kube, namespace: str, found: Object) -> None:
        change: Object = {"metadata": {"labels": {"graft.dev/component": None}}}
        assert await refused(administrator.merge_patch(SERVICES, namespace, "prod-server", change, subresource="status"))
        await administrator.create(SERVICES, service(namespace, "other"))
        change = {"metadata": {"labels": serving("server")}}
        assert await refused(administrator.merge_patch(SERVICES, namespace, "other", change, subresource="status"))

    async def test_load_balancers_and_dns_write_annotations_finalizers_and_status(self, acting: Act, namespace: str, found: Object) -> None:
        cloud = acting(CONTROLLER.format("service-controller"), "system:masters")
        finalizer = "service.kubernetes.io/load-balancer-cleanup"
        for finalizers in ([finalizer], []):
            change = {"metadata": {"finalizers": finalizers, "annotations": {"a": "b"}}}
            await cloud.merge_patch(SERVICES, namespace, "prod-server", change)
        condition = {"type": "a.b/c", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-11-20T12:00:00Z"}
        await cloud.merge_patch(SERVICES, namespace, "prod-server", {"status": {"conditions": [condition]}}, subresource="status")

    async def test_the_operator_changes_and_deletes_it_and_its_slices_go(
        self, operator: Kube, kube: Kube, namespace: str, found: Object, until: Wait
    ) -> None:
        await operator.apply(SERVICES, service(namespace, "prod-server", serving("server") | {"graft.dev/more": "x"}))

        async def relabelled() -> bool:
            slices = await listed_by_gateways(kube, namespace)
            return all("graft.dev/more" in one["metadata"]["labels"] for one in slices)

        await until(relabelled)
        assert await operator.delete(SERVICES, namespace, "prod-server")
        await until(lambda: absent(kube, ENDPOINT_SLICES, namespace, found["metadata"]["name"]), 60)
        await until(lambda: absent(kube, ENDPOINTS, namespace, "prod-server"), 60)

    async def test_it_goes_with_its_owner_and_its_namespace(self, kube: Kube, operator: Kube, namespace: str, until: Wait) -> None:
        owner = await kube.create(CONFIG_MAPS, config_map(namespace, "owner"))
        body = service(namespace, "owned-server", serving("server"))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        await operator.apply(SERVICES, body | {"metadata": body["metadata"] | {"ownerReferences": [reference]}})
        await operator.apply(SERVICES, service(namespace, "prod-server", serving("server")))
        await kube.delete(CONFIG_MAPS, namespace, "owner")
        await until(lambda: absent(kube, SERVICES, namespace, "owned-server"), 60)
        await until(lambda: listed_by_gateways(kube, namespace))
        await kube.delete(NAMESPACES, None, namespace)
        await until(lambda: absent(kube, NAMESPACES, None, namespace), 60)

    async def test_nobody_sends_gateways_elsewhere(self, administrator: Kube, kube: Kube, namespace: str, found: Object) -> None:
        """An editor has no right to write slices and Endpoints at all. Without our label a slice is one that gateways do not list."""
        name = found["metadata"]["name"]
        assert await refused(administrator.create(ENDPOINT_SLICES, endpoint_slice(namespace, serving("server"))))
        await administrator.create(ENDPOINT_SLICES, endpoint_slice(namespace, {}))
        labels = {"metadata": {"labels": serving("server")}}
        assert await refused(administrator.merge_patch(ENDPOINT_SLICES, namespace, "prod-server-forged", labels))
        forged = {"endpoints": [{"addresses": ["10.9.9.9"]}]}
        assert await refused(administrator.merge_patch(ENDPOINT_SLICES, namespace, name, forged))
        assert await refused(administrator.delete(ENDPOINT_SLICES, namespace, name))
        assert [one["metadata"]["name"] for one in await listed_by_gateways(kube, namespace)] == [name]

    async def test_nor_through_endpoints_that_are_mirrored(
        self, administrator: Kube, kube: Kube, namespace: str, found: Object, until: Wait
    ) -> None:
        """Of a Service without selector Kubernetes makes slices from Endpoints, with their labels."""
        body = endpoints(namespace, "mirrored", {})
        assert await refused(administrator.create(ENDPOINTS, endpoints(namespace, "mirrored", serving("server"))))
        assert await refused(administrator.merge_patch(ENDPOINTS, namespace, "prod-server", {"subsets": body["subsets"]}))
        plain = service(namespace, "mirrored")
        del plain["spec"]["selector"]
        await administrator.create(SERVICES, plain)
        await administrator.create(ENDPOINTS, body)
        mirrored = Selection(namespace, labels="kubernetes.io/service-name=mirrored")
        await until(lambda: kube.list(ENDPOINT_SLICES, mirrored))
        assert len(await listed_by_gateways(kube, namespace)) == 1

    async def test_others_are_left_alone(self, editor: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        """Also of a name that could be one of ours, with a selector of graft's pods."""
        await editor.create(SERVICES, service(namespace, "x-server", {"app": "x"}))
        await until(lambda: kube.list(ENDPOINT_SLICES, Selection(namespace, labels="kubernetes.io/service-name=x-server,app=x")))
        await editor.merge_patch(SERVICES, namespace, "x-server", {"spec": {"selector": {"app": "y"}}})
        assert await editor.delete(SERVICES, namespace, "x-server")


class TestFleet:
    """Pods that Kubernetes made, tokens as a kubelet gets them, and the operator's own rights to find out whose they are."""

    async def test_a_server_of_the_operators(self, acting: Act, kube: Kube, operator: Kube, namespace: str, served: Object) -> None:
        its_pod = await only(kube, PODS, namespace)
        bearer = f"Bearer {await mounted_token(kube, acting, its_pod)}"
        caller = await Identities(operator, SystemClock()).fleet_caller(bearer, namespace, "prod")
        owner = served["metadata"]["ownerReferences"][0]
        assert (caller.role, caller.endpoint_name, caller.endpoint_uid) == ("server", "prod", owner["uid"])
        assert (caller.pod_uid, caller.service_account) == (its_pod["metadata"]["uid"], "graft-server-prod")
        with pytest.raises(Foreign, match="not controlled by a Job"):
            await Identities(operator, SystemClock()).caller(bearer)

    async def test_a_gateway_whose_token_for_doors_is_not_for_the_operator(
        self, acting: Act, kube: Kube, operator: Kube, namespace: str, until: Wait
    ) -> None:
        owner = await kube.create(MODEL_ENDPOINTS, endpoint(namespace))
        await operator.apply(SERVICE_ACCOUNTS, {"metadata": {"name": "graft-gateway-prod", "namespace": namespace}})
        await operator.apply(DEPLOYMENTS, gateway(namespace, endpoint_owner(owner["metadata"]["uid"])))
        its_pod = await until(lambda: pod_of(kube, namespace))
        identities = Identities(operator, SystemClock())
        speaks, knocks = [await mounted_token(kube, acting, its_pod, audience) for audience in ("graft.dev", "graft.dev/door/prod")]
        assert (await identities.fleet_caller(f"Bearer {speaks}", namespace, "prod")).role == "gateway"
        with pytest.raises(Unauthenticated):
            await identities.fleet_caller(f"Bearer {knocks}", namespace, "prod")

    async def test_a_server_of_somebody_s_own(
        self, acting: Act, administrator: Kube, kube: Kube, operator: Kube, namespace: str, until: Wait
    ) -> None:
        made = await kube.create(MODEL_ENDPOINTS, endpoint(namespace))
        await administrator.create(DEPLOYMENTS, deployment(namespace, "vllm", own_vllm()))
        its_pod = await until(lambda: pod_of(kube, namespace))
        bearer = f"Bearer {await mounted_token(kube, acting, its_pod)}"
        with pytest.raises(Foreign, match="does not name Deployment vllm"):
            await Identities(operator, SystemClock()).fleet_caller(bearer, namespace, "prod")
        await kube.merge_patch(MODEL_ENDPOINTS, namespace, "prod", {"spec": endpoint(namespace, "vllm")["spec"]})
        caller = await Identities(operator, SystemClock()).fleet_caller(bearer, namespace, "prod")
        assert (caller.role, caller.endpoint_uid, caller.service_account) == ("server", made["metadata"]["uid"], "default")
        with pytest.raises(Foreign, match="has no label"):
            await Identities(operator, SystemClock()).fleet_caller(bearer, namespace, "other")


class TestShadows:
    """What a ShadowTest compares, and what it is told: nobody replaces it."""

    @pytest.fixture
    async def test(self, kube: Kube, namespace: str) -> Object:
        metric = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Guardrail", "margin": 0.005}
        spec = {"adapterRef": {"name": "a"}, "metrics": [{"measure": "ServerError", "metric": metric}]}
        made = await kube.create(SHADOW_TESTS, {"metadata": {"name": "first", "namespace": namespace}, "spec": spec})
        owner = {"apiVersion": "graft.dev/v1alpha1", "kind": "ShadowTest", "name": "first", "uid": made["metadata"]["uid"]}
        return owner | {"controller": True, "blockOwnerDeletion": True}

    @pytest.fixture
    async def made(self, operator: Kube, namespace: str, test: Object) -> Object:
        return await operator.create(MODEL_ENDPOINTS, shadow(namespace, test))

    async def test_nobody_else_creates_one_or_makes_one_of_their_own(self, forger: Kube, kube: Kube, namespace: str) -> None:
        only_labelled, only_shadow = shadow(namespace), shadow(namespace)
        del only_labelled["spec"]["shadow"]
        del only_shadow["metadata"]["labels"]
        for body in (shadow(namespace), only_labelled, only_shadow):
            assert "create a ShadowTest" in (await refused(forger.create(MODEL_ENDPOINTS, body)) or "")
        await kube.create(MODEL_ENDPOINTS, endpoint(namespace))
        replicas = {"gateway": {"replicas": 0}}
        for change in (
            {"metadata": {"labels": {"graft.dev/shadowtest": "first"}}},
            {"spec": replicas | {"shadow": {"endpoint": "prod", "versions": []}}},
        ):
            assert await refused(forger.merge_patch(MODEL_ENDPOINTS, namespace, "prod", change)), change
        await forger.merge_patch(MODEL_ENDPOINTS, namespace, "prod", {"spec": {"replicas": 3}})
        await forger.merge_patch(MODEL_ENDPOINTS, namespace, "prod", scaled(2), subresource="scale")
        await forger.delete(MODEL_ENDPOINTS, namespace, "prod")

    async def test_nobody_else_changes_scales_or_deletes_one(self, forger: Kube, operator: Kube, namespace: str, made: Object) -> None:
        version = {"name": "v", "domain": "dsl", "adapter": "mine", "digest": f"sha256:{'1' * 64}", "uri": "s3://mine", "sizeBytes": 1}
        changes: list[Object] = [
            {"spec": {"shadow": {"versions": [version]}}},
            {"spec": {"shadow": None}, "metadata": {"labels": {"graft.dev/shadowtest": None}}},
            {"metadata": {"ownerReferences": None}},
            {"metadata": {"annotations": {"graft.dev/upgrade": "now"}}},
        ]
        for change in changes:
            assert "create a ShadowTest" in (await refused(forger.merge_patch(MODEL_ENDPOINTS, namespace, "first-shadow", change)) or "")
        selector = "graft.dev/modelendpoint=first-shadow,graft.dev/component=server,graft.dev/shadow-of=prod"
        status = {"status": {"selector": selector, "replicas": 1}}
        await operator.merge_patch(MODEL_ENDPOINTS, namespace, "first-shadow", status, subresource="status")
        by_scale = forger.merge_patch(MODEL_ENDPOINTS, namespace, "first-shadow", scaled(0), subresource="scale")
        assert "scaled and deleted by the graft operator" in (await refused(by_scale) or "")
        assert await refused(forger.delete(MODEL_ENDPOINTS, namespace, "first-shadow"))
        await operator.delete(MODEL_ENDPOINTS, namespace, "first-shadow", uid=made["metadata"]["uid"])

    async def test_it_goes_with_its_test(self, forger: Kube, kube: Kube, namespace: str, made: Object, until: Wait) -> None:
        await forger.delete(SHADOW_TESTS, namespace, "first", propagation="Foreground")
        # The garbage collector looks for new kinds twice a minute.
        await until(lambda: absent(kube, MODEL_ENDPOINTS, namespace, "first-shadow"), 75)

    async def test_what_a_test_left_behind_may_go(self, forger: Kube, kube: Kube, namespace: str, made: Object, until: Wait) -> None:
        await forger.delete(SHADOW_TESTS, namespace, "first", propagation="Orphan")
        await until(lambda: absent(kube, SHADOW_TESTS, namespace, "first"), 75)
        await forger.delete(MODEL_ENDPOINTS, namespace, "first-shadow")

    async def test_what_the_operator_makes_of_it_has_no_gateway(self, operator: Kube, kube: Kube, namespace: str, made: Object) -> None:
        await reconciler(operator).reconcile(Key(namespace, "first-shadow"))
        names = [item["metadata"]["name"] for item in await kube.list(DEPLOYMENTS, Selection(namespace))]
        assert names == ["first-shadow-server"]

    async def test_the_operator_writes_no_other_endpoint(self, operator: Kube, kube: Kube, namespace: str) -> None:
        assert "only for ShadowTests" in (await refused(operator.create(MODEL_ENDPOINTS, endpoint(namespace))) or "")
        await kube.create(MODEL_ENDPOINTS, endpoint(namespace))
        assert "only for ShadowTests" in (await refused(operator.delete(MODEL_ENDPOINTS, namespace, "prod")) or "")

    async def test_nobody_else_tells_a_collector_what_to_do(self, forger: Kube, operator: Kube, namespace: str) -> None:
        record = config_map(namespace, "prod-collector", {"graft.dev/record": "collector"})
        assert "collector, evidence) are written by the graft operator alone" in (await refused(forger.create(CONFIG_MAPS, record)) or "")
        await operator.apply(CONFIG_MAPS, record)
        change = {"data": {"collector.json": '{"format":1}'}}
        assert await refused(forger.merge_patch(CONFIG_MAPS, namespace, "prod-collector", change))
        assert await refused(forger.delete(CONFIG_MAPS, namespace, "prod-collector"))

    @pytest.mark.parametrize(
        "template",
        [
            pytest.param({"metadata": {}, "spec": pod_spec("graft-collector-prod")}, id="by its service account"),
            pytest.param({"metadata": {"labels": serving("collector")}, "spec": pod_spec("default")}, id="by its labels"),
            pytest.param({"metadata": {"labels": {COMPONENT_LABEL: "collector"}}, "spec": pod_spec("default")}, id="by one label"),
            pytest.param({"metadata": {}, "spec": pod_spec("default") | speaking("graft.dev/collector/prod")}, id="by a gateway's token"),
        ],
    )
    async def test_nobody_creates_a_pod_that_passes_for_a_collector(
        self, forger: Kube, kube: Kube, acting: Act, namespace: str, template: Object
    ) -> None:
        await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": "graft-collector-prod", "namespace": namespace}})
        assert await refused(forger.create(PODS, pod(namespace, "forged", template)))
        assert await refused(forger.create(DEPLOYMENTS, deployment(namespace, "forged", template)))
        for controller in ("job-controller", KUBERAY):  # what they bring is no part of the data plane
            user = controller if ":" in controller else CONTROLLER.format(controller)
            brings = acting(user, "system:masters")
            assert "come from a ReplicaSet alone" in (await refused(brings.create(PODS, pod(namespace, "brought", template))) or "")

    async def test_a_collector_of_the_operators_is_who_it_says(
        self, acting: Act, kube: Kube, operator: Kube, namespace: str, until: Wait
    ) -> None:
        owner = await kube.create(MODEL_ENDPOINTS, endpoint(namespace))
        await operator.apply(SERVICE_ACCOUNTS, {"metadata": {"name": "graft-collector-prod", "namespace": namespace}})
        await operator.apply(DEPLOYMENTS, collector(namespace, endpoint_owner(owner["metadata"]["uid"])))
        its_pod = await until(lambda: pod_of(kube, namespace))
        identities = Identities(operator, SystemClock())
        speaks, knocks = [await mounted_token(kube, acting, its_pod, audience) for audience in ("graft.dev", "graft.dev/door/first-shadow")]
        assert (await identities.fleet_caller(f"Bearer {speaks}", namespace, "prod")).role == "collector"
        with pytest.raises(Unauthenticated):
            await identities.fleet_caller(f"Bearer {knocks}", namespace, "prod")


PROGRAM = {"command": {"argv": ["/usr/bin/compile"]}}


def scored(namespace: str, name: str, scorer: Object) -> Object:
    metric = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Guardrail", "margin": 0.005}
    refusals = {"metric": metric | {"name": "refusals"}, "measure": "Refusal"}
    spec = {"adapterRef": {"name": "a"}, "metrics": [refusals, {"scorer": scorer, "metric": metric}]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def observing(namespace: str, name: str, scorer: Object) -> Object:
    body = endpoint(namespace)
    scores = [{"name": "refusals", "measure": "Refusal"}, {"name": "compiles", "scorer": scorer}]
    observe = [{"domain": body["spec"]["domains"][0]["name"], "scores": scores}]
    body["metadata"]["name"] = name
    return body | {"spec": body["spec"] | {"collector": {"store": "s3://measured", "observe": observe}}}


class TestCommands:
    """Programs that run beside what verdicts rest on."""

    async def test_an_editor_brings_none_into_a_test(self, editor: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        said = await refused(editor.create(SHADOW_TESTS, scored(namespace, "own", PROGRAM))) or ""
        assert "graft-serving-admin" in said
        assert "verb command on shadowtests" in said
        unnamed = scored(namespace, "own", PROGRAM)
        unnamed["metadata"] = {"generateName": "own-", "namespace": namespace}
        assert await refused(editor.create(SHADOW_TESTS, unnamed))
        await editor.create(SHADOW_TESTS, scored(namespace, "cel", {"cel": {}}))
        await may_command(kube, namespace, "eve", "shadowtests")
        await until(lambda: allowed(editor.create(SHADOW_TESTS, scored(namespace, "own", PROGRAM))))
        await editor.create(SHADOW_TESTS, unnamed)
        assert await refused(editor.create(MODEL_ENDPOINTS, observing(namespace, "prod", PROGRAM))), "another kind is another right"

    async def test_nor_into_an_endpoint(self, editor: Kube, kube: Kube, namespace: str, until: Wait) -> None:
        await editor.create(MODEL_ENDPOINTS, observing(namespace, "prod", {"cel": {}}))
        change = {"spec": {"collector": observing(namespace, "prod", PROGRAM)["spec"]["collector"]}}
        for forged in (
            editor.create(MODEL_ENDPOINTS, observing(namespace, "other", PROGRAM)),
            editor.merge_patch(MODEL_ENDPOINTS, namespace, "prod", change),
        ):
            assert "verb command" in (await refused(forged) or "")
        await may_command(kube, namespace, "eve", "modelendpoints", "prod")
        await until(lambda: allowed(editor.merge_patch(MODEL_ENDPOINTS, namespace, "prod", change)))
        assert await refused(editor.create(MODEL_ENDPOINTS, observing(namespace, "other", PROGRAM))), "named is that one alone"

    async def test_what_was_allowed_once_stays_and_everything_else_of_it_changes(
        self, editor: Kube, administrator: Kube, namespace: str
    ) -> None:
        await administrator.create(MODEL_ENDPOINTS, observing(namespace, "prod", PROGRAM))
        await editor.merge_patch(MODEL_ENDPOINTS, namespace, "prod", {"spec": {"replicas": 3}, "metadata": {"labels": {"team": "x"}}})
        await editor.merge_patch(MODEL_ENDPOINTS, namespace, "prod", scaled(2), subresource="scale")
        other = {"spec": {"collector": observing(namespace, "prod", {"command": {"argv": ["/tmp/mine"]}})["spec"]["collector"]}}
        assert await refused(editor.merge_patch(MODEL_ENDPOINTS, namespace, "prod", other))
        await editor.merge_patch(MODEL_ENDPOINTS, namespace, "prod", {"spec": {"collector": {"observe": []}}})
        await administrator.create(SHADOW_TESTS, scored(namespace, "own", PROGRAM))
        await editor.merge_patch(SHADOW_TESTS, namespace, "own", {"metadata": {"labels": {"team": "x"}}})
        await editor.delete(SHADOW_TESTS, namespace, "own")

    async def test_the_operator_writes_down_how_such_a_test_is(self, operator: Kube, administrator: Kube, namespace: str) -> None:
        await administrator.create(SHADOW_TESTS, scored(namespace, "own", PROGRAM))
        await operator.merge_patch(SHADOW_TESTS, namespace, "own", {"status": {"phase": "Queued"}}, subresource="status")


class TestManifests:
    """What the operator really builds: see tests/unit/data/modelendpoint."""

    @pytest.mark.parametrize("case", sorted(folder.name for folder in GOLDEN.iterdir()))
    def test_the_operator_may_apply_all_of_it(self, run_kubectl: Callable[..., str], installed: str, case: str) -> None:
        manifests = list(yaml.safe_load_all((GOLDEN / case / "output.yaml").read_text()))
        run_kubectl("apply", text=yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}))
        apply = ("apply", "--server-side", "--validate=strict", f"--as={OPERATOR}")
        # A binding is not even tried without the role that it binds. Without owner, for the owner is not there.
        roles = [manifest for manifest in manifests if manifest["kind"] == "Role"]
        run_kubectl(*apply, text=yaml.safe_dump_all([{**made, "metadata": {**made["metadata"], "ownerReferences": []}} for made in roles]))
        run_kubectl(*apply, "--dry-run=server", text=yaml.safe_dump_all(manifests))

    @pytest.mark.parametrize("case", ["plain", "grown"])
    async def test_who_may_inject_applies_what_graft_inject_prints(
        self, editor: Kube, kube: Kube, namespace: str, case: str, until: Wait
    ) -> None:
        body = yaml.safe_load((INJECTED / case / "output.yaml").read_text())
        body["metadata"] = {**body["metadata"], "namespace": namespace}
        assert "graft-serving-admin" in (await refused(editor.create(DEPLOYMENTS, body)) or "")
        await may_inject(kube, namespace, "eve", "prod")
        await until(lambda: allowed(editor.create(DEPLOYMENTS, body)))


READS_ROUTES = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["prod-routes"], "verbs": ["get", "list", "watch"]}
FINDS_SERVERS = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}


def role(namespace: str, *rules: Object, labels: dict[str, str] | None = None) -> Object:
    labels = serving("gateway") if labels is None else labels
    return {"metadata": {"name": "prod-gateway", "namespace": namespace, "labels": labels}, "rules": list(rules)}


def role_binding(namespace: str, kind: str = "Role", name: str = "prod-gateway", subject: Object | None = None) -> Object:
    subject = subject or {"kind": "ServiceAccount", "name": "graft-gateway-prod", "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    metadata = {"name": "prod-gateway", "namespace": namespace, "labels": serving("gateway")}
    return {"metadata": metadata, "roleRef": reference, "subjects": [subject]}


class TestOperatorWrites:
    """What holds the operator to what is graft's, where RBAC cannot."""

    @pytest.fixture
    def bodies(self, namespace: str) -> dict[Resource, Object]:
        metadata = {"name": "prod-gateway", "namespace": namespace}
        selector = {"matchLabels": serving("gateway")}
        return {
            SERVICES: {"metadata": metadata, "spec": {"ports": [{"port": 80}]}},
            POD_DISRUPTION_BUDGETS: {"metadata": metadata, "spec": {"maxUnavailable": 1, "selector": selector}},
            NETWORK_POLICIES: {"metadata": metadata, "spec": {"podSelector": selector}},
            DEPLOYMENTS: deployment(namespace, "prod-gateway", {"metadata": {}, "spec": pod_spec("default")}),
            ROLES: role(namespace, READS_ROUTES, labels={}),
        }

    async def test_only_with_a_label_of_graft(self, operator: Kube, kube: Kube, namespace: str, bodies: dict[Resource, Object]) -> None:
        for resource, body in bodies.items():
            labelled_body = {**body, "metadata": {**body["metadata"], "labels": serving("gateway")}}
            assert "only with a label graft.dev/*" in (await refused(operator.create(resource, body)) or ""), resource
            await operator.apply(resource, labelled_body)
            await operator.apply(resource, labelled_body)

    async def test_nothing_that_somebody_else_has_under_that_name(
        self, operator: Kube, kube: Kube, namespace: str, bodies: dict[Resource, Object]
    ) -> None:
        for resource, body in bodies.items():
            await kube.create(resource, body)
            labelled_body = {**body, "metadata": {**body["metadata"], "labels": serving("gateway")}}
            assert await refused(operator.apply(resource, labelled_body)), resource
            if resource is not ROLES:
                assert await refused(operator.delete(resource, namespace, "prod-gateway")), resource

    async def test_only_records_among_config_maps(self, operator: Kube, kube: Kube, namespace: str) -> None:
        await kube.create(CONFIG_MAPS, config_map(namespace, "theirs"))
        for body in (config_map(namespace, "theirs", {"graft.dev/record": "routes"}), config_map(namespace, "x", {"graft.dev/other": "y"})):
            assert "only with the label graft.dev/record" in (await refused(operator.apply(CONFIG_MAPS, body)) or "")
        await operator.apply(CONFIG_MAPS, config_map(namespace, "prod-routes", {"graft.dev/record": "routes"}))
        await operator.apply(CONFIG_MAPS, config_map(namespace, "prod-routes", {"graft.dev/record": "routes"}) | {"data": {"a": "b"}})

    async def test_only_service_accounts_of_graft(self, operator: Kube, kube: Kube, namespace: str) -> None:
        body = {"metadata": {"name": "default", "namespace": namespace, "annotations": {"a": "b"}}}
        assert "only with a name graft-*" in (await refused(operator.apply(SERVICE_ACCOUNTS, body)) or "")
        await operator.apply(SERVICE_ACCOUNTS, {"metadata": {"name": "graft-gateway-prod", "namespace": namespace}})

    async def test_of_adapters_only_finalizers_and_status(self, operator: Kube, kube: Kube, namespace: str) -> None:
        artifact = {"uri": "s3://adapters/x", "digest": f"sha256:{'1' * 64}", "sizeBytes": 1}
        spec = {"artifact": artifact, "domain": "dsl", "baseModelDigest": f"sha256:{'0' * 64}", "endpointRef": {"name": "prod"}}
        await operator.create(ADAPTERS, {"metadata": {"name": "a", "namespace": namespace}, "spec": spec})
        await operator.merge_patch(ADAPTERS, namespace, "a", {"metadata": {"finalizers": ["graft.dev/drain"]}})
        await operator.merge_patch(ADAPTERS, namespace, "a", {"status": {"phase": "Pending"}}, subresource="status")
        message = await refused(operator.merge_patch(ADAPTERS, namespace, "a", {"spec": {"promote": False}}))
        assert "never what they are" in (message or "")
        await kube.merge_patch(ADAPTERS, namespace, "a", {"spec": {"promote": False}})
        await operator.merge_patch(ADAPTERS, namespace, "a", {"metadata": {"finalizers": None}})

    async def test_of_jobs_only_those_of_policies(self, operator: Kube, kube: Kube, namespace: str) -> None:
        spec = {
            "domain": "dsl",
            "baseModel": {"uri": "s3://models/base"},
            "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
            "evaluation": {"suites": [{"name": "compile", "scorer": {"cel": {}}}]},
            "output": {"uri": "s3://adapters"},
            "signing": {"secretRef": {"name": "key"}},
        }
        theirs: Object = {"metadata": {"name": "theirs", "namespace": namespace}, "spec": spec}
        launched: Object = {"metadata": {"name": "x", "namespace": namespace, "labels": {"graft.dev/tuningpolicy": "p"}}, "spec": spec}
        assert await refused(operator.create(FINE_TUNE_JOBS, theirs))
        await kube.create(FINE_TUNE_JOBS, theirs)
        assert await refused(operator.delete(FINE_TUNE_JOBS, namespace, "theirs"))
        await operator.create(FINE_TUNE_JOBS, launched)
        assert await operator.delete(FINE_TUNE_JOBS, namespace, "x")

    async def test_it_grants_what_gateways_and_agents_need(self, operator: Kube, acting: Act, namespace: str, until: Wait) -> None:
        await operator.apply(ROLES, role(namespace, READS_ROUTES, FINDS_SERVERS))
        await operator.apply(ROLE_BINDINGS, role_binding(namespace))
        gateway = acting(f"system:serviceaccount:{namespace}:graft-gateway-prod")
        await until(lambda: allowed(gateway.get(CONFIG_MAPS, namespace, "prod-routes")))
        await gateway.list(CONFIG_MAPS, Selection(namespace, fields="metadata.name=prod-routes"))
        assert not await allowed(gateway.get(CONFIG_MAPS, namespace, "prod-ledger"))
        assert not await allowed(gateway.list(CONFIG_MAPS, Selection(namespace)))

    @pytest.mark.parametrize(
        "rule",
        [
            pytest.param({**READS_ROUTES, "resourceNames": []}, id="all ConfigMaps"),
            pytest.param({**READS_ROUTES, "verbs": ["get", "patch"]}, id="writing"),
            pytest.param({**READS_ROUTES, "resources": ["configmaps", "pods"]}, id="something else beside"),
            pytest.param({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}, id="what it has itself"),
        ],
    )
    async def test_it_grants_no_more(self, operator: Kube, namespace: str, rule: Object) -> None:
        assert "grants no more than to read" in (await refused(operator.apply(ROLES, role(namespace, FINDS_SERVERS, rule))) or "")

    async def test_what_it_does_not_have_it_could_not_grant_without_a_policy_either(self, operator: Kube, namespace: str) -> None:
        secrets = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x"], "verbs": ["get"]}
        with pytest.raises(Forbidden, match="attempting to grant RBAC permissions not currently held"):
            await operator.apply(ROLES, role(namespace, secrets))
        with pytest.raises(Forbidden, match="attempting to grant RBAC permissions not currently held"):
            await operator.apply(ROLE_BINDINGS, role_binding(namespace, "ClusterRole", "edit"))

    async def test_it_binds_roles_to_service_accounts_of_the_namespace(self, operator: Kube, namespace: str) -> None:
        await operator.apply(ROLES, role(namespace, READS_ROUTES))
        elsewhere = {"kind": "ServiceAccount", "name": "graft-gateway-prod", "namespace": "default"}
        somebody = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}
        for body in (role_binding(namespace, subject=elsewhere), role_binding(namespace, subject=somebody)):
            assert "service accounts of the same namespace" in (await refused(operator.apply(ROLE_BINDINGS, body)) or "")


class TestRights:
    async def test_what_the_operator_needs_is_what_it_has(self, operator: Kube, namespace: str) -> None:
        reviews = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)

        async def may(verb: str, group: str, resource: str, where: str, name: str = "", subresource: str = "") -> bool:
            attributes = {"verb": verb, "group": group, "resource": resource, "namespace": where, "name": name, "subresource": subresource}
            answer = await operator.create(reviews, {"spec": {"resourceAttributes": attributes}})
            return bool(answer["status"]["allowed"])

        assert await may("create", "batch", "jobs", namespace)
        assert await may("patch", "graft.dev", "modelendpoints", namespace, "x", "status")
        assert not await may("patch", "graft.dev", "modelendpoints", namespace, "x")
        assert await may("patch", "graft.dev", "shadowtests", namespace, "x", "status")
        assert not await may("patch", "graft.dev", "shadowtests", namespace, "x")
        assert not await may("delete", "graft.dev", "shadowtests", namespace, "x")
        assert await may("create", "graft.dev", "modelendpoints", namespace)
        assert not await may("delete", "graft.dev", "adapters", namespace, "x")
        assert not await may("escalate", "rbac.authorization.k8s.io", "roles", namespace)
        assert not await may("bind", "rbac.authorization.k8s.io", "roles", namespace)
        assert not await may("create", "rbac.authorization.k8s.io", "clusterroles", "")
        assert not await may("delete", "", "configmaps", namespace, "prod-ledger")
        assert not await may("inject", "graft.dev", "modelendpoints", namespace)
        assert await may("patch", "graft.dev", "finetunejobs", namespace, "x", "status")
        assert await may("patch", "", "secrets", "graft-system", "graft-reports-tls")
        assert not await may("get", "", "secrets", "graft-system", "other")
        assert not await may("list", "", "secrets", "graft-system")
        assert not await may("get", "", "secrets", namespace, "graft-reports-tls")
        assert not await may("create", "", "pods", namespace, "", "exec")
        assert not await may("update", "graft.dev", "finetunejobs", namespace, "x")
        assert not await may("impersonate", "", "users", "")

    async def test_the_operator_does_its_work_with_its_rights(self, operator: Kube, kube: Kube, namespace: str) -> None:
        names = service_names("graft-reports", "graft-system")
        source = SecretCertificate(operator, SystemClock(), "graft-system", "graft-reports-tls", names)
        assert await source.current() == await source.current()
        for epoch, ip in enumerate(("10.0.0.1", "10.0.0.2", "fd00::1"), start=1):
            await ReportsEndpoint(operator, SystemClock(), "graft-system", "graft-reports", "p", ip).ensure(epoch)
        with pytest.raises(Unauthenticated):
            await Identities(operator, SystemClock()).caller("Bearer nonsense")
        lease = {"metadata": {"name": "graft-operator", "namespace": "graft-system"}}
        await operator.create(LEASES, lease)
        await operator.merge_patch(LEASES, "graft-system", "graft-operator", {"spec": {"holderIdentity": "me"}})

    async def test_an_editor_trains_but_does_not_write_status(self, editor: Kube, namespace: str, until: Wait) -> None:
        await until(lambda: allowed(editor.list(FINE_TUNE_JOBS, Selection(namespace))))
        await editor.delete(FINE_TUNE_JOBS, namespace, "absent")
        with pytest.raises(Forbidden):
            await editor.merge_patch(FINE_TUNE_JOBS, namespace, "absent", {"status": {}}, subresource="status")

    async def test_a_refusal_by_rbac_does_not_pass_for_one_by_a_policy(self, editor: Kube) -> None:
        with pytest.raises(AssertionError, match="cannot create resource"):
            await refused(editor.create(NAMESPACES, {"metadata": {"name": "mine"}}))


class TestChart:
    def test_every_object_is_what_the_api_server_knows(
        self, installed: str, run_helm: Callable[..., str], run_kubectl: Callable[..., str]
    ) -> None:
        complaints = run_kubectl("apply", "--dry-run=server", "--validate=strict", text=run_helm("get", "manifest", "graft"))
        assert "unknown field" not in complaints

    async def test_its_own_pods_are_admitted_by_the_policies_and_by_pod_security(self, kube: Kube, namespace: str, until: Wait) -> None:
        async def pods() -> bool:
            return len(await kube.list(PODS, Selection("graft-system"))) == 2

        await until(pods)

    async def test_the_expressions_type_check(self, kube: Kube, namespace: str, until: Wait) -> None:
        for name in POLICIES:

            async def checked(name: str = name) -> Object | None:
                policy = await kube.get(VALIDATING_ADMISSION_POLICIES, None, name)
                status = (policy or {}).get("status") or {}
                return status if status.get("observedGeneration") else None

            status = await until(checked)
            assert not (status.get("typeChecking") or {}).get("expressionWarnings"), name

    async def test_the_guard_finds_them_as_expected_and_notices_every_change(
        self, kube: Kube, operator: Kube, namespace: str, tmp_path: Path
    ) -> None:
        expected = await kube.get(CONFIG_MAPS, "graft-system", "graft-policies")
        assert expected is not None
        (tmp_path / "policies.yaml").write_text(expected["data"]["policies.yaml"])

        async def missing() -> list[str]:
            return await PolicyGuard(operator, SystemClock(), load_expected(tmp_path / "policies.yaml")).missing()

        assert await missing() == []
        await kube.merge_patch(VALIDATING_ADMISSION_POLICY_BINDINGS, None, "graft-jobs", {"spec": {"validationActions": ["Audit"]}})
        await kube.merge_patch(VALIDATING_ADMISSION_POLICIES, None, "graft-pods", {"spec": {"matchConditions": None}})
        await kube.merge_patch(VALIDATING_ADMISSION_POLICIES, None, "graft-tokens", {"spec": {"failurePolicy": "Ignore"}})
        try:
            found = "\n".join(await missing())
            assert "graft-jobs: its binding does not deny" in found
            assert "graft-pods: matchConditions" in found
            assert "graft-tokens: failurePolicy" in found
            assert "graft-records" not in found
        finally:  # the chart's own spec again, for the tests that follow
            for name, spec in load_expected(tmp_path / "policies.yaml").items():
                await kube.merge_patch(VALIDATING_ADMISSION_POLICIES, None, name, {"spec": spec})
                await kube.merge_patch(VALIDATING_ADMISSION_POLICY_BINDINGS, None, name, {"spec": {"validationActions": ["Deny"]}})
        assert await missing() == []

    async def test_an_upgrade_heals_the_policies_and_keeps_the_certificate(
        self, kube: Kube, operator: Kube, run_helm: Callable[..., str], until: Wait, tmp_path: Path
    ) -> None:
        await operator.merge_patch(SECRETS, "graft-system", "graft-reports-tls", {"data": {"tls.key": "a2VwdA=="}})
        run_helm("upgrade", "graft", str(CHART), *SETTINGS, "--set", "logLevel=debug")
        secret = await kube.get(SECRETS, "graft-system", "graft-reports-tls")
        assert secret is not None
        assert secret["data"]["tls.key"] == "a2VwdA=="
        expected = await kube.get(CONFIG_MAPS, "graft-system", "graft-policies")
        assert expected is not None
        (tmp_path / "policies.yaml").write_text(expected["data"]["policies.yaml"])
        guard = PolicyGuard(operator, SystemClock(), load_expected(tmp_path / "policies.yaml"))
        assert await guard.missing() == []

    async def test_uninstalling_leaves_definitions_and_certificate(self, kube: Kube, run_helm: Callable[..., str]) -> None:
        """The last test: there are no policies any more."""
        run_helm("uninstall", "graft")
        definitions = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
        assert await kube.get(definitions, None, "finetunejobs.graft.dev")
        assert await kube.get(SECRETS, "graft-system", "graft-reports-tls")
        assert await kube.get(VALIDATING_ADMISSION_POLICIES, None, "graft-jobs") is None
        assert await kube.get(DEPLOYMENTS, "graft-system", "graft-operator") is None
