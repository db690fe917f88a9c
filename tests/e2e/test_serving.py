"""
An endpoint in production: two vLLM replicas, two gateways, load on it all the time, and everything that may go wrong.

One endpoint for the whole file: two vLLMs take a minute to start. Each story leaves it as it found it.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anthropic
import openai
import packages
import pytest
import yaml
from place import ROOT, kill_process, wait_for
from stories import API_KEY, Load, Shop, ask, is_ready, train

from graft_devcluster import install


@pytest.fixture(scope="module")
def good(world, tmp_path_factory):
    return train(world, tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def shop(graft, store, chosen, world, good, tmp_path_factory):
    made = Shop(graft, store, chosen, world)
    made.open(*good, tmp_path_factory.mktemp("packages"))
    yield made
    made.tools.run("kubectl", "delete", "namespace", made.name, "--wait=false")


@pytest.fixture(scope="module")
def first(shop):
    """The good adapter, serving domain dsl."""
    shop.add("first", packages.Package(shop.good, shop.folder / "first"))
    shop.adapter("first", {"Loaded", "Serving"})
    shop.pin(dsl={"adapter": "first"})
    shop.serves("dsl", "first")
    shop.questions = shop.telling_questions()
    return "first"


def test_a_switch_under_load_fails_and_mixes_nothing(shop, first, world, tmp_path):
    folder, _ = train(world, tmp_path / "second", shop.signer, rows=320)
    shop.add("second", packages.Package(folder, shop.folder / "second"))
    assert shop.adapter("second", {"Loaded"})["replicas"] == {"ready": 2, "total": 2, "failing": 0}
    with Load(shop) as load:
        time.sleep(6)
        shop.pin(dsl={"adapter": "second"})
        status = shop.serves("dsl", "second")
        time.sleep(6)
        shop.pin(dsl={"base": True})
        shop.serves("dsl", None)
        time.sleep(3)
        shop.pin(dsl={"adapter": first})
        shop.serves("dsl", first)
        time.sleep(3)
    assert load.failed() == 0, load.problems[:5]
    assert load.mixed() == 0, load.answers
    versions = {name: shop.get("adapter", name)["status"]["version"] for name in ("first", "second")}
    assert load.served() == {"base", *versions.values()}
    assert load.tells_apart(*versions.values()), "a mix of the two could not be seen"
    assert status["domains"][0]["lastSwitch"]["after"] == "second"
    shop.delete("adapter", "second")
    shop.gone("adapter", "second")


BAD = {
    "tampered": "DigestMismatch",
    "wrong-key": "SignatureInvalid",
    "unsigned": "SignatureInvalid",
    "wrong-base": "WrongBase",
    "rank-too-high": "RankTooHigh",
    "dora": "UnsupportedAdapter",
    "modules-to-save": "UnsupportedAdapter",
    "no-effect": "NoEffect",
    "half-the-modules": "WrongEffect",
    "half-alpha": "WrongEffect",
    "escaping-path": "UnsafePath",
}


def bad_package(shop, kind):
    made = packages.Package(shop.good, shop.folder / kind)
    # A digest of its own: under the digest of an adapter that is loaded already, a bad copy of its files would not even be fetched.
    (made.path / "README.md").write_text(f"{kind}\n")
    made.finish(shop.signer)
    match kind:
        case "tampered":
            raw = bytearray((made.path / packages.WEIGHTS).read_bytes())
            raw[-1] ^= 1
            (made.path / packages.WEIGHTS).write_bytes(raw)
        case "wrong-key":
            made.finish(packages.Signer(shop.folder / "stranger.pem"))
        case "unsigned":
            (made.path / packages.SIGNATURE).unlink()
        case "wrong-base":
            manifest = json.loads((made.path / packages.MANIFEST).read_text())
            made.finish(shop.signer, baseModel=manifest["baseModel"] | {"digest": "sha256:" + "0" * 64})
        case "rank-too-high":
            made.change_json(packages.CONFIG, r=128).finish(shop.signer)
        case "dora":
            made.change_json(packages.CONFIG, use_dora=True).finish(shop.signer)
        case "modules-to-save":
            made.change_json(packages.CONFIG, modules_to_save=["lm_head"]).finish(shop.signer)
        case "no-effect":
            made.change_weights(packages.no_effect).finish(shop.signer)
        case "half-the-modules":
            made.change_weights(packages.half_the_modules).finish(shop.signer)
        case "half-alpha":
            alpha = json.loads((made.path / packages.CONFIG).read_text())["lora_alpha"]
            made.change_json(packages.CONFIG, lora_alpha=alpha // 2).finish(shop.signer)
        case "escaping-path":
            listed = json.loads((made.path / packages.MANIFEST).read_text())["files"]
            escaping = [{**listed[0], "path": "../../escaped"}, *listed[1:]]
            made.change_json(packages.MANIFEST, files=escaping)
            packages.sign(made.path, shop.signer.path)
    return made


def test_no_bad_adapter_ever_serves_and_none_disturbs_the_others(shop, first):
    """
    Each is pinned, so that it would serve if it ever got through.

    Then every pod is replaced while two of them are there, and while the store's copy of an adapter that serves has gone bad.
    """
    with Load(shop, rate=3) as load:  # two cores: more would only make vLLM's restarts take longer
        for kind, reason in BAD.items():
            shop.add(kind, bad_package(shop, kind), domain="dsl")
            shop.pin(dsl={"adapter": kind})
            status = shop.adapter(kind, {"Failed"})
            assert reason_of({"status": status}) == reason, status
            if kind not in {"tampered", "no-effect"}:
                shop.delete("adapter", kind)
        shop.add("spoilt", bad_package(shop, "spoilt").finish(shop.signer, domain="other"), domain="other")
        shop.pin(dsl={"adapter": "tampered"}, other={"adapter": "spoilt"})
        shop.serves("other", "spoilt")
        shop.spoil("spoilt", packages.WEIGHTS)
        shop.tools.run("kubectl", "rollout", "status", "deployment/prod-server", "-n", shop.name, "--timeout=10s")
        for component in ("server", "gateway"):
            for pod in sorted(pod["metadata"]["name"] for pod in shop.pods(component)):
                shop.replace(component, pod)
        time.sleep(3)
    assert load.failed() == 0, load.problems[:5]
    assert load.mixed() == 0, load.answers
    assert load.served() == {"base", *(shop.get("adapter", name)["status"]["version"] for name in (first, "spoilt"))}
    assert load.latest["other"] == "base", "what was good once and is spoilt now does not come back"
    assert reason_of(shop.get("adapter", "spoilt")) == "DigestMismatch"
    shop.pin(dsl={"adapter": first}, other={"base": True})
    shop.serves("other", None)
    for kind in ("tampered", "no-effect", "spoilt"):
        shop.delete("adapter", kind)
        shop.gone("adapter", kind)
    shop.ready()


def reason_of(adapter):
    return next(c for c in adapter["status"]["conditions"] if c["type"] == "Ready")["reason"]


ADMIN = [
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/invocations",
    "/metrics",
    "/health",
    "/v1/../metrics",
    "//metrics",
]


def test_admin_routes_are_out_of_reach(shop, first):
    """Neither through the gateway, nor past it: the cluster's network enforces no NetworkPolicy."""
    pod = shop.pods("server")[0]["status"]["podIP"]
    for path in ADMIN:
        for method in ("GET", "POST"):
            assert raw_status(shop.url() + path, method, key=API_KEY) in {400, 404, 405}, path
            assert raw_status(f"http://{pod}:8000{path}", method) in {400, 401, 404, 405}, path
            assert raw_status(f"http://{pod}:8001{path}", method) is None, "vLLM listens on the pod's address"
    assert raw_status(f"http://{pod}:8000/v1/chat/completions", "POST") == 401
    for alias in ("dsl-0123456789abcdef", "../etc", "/graft/adapters/x", ""):
        body = json.dumps({"model": alias, "messages": []}).encode()
        assert raw_status(f"{shop.url()}/v1/chat/completions", "POST", body, key=API_KEY) in {400, 404}
    for key in ("", "sk-e2e-of-somebody-else"):
        assert raw_status(f"{shop.url()}/v1/models", "GET", key=key) == 401
    assert raw_status(f"{shop.url()}/v1/models", "GET", key=API_KEY) == 200


