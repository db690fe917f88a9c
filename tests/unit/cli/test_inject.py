"""`graft inject`: tests/unit/data/inject/<case>/{output,patch}.yaml is what it prints. UPDATE_GOLDEN=1 rewrites them."""

import copy
import os
import sys
from pathlib import Path

import pytest
import yaml

from graft_api.modelendpoint import ModelEndpoint
from graft_api.schema import Invalid, parse
from graft_api.serverpod import Sidecars
from graft_cli import main as cli
from graft_cli.inject import injected
from graft_cli.vllm_arguments import rewrite

DATA = Path(__file__).parents[1] / "data" / "inject"
SETTINGS = Sidecars("prod", "graft.dev/serving:1", "IfNotPresent", "https://graft-reports.graft-system.svc:8443")


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["graft", "inject", *map(str, arguments)])
    code = cli.main()
    return code, *capsys.readouterr()


def files(case):
    return "-f", DATA / case / "deployment.yaml", "--endpoint", DATA / case / "endpoint.yaml", "--serving-image", "graft.dev/serving:1"


def endpoint(case="plain"):
    return parse(ModelEndpoint, yaml.safe_load((DATA / case / "endpoint.yaml").read_text()))


@pytest.fixture
def deployment():
    return yaml.safe_load((DATA / "plain" / "deployment.yaml").read_text())


@pytest.mark.parametrize("output", ["yaml", "patch"])
@pytest.mark.parametrize("case", ["plain", "grown"])
def test_what_is_printed(monkeypatch, capsys, case, output):
    code, out, _ = run(monkeypatch, capsys, *files(case), "-o", output)
    assert code == 0
    path = DATA / case / ("output.yaml" if output == "yaml" else "patch.yaml")
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(out)
    assert yaml.safe_load(out) == yaml.safe_load(path.read_text())


def test_what_changed_and_what_remains_is_said_aside(monkeypatch, capsys):
    _, _, said = run(monkeypatch, capsys, *files("grown"))
    for expected in (
        "--port 8000 is replaced",
        "--served-model-name llama llama-3 is replaced",
        "instead of livenessProbe, readinessProbe, lifecycle",
        "the verb inject on modelendpoints/prod",
        "the Secret s3 must be there",
        "nodes must be able to pull graft.dev/serving:1",
        "clients use Service prod-gateway",
        "name: graft-server-prod-existing",
        "name: vllm",
    ):
        assert expected in said


def test_doing_it_again_changes_nothing(monkeypatch, capsys, tmp_path):
    _, once, _ = run(monkeypatch, capsys, *files("grown"))
    (tmp_path / "once.yaml").write_text(once)
    _, twice, _ = run(monkeypatch, capsys, "-f", tmp_path / "once.yaml", *files("grown")[2:])
    assert yaml.safe_load(twice) == yaml.safe_load(once)


def test_the_input_is_left_alone(deployment):
    before = copy.deepcopy(deployment)
    injected(deployment, endpoint(), SETTINGS)
    assert deployment == before


@pytest.mark.parametrize("case", ["plain", "grown"])
def test_vllm_is_on_loopback_and_gets_nothing_secret(case):
    output = yaml.safe_load((DATA / case / "output.yaml").read_text())
    pod = output["spec"]["template"]["spec"]
    by_name = {container["name"]: container for container in pod["containers"]}
    server = by_name["vllm" if case == "grown" else "server"]
    assert server["args"][server["args"].index("--host") + 1] == "127.0.0.1"
    assert {m["name"] for m in server["volumeMounts"] if m["name"].startswith("graft-")} == {"graft-adapters"}
    assert "ports" not in server
    assert "readinessProbe" not in server
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert all({m["name"] for m in c.get("volumeMounts", [])} <= volumes for c in pod["containers"])
    for name in ("agent", "door"):
        security = by_name[name]["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["readOnlyRootFilesystem"]) == (True, 65532, True)
    labels = {key: value for key, value in output["spec"]["template"]["metadata"]["labels"].items() if key.startswith("graft.dev/")}
    assert labels == {"graft.dev/component": "server", "graft.dev/modelendpoint": "prod"}, "the admission policy allows no other"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--model=m", "--host=::", "--port", "80"], ["--model=m"]),
        (["--served-model-name", "a", "b", "--seed", "1"], ["--seed", "1"]),
        (["m", "--enable_lora", "--seed=1"], ["m", "--seed=1"]),
        (["--max-loras", "9", "--max-cpu-loras=12", "m"], ["m"]),
    ],
)
def test_what_graft_sets_is_taken_out_with_its_values(args, expected):
    line = rewrite(None, args, endpoint().spec)
    assert line.problems == []
    assert line.args[: line.args.index("--host")] == expected


