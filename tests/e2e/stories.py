"""An endpoint to play stories on: its namespace, its adapters, and load on it all the time."""

import asyncio
import copy
import hashlib
import io
import itertools
import json
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import aiohttp
import yaml
from packages import Signer, public_pem
from place import EXAMPLE, ROOT, Place, wait_for

API_KEY = "sk-e2e-4f1c9a7be20d"
ALLOWED = {"authorization": f"Bearer {API_KEY}"}


class Shop(Place):
    """A namespace with a ModelEndpoint of two domains, and a good adapter to make bad ones from."""

    front = "prod"
    """The endpoint's name."""

    def beside(self, front):
        """Another endpoint of the same namespace."""
        other = copy.copy(self)
        other.front = front
        return other

    def open(self, good, signer, folder, within=300, **spec):
        """Create namespace and endpoint, and wait until it is ready."""
        self.good, self.signer, self.folder = good, signer, folder
        folder.mkdir(exist_ok=True)
        self.create_namespace()
        self.fill_bucket()
        self.secret("clients", {"e2e": f"sha256:{hashlib.sha256(API_KEY.encode()).hexdigest()}"})
        self.apply(self.endpoint(**spec))
        self.ready(within)

    def endpoint(self, **spec):
        body = yaml.safe_load((EXAMPLE / "modelendpoint.yaml").read_text())
        body["metadata"] = {"name": self.front, "namespace": self.name}
        body["spec"] |= {"baseModel": {"uri": f"s3://{self.bucket}/base"}, "domains": [{"name": "dsl"}, {"name": "other"}]}
        body["spec"]["gateway"] = {"replicas": 2, "apiKeys": {"secretRef": {"name": "clients"}}}
        body["spec"]["server"]["args"] += ["--enable-auto-tool-choice", "--tool-call-parser=hermes"]
        # One for packages that are signed here, and one for what a FineTuneJob of this namespace makes.
        trusted = [{"name": "e2e", "pem": self.signer.public}, {"name": "jobs", "pem": public_pem(self.key)}]
        body["spec"] |= {"trustedKeys": trusted} | spec
        return body

    def get_endpoint(self):
        return self.get("modelendpoint", self.front)

    def upload(self, package, name):
        for file in sorted(package.path.iterdir()):
            self.store.fput_object(self.bucket, f"packages/{name}/{file.name}", str(file))

    def add(self, name, package, domain="dsl", upload=True):
        if upload:
            self.upload(package, name)
        spec = {
            "artifact": {"uri": f"s3://{self.bucket}/packages/{name}", "digest": package.digest, "sizeBytes": package.size},
            "domain": domain,
            "baseModelDigest": self.base_digest(),
            "endpointRef": {"name": self.front},
        }
        metadata = {"name": name, "namespace": self.name}
        self.apply({"apiVersion": "graft.dev/v1alpha1", "kind": "Adapter", "metadata": metadata, "spec": spec})

    def base_digest(self):
        return json.loads((self.good / "manifest.json").read_text())["baseModel"]["digest"]

    def adapter(self, name, phases, seconds=120, poll=0.3):
        def there(found):
            return found.get("status", {}).get("phase") in phases

        return wait_for(lambda: self.get("adapter", name), there, seconds, poll)["status"]

    def pin(self, **pins):
        domains = [{"name": name} | ({"pin": pins[name]} if name in pins else {}) for name in ("dsl", "other")]
        patch = json.dumps({"spec": {"domains": domains}})
        self.tools.run("kubectl", "patch", "modelendpoint", self.front, "-n", self.name, "--type=merge", "-p", patch)

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
        return f"http://{self.get('service', f'{self.front}-gateway')['spec']['clusterIP']}"

    def telling_questions(self, count=8):
        """Held-out questions that base and adapter answer differently, so that an answer tells who gave it."""
        lines = (self.world / "data/heldout.jsonl").read_text().splitlines()[48:]
        asked = (json.loads(line)["messages"][0]["content"] for line in lines)
        telling = (one for one in asked if ask(self.url(), "base", one) != ask(self.url(), "dsl", one))
        found = list(itertools.islice(telling, count))
        assert len(found) == count, "the adapter answers like the base"
        return found

    def pods(self, component):
        return self.items("pods", "-l", f"graft.dev/modelendpoint={self.front},graft.dev/component={component}")

    def scale(self, replicas):
        self.tools.run("kubectl", "scale", "modelendpoint", self.front, "-n", self.name, f"--replicas={replicas}")

    def servers_ready(self, count=2):
        """Wait until there are so many server pods and all are ready, as the kubelet says: also while no operator says anything."""

        def there(seen):
            return [is_ready(pod) for pod in seen["pods"]] == [True] * count

        return wait_for(lambda: {"pods": self.pods("server")}, there, 240)["pods"]

    def spoil(self, name, file):
        """One bit of a file in the store changes."""
        key = f"packages/{name}/{file}"
        with self.store.get_object(self.bucket, key) as found:
            raw = bytearray(found.read())
        raw[-1] ^= 1
        self.store.put_object(self.bucket, key, io.BytesIO(raw), len(raw))

    def replace(self, component, pod):
        """Delete a pod, and wait until another one is ready in its place."""
        self.tools.run("kubectl", "delete", "pod", pod, "-n", self.name, "--wait=false")

        def replaced(seen):
            return pod not in seen["pods"] and list(seen["pods"].values()) == [True, True]

        wait_for(lambda: {"pods": {each["metadata"]["name"]: is_ready(each) for each in self.pods(component)}}, replaced, 240)

    def delete(self, kind, name):
        self.tools.run("kubectl", "delete", kind, name, "-n", self.name, "--wait=false")

    def gone(self, kind, name, seconds=120):
        wait_for(lambda: {"left": self.tools.run("kubectl", "get", kind, name, "-n", self.name, "--ignore-not-found", "-o", "name")},
                 lambda seen: not seen["left"].strip(), seconds)  # fmt: skip