def raw_status(url, method, body=b"{}", key=""):
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--path-as-is", "-m", "5", "-X", method]
    command += ["-H", "content-type: application/json", "--data-binary", "@-"] if method == "POST" else []
    command += ["-H", f"authorization: Bearer {key}"] if key else []
    done = subprocess.run([*command, url], input=body, capture_output=True)
    return int(done.stdout) if done.returncode == 0 else None


@contextmanager
def away(chosen, program):
    """Stop a program of the cluster, as if its machine hung; let it go on afterwards."""
    pid = json.loads((chosen.state / "pids" / f"{program}.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


NOTICED = 0.5
"""Seconds after a kill by which nobody takes its process for alive."""
SENT_ELSEWHERE = 3.0
"""Seconds by which kube-proxy knows that a pod is ready again."""


def test_faults_under_load(shop, first, chosen):
    """Operator, API server or store away, agent killed: nothing is lost. A vLLM or a gateway killed: what was in flight on it, at most."""
    gateway = shop.pods("gateway")[0]["metadata"]["uid"]
    with Load(shop) as load:
        time.sleep(2)
        with away(chosen, "kube-apiserver"):
            time.sleep(5)
            # Nobody but itself can tell it which pods there are; it has not forgotten.
            assert kill_process(gateway, "graft-serving gateway")
            killed = time.monotonic()
            time.sleep(15)
        time.sleep(2)
    assert not load.lost_after(killed + NOTICED), load.problems
    assert len(load.served()) == 2
    operator = ("kubectl", "scale", "deployment", "-n", "graft-system", "--all")
    shop.tools.run(*operator, "--replicas=0")
    try:
        with Load(shop) as load:
            time.sleep(3)
            agent = shop.pods("server")[0]
            assert kill_process(agent["metadata"]["uid"], "graft-serving agent")
            time.sleep(15)
        assert load.failed() == 0, load.problems[:5]
        assert len(load.served()) == 2
        shop.servers_ready()  # one fault at a time: with no agent on one pod, and no vLLM on the other, nobody could answer

        with Load(shop, rate=3) as load:
            time.sleep(3)
            victim = shop.pods("server")[1]
            with away(chosen, "versitygw"):  # what was fetched once is not fetched again
                assert kill_process(victim["metadata"]["uid"], "vllm.entrypoints")
                killed = time.monotonic()
                wait_for(lambda: shop.pods("server")[1], lambda pod: not is_ready(pod), 60)
                shop.servers_ready()
            time.sleep(3)
        assert not load.lost_after(killed + NOTICED), load.problems
        assert not load.turned_away(), load.problems
        assert len(load.served()) == 2, "after its restart the pod serves the adapter, not the base in its place"
        print(f"vLLM killed: {load.failed()} of {sum(load.outcomes.values())} requests lost")

        with Load(shop) as load:
            time.sleep(3)
            victim = shop.pods("gateway")[0]
            assert kill_process(victim["metadata"]["uid"], "graft-serving gateway")
            killed = time.monotonic()
            back = is_back(shop, victim)
            time.sleep(SENT_ELSEWHERE + 5)
        assert not load.lost_after(killed + NOTICED), load.problems
        assert all(moment < back + SENT_ELSEWHERE for moment in load.turned_away()), load.problems
        print(f"gateway killed: {load.failed()} of {sum(load.outcomes.values())} requests lost")
    finally:
        shop.tools.run(*operator, "--replicas=1")
    shop.ready()


def is_back(shop, killed):
    """Wait until a pod that had a container killed is ready again; when that was."""

    def restarts(pod):
        return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])

    name = killed["metadata"]["name"]
    wait_for(lambda: shop.get("pod", name), lambda pod: restarts(pod) > restarts(killed) and is_ready(pod), 60)
    return time.monotonic()


