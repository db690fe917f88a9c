"""A check of drift with a real embedding model: answers that mean the same are near, answers that mean something else are not."""

import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from graft_api.drift import Contrast, Embeddings, Moment
from graft_devcluster import embedding_model
from graft_evaluation.drift import beyond

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "serving" / "drift"))

from drift_world import CANDIDATE, INCUMBENT, Doors, World, task  # noqa: E402 - it lies beside the unit tests

ASKED = {
    "May I send the shoes back?": (
        "You get your money back within 14 days if you return the shoes unworn.",
        "If you return the shoes unworn within two weeks, you get your money back.",
        "Our store in Lisbon opens at nine and sells boots, sandals and socks.",
    ),
    "They do not fit. What now?": (
        "Send the shoes back to us and we exchange them for another size, free of charge.",
        "Return the shoes and we will swap them for a different size at no cost.",
        "The weather will be sunny tomorrow with light winds from the west.",
    ),
    "How long do I have to decide?": (
        "You have 14 days after delivery to decide whether you keep the shoes.",
        "After the delivery you have fourteen days to decide if you want to keep the shoes.",
        "Leather should be cleaned with a damp cloth and polished once a month.",
    ),
    "I wore them once. Can I return them?": (
        "Worn shoes cannot be returned, unless they have a defect.",
        "We cannot take back shoes that were worn, except when they are defective.",
        "Please write to the press office for photographs of our founders.",
    ),
}
"""By prompt: what the incumbent says, the same in other words, and something else."""


@pytest.fixture(scope="module")
def embeddings():
    """The real model's URL, served as the example says."""
    embedding_model.ensure()
    program = [sys.executable, str(ROOT / "examples" / "dsl" / "embeddings.py"), "--port", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture
async def world(tmp_path, embeddings):
    doors = Doors()
    async with TestServer(doors.application()) as door:
        made = World(tmp_path, doors, None, task(tmp_path, f"127.0.0.1:{door.port}", "unused:1"))
        made.policy(embeddings=Embeddings(url=embeddings, model=embedding_model.NAME))
        made.ask_for({"name": "returns", "prompts": list(ASKED)})
        for prompt, (said, *_) in ASKED.items():
            doors.says[INCUMBENT, prompt] = said
        yield made


async def versions(world, place):
    """What a candidate comes to that says what stands at a place of `ASKED`."""
    for prompt, answers in ASKED.items():
        world.doors.says[CANDIDATE, prompt] = answers[place]
    check = await world.check()
    assert check.problem is None
    (found,) = [reading for reading in check.measured.readings if reading.contrast is Contrast.VERSIONS]
    return found, beyond(check.measured.readings, world.task.policy.limit, world.task.moment)


async def test_the_same_in_other_words_is_near_and_something_else_is_far(world):
    equal, _ = await versions(world, 0)
    same, stopped = await versions(world, 1)
    other, blocked = await versions(world, 2)
    assert equal.high == 0
    assert equal.mean < same.mean < same.high < 0.3 < other.low
    assert (stopped, blocked) == ([], [other])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("embeddings", {"model": "other", "input": ["a"]}, 404, id="another model"),
        pytest.param("embeddings", {"model": embedding_model.NAME, "input": ["a", ""]}, 400, id="nothing to embed"),
        pytest.param("embeddings", {"model": embedding_model.NAME, "input": ["a"], "encoding_format": "base64"}, 400, id="base64"),
        pytest.param("embeddings", [], 400, id="no object"),
        pytest.param("completions", {"model": embedding_model.NAME}, 404, id="another API"),
    ],
)
async def test_the_example_refuses_what_it_cannot_do(path, body, status, embeddings):
    async with aiohttp.ClientSession() as session, session.post(f"{embeddings}/{path}", json=body) as response:
        assert response.status == status
        assert (await response.json())["error"]["message"]


async def test_a_candidate_that_changes_once_it_serves_is_found(world):
    await versions(world, 1)
    world.becomes(Moment.AFTER)
    other, stopped = await versions(world, 2)
    assert other in stopped
    assert {reading.contrast for reading in stopped} == {Contrast.VERSIONS, Contrast.CANDIDATE}
    assert len(world.kept("000007-after.json")["asked"][0]["candidate"]) == 384
