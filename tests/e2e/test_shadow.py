"""
ShadowTests on production's own requests, with real servers: a harmful adapter fails early, and an equal one ends as its margins say.
One that is better and passes is in test_demo.py.

One endpoint for the whole file, with its collector; every test starts a shadow server of its own.
"""

import json
import time

import packages
import pytest
from place import kill_process, wait_for
from stories import Load, Measured, asked, train


@pytest.fixture(scope="module")
def good(world, tmp_path_factory):
    return train(world, tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def shop(graft, store, chosen, world, good, tmp_path_factory):
    made = Measured(graft, store, chosen, world)
    made.open(*good, tmp_path_factory.mktemp("packages"))
    made.questions = [
        json.loads(line)["messages"][0]["content"] for line in (world / "data/heldout.jsonl").read_text().splitlines()[48:448]
    ]
    made.add("good", packages.Package(made.good, made.folder / "good"))
    made.adapter("good", {"Loaded"})
    yield made
    made.tools.run("kubectl", "delete", "namespace", made.name, "--wait=false")


def traffic(shop):
    """Requests of many conversations, at a rate that two vLLMs on two cores keep up with."""
    return Load(shop, models=("dsl",), rate=3, conversations=True)


def test_a_harmful_adapter_fails_early_although_the_collector_is_killed(shop, world, tmp_path):
    shop.add("harmful", packages.Package(unlearn(shop, world, tmp_path), shop.folder / "harmful"))
    shop.adapter("harmful", {"Loaded"})
    shop.pin(dsl={"adapter": "good"})
    shop.serves("dsl", "good")
    with traffic(shop) as load:
        shop.hold_against("harmful", "harmful", [asked("Guardrail", 0.05)], duration="2h", maxDuration="4h")
        shop.reaches("harmful", {"Running"})
        wait_for(lambda: shop.get("shadowtest", "harmful"), lambda found: found["status"].get("pairs", 0) > 10, 120)
        assert kill_process(shop.collector()["metadata"]["uid"], "graft-serving collector")
        status = shop.reaches("harmful", {"Failed"}, 420)
    assert load.failed() == 0, load.problems[:5]
    assert status["verdict"]["sentence"].startswith("Failed: harm: compile errors got worse"), status["verdict"]["sentence"]
    assert status["verdict"]["observedHours"] < 0.25
    shop.reported("harmful")


def unlearn(shop, world, place):
    """An adapter that was trained on wrong answers: what it says compiles no more."""
    lines = [json.loads(line) for line in (world / "data/rules.jsonl").read_text().splitlines()[:320]]
    for line in lines:
        line["messages"][1]["content"] = " ".join([*reversed(line["messages"][1]["content"].split()), "&&"])
    place.mkdir(parents=True, exist_ok=True)
    (place / "wrong.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = {
        "sources": [{"uri": f"file://{place}/wrong.jsonl"}],
        "minExamples": 50,
        "holdout": {"uri": f"file://{place}/heldout.jsonl"},
        "validation": {"fraction": "0.05"},
    }
    folder, _ = train(world, place, shop.signer, dataset=dataset)
    return folder


def test_an_equal_adapter_is_no_worse_and_no_better(shop):
    """The same weights in another package, against those that serve: within the margin of the guardrail, and no improvement."""
    same = packages.Package(shop.good, shop.folder / "same")
    (same.path / "README.md").write_text("the same weights\n")
    shop.add("same", same.finish(shop.signer))
    shop.adapter("same", {"Loaded"})
    shop.serves("dsl", "good")
    better = asked("Primary", 0.0)
    better["metric"]["name"] = "fewer-errors"
    with traffic(shop) as load:
        shop.hold_against("equal", "same", [asked("Guardrail", 0.15), better])
        time.sleep(1)
        status = shop.reaches("equal", {"Inconclusive"}, 420)
    assert load.failed() == 0, load.problems[:5]
    outcomes = {metric["name"]: metric["outcome"] for metric in status["verdict"]["metrics"]}
    assert outcomes == {"compile-errors": "Passed", "fewer-errors": "Inconclusive"}, status["verdict"]["sentence"]