def test_what_a_job_makes_serves_on_both_replicas(shop, first):
    """From a FineTuneJob to answers: its adapter loads on each replica, a pin makes it serve, and it says other things than the base."""
    shop.put_lines("data/rules.jsonl", (shop.world / "data/rules.jsonl").read_text().splitlines()[:960])
    shop.apply(shop.job("trained", domain="other", adapter={"endpointRef": {"name": "prod"}}))
    name = shop.wait("trained", lambda status: status.get("adapterRef"))["status"]["adapterRef"]["name"]
    assert shop.adapter(name, {"Loaded"})["replicas"] == {"ready": 2, "total": 2, "failing": 0}
    shop.pin(dsl={"adapter": first}, other={"adapter": name})
    shop.serves("other", name)
    version = shop.get("adapter", name)["status"]["version"]
    with Load(shop, models=("other", "base"), conversations=True) as load:
        time.sleep(10)
    assert load.failed() == 0, load.problems[:5]
    assert load.served() == {"base", version}
    assert load.pods[version] == {pod["metadata"]["name"] for pod in shop.pods("server")}
    assert load.mixed() == 0, "both replicas say the same"
    assert load.tells_apart("base", version)
    shop.pin(dsl={"adapter": first}, other={"base": True})
    shop.serves("other", None)
    shop.delete("adapter", name)
    shop.gone("adapter", name)


