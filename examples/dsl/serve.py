"""The second half of the demo: the trained adapter serves, and the difference is measured through the gateway."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from world.judge import Judge

from graft_devcluster import install

HERE = Path(__file__).parent
ENDPOINT = "prod"
DOMAIN = "dsl"
QUESTIONS = 300
SHARE_OF_ERRORS = 0.2
"""The adapter may make a fifth of the base model's compile errors; it makes about a hundredth."""


class Served:
    """The ModelEndpoint of the demo, as a user handles it."""

    def __init__(self, tools: install.Tools, namespace: str) -> None:
        self.tools = tools
        self.namespace = namespace

    def trust_and_pin(self, adapter: str, public_key: Path) -> None:
        """Say which key signs, and which adapter the domain is served by."""
        spec = {
            "trustedKeys": [{"name": "demo", "pem": public_key.read_text()}],
            "domains": [{"name": DOMAIN, "pin": {"adapter": adapter}}],
        }
        patch = json.dumps({"spec": spec})
        print(f'kubectl patch modelendpoint {ENDPOINT} --type=merge -p \'{{"spec": {{"trustedKeys": ..., "domains": ...}}}}\'')
        self.tools.run("kubectl", "patch", "modelendpoint", ENDPOINT, "-n", self.namespace, "--type=merge", "-p", patch)

    def follow(self, adapter: str, seconds: float = 600) -> dict:
        """Print what changes until the adapter serves; the endpoint then."""
        said, began = "", time.monotonic()
        while time.monotonic() - began < seconds:
            endpoint = json.loads(self.tools.run("kubectl", "get", "modelendpoint", ENDPOINT, "-n", self.namespace, "-o", "json"))
            status = endpoint.get("status", {})
            if (line := describe(status)) != said:
                print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)
                said = line
            if is_served_by(status, adapter):
                return endpoint
            time.sleep(0.3)
        raise TimeoutError(f"{adapter} does not serve after {seconds:.0f} s: {said}")

    def url(self) -> str:
        """Where the gateway is found from this machine, which is the cluster's node."""
        command = ("kubectl", "get", "service", f"{ENDPOINT}-gateway", "-n", self.namespace, "-o", "jsonpath={.spec.clusterIP}")
        return f"http://{self.tools.run(*command).strip()}"

    def compare(self, heldout: Path, adapter: str) -> bool:
        """Ask base and domain the same held-out questions. Whether the adapter gave all answers of the domain, and far fewer errors."""
        version = json.loads(self.tools.run("kubectl", "get", "adapter", adapter, "-n", self.namespace, "-o", "json"))["status"]["version"]
        servers = {}
        lines = heldout.read_text().splitlines()[:QUESTIONS]
        questions = [json.loads(line)["messages"][0]["content"] for line in lines]
        judge, url, errors = judge_of_the_job(), self.url(), Counter()
        for model in ("base", DOMAIN):
            began = time.monotonic()
            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda question, model=model: ask(url, model, question), questions))
            errors[model] = sum(judge.problem(text) is not None for text, _ in answers)
            served = Counter(by.partition("@")[0] for _, by in answers)
            servers[model] = set(served)
            rate = len(answers) / (time.monotonic() - began)
            share = errors[model] / len(answers)
            print(f"  model {model:<6} {share:8.2%} compile errors on {len(answers)} answers ({rate:.0f}/s), served by {dict(served)}")
        return servers == {"base": {"base"}, DOMAIN: {version}} and errors[DOMAIN] < SHARE_OF_ERRORS * errors["base"]


def ask(url: str, model: str, question: str) -> tuple[str, str]:
    """One chat completion: the answer, and what served it."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 96}
    request = urllib.request.Request(  # noqa: S310 - http, to the cluster
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        text = json.loads(answer.read())["choices"][0]["message"]["content"]
        return text, answer.headers["x-graft-served-by"]


def judge_of_the_job() -> Judge:
    """The compiler with the variables that the job's own suite declares."""
    job = yaml.safe_load((HERE / "finetunejob.yaml").read_text())
    variables = job["spec"]["evaluation"]["suites"][0]["scorer"]["cel"]["variables"]
    return Judge({variable["name"]: variable["type"] for variable in variables})


def is_served_by(status: dict, adapter: str) -> bool:
    """Whether every gateway routes the domain to this adapter."""
    arms = [arm.get("adapter") for domain in status.get("domains", []) for arm in domain["arms"]]
    return arms == [adapter] and 0 < status.get("gateways", 0) <= status.get("acknowledgedGateways", 0)


def describe(status: dict) -> str:
    """One line that answers "how is it going"."""
    ready = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
    return f"{status.get('phase', 'New'):<10} {ready.get('message', '')}"
