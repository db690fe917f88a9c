"""Golden manifests: tests/unit/data/modelendpoint/<case>/output.yaml is what input.yaml becomes. UPDATE_GOLDEN=1 rewrites them."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from graft_api import dataplane as plane
from graft_api import serverpod
from graft_api.collect import CollectorSettings
from graft_api.ledger import Ledger, LedgerDomain
from graft_api.modelendpoint import Collector, Held, ModelEndpoint, ModelEndpointStatus
from graft_api.podtemplate import EnvVar, PodTemplate
from graft_api.routes import EndpointIdentity, Routes
from graft_api.schema import Invalid, parse
from graft_api.watch import WatchTask
from graft_operator.modelendpoint import children, collector, decide, measuring, routing, tested
from graft_operator.modelendpoint.children import Parent, Platform
from graft_operator.modelendpoint.observed import Observed
from graft_operator.reports import ca
from graft_operator.shadowtest.turns import TestView
from graft_serving.agent.settings import settings_from as agent_settings
from graft_serving.collector.settings import settings_from as collector_settings

DATA = Path(__file__).parents[1] / "data" / "modelendpoint"
CASES = ["minimal", "full", "claim", "existing", "measured", "shadow"]
OWN_SERVERS = ["minimal", "full", "claim", "measured", "shadow"]
PODS = [(case, component) for case in ("minimal", "full", "claim", "measured") for component in ("server", "gateway")]
PODS += [("measured", "collector"), ("shadow", "server")]
PLATFORM = Platform("graft.dev/serving:1", "graft.dev/vllm:1", "https://graft-reports.graft-system.svc:8443")


def load(case):
    resource = yaml.safe_load((DATA / case / "input.yaml").read_text())
    resource["metadata"] |= {"namespace": "team", "uid": "11111111-2222-3333-4444-555555555555"}
    return Parent.of(resource), parse(ModelEndpoint, resource).spec


def build(case):
    parent, spec = load(case)
    identity = EndpointIdentity(namespace=parent.namespace, name=parent.name, uid=parent.uid)
    routes = Routes(endpoint=identity, epoch=1, revision=2, max_loras=spec.slots(), max_lora_rank=64, signing_keys=[])
    of_production = [
        children.ledger_config_map(parent, Ledger(endpoint=parent.name, epoch=1, revision=2)),
        children.gateway_deployment(parent, spec, PLATFORM),
    ]
    return [
        children.routes_config_map(parent, routing.build(seen(parent, spec), spec, SALTED, 1) if spec.shadow else routes),
        *children.companions(parent, spec).wanted,
        *([] if spec.server.existing else [children.server_deployment(parent, spec, PLATFORM, "2026-11")]),
        *([] if spec.shadow else of_production),
        *(measured_by(parent, spec) if spec.collector else []),
    ]


NOW = datetime(2026, 11, 21, tzinfo=UTC)
SALTED = Ledger(endpoint="measured", domains=[LedgerDomain(name=name, salt=f"salt of {name}") for name in ("dsl", "governance")])


def seen(parent, spec):
    test = TestView.of(yaml.safe_load((DATA / "measured" / "shadowtest.yaml").read_text()))
    return Observed(parent, 1, spec, ModelEndpointStatus(), tests=[test])


def measured_by(parent, spec):
    """The collector, while a ShadowTest is compared."""
    settings = told(parent, spec)
    around = collector.collector_children(parent, spec, settings)
    return [*around.wanted, collector.collector_deployment(parent, spec, settings, PLATFORM)]


def told(parent, spec):
    known = seen(parent, spec)
    counted = SALTED.model_copy(update={"domains": [tested.count(domain, known) for domain in SALTED.domains]})
    return measuring.plan(known, spec, counted, NOW).settings


def deployment(case, component="server", platform=PLATFORM, **changes):
    parent, spec = load(case)
    changed = spec.model_copy(update=changes)
    if component == "collector":
        return collector.collector_deployment(parent, changed, told(parent, changed), platform)
    make = children.server_deployment if component == "server" else children.gateway_deployment
    return make(parent, changed, platform)


def pod(case, component="server", **changes):
    return deployment(case, component, **changes)["spec"]["template"]["spec"]


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


@pytest.mark.parametrize(("case", "component"), PODS)
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


@pytest.mark.parametrize(("case", "component"), PODS)
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


def environment(container):
    return {item["name"]: item.get("value") for item in container["env"]}


def test_a_collector_is_told_where_gateways_and_operator_look_for_it():
    (deployed,) = containers(pod("measured", "collector")).values()
    assert deployed["command"] == ["graft-serving", "collector"]
    assert {port["containerPort"] for port in deployed["ports"]} == {8000, 8002}
    assert {probe["httpGet"]["port"] for probe in (deployed["readinessProbe"], deployed["livenessProbe"])} == {8002}
    at = {name: mount["mountPath"] for name, mount in mounts(deployed).items()}
    assert (at["graft-settings"], at["graft-run"], at["graft-shadow"]) == ("/graft/collector", "/graft/run", "/graft/shadow")


def test_a_collector_with_programs_of_the_users_own_is_another_pod():
    _, spec = load("measured")
    own = {"collector": spec.collector.model_copy(update={"image": "registry.example.com/with-sqlfluff:1"})}
    (deployed,) = containers(pod("measured", "collector", **own)).values()
    assert deployed["image"] == "registry.example.com/with-sqlfluff:1"
    assert {deployed["image"] for deployed in containers(pod("measured", "collector")).values()} == {PLATFORM.serving_image}
    hashes = {deployment("measured", "collector", **each)["metadata"]["annotations"][children.SPEC_HASH] for each in ({}, own)}
    assert len(hashes) == 2
    assert deployment("measured", "gateway", **own) == deployment("measured", "gateway")


STEERING = ["HOME", "PATH", "KUBERNETES_SERVICE_HOST", "PYTHONPATH", "LD_PRELOAD", "SSL_CERT_FILE", "OPENSSL_CONF", "AWS_ENDPOINT_URL"]


@pytest.mark.parametrize("name", STEERING)
def test_a_variable_that_steers_the_collector_is_refused_by_name(name):
    with pytest.raises(Invalid, match=r"env: is for the tokens of scorers.*" + name.partition("_")[0][:6]):
        parse(Collector, {"store": "s3://measured", "env": [{"name": "JUDGE_TOKEN", "value": "x"}, {"name": name, "value": "x"}]})


def test_variables_of_an_endpoint_that_was_stored_before_they_were_refused_change_nothing():
    _, spec = load("measured")
    env = [*spec.collector.env, *(EnvVar.model_construct(name=name, value="/elsewhere") for name in STEERING)]
    (deployed,) = containers(pod("measured", "collector", collector=spec.collector.model_copy(update={"env": env}))).values()
    variables = environment(deployed)
    assert variables["HOME"] == serverpod.TMP
    assert "/elsewhere" not in variables.values()
    assert "JUDGE_TOKEN" in variables


def test_a_collector_has_no_token_for_a_door_but_while_a_test_is_compared():
    parent, spec = load("measured")
    compared = told(parent, spec)
    for settings, expected in ((compared, ["graft.dev/door/first-shadow"]), (compared.model_copy(update={"compare": None}), [])):
        volumes = collector.collector_template(parent, spec, settings, PLATFORM)["spec"]["volumes"]
        found = [s["serviceAccountToken"]["audience"] for v in volumes if v["name"] == "graft-shadow" for s in v["projected"]["sources"]]
        assert found == expected


def test_gateways_have_the_collectors_token_whether_or_not_a_test_runs():
    """It is what the spec says, not what is measured at the moment: a test must not roll gateways."""
    audiences = {
        case: [
            source["serviceAccountToken"].get("audience")
            for volume in pod(case, "gateway")["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source
        ]
        for case in ("measured", "minimal")
    }
    assert "graft.dev/collector/measured" in audiences["measured"]
    assert not [audience for audience in audiences["minimal"] if audience and "collector" in audience]
    assert mounts(containers(pod("measured", "gateway"))["gateway"])["graft-collector"]["mountPath"] == "/graft/collector"
    rolls = {
        deployment("measured", "gateway", **changes)["metadata"]["annotations"][children.SPEC_HASH] for changes in ({}, {"collector": None})
    }
    assert len(rolls) == 2


@pytest.mark.parametrize(
    ("credentials", "account", "volume"),
    [
        pytest.param({"collector": "s3-writer"}, "graft-collector-measured", {"secretName": "s3-writer", "optional": True}, id="its own"),
        pytest.param({}, "graft-collector-measured", {"secretName": "s3-reader", "optional": True}, id="the endpoint's"),
        pytest.param({"identity": "s3-identity"}, "s3-identity", None, id="workload identity"),
    ],
)
def test_whose_credentials_a_collector_has(credentials, account, volume):
    parent, spec = load("measured")
    own = None
    if "collector" in credentials:
        own = spec.collector.credentials
    elif "identity" in credentials:
        own = spec.collector.credentials.model_copy(update={"secret_ref": None, "service_account_name": credentials["identity"]})
    changed = spec.model_copy(update={"collector": spec.collector.model_copy(update={"credentials": own})})
    template = collector.collector_template(parent, changed, told(parent, changed), PLATFORM)["spec"]
    assert template["serviceAccountName"] == account
    assert next(v for v in template["volumes"] if v["name"] == "graft-credentials").get("secret") == volume
    found = collector.collector_children(parent, changed, told(parent, changed))
    accounts = {m["metadata"]["name"]: m in found.wanted for m in [*found.wanted, *found.unwanted] if m["kind"] == "ServiceAccount"}
    assert accounts == {"graft-collector-measured": account != "s3-identity"}


def test_another_task_is_another_pod_and_another_chart_is_not():
    parent, spec = load("measured")
    settings = told(parent, spec)

    def annotations(settings, spec=spec, platform=PLATFORM):
        made = collector.collector_deployment(parent, spec, settings, platform)
        return made["metadata"]["annotations"][children.SPEC_HASH], made["spec"]["template"]["metadata"]["annotations"][
            collector.SETTINGS_HASH
        ]

    before = annotations(settings)
    ended = annotations(settings.model_copy(update={"compare": None}))
    assert (before[0] != ended[0], before[1] != ended[1]) == (True, True)
    newer = Platform("graft.dev/serving:2", PLATFORM.vllm_image, PLATFORM.reports_url)
    assert annotations(settings, platform=newer) == before
    larger = spec.model_copy(update={"collector": spec.collector.model_copy(update={"env": None})})
    assert annotations(settings, larger)[0] != before[0]


def a_watch(domain, gate=1):
    metrics = [{"name": "server-errors", "measure": "ServerError"}]
    return parse(WatchTask, {"domain": domain, "gate": gate, "new": f"{domain}-new", "heldBack": "base", "metrics": metrics})


def test_watches_that_begin_and_end_change_what_is_told_and_nothing_of_the_pod():
    parent, spec = load("measured")
    settings = told(parent, spec)
    ways = [settings.model_copy(update={"watches": watches}) for watches in ([], [a_watch("dsl")], [a_watch("dsl", 2), a_watch("other")])]
    assert len({json.dumps(collector.settings_config_map(parent, way)["data"]) for way in ways}) == 3
    deployments = [collector.collector_deployment(parent, spec, way, PLATFORM) for way in ways]
    assert deployments[1:] == deployments[:1] * 2
    assert deployments[0]["spec"]["template"]["metadata"]["annotations"][collector.FOLLOWS] == "watches"


def test_a_collector_from_before_it_could_follow_is_replaced_once_when_its_watches_change():
    parent, spec = load("measured")
    none, one, two = [
        told(parent, spec).model_copy(update={"watches": watches}) for watches in ([], [a_watch("dsl")], [a_watch("dsl"), a_watch("other")])
    ]
    older = collector.collector_deployment(parent, spec, one, PLATFORM)
    del older["spec"]["template"]["metadata"]["annotations"][collector.FOLLOWS]
    older["metadata"]["annotations"][children.SPEC_HASH] = collector._spec_hash(spec, one, follows=False)
    older["metadata"]["annotations"][children.PLATFORM] = "of that day"

    def applied(existing, settings):
        built = collector.collector_deployment(parent, spec, settings, PLATFORM, existing=existing)
        return decide.rollout(existing, built, "Manual").apply

    assert applied(older, one) is None, "an upgrade of the chart alone waits"
    assert applied(older, none) is not None
    newer = applied(older, two)
    assert collector.FOLLOWS in newer["spec"]["template"]["metadata"]["annotations"]
    again = applied(newer, two)
    assert again["spec"] == newer["spec"] == applied(again, none)["spec"], "not a second time"
    assert applied(again, none) == again


def test_a_collector_may_read_what_it_is_told_and_nothing_else():
    parent, spec = load("measured")
    account = spec.collector.credentials.model_copy(update={"secret_ref": None, "service_account_name": "s3-identity"})
    theirs = spec.model_copy(update={"collector": spec.collector.model_copy(update={"credentials": account})})
    for known, name in ((spec, "graft-collector-measured"), (theirs, "s3-identity")):
        made = {m["kind"]: m for m in collector.collector_children(parent, known, told(parent, known)).wanted}
        (rule,) = made["Role"]["rules"]
        assert (rule["resources"], rule["resourceNames"], rule["verbs"]) == (
            ["configmaps"],
            ["measured-collector"],
            ["get", "list", "watch"],
        )
        (subject,) = made["RoleBinding"]["subjects"]
        assert (subject["name"], subject["namespace"], made["RoleBinding"]["roleRef"]["name"]) == (
            name,
            "team",
            made["Role"]["metadata"]["name"],
        )


def test_a_field_that_a_newer_operator_adds_does_not_replace_a_collector():
    parent, spec = load("measured")
    settings = told(parent, spec)

    class Newer(CollectorSettings):
        added: int = 7

    newer = Newer(**{name: getattr(settings, name) for name in CollectorSettings.model_fields})
    assert collector.settings_hash(newer) == collector.settings_hash(settings)
    assert collector.settings_hash(newer.model_copy(update={"added": 8})) != collector.settings_hash(settings)


def test_what_a_collector_leaves_behind_goes_but_for_its_settings_and_its_deployment_last():
    parent, spec = load("measured")
    left = [(m["kind"], m["metadata"]["name"]) for m in collector.former_children(parent)]
    made = {(m["kind"], m["metadata"]["name"]) for m in measured_by(parent, spec)}
    assert left[-1] == ("Deployment", "measured-collector")
    assert made - set(left) == {("ConfigMap", "measured-collector"), ("Role", "graft-collector-measured")}
    assert set(left) <= made


def test_a_shadow_server_lets_in_the_collector_that_it_is_for_and_no_gateway():
    parent, spec = load("shadow")
    made = children.companions(parent, spec)
    assert {m["metadata"]["labels"][plane.COMPONENT_LABEL] for m in [*made.wanted, *made.unwanted]} == {"server"}
    (policy,) = [m for m in made.wanted if m["kind"] == "NetworkPolicy"]
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"graft.dev/component": "collector", "graft.dev/modelendpoint": "measured"}}}]
    template = deployment("shadow")["spec"]["template"]
    assert environment(containers(template["spec"])["agent"])["GRAFT_DOOR_ACCOUNT"] == "graft-collector-measured"
    assert template["metadata"]["labels"][plane.SHADOW_LABEL] == "measured"
    assert "GRAFT_DOOR_ACCOUNT" not in environment(containers(pod("minimal"))["agent"])


def test_a_shadow_server_lets_in_a_collector_with_an_account_of_the_users_own():
    _, spec = load("shadow")
    held = Held(endpoint="measured", account="s3-identity", versions=[])
    assert environment(containers(pod("shadow", shadow=held))["agent"])["GRAFT_DOOR_ACCOUNT"] == "s3-identity"
    rolls = [deployment("shadow", shadow=shadow)["metadata"]["annotations"][children.SPEC_HASH] for shadow in (spec.shadow, held)]
    assert rolls[0] != rolls[1]


def test_other_versions_do_not_roll_a_shadow_server():
    _, spec = load("shadow")
    fewer = spec.shadow.model_copy(update={"versions": spec.shadow.versions[:1]})
    annotations = [deployment("shadow", shadow=shadow)["metadata"]["annotations"] for shadow in (spec.shadow, fewer)]
    assert annotations[0] == annotations[1]


def test_names_of_a_collectors_children_fit_for_the_longest_name():
    parent, spec = load("measured")
    longest = Parent(parent.namespace, "a" * 40, parent.uid)
    assert all(len(m["metadata"]["name"]) <= 63 for m in measured_by(longest, spec))
    assert {children.resource_of(m).kind for m in measured_by(longest, spec)} == {m["kind"] for m in measured_by(longest, spec)}


def given(container):
    """A container's environment as its process finds it."""
    return {name: value or "from the pod" for name, value in environment(container).items()}


def test_the_collectors_process_understands_what_it_is_given(tmp_path):
    parent, spec = load("measured")
    (tmp_path / "collector.json").write_text(collector.settings_config_map(parent, told(parent, spec))["data"]["collector.json"])
    (deployed,) = containers(pod("measured", "collector")).values()
    found = collector_settings(given(deployed) | {"GRAFT_COLLECTOR_SETTINGS": str(tmp_path / "collector.json")})
    assert found.measuring == told(parent, spec)
    assert (found.identity.endpoint, found.identity.reports_url) == ("measured", PLATFORM.reports_url)
    assert {found.port, found.health_port} == {port["containerPort"] for port in deployed["ports"]}
    at = {mount["mountPath"] for mount in mounts(deployed).values()}
    files = [
        found.run_directory,
        found.credentials,
        Path(found.measuring.compare.shadow.token_file).parent,
        found.identity.reports_directory,
    ]
    assert {str(folder) for folder in files} <= at


def test_the_agents_process_understands_who_may_knock():
    assert agent_settings(given(containers(pod("shadow"))["agent"])).door_account == "graft-collector-measured"
    assert agent_settings(given(containers(pod("minimal"))["agent"])).door_account is None