def test_scaled_down_and_up_under_load(shop, first):
    """A replica leaves without failing a request, and another one answers with the adapter as soon as it takes some."""
    version = shop.get("adapter", first)["status"]["version"]
    with Load(shop, models=("dsl", "base"), rate=2, conversations=True) as load:
        time.sleep(3)
        shop.scale(1)
        (left,) = (pod["metadata"]["name"] for pod in shop.servers_ready(1))
        shop.scale(2)
        (added,) = {pod["metadata"]["name"] for pod in shop.servers_ready(2)} - {left}
        wait_for(lambda: {"pods": sorted(load.pods[version])}, lambda seen: added in seen["pods"], 60)
    assert load.failed() == 0, load.problems[:5]
    assert load.served() == {"base", version}
    assert load.mixed() == 0
    assert load.tells_apart("base", version)
    shop.ready()


def test_restored_without_status_the_same_adapter_serves(shop, first):
    """The endpoint is deleted and applied again from Git, without its status; the ledger has stayed."""
    before = shop.serves("dsl", first)["domains"][0]["arms"][0]["digest"]
    shop.tools.run("kubectl", "delete", "modelendpoint", "prod", "-n", shop.name, "--cascade=foreground")
    shop.gone("deployment", "prod-server")
    shop.apply(shop.endpoint())
    status = shop.serves("dsl", first, 300)
    assert status["domains"][0]["arms"][0]["digest"] == before
    shop.ready()
    with Load(shop, models=("dsl",)) as load:
        time.sleep(4)
    assert load.failed() == 0, load.problems[:5]
    assert [name.startswith("dsl-") for name in load.served()] == [True]


CHOSEN_TOOL = {"type": "function", "function": {"name": "decide"}}
"""
vLLM makes every model call a tool that is named, also one that knows none; what it says to it is held to the schema if that is strict.
A model as small as the world's needs a schema that leaves it no other way to an end.
"""