def test_more_room_than_needed_is_kept():
    words = rewrite(None, ["m", "--max-loras", "16", "--max-lora-rank=256"], endpoint().spec).args
    assert {flag: words[words.index(flag) + 1] for flag in ("--max-loras", "--max-cpu-loras", "--max-lora-rank")} == {
        "--max-loras": "16",
        "--max-cpu-loras": "16",
        "--max-lora-rank": "256",
    }


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        (None, ["m", "--max-loras=2"], "--max-loras is 2, and the endpoint (server.maxLoras, or 2 x domains + 1) needs at least 5"),
        (None, ["m", "--max-lora-rank", "16"], "--max-lora-rank is 16"),
        (None, ["m", "--max-loras", "many"], "--max-loras is 'many': write a number"),
        (None, ["m", "--uds=/tmp/s"], "--uds stands against"),
        (None, ["m", "--api_key", "x"], "--api-key stands against"),
        (None, ["m", "--config", "c.yaml"], "--config stands against"),
        (None, ["m", "--lora-modules", "a=b"], "--lora-modules stands against"),
        (None, ["m", "--no-enable-lora"], "--no-enable-lora stands against"),
        (None, ["m", "--ssl-keyfile=k"], "--ssl-keyfile stands against"),
        (["vllm", "serve", "m", "--root-path=/x"], None, "--root-path stands against"),
        (["/bin/sh", "-c", "vllm serve m --host 0.0.0.0"], None, "command starts a shell"),
        (None, None, "command and args are empty"),
    ],
)
def test_a_command_line_that_stands_against_graft_is_refused(deployment, command, args, said):
    server = deployment["spec"]["template"]["spec"]["containers"][0]
    server |= {"command": command, "args": args}
    with pytest.raises(Invalid, match="container server: ") as error:
        injected(deployment, endpoint(), SETTINGS)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"serviceAccountName": "graft-server-prod"}, "serviceAccountName"),
    ],
)
def test_a_pod_that_stands_against_graft_is_refused(deployment, pod, said):
    deployment["spec"]["template"]["spec"] |= pod
    with pytest.raises(Invalid, match=said):
        injected(deployment, endpoint(), SETTINGS)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"name": "agent", "image": "a"}, "container agent: graft adds one of this name"),
        ({"name": "proxy", "image": "a", "ports": [{"containerPort": 8000}]}, "container proxy: graft needs port 8000"),
    ],
)
def test_a_neighbour_in_graft_s_place_is_refused(deployment, other, said):
    deployment["spec"]["template"]["spec"]["containers"].append(other)
    with pytest.raises(Invalid, match=said):
        injected(deployment, endpoint(), SETTINGS, "server")


def test_pods_of_another_endpoint_are_refused(deployment):
    deployment["spec"]["template"]["metadata"]["labels"]["graft.dev/modelendpoint"] = "other"
    with pytest.raises(Invalid, match="a pod serves one endpoint"):
        injected(deployment, endpoint(), SETTINGS)


def test_another_namespace_is_refused(deployment):
    deployment["metadata"]["namespace"] = "elsewhere"
    with pytest.raises(Invalid, match="elsewhere and team"):
        injected(deployment, endpoint(), SETTINGS)


@pytest.mark.parametrize(("container", "said"), [(None, "which of server, other is vLLM"), ("third", "the pod has server, other")])
def test_who_is_vllm_must_be_clear(deployment, container, said):
    deployment["spec"]["template"]["spec"]["containers"].append({"name": "other", "image": "a"})
    with pytest.raises(Invalid, match=said):
        injected(deployment, endpoint(), SETTINGS, container)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("deployment", "kind: Deployment\nmetadata: {name: other}\n", "spec.server.existing.deployment is vllm, and the file has other"),
        ("deployment", "kind: Deployment\nmetadata: {name: vllm}\n", "no complete Deployment"),
        ("deployment", "{", "not YAML"),
        ("endpoint", "kind: Service\n", "must hold one ModelEndpoint, not 0"),
        ("endpoint", (DATA.parents[2] / "data" / "modelendpoint" / "good" / "minimal.yaml").read_text(), "spec.server.existing is not set"),
        ("endpoint", (DATA.parents[2] / "data" / "modelendpoint" / "bad" / "existing-without-digest.yaml").read_text(), "say its digest"),
    ],
)
def test_files_that_are_not_what_they_must_be_are_refused(monkeypatch, capsys, tmp_path, file, text, said):
    (tmp_path / "x.yaml").write_text(text)
    given = {"deployment": DATA / "plain" / "deployment.yaml", "endpoint": DATA / "plain" / "endpoint.yaml"} | {file: tmp_path / "x.yaml"}
    code, out, err = run(monkeypatch, capsys, "-f", given["deployment"], "--endpoint", given["endpoint"])
    assert (code, out) == (1, "")
    assert said in err
