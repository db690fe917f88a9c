"""
The demo, top to bottom: production gets worse, and what follows, with nobody at the keyboard but those who approve.

A cluster, the chart, a small world; then a TuningPolicy launches a job, its adapter is proven in the shadow, approved, and taken out again
by itself because it harms; the next one is confirmed. Every step is what users would do by hand.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from following import Follower, Picture
from judging import judge_of_the_policy, spoilt, tickets
from production import Production, embeddings
from traffic import FAILED, Traffic, ask_all

from graft_devcluster import cluster, images, install, settings

DOMAIN = "dsl"
RATE = 3.0
QUIET = 1.5
"""Requests a second. While a job trains, or a shadow answers 1.4 for each on the same two cores, fewer come."""
ASKED = 300
SHARE_OF_ERRORS = 0.25
"""Of the base model's compile errors that the adapter may make; it makes about a tenth."""
OUTAGE = "outage"
"""The chapter in which requests may fail: there is no server then."""


def main() -> int:
    started = time.monotonic()
    chosen = settings.requested(None, None, None)
    tools = install.Tools(chosen)
    step("Kubernetes: etcd, API server, kubelet, containerd, S3, Prometheus")
    with cluster.locked(chosen):
        cluster.up_node(chosen, [])
    step("Images: operator, trainer, serving, vLLM for CPU")
    references = images.ensure_images(["operator", "trainer", "serving", "vllm-cpu"], load=True)
    step("Chart: helm upgrade --install graft charts/graft")
    install.install(chosen, references)
    step("A small world: access rules in English and CEL, and a model that learned an older dialect")
    production = Production(chosen, tools)
    production.prepare()
    step("kubectl apply -f examples/dsl/loop/")
    production.apply()
    told = Follower(tools, production.namespace)
    with embeddings(chosen):
        told.until("the endpoint is ready", lambda seen: phase_of(seen) == "Ready", 600)
        good = Story(production, told).tell()
    print(f"\nLook at it:\n  kubectl -n {production.namespace} get tuningpolicies,finetunejobs,adapters,shadowtests,modelendpoints,pods")
    print(f"  kubectl -n {production.namespace} describe modelendpoint prod")
    print(f"\nThe demo took {time.monotonic() - started:.0f} s.")
    return 0 if good else 1


def step(title: str) -> None:
    print(f"\n==> {title}", flush=True)


def phase_of(seen: Picture) -> str:
    return seen.newest("ModelEndpoint").get("status", {}).get("phase", "")