def test_the_official_clients(shop, first):
    """OpenAI's and Anthropic's, streams and tools, against real vLLM."""
    base, messages = shop.url(), [{"role": "user", "content": shop.questions[0]}]
    expected = ask(base, "dsl", shop.questions[0])
    access = {"type": "string", "enum": ["allow", "deny"]}
    tool = {"type": "object", "properties": {"access": access}, "required": ["access"], "additionalProperties": False}
    with openai.OpenAI(base_url=f"{base}/v1", api_key=API_KEY, max_retries=0) as client:
        settings = {"model": "dsl", "messages": messages, "temperature": 0, "max_tokens": 48}
        assert client.chat.completions.create(**settings).choices[0].message.content == expected
        chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
        assert chunks[-1].usage.completion_tokens > 0
        tools = {
            "tools": [{"type": "function", "function": {"name": "decide", "strict": True, "parameters": tool}}],
            "tool_choice": CHOSEN_TOOL,
            "max_tokens": 256,
        }
        (called,) = client.chat.completions.create(**settings | tools).choices[0].message.tool_calls
        decided = json.loads(called.function.arguments)
        assert (called.function.name, decided) in [("decide", {"access": "allow"}), ("decide", {"access": "deny"})]
        with client.chat.completions.stream(**settings | tools) as stream:
            (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
        assert (streamed.function.name, json.loads(streamed.function.arguments)) == ("decide", decided)
        answer = client.responses.create(model="dsl", input=shop.questions[0], store=False, temperature=0, max_output_tokens=48)
        assert (answer.output_text, answer.model) == (expected, "dsl")
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            client.responses.create(model="dsl", input="and now?", previous_response_id=answer.id, store=False)
        assert client.completions.create(model="dsl", prompt="user", max_tokens=4).model == "dsl"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**settings | {"model": first})
    with anthropic.Anthropic(base_url=base, api_key=API_KEY, max_retries=0) as client:
        settings = {"model": "dsl", "messages": messages, "max_tokens": 48, "extra_body": {"temperature": 0}}
        said = client.messages.create(**settings)
        assert (said.content[0].text, said.model) == (expected, "dsl")
        with client.messages.stream(**settings) as stream:
            assert "".join(stream.text_stream) == expected
            assert stream.get_final_message().model == "dsl"
        settings |= {
            "tools": [{"name": "decide", "strict": True, "input_schema": tool}],
            "tool_choice": {"type": "tool", "name": "decide"},
            "max_tokens": 256,
        }
        (used,) = (block for block in client.messages.create(**settings).content if block.type == "tool_use")
        assert (used.name, used.input) == ("decide", decided)
        with client.messages.stream(**settings) as stream:
            (used,) = (block for block in stream.get_final_message().content if block.type == "tool_use")
        assert (used.name, used.input) == ("decide", decided)


def test_a_vllm_of_ones_own(shop, first, references, tmp_path):
    """`graft inject` beside a vLLM that runs already: its base model goes on, adapters serve, and nobody passes the door any more."""
    own = shop.beside("own")
    deployment = own_vllm(shop, references["vllm-cpu"])
    shop.apply(deployment)
    (before,) = wait_for(partial(pods_of_ones_own, shop), lambda seen: [is_ready(pod) for pod in seen["pods"]] == [True], 240)["pods"]
    assert raw_status(f"http://{before['status']['podIP']}:8000/v1/models", "GET") == 200
    spec = {"server": {"existing": {"deployment": "vllm"}}, "replicas": 1}
    endpoint = own.endpoint(**spec)
    endpoint["spec"]["baseModel"]["digest"] = shop.base_digest()
    shop.apply(endpoint)
    for name, body in (("deployment.yaml", deployment), ("endpoint.yaml", endpoint)):
        (tmp_path / name).write_text(yaml.safe_dump(body))
    command = [ROOT / ".venv/bin/graft", "inject", "-f", tmp_path / "deployment.yaml", "--endpoint", tmp_path / "endpoint.yaml"]
    done = subprocess.run([*command, "--serving-image", references["serving"]], capture_output=True, text=True, check=True)
    shop.apply(yaml.safe_load(done.stdout))
    _, _, binding = done.stderr.partition(" -f - with\n")
    shop.apply(yaml.safe_load(binding))
    own.add("own-first", packages.Package(shop.good, shop.folder / "first"))
    assert shop.adapter("own-first", {"Loaded"}, 240)["replicas"] == {"ready": 1, "total": 1, "failing": 0}
    own.pin(dsl={"adapter": "own-first"})
    own.serves("dsl", "own-first")
    for question in shop.questions:
        for alias in ("base", "dsl"):
            assert ask(own.url(), alias, question) == ask(shop.url(), alias, question)
    (pod,) = own.pods("server")
    assert pod["metadata"]["name"] != before["metadata"]["name"]
    assert raw_status(f"http://{pod['status']['podIP']}:8000/v1/chat/completions", "POST") == 401
    assert raw_status(f"http://{pod['status']['podIP']}:8001/v1/models", "GET") is None
    own.ready()
    for kind, name in (
        ("adapter", "own-first"),
        ("modelendpoint", "own"),
        ("deployment", "vllm"),
        ("rolebinding", "graft-server-own-existing"),
    ):
        shop.delete(kind, name)
    shop.gone("adapter", "own-first")


