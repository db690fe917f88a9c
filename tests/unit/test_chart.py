"""The chart, rendered by the pinned Helm: rights, hardening, values. Rendering takes a tenth of a second."""

from __future__ import annotations

import importlib.util
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox

CHART = Path(__file__).parents[2] / "charts" / "graft"
HELM = Toolbox(cache_root()).path("helm")

SECOND = "replicas=2"
CERT_MANAGER = "reports.certManager.enabled=true,reports.certManager.issuerRef.name=ca"
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
PEOPLE = ("graft-user", "graft-view", "graft-approver", "graft-policy-admin", "graft-serving-admin")
EVERYTHING = (
    SECOND,
    "networkPolicy.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "imagePullSecrets[0].name=pull",
    "priorityClassName=high",
    "nodeSelector.a=b",
    "watchNamespaces={one,two}",
)


@pytest.fixture(scope="module", autouse=True)
def helm() -> None:
    """A failure, not a skip: unit tests run first on a fresh machine, and nobody would notice that the chart was not tested."""
    if not HELM.exists():
        pytest.fail(
            f"{HELM} is absent; `make unit` builds it, or: PYTHONPATH=devcluster python -m graft_devcluster build helm", pytrace=False
        )


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", CHART / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def chart(generate: ModuleType) -> Any:
    """Render with `--set` settings: objects by kind and name."""

    @cache
    def parsed(*settings: str) -> dict[tuple[str, str], dict[str, Any]]:
        return {(o["kind"], o["metadata"]["name"]): o for o in generate.objects(generate.rendered(*settings))}

    def render(*settings: str) -> dict[tuple[str, str], dict[str, Any]]:
        return deepcopy(parsed(*settings))  # tests change them

    return render


