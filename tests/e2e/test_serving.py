"""
An endpoint in production: two vLLM replicas, two gateways, load on it all the time, and everything that may go wrong.

One endpoint for the whole file: two vLLMs take a minute to start. Each story leaves it as it found it.
"""

import asyncio
import json
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import aiohttp
import packages
import pytest
import yaml
from place import EXAMPLE, Place, wait_for

QUESTION = "Permit the request only when the number of replicas is less than 11."


class Shop(Place):
    """A namespace with a ModelEndpoint of two domains, and a good adapter to make bad ones from."""

    def endpoint(self, **spec):
        body = yaml.safe_load((EXAMPLE / "modelendpoint.yaml").read_text())
        body["metadata"]["namespace"] = self.name
        body["spec"] |= {"baseModel": {"uri": f"s3://{self.bucket}/base"}, "domains": [{"name": "dsl"}, {"name": "other"}]}
        body["spec"] |= {"trustedKeys": [{"name": "e2e", "pem": self.signer.public}]} | spec
        return body

    def get_endpoint(self):
        return self.get("modelendpoint", "prod")

    def upload(self, package, name):
        for file in sorted(package.path.iterdir()):
            self.store.fput_object(self.bucket, f"packages/{name}/{file.name}", str(file))

    def add(self, name, package, domain="dsl"):
        self.upload(package, name)
        manifest = json.loads((package.path / "manifest.json").read_text())
        spec = {
            "artifact": {"uri": f"s3://{self.bucket}/packages/{name}", "digest": package.digest, "sizeBytes": package.size},
            "domain": domain,
            "baseModelDigest": self.base_digest or manifest["baseModel"]["digest"],
            "endpointRef": {"name": "prod"},
        }
        metadata = {"name": name, "namespace": self.name}
        self.apply({"apiVersion": "graft.dev/v1alpha1", "kind": "Adapter", "metadata": metadata, "spec": spec})

    def adapter(self, name, phases, seconds=120):
        def there(found):
            return found.get("status", {}).get("phase") in phases

        return wait_for(lambda: self.get("adapter", name), there, seconds)["status"]

    def pin(self, **pins):
        domains = [{"name": name} | ({"pin": pins[name]} if name in pins else {}) for name in ("dsl", "other")]
        patch = json.dumps({"spec": {"domains": domains}})
        self.tools.run("kubectl", "patch", "modelendpoint", "prod", "-n", self.name, "--type=merge", "-p", patch)

    def serves(self, domain, adapter, seconds=120):
        """Wait until every gateway routes the domain to this adapter (None: the base model)."""

        def done(found):
            status = found.get("status", {})
            arms = {one["name"]: one["arms"][0].get("adapter") for one in status.get("domains", [])}
            return domain in arms and arms[domain] == adapter and 0 < status["gateways"] <= status["acknowledgedGateways"]

        return wait_for(self.get_endpoint, done, seconds)["status"]

    def ready(self, seconds=300):
        return wait_for(self.get_endpoint, lambda found: found.get("status", {}).get("phase") == "Ready", seconds)["status"]

    def url(self):
        return f"http://{self.get('service', 'prod-gateway')['spec']['clusterIP']}"

    def pods(self, component):
        return self.items("pods", "-l", f"graft.dev/modelendpoint=prod,graft.dev/component={component}")

    def delete(self, kind, name):
        self.tools.run("kubectl", "delete", kind, name, "-n", self.name, "--wait=false")

    def gone(self, kind, name, seconds=120):
        wait_for(lambda: {"left": self.tools.run("kubectl", "get", kind, name, "-n", self.name, "--ignore-not-found", "-o", "name")},
                 lambda seen: not seen["left"].strip(), seconds)  # fmt: skip


class Load:
    """Requests at a steady rate from a thread of its own; what every one of them came to."""

    def __init__(self, url, models=("dsl", "other", "base"), rate=8):
        self.url, self.models, self.rate = url, models, rate
        self.outcomes = Counter()
        self.answers = {}
        self.problems = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)

    async def _run(self):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            tasks, number = set(), 0
            while not self._stop.is_set():
                model = self.models[number % len(self.models)]
                number += 1
                task = asyncio.create_task(self._ask(session, model, stream=number % 2 == 0))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(1 / self.rate)
            await asyncio.gather(*tasks)

    async def _ask(self, session, model, stream):
        body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24, "stream": stream}
        began = time.strftime("%X")
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
                raw = await answer.read()
                served = answer.headers.get("x-graft-served-by", "").partition("@")[0]
                said = text_of(raw, model, stream=stream) if answer.status == 200 else None
                self.outcomes[model, answer.status] += 1
                if answer.status != 200:
                    self.problems.append(f"{began} {model} {answer.status} {raw[:200]!r}")
                else:
                    self.answers.setdefault(served, set()).add(said)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, AssertionError) as error:
            self.outcomes[model, type(error).__name__] += 1
            self.problems.append(f"{began} {model} {type(error).__name__} {error}")

    def failed(self):
        return sum(count for (_, status), count in self.outcomes.items() if status != 200)