SCORER = yaml.safe_load((EXAMPLE / "finetunejob.yaml").read_text())["spec"]["evaluation"]["suites"][0]["scorer"]
COMPILE_ERRORS = {"name": "compile-errors", "kind": "Proportion", "direction": "LowerIsBetter", "unit": ""}
ENDED = {"Passed", "Failed", "Inconclusive", "Error"}
"""Of a ShadowTest."""


def asked(role, margin, **more):
    return {"metric": COMPILE_ERRORS | {"role": role, "margin": margin} | more, "scorer": SCORER}


class Measured(Shop):
    """An endpoint with a collector, and ShadowTests of it."""

    def endpoint(self, **spec):
        collector = {
            "store": f"s3://{self.bucket}/measured",
            "observe": [{"domain": "dsl", "scores": [{"name": "compile-errors", "scorer": SCORER}]}],
            "segments": {"seconds": 5},
        }
        body = super().endpoint(**spec)
        body["spec"] |= {"replicas": 1, "collector": collector}
        body["spec"]["gateway"]["replicas"] = 1
        return body

    def hold_against(self, name, adapter, metrics, **spec):
        """Start a ShadowTest of an adapter."""
        body = {
            "adapterRef": {"name": adapter},
            "duration": "90s",
            "maxDuration": "6m",
            "controlShare": "0.4",
            "metrics": metrics,
            "standardGuardrails": False,
            "limits": {"minClusters": 40, "idleSeconds": 5},
            "content": "Full",
            "segments": {"seconds": 5},
        } | spec
        metadata = {"name": name, "namespace": self.name}
        self.apply({"apiVersion": "graft.dev/v1alpha1", "kind": "ShadowTest", "metadata": metadata, "spec": body})

    def reaches(self, name, phases, seconds=300):
        def there(found):
            phase = found.get("status", {}).get("phase")
            assert phase in phases or phase not in ENDED, json.dumps(found["status"].get("verdict"), indent=1)[:3000]
            return phase in phases

        return wait_for(lambda: self.get("shadowtest", name), there, seconds)["status"]

    def reported(self, name):
        return wait_for(lambda: self.get("shadowtest", name), lambda found: found["status"].get("report"), 120)["status"]

    def collector(self):
        (pod,) = self.pods("collector")
        return pod