class Story:
    """What happens to production."""

    def __init__(self, production: Production, told: Follower) -> None:
        self.production, self.told = production, told
        self.judge = judge_of_the_policy()
        lines = (production.world / "data" / "heldout.jsonl").read_text().splitlines()
        self.questions = [json.loads(line)["messages"][0]["content"] for line in lines][:ASKED]
        self.mixed: list[str] = []
        """Half of them questions that the base model answers well, half of them others."""

    def tell(self) -> bool:
        """The whole of it. Whether all went as it should."""
        url = self.production.url()
        step(f"Production: clients ask for model {DOMAIN!r} at {url} what the base model answers well")
        answers = zip(self.questions, ask_all(url, "base", self.questions), strict=True)
        wrong = [question for question, (text, _) in answers if self.judge.problem(text) is not None]
        easy = [question for question in self.questions if question not in wrong]
        self.mixed = [question for pair in zip(easy, wrong, strict=False) for question in pair]
        with Traffic(url, DOMAIN, easy, RATE) as traffic:
            self.becomes_worse(traffic)
            harmful = self.comes_into_production(traffic, ("alice", "bob"))
            self.is_rolled_back(traffic, harmful)
            better = self.comes_into_production(traffic, ("carol", "alice"))
            self.is_confirmed(traffic, better)
        return self.compare(traffic, better, len(wrong) / len(self.questions))

    def becomes_worse(self, traffic: Traffic) -> None:
        traffic.chapter = "well"
        self.told.until("the policy has seen a good minute", lambda seen: decision_of(seen) == "NotMet", 240)
        step("Other clients come: half of the questions are now ones that the base model learned to answer in an older dialect")
        traffic.chapter, traffic.questions = "worse", self.mixed

    def comes_into_production(self, traffic: Traffic, approvers: tuple[str, str]) -> str:
        """Train, prove and activate the next candidate; its name. Until two of those who may have approved, nobody is answered by it."""
        known = {job["metadata"]["name"] for job in self.told.look().of("FineTuneJob") if has_ended(job)}

        def launched(seen: Picture) -> bool:
            return any(job["metadata"]["name"] not in known for job in seen.of("FineTuneJob"))

        self.told.until("the policy launches a job", launched, 300)
        traffic.rate = QUIET
        ended = self.told.until("the job ends", lambda seen: has_ended(seen.newest("FineTuneJob")), 900)
        job = ended.newest("FineTuneJob")
        show_evaluation(job)
        adapter = job["status"]["adapterRef"]["name"]
        waiting = self.until_state(adapter, {"AwaitingApproval"}, 900)
        require(waiting.arms() == {"base": 100}, "nothing serves that nobody has approved")
        step(f"{approvers[0]} looks at the verdict and approves; so does mallory, whom the policy does not list; then {approvers[1]}")
        self.production.approve(approvers[0], adapter)
        self.production.approve("mallory", adapter)
        said = self.told.until("one approval counts", lambda seen: bool(seen.promotion(adapter).get("approvals")), 60).promotion(adapter)
        require((said["state"], said["approvals"]) == ("AwaitingApproval", [approvers[0]]), f"one approval is not two: {said}")
        self.production.approve(approvers[1], adapter)
        self.until_state(adapter, {"Watching"}, 300)
        traffic.rate = RATE
        return adapter

    def is_rolled_back(self, traffic: Traffic, adapter: str) -> None:
        """The training data held tickets with wrong answers, of a kind that nobody asked for in the shadow."""
        step("Now tickets come. Some of the training data answered tickets wrongly; somebody finds out, and mends the data")
        traffic.chapter, traffic.questions = "tickets", [spoilt(question) for question in self.questions]
        self.production.upload_tickets(tickets(self.production.world, wrong=False))
        self.until_state(adapter, {"RolledBack"}, 900)
        self.told.until("the base model serves again", lambda seen: seen.arms() == {"base": 100}, 60)
        traffic.chapter = "again"
        half = len(self.questions) // 2
        traffic.questions = self.questions[:half] + [spoilt(question) for question in self.questions[half:]]

    def is_confirmed(self, traffic: Traffic, adapter: str) -> None:
        step("While it is watched, the only server is killed: both sides of the watch suffer, and nothing is rolled back")
        traffic.chapter = OUTAGE
        self.production.kill_server()
        self.told.until("the server is back", lambda seen: phase_of(seen) != "Ready", 60)
        self.told.until("the server is back", lambda seen: phase_of(seen) == "Ready", 300)
        traffic.chapter = "watched"
        self.until_state(adapter, {"Confirmed"}, 900)
        self.told.until("all conversations are on it", lambda seen: seen.arms() == {adapter: 100}, 60)
        traffic.chapter = "confirmed"

    def until_state(self, adapter: str, states: set[str], seconds: float) -> Picture:
        """Follow until an adapter's promotion is there. Raises where it ends otherwise."""
        ends = {"NotProven", "Rejected", "RolledBack", "Confirmed", "Unconfirmed", "Overridden", "Deleted", "Drifted"} - states

        def there(seen: Picture) -> bool:
            promotion = seen.promotion(adapter)
            require(promotion.get("state") not in ends, json.dumps(promotion))
            return promotion.get("state") in states

        return self.told.until(f"{adapter} is {' or '.join(states)}", there, seconds)

    def compare(self, traffic: Traffic, adapter: str, before: float) -> bool:
        """Whether the domain is answered by this adapter alone, with far fewer errors, and no request failed but in the outage."""
        step("What clients saw")
        for chapter in dict.fromkeys(when for when, _ in traffic.outcomes):
            print(f"  {chapter:<10}{', '.join(f'{who} {count}' for who, count in traffic.served(chapter).items())}")
        answers = ask_all(self.production.url(), DOMAIN, self.questions)
        served = Counter(by.partition("@")[0] for _, by in answers)
        share = sum(self.judge.problem(text) is not None for text, _ in answers) / len(answers)
        print(f"\n  compile errors on {len(answers)} questions: {before:.1%} by the base model, {share:.1%} now, served by {dict(served)}")
        print(f"  requests that failed: {traffic.failed(OUTAGE)}, and {traffic.served(OUTAGE).get(FAILED, 0)} while there was no server")
        for problem in traffic.problems[:5]:
            print(f"    {problem}")
        return set(served) == {self.production.version(adapter)} and share < SHARE_OF_ERRORS * before and not traffic.failed(OUTAGE)


def decision_of(seen: Picture) -> str:
    (domain,) = seen.newest("TuningPolicy").get("status", {}).get("domains") or [{}]
    return domain.get("decision", "")


def has_ended(job: dict) -> bool:
    phase = job.get("status", {}).get("phase")
    require(phase != "Failed", json.dumps(job.get("status", {}).get("failure")))
    return phase == "Succeeded"


def show_evaluation(job: dict) -> None:
    for result in job["status"]["evaluation"]:
        print(f"\n{result['suite']}: {result['metric']} on {result['examples']} held-out rules that are in no training set")
        for who in ("base", "adapter", "difference"):
            share = result[who]
            print(f"  {who:<12}{share['estimate']:8.2%}   95 % interval {share['low']:7.2%} .. {share['high']:.2%}")
    stages = "  ".join(f"{name} {seconds:.0f} s" for name, seconds in job["status"].get("stageSeconds", {}).items())
    print(f"  stages      {stages}\n  digest      {job['status']['artifact']['digest']}\n")


def require(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)


if __name__ == "__main__":
    sys.exit(main())
