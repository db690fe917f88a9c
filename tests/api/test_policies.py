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

from graft_devcluster.apitier import ApiServer
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.errors import Forbidden
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.resources import (
    CONFIG_MAPS,
    FINE_TUNE_JOBS,
    JOBS,
    LEASES,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    Object,
    Resource,
)
from graft_operator.finetunejob.children import COMPONENT_LABEL, JOB_LABEL
from graft_operator.reports.ca import Trust
from graft_operator.reports.certificates import SecretCertificate, service_names
from graft_operator.reports.identity import Identities, Unauthenticated
from graft_operator.reports.policies import PolicyGuard, load_expected
from graft_operator.reports.service import ReportsEndpoint

CHART = Path(__file__).parents[2] / "charts" / "graft"
POLICIES = ["graft-jobs", "graft-pods", "graft-records", "graft-tokens"]
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

REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")

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
    await Trust(operator, SystemClock(), lambda: "a certificate").ensure(namespace)
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


def speaking() -> Object:
    token = {"serviceAccountToken": {"audience": "graft.dev", "path": "token"}}
    return {"volumes": [{"name": "plain", "emptyDir": {}}, {"name": "token", "projected": {"sources": [token]}}]}


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

    async def test_ordinary_ones_are_left_alone(self, forger: Kube, namespace: str) -> None:
        await forger.create(CONFIG_MAPS, config_map(namespace, "ordinary", {"other": "label"}))
        await forger.merge_patch(CONFIG_MAPS, namespace, "ordinary", {"data": {"a": "b"}})
        assert await forger.delete(CONFIG_MAPS, namespace, "ordinary")

    async def test_the_operator_writes_them(self, operator: Kube, kube: Kube, namespace: str) -> None:
        await Trust(operator, SystemClock(), lambda: "one").ensure(namespace)
        await Trust(operator, SystemClock(), lambda: "two").ensure(namespace)
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
        assert "create a FineTuneJob instead" in (message or "")

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
        assert "create a FineTuneJob instead" in (await refused(forger.create(PODS, body)) or "")
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
        self, forger: Kube, kube: Kube, namespace: str, running: tuple[Object, Object], until: Wait
    ) -> None:
        own = {"role": "server"}
        await forger.create(REPLICA_SETS, replica_set(namespace, "server", by_label(), own))
        stray = {"batch.kubernetes.io/controller-uid": running[0]["metadata"]["uid"]}
        await forger.create(REPLICA_SETS, replica_set(namespace, "stray", by_token(), stray))

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


async def strategic(kube: Kube, namespace: str, name: str, change: Object) -> Object:
    """A merge patch would drop the containers' other fields; the API server refuses that before any policy looks."""
    if "containers" not in change.get("spec", {}):
        return await kube.merge_patch(PODS, namespace, name, change)
    image = change["spec"]["containers"][0]["image"]
    return await kube.json_patch(PODS, namespace, name, [{"op": "replace", "path": "/spec/containers/0/image", "value": image}])


class TestTokens:
    @pytest.mark.parametrize("audiences", [["graft.dev"], ["other", "graft.dev"]], ids=["alone", "among others"])
    async def test_nobody_else_asks_for_one(self, forger: Kube, namespace: str, audiences: list[str]) -> None:
        message = await refused(request_token(forger, namespace, audiences))
        assert "requested by nodes alone" in (message or "")

    async def test_other_audiences_are_left_alone(self, forger: Kube, namespace: str) -> None:
        await request_token(forger, namespace, ["other"])
        await request_token(forger, namespace, [])

    async def test_a_node_asks_for_its_pods(self, kube: Kube, acting: Act, running: tuple[Object, Object]) -> None:
        metadata = running[1]["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": "n1"}
        binding = {"metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}, "target": target}
        await kube.create(bindings_of(metadata["name"]), binding)
        node = acting("system:node:n1", "system:nodes")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        answer = await request_token(node, metadata["namespace"], ["graft.dev"], account="graft-trainer", bound=bound)
        assert answer["status"]["token"]


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


class TestRights:
    async def test_what_the_operator_needs_is_what_it_has(self, operator: Kube, namespace: str) -> None:
        reviews = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)

        async def may(verb: str, group: str, resource: str, where: str, name: str = "", subresource: str = "") -> bool:
            attributes = {"verb": verb, "group": group, "resource": resource, "namespace": where, "name": name, "subresource": subresource}
            answer = await operator.create(reviews, {"spec": {"resourceAttributes": attributes}})
            return bool(answer["status"]["allowed"])

        assert await may("create", "batch", "jobs", namespace)
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