class Load:
    """Requests at a steady rate from a thread of its own; what every one of them came to."""

    def __init__(self, shop, models=("dsl", "other", "base"), rate=8, *, conversations=False):
        """`conversations`: each request is one of its own."""
        self.url, self.questions, self.models, self.rate = shop.url(), shop.questions, models, rate
        self.conversations = conversations
        self.outcomes = Counter()
        self.answers = {}
        """By version and question: the texts that came. One version has one text for one question."""
        self.pods = {}
        """By version, which pods answered with it."""
        self.latest = {}
        """By model, who answered last."""
        self.problems = []
        self.lost = []
        """Of each request that failed: when it began, and whether it reached a gateway at all."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)

    async def _run(self):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), headers=ALLOWED) as session:
            tasks, number = set(), 0
            while not self._stop.is_set():
                model = self.models[number % len(self.models)]
                number += 1
                question = self.questions[number // len(self.models) % len(self.questions)]
                headers = {"x-conversation-id": f"{id(self)}-{number}"} if self.conversations else {}
                task = asyncio.create_task(self._ask(session, model, question, headers, stream=number % 2 == 0))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(1 / self.rate)
            await asyncio.gather(*tasks)

    async def _ask(self, session, model, question, headers, stream):
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 48,
            "stream": stream,
        }
        began, at = time.strftime("%X"), time.monotonic()
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
                raw = await answer.read()
                served, _, pod = answer.headers.get("x-graft-served-by", "").partition("@")
                said = text_of(raw, model, stream=stream) if answer.status == 200 else None
                self.outcomes[model, answer.status] += 1
                if answer.status != 200:
                    self.lost.append((at, True))
                    self.problems.append(f"{began} {model} {answer.status} {raw[:200]!r}")
                else:
                    self.answers.setdefault((served, question), set()).add(said)
                    self.pods.setdefault(served, set()).add(pod)
                    self.latest[model] = served
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, AssertionError) as error:
            self.outcomes[model, type(error).__name__] += 1
            self.lost.append((at, not isinstance(error, aiohttp.ClientConnectorError)))
            self.problems.append(f"{began} {model} {type(error).__name__} {error}")

    def served(self):
        """The versions that answered."""
        return {version for version, _ in self.answers}

    def mixed(self):
        """Answers of a version that are not its own: it gave another text to the same question, too."""
        return sum(len(texts) - 1 for texts in self.answers.values())

    def tells_apart(self, first, second):
        """Whether these versions gave different texts to some question."""
        return any(self.answers.get((first, one), set()) != self.answers.get((second, one), set()) for one in self.questions)

    def lost_after(self, moment):
        """Requests that began after `moment`, reached a gateway, and failed."""
        return [began - moment for began, reached in self.lost if reached and began > moment]

    def turned_away(self):
        """When the connections were refused, or came to nobody: nothing was sent, and every client may try again."""
        return [began for began, reached in self.lost if not reached]

    def failed(self):
        return sum(count for (_, status), count in self.outcomes.items() if status != 200)


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def ask(url, model, question, max_tokens=48):
    """One answer."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": max_tokens}
    headers = {"content-type": "application/json"} | ALLOWED
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.loads(answer.read())["choices"][0]["message"]["content"]


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


def train(world: Path, place: Path, signer: Signer | None = None, rows: int = 640, **changes: object) -> tuple[Path, Signer]:
    """A small adapter, trained here by `graft run`, and the key that signed it. `changes` take the place of parts of the spec."""
    place.mkdir(parents=True, exist_ok=True)
    signer = signer or Signer(place / "key.pem")
    job = yaml.safe_load((EXAMPLE / "finetunejob.yaml").read_text())
    spec = job["spec"]
    for key in ("adapter", "credentials", "podTemplate"):
        spec.pop(key, None)
    for name, count in (("rules", rows), ("heldout", 48)):
        lines = (world / f"data/{name}.jsonl").read_text().splitlines()[:count]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    spec["baseModel"] = {"uri": f"file://{world}/base"}
    spec["output"] = {"uri": f"file://{place}/runs"}
    spec["dataset"] = {
        "sources": [{"uri": f"file://{place}/rules.jsonl"}],
        "minExamples": 50,
        "holdout": {"uri": f"file://{place}/heldout.jsonl"},
        "validation": {"fraction": "0.05"},
    }
    spec["training"]["epochs"] = 1
    spec["evaluation"]["suites"][0]["accept"] = {"metric": "error_rate", "max": "1"}
    spec |= changes
    (place / "job.yaml").write_text(yaml.safe_dump(job))
    command = [str(ROOT / ".venv/bin/graft"), "run", "-f", str(place / "job.yaml"), "--signing-key", str(signer.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (manifest,) = (place / "runs").rglob("artifact/manifest.json")
    return manifest.parent, signer
