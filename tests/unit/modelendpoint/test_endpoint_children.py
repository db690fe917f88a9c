"""Golden manifests: tests/unit/data/modelendpoint/<case>/output.yaml is what input.yaml becomes. UPDATE_GOLDEN=1 rewrites them."""

import json
import os
from pathlib import Path

import pytest
import yaml

from graft_api import dataplane as plane
from graft_api import serverpod
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpoint
from graft_api.podtemplate import PodTemplate
from graft_api.routes import EndpointIdentity, Routes
from graft_api.schema import parse
from graft_operator.modelendpoint import children
from graft_operator.modelendpoint.children import Parent, Platform
from graft_operator.reports import ca

DATA = Path(__file__).parents[1] / "data" / "modelendpoint"
CASES = ["minimal", "full", "claim", "existing"]
OWN_SERVERS = ["minimal", "full", "claim"]
PLATFORM = Platform("graft.dev/serving:1", "graft.dev/vllm:1", "https://graft-reports.graft-system.svc:8443")


def load(case):
    resource = yaml.safe_load((DATA / case / "input.yaml").read_text())
    resource["metadata"] |= {"namespace": "team", "uid": "11111111-2222-3333-4444-555555555555"}
    return Parent.of(resource), parse(ModelEndpoint, resource).spec


def build(case):
    parent, spec = load(case)
    identity = EndpointIdentity(namespace=parent.namespace, name=parent.name, uid=parent.uid)
    routes = Routes(endpoint=identity, epoch=1, revision=2, max_loras=spec.slots(), max_lora_rank=64, signing_keys=[])
    return [
        children.routes_config_map(parent, routes),
        children.ledger_config_map(parent, Ledger(endpoint=parent.name, epoch=1, revision=2)),
        *children.companions(parent, spec).wanted,
        *([] if spec.server.existing else [children.server_deployment(parent, spec, PLATFORM, "2026-11")]),
        children.gateway_deployment(parent, spec, PLATFORM),
    ]


def pod(case, component="server", **changes):
    parent, spec = load(case)
    make = children.server_deployment if component == "server" else children.gateway_deployment
    return make(parent, spec.model_copy(update=changes), PLATFORM)["spec"]["template"]["spec"]


def containers(template):
    return {c["name"]: c for c in [*template.get("initContainers", []), *template["containers"]]}


def mounts(container):
    return {m["name"]: m for m in container["volumeMounts"]}


@pytest.mark.parametrize("case", CASES)
def test_golden_manifests(case):
    built = build(case)
    path = DATA / case / "output.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump_all([json.loads(json.dumps(item)) for item in built], sort_keys=False, width=140))
    assert built == list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("component", ["server", "gateway"])