def text_of(raw, model, stream):
    """The whole answer; every event of a stream must carry the alias."""
    if not stream:
        document = json.loads(raw)
        assert document["model"] == model
        return document["choices"][0]["message"]["content"]
    events = [line.removeprefix("data: ") for line in raw.decode().split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {model}
    assert all(chunk["choices"] for chunk in chunks), "a usage chunk that nobody asked for"
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


@pytest.fixture(scope="module")
def good(world, tmp_path_factory):
    """A small adapter, trained here by `graft run`, and its signing key."""
    place = tmp_path_factory.mktemp("good")
    signer = packages.Signer(place / "key.pem")
    job = yaml.safe_load((EXAMPLE / "finetunejob.yaml").read_text())
    spec = job["spec"]
    spec["baseModel"] = {"uri": f"file://{world}/base"}
    spec["output"] = {"uri": f"file://{place}/runs"}
    rows = (world / "data/rules.jsonl").read_text().splitlines()[:640]
    (place / "rules.jsonl").write_text("\n".join(rows) + "\n")
    held = (world / "data/heldout.jsonl").read_text().splitlines()[:48]
    (place / "heldout.jsonl").write_text("\n".join(held) + "\n")
    spec["dataset"] = {
        "sources": [{"uri": f"file://{place}/rules.jsonl"}],
        "minExamples": 50,
        "holdout": {"uri": f"file://{place}/heldout.jsonl"},
        "validation": {"fraction": "0.05"},
    }
    spec["training"]["epochs"] = 1
    spec["evaluation"]["suites"][0]["accept"] = {"metric": "error_rate", "max": "1"}
    for key in ("adapter", "credentials", "podTemplate"):
        spec.pop(key, None)
    (place / "job.yaml").write_text(yaml.safe_dump(job))
    command = [str(Path(__file__).parents[2] / ".venv/bin/graft"), "run", "-f", str(place / "job.yaml"), "--signing-key", str(signer.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (artifact,) = (place / "runs").rglob("artifact/manifest.json")
    return artifact.parent, signer


@pytest.fixture(scope="module")
def shop(graft, store, chosen, world, good, tmp_path_factory):
    made = Shop(graft, store, chosen, world)
    made.good, made.signer = good
    made.base_digest = json.loads((made.good / "manifest.json").read_text())["baseModel"]["digest"]
    made.folder = tmp_path_factory.mktemp("packages")
    made.create_namespace()
    made.fill_bucket()
    made.apply(made.endpoint())
    made.ready()
    yield made
    made.tools.run("kubectl", "delete", "namespace", made.name, "--wait=false")


@pytest.fixture(scope="module")
def first(shop):
    """The good adapter, serving domain dsl."""
    shop.add("first", packages.Package(shop.good, shop.folder / "first"))
    shop.adapter("first", {"Loaded", "Serving"})
    shop.pin(dsl={"adapter": "first"})
    shop.serves("dsl", "first")
    return "first"


def test_a_switch_under_load_fails_and_mixes_nothing(shop, first):
    second = packages.Package(shop.good, shop.folder / "second")
    (second.path / "README.md").write_text("the same weights, another release\n")
    second.finish(shop.signer)
    shop.add("second", second)
    assert shop.adapter("second", {"Loaded"})["replicas"] == {"ready": 2, "total": 2, "failing": 0}
    with Load(shop.url()) as load:
        time.sleep(4)
        shop.pin(dsl={"adapter": "second"})
        status = shop.serves("dsl", "second")
        time.sleep(3)
        shop.pin(dsl={"base": True})
        shop.serves("dsl", None)
        time.sleep(3)
        shop.pin(dsl={"adapter": first})
        shop.serves("dsl", first)
        time.sleep(3)
    assert load.failed() == 0, load.problems[:5]
    assert all(len(texts) == 1 for texts in load.answers.values()), load.answers
    assert len(load.answers) == 3, load.answers  # base, first, second
    assert len({text for texts in load.answers.values() for text in texts}) >= 2, "the adapter answers like the base"
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
    """Each is pinned, so that it would serve if it ever got through; and two of them are there when every server pod restarts."""
    seen = {}
    with Load(shop.url()) as load:
        for kind, reason in BAD.items():
            shop.add(kind, bad_package(shop, kind), domain="dsl")
            shop.pin(dsl={"adapter": kind})
            status = shop.adapter(kind, {"Failed"})
            ready = next(c for c in status["conditions"] if c["type"] == "Ready")
            seen[kind] = ready["reason"]
            assert ready["reason"] == reason, status
            if kind not in {"tampered", "no-effect"}:
                shop.delete("adapter", kind)
        shop.tools.run("kubectl", "rollout", "status", "deployment/prod-server", "-n", shop.name, "--timeout=10s")
        before = {pod["metadata"]["name"] for pod in shop.pods("server")}
        for pod in sorted(before):
            shop.tools.run("kubectl", "delete", "pod", pod, "-n", shop.name, "--wait=false")
            wait_for(lambda gone=pod: {"pods": [p["metadata"]["name"] for p in shop.pods("server")], "gone": gone},
                     lambda seen: seen["gone"] not in seen["pods"] and len(seen["pods"]) == 2, 180)  # fmt: skip
            shop.ready()
        time.sleep(3)
    assert load.failed() == 0, load.problems[:5]
    served = set(load.answers)
    assert all(name == "base" or name.startswith("dsl-") for name in served)
    assert len(served) == 2, served  # base and `first`
    for kind in ("tampered", "no-effect"):
        shop.delete("adapter", kind)
        shop.gone("adapter", kind)
    shop.pin(dsl={"adapter": first})


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
            assert raw_status(shop.url() + path, method) in {400, 404, 405}, path
            assert raw_status(f"http://{pod}:8000{path}", method) in {400, 401, 404, 405}, path
            assert raw_status(f"http://{pod}:8001{path}", method) is None, "vLLM listens on the pod's address"
    assert raw_status(f"http://{pod}:8000/v1/chat/completions", "POST") == 401
    for alias in ("dsl-0123456789abcdef", "../etc", "/graft/adapters/x", ""):
        body = json.dumps({"model": alias, "messages": []}).encode()
        assert raw_status(f"{shop.url()}/v1/chat/completions", "POST", body) in {400, 404}


def raw_status(url, method, body=b"{}"):
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--path-as-is", "-m", "5", "-X", method]
    command += ["-H", "content-type: application/json", "--data-binary", "@-"] if method == "POST" else []
    done = subprocess.run([*command, url], input=body, capture_output=True)
    return int(done.stdout) if done.returncode == 0 else None


def kill_in(shop, pod, words):
    """kill -9 of the process of a pod whose command line has these words, from the host."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            group = (entry / "cgroup").read_text()
        except OSError:
            continue
        if pod["metadata"]["uid"] in group and words in command:
            subprocess.run(["kill", "-9", entry.name], check=False)
            return True
    return False


def test_faults_under_load(shop, first):
    """Operator away, store away, agent killed: nothing is lost. A vLLM or a gateway killed: what was in flight on it, at most."""
    operator = ("kubectl", "scale", "deployment", "-n", "graft-system", "--all")
    shop.tools.run(*operator, "--replicas=0")
    try:
        with Load(shop.url()) as load:
            time.sleep(3)
            agent = shop.pods("server")[0]
            assert kill_in(shop, agent, "graft-serving agent")
            time.sleep(15)
        assert load.failed() == 0, load.problems[:5]
        assert len(load.answers) == 2

        with Load(shop.url()) as load:
            time.sleep(3)
            victim = shop.pods("server")[1]
            assert kill_in(shop, victim, "vllm.entrypoints")
            wait_for(lambda: shop.pods("server")[1], lambda pod: not is_ready(pod), 60)
            wait_for(lambda: {"pods": shop.pods("server")}, lambda seen: all(map(is_ready, seen["pods"])), 240)
            time.sleep(3)
        lost = load.failed()
        assert lost <= 16, load.problems
        assert len(load.answers) == 2, "after its restart the pod serves the adapter, not the base in its place"
        print(f"vLLM killed: {lost} of {sum(load.outcomes.values())} requests lost")

        with Load(shop.url()) as load:
            time.sleep(3)
            assert kill_in(shop, shop.pods("gateway")[0], "graft-serving gateway")
            time.sleep(10)
        assert load.failed() <= 16, load.problems
        print(f"gateway killed: {load.failed()} of {sum(load.outcomes.values())} requests lost")
    finally:
        shop.tools.run(*operator, "--replicas=1")
    shop.ready()


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def test_restored_without_status_the_same_adapter_serves(shop, first):
    """The endpoint is deleted and applied again from Git, without its status; the ledger has stayed."""
    before = shop.serves("dsl", first)["domains"][0]["arms"][0]["digest"]
    shop.tools.run("kubectl", "delete", "modelendpoint", "prod", "-n", shop.name, "--cascade=foreground")
    shop.gone("deployment", "prod-server")
    shop.apply(shop.endpoint())
    status = shop.serves("dsl", first, 300)
    assert status["domains"][0]["arms"][0]["digest"] == before
    shop.ready()
    with Load(shop.url(), models=("dsl",)) as load:
        time.sleep(4)
    assert load.failed() == 0, load.problems[:5]
    assert [name.startswith("dsl-") for name in load.answers] == [True]