def pods_of_ones_own(shop):
    return {"pods": shop.items("pods", "-l", "app=vllm")}


def own_vllm(shop, image):
    """Somebody's Deployment of vLLM, with the base model."""
    deployment = yaml.safe_load((Path(__file__).parent / "own-vllm.yaml").read_text())
    deployment["metadata"]["namespace"] = shop.name
    pod = deployment["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        container["image"] = image
    model = {name: shop.store.presigned_get_object(shop.bucket, name) for name in shop.objects("base/")}
    pod["initContainers"][0]["env"][0]["value"] = json.dumps(model)
    return deployment


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js 20 or newer")
def test_the_official_node_client(shop, first, chosen):
    told = node_client(shop.url(), "dsl", API_KEY, chosen)
    assert told["servedBy"].startswith("dsl-")
    assert told["whole"] == told["streamed"]
    assert (told["model"], told["streamedModels"], told["refused"]) == ("dsl", ["dsl"], 404)
    assert told["called"] in [{"decide": {"access": "allow"}}, {"decide": {"access": "deny"}}]
    assert told["calledInStream"] == told["called"]
    assert told["models"] == ["base", "dsl", "other"]


def node_client(url, model, key, chosen):
    """What Node's client got; installed once, by its lock file."""
    source = Path(__file__).parent / "clients"
    place = chosen.cache / "node-clients"
    shutil.copytree(source, place, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=place, check=True, capture_output=True, timeout=120)
    done = subprocess.run(["node", "openai.mjs", url, model, key], cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RESTORER = "system:serviceaccount:backup:restorer"
"""Whom `policies.recordWriters` of the chart names: a backup tool. Nobody else may bring a ledger back."""


def test_a_whole_namespace_comes_back_from_a_backup(shop, first, chosen, references):
    """Everything is gone and applied again, without any status and with new uids: the same adapter serves."""
    install.install(chosen, references, f"policies.recordWriters={{{RESTORER}}}")
    shop.tools.run("kubectl", "create", "clusterrolebinding", shop.name, "--clusterrole=cluster-admin", "--serviceaccount=backup:restorer")
    before = shop.serves("dsl", first)["domains"][0]["arms"][0]["digest"]
    saved = backup(shop)
    assert {"Secret", "ConfigMap", "Adapter", "ModelEndpoint"} == {each["kind"] for each in saved}
    try:
        # Kubernetes deletes pods first, and looks again after half of their longest grace period if some are still there.
        shop.tools.run("kubectl", "delete", "namespace", shop.name, "--timeout=400s")
        shop.restrict_namespace()
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": saved})
        shop.tools.run("kubectl", "create", "--as", RESTORER, "-f", "-", stdin=body)
        status = shop.serves("dsl", first, 300)
    finally:
        shop.tools.run("kubectl", "delete", "clusterrolebinding", shop.name)
    assert status["domains"][0]["arms"][0]["digest"] == before
    shop.ready()
    with Load(shop, models=("dsl",)) as load:
        time.sleep(4)
    assert load.failed() == 0, load.problems[:5]
    assert [name.startswith("dsl-") for name in load.served()] == [True]


def backup(shop):
    """What a backup tool keeps of a namespace: all objects that Kubernetes does not make itself, as they were, but for their status."""
    kept = []
    for kind in ("secrets", "configmaps", "adapters", "modelendpoints"):
        for each in shop.items(kind):
            if each["metadata"]["name"] == "kube-root-ca.crt":
                continue
            for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"):
                each["metadata"].pop(field, None)
            each.pop("status", None)
            kept.append(each)
    return kept