def rules(objects: dict[tuple[str, str], dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [rule for (kind, name), o in objects.items() if kind in ("Role", "ClusterRole") and name in names for rule in o["rules"]]


def operator_rules(objects: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    return rules(objects, "graft-operator", "graft-operator-workloads")


def container(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    (only,) = objects["Deployment", "graft-operator"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, str | None]:
    return {variable["name"]: variable.get("value") for variable in container(objects)["env"]}


class TestRights:
    def test_of_secrets_only_the_named_one_is_read_and_patched(self, chart: Any) -> None:
        found = [rule for rule in operator_rules(chart()) if "secrets" in rule["resources"]]
        assert found == [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["graft-reports-tls"], "verbs": ["get", "patch"]}]
        assert ("Role", "graft-operator") in chart()

    def test_with_cert_manager_no_secret_at_all(self, chart: Any) -> None:
        objects = chart(CERT_MANAGER)
        assert not [rule for rule in operator_rules(objects) if "secrets" in rule["resources"]]
        assert ("Secret", "graft-reports-tls") not in objects
        assert objects["Certificate", "graft-reports"]["spec"]["dnsNames"][0] == "graft-reports.graft-system.svc"

    def test_no_wildcards_no_exec_no_granting_of_more_and_nobody_else(self, chart: Any) -> None:
        for rule in rules(chart(), "graft-operator", "graft-operator-workloads", *PEOPLE):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            assert not {"pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token"} & set(rule["resources"])
            assert not {"clusterroles", "clusterrolebindings", "pods/ephemeralcontainers", "deployments/scale"} & set(rule["resources"])
            assert "nonResourceURLs" not in rule

    def test_who_grants_a_right_has_it_and_no_right_to_grant_others(self, chart: Any) -> None:
        """What agents and gateways may: read their routes, and find servers."""
        granting = [rule for rule in operator_rules(chart()) if {"roles", "rolebindings"} & set(rule["resources"])]
        assert [rule["verbs"] for rule in granting] == [["get", "list", "watch", "create", "patch"], ["delete"]]
        held = {(r, v) for rule in operator_rules(chart()) for r in rule["resources"] for v in rule["verbs"] if "resourceNames" not in rule}
        assert {("configmaps", verb) for verb in ("get", "list", "watch")} <= held
        assert {("endpointslices", verb) for verb in ("list", "watch")} <= held
        assert not [rule for rule in rules(chart(), *PEOPLE) if "rbac.authorization.k8s.io" in rule["apiGroups"]]

    def test_nobody_is_given_a_verb_of_grafts_own_by_a_built_in_role(self, chart: Any) -> None:
        objects, own = chart(), {"inject", "command", "setpolicy"}
        assert not [rule for rule in rules(objects, "graft-user", "graft-view", "graft-approver") if own & set(rule["verbs"])]
        assert objects["ClusterRole", "graft-serving-admin"]["rules"] == [
            {"apiGroups": ["graft.dev"], "resources": ["modelendpoints"], "verbs": ["inject"]},
            {"apiGroups": ["graft.dev"], "resources": ["shadowtests", "modelendpoints"], "verbs": ["command"]},
        ]
        assert rules(objects, "graft-policy-admin") == [
            {"apiGroups": ["graft.dev"], "resources": ["modelendpoints"], "verbs": ["setpolicy"]}
        ]
        for role in ("graft-serving-admin", "graft-policy-admin", "graft-approver"):
            assert not [label for label in objects["ClusterRole", role]["metadata"]["labels"] if "aggregate" in label]

    def test_approvers_alone_speak_and_write_nothing_else(self, chart: Any) -> None:
        objects = chart()
        written = {
            (role, resource, verb)
            for role in PEOPLE
            for rule in rules(objects, role)
            for resource in rule["resources"]
            for verb in rule["verbs"]
            if (resource == "adapterapprovals" or role == "graft-approver") and verb not in ("get", "list", "watch")
        }
        assert written == {("graft-approver", "adapterapprovals", verb) for verb in ("create", "delete")}

    def test_the_operator_writes_no_users_object_but_its_status(self, chart: Any) -> None:
        written = {
            (resource, verb)
            for rule in operator_rules(chart())
            for resource in rule["resources"]
            for verb in rule["verbs"]
            if "graft.dev" in rule["apiGroups"] and verb not in ("get", "list", "watch")
        }
        kinds = ("finetunejobs", "modelendpoints", "adapters", "shadowtests")
        subresources = {(f"{kind}/{part}", verb) for kind in kinds for part, verb in (("status", "patch"), ("finalizers", "update"))}
        # Its finalizer, shadow servers and the tests of promotion: what else it could do, the policy graft-operator-writes refuses.
        created = {("adapters", "create"), ("modelendpoints", "create"), ("shadowtests", "create")}
        launched = {("finetunejobs", "create"), ("finetunejobs", "delete"), ("tuningpolicies/status", "patch")}
        assert written == subresources | created | launched | {("adapters", "patch"), ("modelendpoints", "delete")}

    def test_the_operator_deletes_nothing_that_others_own(self, chart: Any) -> None:
        deleted = {resource for rule in operator_rules(chart()) for resource in rule["resources"] if "delete" in rule["verbs"]}
        workloads, rights = {"jobs", "deployments"}, {"serviceaccounts", "rolebindings"}
        shadows = {"modelendpoints", "finetunejobs"}
        assert deleted == workloads | rights | shadows | {"services", "poddisruptionbudgets", "networkpolicies", "endpointslices"}

    def test_people_never_write_status(self, chart: Any) -> None:
        below = {resource for rule in rules(chart(), *PEOPLE) for resource in rule["resources"] if "/" in resource}
        assert below == {"modelendpoints/scale"}

    def test_rights_are_bound_only_where_is_watched(self, chart: Any) -> None:
        assert ("ClusterRoleBinding", "graft-operator-workloads") in chart()
        texts = [o for o in chart("watchNamespaces={one,two}").values() if o["metadata"]["name"] == "graft-operator-workloads"]
        assert sorted(o["kind"] for o in texts) == ["ClusterRole", "RoleBinding"]  # the second hides the first by its name
        assert ("ClusterRoleBinding", "graft-operator-workloads") not in chart("watchNamespaces={one,two}")

    def test_every_rule_says_who_needs_it(self, generate: ModuleType) -> None:
        text = generate.rendered()
        rows = list(generate._rows(text, generate._OPERATOR)) + list(generate._rows(text, generate._PEOPLE))
        assert len(rows) > 20
        assert all(row[-1] for row in rows)

    def test_the_table_is_up_to_date(self, generate: ModuleType) -> None:
        assert (generate.ROOT / "docs" / "rbac.md").read_text() == generate.rbac_page(generate.rendered())


class TestDeployment:
    def test_pod_security_restricted(self, chart: Any) -> None:
        pod = chart()["Deployment", "graft-operator"]["spec"]["template"]["spec"]
        security = container(chart())["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)

    def test_no_cpu_limit(self, chart: Any) -> None:
        assert "cpu" not in container(chart())["resources"]["limits"]

    def test_a_disruption_budget_with_a_second_replica(self, chart: Any) -> None:
        assert ("PodDisruptionBudget", "graft-operator") not in chart()
        assert chart(SECOND)["PodDisruptionBudget", "graft-operator"]["spec"]["maxUnavailable"] == 1

    @pytest.mark.parametrize(
        ("settings", "image"),
        [
            ((), "ghcr.io/graft-dev/trainer:0.1.0"),
            (("trainer.image.tag=v2",), "ghcr.io/graft-dev/trainer:v2"),
            (("trainer.image.tag=v2", f"trainer.image.digest=sha256:{'0' * 64}"), f"ghcr.io/graft-dev/trainer@sha256:{'0' * 64}"),
        ],
        ids=["the chart's version", "a tag", "a digest wins"],
    )
    def test_trainer_image(self, chart: Any, settings: tuple[str, ...], image: str) -> None:
        assert environment(chart(*settings))["GRAFT_TRAINER_IMAGE"] == image

    @pytest.mark.parametrize(
        ("settings", "image", "policy"),
        [
            ((), "ghcr.io/graft-dev/serving:0.1.0", "IfNotPresent"),
            (("serving.image.tag=v2", "serving.image.pullPolicy=Always"), "ghcr.io/graft-dev/serving:v2", "Always"),
            ((f"serving.image.digest=sha256:{'0' * 64}",), f"ghcr.io/graft-dev/serving@sha256:{'0' * 64}", "IfNotPresent"),
        ],
        ids=["the chart's version", "a tag", "a digest wins"],
    )
    def test_serving_image(self, chart: Any, settings: tuple[str, ...], image: str, policy: str) -> None:
        given = environment(chart(*settings))
        assert (given["GRAFT_SERVING_IMAGE"], given["GRAFT_SERVING_PULL_POLICY"]) == (image, policy)

    def test_vllm_image(self, chart: Any) -> None:
        """Any image that has vLLM, by default the public one, of the version that the tests run against."""
        given = environment(chart())
        assert (given["GRAFT_VLLM_IMAGE"], given["GRAFT_VLLM_PULL_POLICY"]) == ("vllm/vllm-openai:v0.32.0", "IfNotPresent")
        given = environment(chart("vllm.image.repository=mirror/vllm", "vllm.image.tag=v0.33.0", "vllm.image.pullPolicy=Never"))
        assert (given["GRAFT_VLLM_IMAGE"], given["GRAFT_VLLM_PULL_POLICY"]) == ("mirror/vllm:v0.33.0", "Never")
        digest = f"sha256:{'0' * 64}"
        assert environment(chart("vllm.image.tag=", f"vllm.image.digest={digest}"))["GRAFT_VLLM_IMAGE"] == f"vllm/vllm-openai@{digest}"

    def test_the_operator_understands_its_environment(self, chart: Any) -> None:
        from graft_operator.config import Config, from_environment

        given = {name: value or "from the pod" for name, value in environment(chart("watchNamespaces={one,two}", "logLevel=debug")).items()}
        config = from_environment(given)
        assert config.watch_namespaces == ("one", "two")
        assert config.log_level == "DEBUG"
        default = Config("n", "p", "i", "t")
        ports = {port["name"]: port["containerPort"] for port in container(chart())["ports"]}
        assert ports == {"reports": default.reports_port, "health": default.health_port}
        assert config.reports_certificate_folder is None
        mounted = from_environment({name: value or "x" for name, value in environment(chart(CERT_MANAGER)).items()})
        paths = [mount["mountPath"] for mount in container(chart(CERT_MANAGER))["volumeMounts"]]
        assert str(mounted.reports_certificate_folder) in paths
        assert str(mounted.policies_file.parent) in paths


class TestPrometheus:
    URL = "prometheus.url=https://prometheus.monitoring.svc:9090"

    def test_there_is_none_by_default(self, chart: Any) -> None:
        assert not [name for name in environment(chart()) if name.startswith("GRAFT_PROMETHEUS")]
        volumes = chart()["Deployment", "graft-operator"]["spec"]["template"]["spec"]["volumes"]
        assert "prometheus" not in {volume["name"] for volume in volumes}
        assert "prometheus" not in {volume["name"] for volume in self.volumes(chart, self.URL)}
        assert environment(chart(self.URL))["GRAFT_PROMETHEUS_URL"] == "https://prometheus.monitoring.svc:9090"

    @pytest.mark.parametrize(
        ("setting", "source"),
        [
            ("prometheus.tokenSecret.name=metrics", {"secret": {"name": "metrics", "items": [{"key": "token", "path": "token"}]}}),
            (
                "prometheus.tokenAudience=thanos",
                {"serviceAccountToken": {"audience": "thanos", "expirationSeconds": 3600, "path": "token"}},
            ),
        ],
    )
    def test_one_token_is_mounted_and_the_operator_finds_it(self, chart: Any, setting: str, source: dict[str, Any]) -> None:
        from graft_operator.config import from_environment
        from graft_operator.main import prometheus_of

        settings = (self.URL, setting, "prometheus.caConfigMap.name=ca")
        (volume,) = [volume for volume in self.volumes(chart, *settings) if volume["name"] == "prometheus"]
        authority = {"configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
        assert volume["projected"]["sources"] == [source, authority]
        (mount,) = [mount for mount in container(chart(*settings))["volumeMounts"] if mount["name"] == "prometheus"]
        server = prometheus_of(from_environment({name: value or "x" for name, value in environment(chart(*settings)).items()}))
        assert server is not None
        assert [str(server.token_file), str(server.authority_file)] == [f"{mount['mountPath']}/token", f"{mount['mountPath']}/ca.crt"]

    def test_two_tokens_are_refused(self, generate: ModuleType) -> None:
        with pytest.raises(ValueError, match="not both"):
            generate.rendered(self.URL, "prometheus.tokenSecret.name=a", "prometheus.tokenAudience=b")

    def volumes(self, chart: Any, *settings: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = chart(*settings)["Deployment", "graft-operator"]["spec"]["template"]["spec"]["volumes"]
        return found


class TestPolicies:
    def test_each_is_bound_to_deny_and_fails_closed(self, chart: Any) -> None:
        objects = chart()
        names = sorted(name for kind, name in objects if kind == "ValidatingAdmissionPolicy")
        assert names == POLICIES
        for name in names:
            assert objects["ValidatingAdmissionPolicy", name]["spec"]["failurePolicy"] == "Fail"
            assert objects["ValidatingAdmissionPolicyBinding", name]["spec"] == {"policyName": name, "validationActions": ["Deny"]}

    def test_the_guard_is_given_the_same(self, chart: Any) -> None:
        from graft_operator.reports.policies import missing

        objects = chart()
        expected = yaml.safe_load(objects["ConfigMap", "graft-policies"]["data"]["policies.yaml"])
        policies = {name: o for (kind, name), o in objects.items() if kind == "ValidatingAdmissionPolicy"}
        bindings = {name: o for (kind, name), o in objects.items() if kind == "ValidatingAdmissionPolicyBinding"}
        assert missing(expected, policies, bindings) == []

    def test_the_operator_may_read_each(self, chart: Any) -> None:
        (rule,) = [rule for rule in operator_rules(chart()) if "validatingadmissionpolicies" in rule["resources"]]
        assert rule["resourceNames"] == POLICIES

    def test_the_operator_s_own_deployment_is_helm_s_to_change(self, chart: Any) -> None:
        conditions = chart()["ValidatingAdmissionPolicy", "graft-deployments"]["spec"]["matchConditions"]
        assert conditions[0]["expression"] == "request.namespace != 'graft-system'"

    def test_nobody_unnamed_is_let_through(self, chart: Any) -> None:
        text = yaml.safe_dump(chart()["ValidatingAdmissionPolicy", "graft-jobs"])
        assert "kueue" not in text.partition("message")[0]
        assert "velero:velero" in yaml.safe_dump(
            chart("policies.recordWriters={system:serviceaccount:velero:velero}")["ValidatingAdmissionPolicy", "graft-records"]
        )


class TestDefinitions:
    def test_they_are_the_generated_ones_and_are_kept(self, chart: Any) -> None:
        for path in (CHART.parents[1] / "crds").glob("*.yaml"):
            source = yaml.safe_load(path.read_text())
            shipped = chart()["CustomResourceDefinition", source["metadata"]["name"]]
            assert shipped["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
            assert shipped == source, "run: make generate"

    def test_braces_are_left_as_they_are(self, generate: ModuleType) -> None:
        text = generate.crd_template("kind: X\nmetadata:\n  name: a\nspec:\n  description: 'a {{ b }} c'\n")
        assert "'a {{ \"{{\" }} b }} c'" in text

    def test_they_can_be_left_out(self, chart: Any) -> None:
        assert not [kind for kind, _ in chart("crds.enabled=false") if kind == "CustomResourceDefinition"]


class TestValues:
    @pytest.mark.parametrize(
        "setting",
        [
            pytest.param("replica=2", id="unknown"),
            pytest.param("image.tags=x", id="unknown below"),
            pytest.param("logLevel=loud", id="not a level"),
            pytest.param("reports.certManager.enabled=true", id="cert-manager without an issuer"),
            pytest.param("serviceAccount.name=other", id="a service account that the policies do not protect"),
            pytest.param("vllm.image.tag=", id="no version of vLLM"),
            pytest.param("serving.image.pullPolicy=Sometimes", id="not a pull policy"),
            pytest.param("extraEnv[0].name=GRAFT_X", id="a variable that is the chart's own"),
        ],
    )
    def test_mistakes_are_refused(self, generate: ModuleType, setting: str) -> None:
        with pytest.raises(ValueError, match="values don't meet the specifications"):
            generate.rendered(setting)

    def test_everything_at_once_renders(self, chart: Any) -> None:
        objects = chart(*EVERYTHING)
        assert ("NetworkPolicy", "graft-operator") in objects
        (endpoint,) = objects["ServiceMonitor", "graft-operator"]["spec"]["endpoints"]
        assert endpoint["honorLabels"], "graft_promotion_* name the namespace and endpoint that they are about"

    def test_helm_lint_has_nothing_to_say(self) -> None:
        done = subprocess.run([str(HELM), "lint", "--strict", "--quiet", str(CHART)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_secret_is_not_wiped_on_upgrade(self, chart: Any) -> None:
        secret = chart()["Secret", "graft-reports-tls"]
        assert "data" not in secret
        assert "stringData" not in secret
        assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}

    def test_the_reports_service_selects_nothing(self, chart: Any) -> None:
        assert "selector" not in chart()["Service", "graft-reports"]["spec"]