@pytest.mark.parametrize("case", OWN_SERVERS)
def test_every_container_is_restricted(case, component):
    template = pod(case, component)
    for container in containers(template).values():
        security = container["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
        assert security["capabilities"] == {"drop": ["ALL"]}
    assert template["securityContext"]["runAsNonRoot"] is True
    assert template["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (template["automountServiceAccountToken"], template["enableServiceLinks"]) == (False, False)


@pytest.mark.parametrize("case", OWN_SERVERS)
def test_vllm_and_door_get_no_token_and_no_credentials(case):
    template = pod(case)
    by_name = containers(template)
    secret = {v["name"] for v in template["volumes"] if "projected" in v or "secret" in v} | {"graft-credentials"}
    assert {"graft-api", "graft-reports"} <= secret
    for name in ("vllm", "door"):
        assert not secret & set(mounts(by_name[name])), name
    assert "graft-run" not in mounts(by_name["vllm"]), "whoever reaches the socket passes for the agent"


@pytest.mark.parametrize("case", OWN_SERVERS)
def test_vllm_reads_model_and_adapters_and_writes_neither(case):
    of_vllm = mounts(containers(pod(case))["vllm"])
    assert of_vllm["graft-model"]["readOnly"] is True
    assert of_vllm["graft-adapters"]["readOnly"] is True


@pytest.mark.parametrize("case", OWN_SERVERS)
def test_only_the_doors_port_is_declared(case):
    declared = {name: [p["containerPort"] for p in c.get("ports", [])] for name, c in containers(pod(case)).items()}
    assert declared.pop("door") == [plane.DOOR_PORT]
    assert not any(declared.values())


@pytest.mark.parametrize("component", ["server", "gateway"])
@pytest.mark.parametrize("case", OWN_SERVERS)
def test_every_mount_has_a_volume_and_a_path_of_its_own(case, component):
    template = pod(case, component)
    names = [volume["name"] for volume in template["volumes"]]
    assert len(names) == len(set(names))
    for container in containers(template).values():
        paths = [m["mountPath"] for m in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert {m["name"] for m in container["volumeMounts"]} <= set(names)
        variables = [variable["name"] for variable in container["env"]]
        assert len(variables) == len(set(variables)), "server-side apply refuses doubles"


def test_the_users_variables_and_arguments_do_not_win_over_what_the_door_relies_on():
    vllm = containers(pod("full"))["vllm"]
    environment = {item["name"]: item.get("value") for item in vllm["env"]}
    assert environment["VLLM_API_KEY"] == environment["VLLM_LORA_RESOLVER_CACHE_DIR"] == ""
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert environment["XDG_CACHE_HOME"] == "/cache"
    assert vllm["args"].index("--host") > vllm["args"].index("--max-model-len=8192")
    assert vllm["args"][vllm["args"].index("--host") + 1] == "127.0.0.1"


def test_gpus_are_asked_for_where_vllm_runs_and_spread_over():
    by_name = containers(pod("full"))
    assert {name for name, c in by_name.items() if "nvidia.com/gpu" in c["resources"].get("limits", {})} == {"vllm"}
    assert by_name["vllm"]["args"][by_name["vllm"]["args"].index("--tensor-parallel-size") + 1] == "2"


@pytest.mark.parametrize("said", ["-tp", "--tensor_parallel_size=2", "--data-parallel-size=2", "-pp=2"])
def test_who_says_how_to_spread_over_gpus_is_not_contradicted(said):
    _, spec = load("full")
    arguments = containers(pod("full", server=spec.server.model_copy(update={"args": [said, "2"]})))["vllm"]["args"]
    assert "--tensor-parallel-size" not in arguments


def test_a_claim_is_mounted_read_only_and_by_its_folder():
    template = pod("claim")
    volume = next(v for v in template["volumes"] if v["name"] == "graft-model")
    assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    for name in ("fetch-base", "vllm", "agent"):
        assert mounts(containers(template)[name])["graft-model"] == {
            "name": "graft-model",
            "mountPath": "/graft/model",
            "readOnly": True,
            "subPath": "llama/8b",
        }


def test_a_fetched_model_is_written_by_the_first_container_alone():
    by_name = containers(pod("minimal"))
    writers = {name for name, c in by_name.items() if not mounts(c).get("graft-model", {"readOnly": True}).get("readOnly")}
    assert writers == {"fetch-base"}


@pytest.mark.parametrize(
    ("case", "change", "rolls_servers", "rolls_gateways"),
    [
        ("minimal", {"replicas": 5}, False, False),
        ("minimal", {"trusted_keys": []}, False, False),
        ("minimal", {"upgrade_policy": "Auto"}, False, False),
        ("full", {"credentials": None}, True, False),
        ("full", {"server": {"args": ["--max-model-len=4096"]}}, True, False),
        ("full", {"server": {"pod_template": PodTemplate()}}, True, True),
        ("full", {"gateway": {"anonymous": True, "conversation_header": "x-other", "replicas": 9}}, False, False),
        ("full", {"gateway": {"api_keys": None}}, False, True),
    ],
    ids=["replicas", "keys", "policy", "credentials", "arguments", "pod template", "gateway settings", "API keys"],
)
def test_pods_roll_for_what_they_are_built_from_and_nothing_else(case, change, rolls_servers, rolls_gateways):
    parent, spec = load(case)
    nested = {key: getattr(spec, key).model_copy(update=value) if isinstance(value, dict) else value for key, value in change.items()}
    changed = spec.model_copy(update=nested)

    def annotations(make):
        return [make(parent, s, PLATFORM)["metadata"]["annotations"] for s in (spec, changed)]

    for make, rolls in ((children.server_deployment, rolls_servers), (children.gateway_deployment, rolls_gateways)):
        before, after = annotations(make)
        assert (before[children.SPEC_HASH] != after[children.SPEC_HASH]) is rolls
        assert (before[children.PLATFORM] != after[children.PLATFORM]) is rolls


def test_one_more_domain_needs_more_slots_and_so_rolls_the_servers():
    parent, spec = load("minimal")
    more = spec.model_copy(update={"domains": [*spec.domains, spec.domains[0].model_copy(update={"name": "governance"})]})
    hashes = {children.server_deployment(parent, s, PLATFORM)["metadata"]["annotations"][children.SPEC_HASH] for s in (spec, more)}
    assert len(hashes) == 2


def test_another_image_changes_the_platform_and_not_the_spec():
    parent, spec = load("minimal")
    newer = Platform("graft.dev/serving:2", PLATFORM.vllm_image, PLATFORM.reports_url)
    before, after = (children.server_deployment(parent, spec, p)["metadata"]["annotations"] for p in (PLATFORM, newer))
    assert before[children.SPEC_HASH] == after[children.SPEC_HASH]
    assert before[children.PLATFORM] != after[children.PLATFORM]
    assert children.platform_of({"metadata": {"annotations": after}}) == after[children.PLATFORM]
    assert children.platform_of(None) is children.platform_of({"metadata": {}}) is None


@pytest.mark.parametrize(("case", "surge"), [("minimal", 1), ("full", 0)], ids=["without GPUs", "with GPUs"])
def test_pods_with_gpus_make_room_before_they_are_replaced(case, surge):
    parent, spec = load(case)
    rolling = children.server_deployment(parent, spec, PLATFORM)["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": surge, "maxUnavailable": 1 - surge}


def test_what_belongs_to_the_users_deployment_is_neither_made_nor_kept():
    parent, spec = load("existing")
    found = children.companions(parent, spec)
    unwanted = {(m["kind"], m["metadata"]["name"]) for m in found.unwanted}
    assert unwanted == {
        ("Deployment", "existing-server"),
        ("NetworkPolicy", "existing-server"),
        ("PodDisruptionBudget", "existing-server"),
        ("RoleBinding", "graft-server-existing"),
        ("ServiceAccount", "graft-server-existing"),
    }
    assert ("Role", "graft-server-existing") in {(m["kind"], m["metadata"]["name"]) for m in found.wanted}


def test_with_one_replica_a_budget_is_unwanted():
    parent, spec = load("minimal")
    assert {(m["kind"], m["metadata"]["name"]) for m in children.companions(parent, spec).unwanted} == {
        ("PodDisruptionBudget", "minimal-server")
    }


def test_rights_are_on_the_routes_of_the_endpoint_alone():
    parent, spec = load("minimal")
    roles = [m for m in children.companions(parent, spec).wanted if m["kind"] == "Role"]
    rules = [rule for role in roles for rule in role["rules"]]
    assert all(rule["resourceNames"] == ["minimal-routes"] for rule in rules if "configmaps" in rule["resources"])
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}


def test_workload_identity_runs_as_the_users_account_and_gives_it_the_role():
    parent, spec = load("claim")
    binding = next(
        m for m in children.companions(parent, spec).wanted if m["metadata"]["name"] == "graft-server-claim" and m["kind"] == "RoleBinding"
    )
    assert pod("claim")["serviceAccountName"] == binding["subjects"][0]["name"] == "s3-reader"


def test_workload_identity_is_for_the_containers_that_fetch_alone():
    parent, spec = load("claim")
    template = children.server_deployment(parent, spec, PLATFORM)["spec"]["template"]
    assert template["metadata"]["annotations"] == {"eks.amazonaws.com/skip-containers": "vllm,door"}


def test_the_ledger_has_no_owner_and_everything_else_one():
    owned = {m["metadata"]["name"]: "ownerReferences" in m["metadata"] for m in build("full")}
    assert [name for name, has_owner in owned.items() if not has_owner] == ["full-ledger"]


def test_names_and_labels_fit_for_the_longest_name():
    parent, spec = load("minimal")
    longest = Parent(parent.namespace, "a" * 40, parent.uid)
    manifests = [*children.companions(longest, spec).wanted, children.server_deployment(longest, spec, PLATFORM)]
    assert all(len(m["metadata"]["name"]) <= 63 for m in manifests)
    assert {children.resource_of(m).kind for m in manifests} == {m["kind"] for m in manifests}


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("20Gi", 20 * 2**30), ("1.5Ki", 1536), ("500M", 500_000_000), ("2k", 2000), ("1500m", 1), ("7", 7), ("1T", 10**12), ("1Pi", 2**50)],
)
def test_quantities(quantity, expected):
    assert serverpod.quantity_bytes(quantity) == expected


def test_the_authority_is_mounted_from_where_the_operator_puts_it():
    assert (serverpod.CA_CONFIG_MAP, serverpod.CA_KEY) == (ca.CONFIG_MAP, ca.CA_KEY)
