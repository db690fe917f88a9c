"""What the operator hears, and what its refusal does."""

import json
import os
import signal
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny

from graft_api.artifact import attempt_folder
from graft_api.finetunejob import Stage


class Operator(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuse: set[str] = set()
        self.attempt = 4
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def reporting(self, **more: int) -> dict[str, Any]:
        return {"url": f"http://127.0.0.1:{self.server_port}"} | more

    def bodies(self, what: str) -> list[dict[str, Any]]:
        return [body for path, body in self.asked if path == what]


class Handler(BaseHTTPRequestHandler):
    server: Operator

    def do_POST(self) -> None:
        what = self.path.rpartition("/")[2]
        self.server.asked.append((what, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        content = json.dumps({"attempt": self.server.attempt}).encode() if what == "claim" else b""
        self.send_response(409 if what in self.server.refuse else 200 if content else 204)
        self.send_header("Content-Length", "0" if what in self.server.refuse else str(len(content)))
        self.end_headers()
        if what not in self.server.refuse:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def operator(in_thread: Callable[[Operator], Operator]) -> Operator:
    return in_thread(Operator())


def test_a_run_claims_reports_progress_asks_again_and_reports_the_result(world: tiny.World, operator: Operator) -> None:
    def unhurried() -> None:
        """Every stage lasts until the reporter has seen it."""
        from graft_trainer import reporter, timer

        posted, post, save = set(), reporter.post, timer.save

        def seen(client: Any, attempt: int, progress: Any) -> None:
            post(client, attempt, progress)
            posted.add(progress.stage)

        def wait(path: Path, record: Any) -> None:
            save(path, record)
            while path.name == "progress.json" and record.stage not in posted:
                time.sleep(0.01)

        reporter.LOOK_EVERY_SECONDS = reporter.POST_EVERY_SECONDS = 0.01
        reporter.post, timer.save = seen, wait

    ended = world.pod(reporting=operator.reporting(), train=unhurried)

    assert ended.code == 0, ended.output
    order = [what for what, _ in operator.asked if what != "progress"]
    assert order == ["claim", "claim", "claim", "result"], "at the start, before the upload, before the commit"
    assert operator.bodies("result") == [ended.termination]
    assert ended.termination["attempt"] == 4
    stages = {body["progress"]["stage"] for body in operator.bodies("progress")}
    assert stages == set(get_args(Stage)) == set(ended.termination["result"]["stageSeconds"])
    assert f"/{attempt_folder(4, world.uid)}/artifact" in ended.termination["result"]["artifact"]["uri"]


def test_a_refused_claim_ends_everything(world: tiny.World, operator: Operator) -> None:
    operator.refuse = {"claim"}

    ended = world.pod(reporting=operator.reporting())

    assert (ended.code, ended.termination["attempt"], ended.termination["failed"]["reason"]) == (21, 0, "Fenced")
    assert operator.bodies("result") == [], "a fenced pod reports nothing"


def test_a_refused_progress_report_ends_training_at_once(world: tiny.World, operator: Operator) -> None:
    operator.refuse = {"progress"}
    world.changes = {"training.epochs": 500}
    assert world.container("preflight", reporting=operator.reporting()).code == 21
    operator.refuse = set()
    assert world.container("preflight", reporting=operator.reporting()).code == 0
    operator.refuse = {"progress"}

    def impatient() -> None:
        from graft_trainer import reporter

        reporter.SIGTERM_WITHIN_SECONDS = 0.2

    ended = world.container("train", reporting=operator.reporting(), patch=impatient)

    assert (ended.code, ended.termination["failed"]["reason"]) == (21, "Fenced")
    assert not world.artifacts()


def test_a_pod_that_is_deleted_saves_its_checkpoint_although_the_operator_refuses_it(world: tiny.World, operator: Operator) -> None:
    world.changes = {"training.epochs": 500, "training.checkpoints": {"everySteps": 1000, "keep": 2}}
    assert world.container("preflight", reporting=operator.reporting()).code == 0
    operator.refuse = {"progress"}
    process = tiny.Forked(world, "train", "work", operator.reporting(), None)
    while sum(what == "progress" for what, _ in operator.asked) < 2 or not list((world.root / "work").glob("output")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)

    ended = process.wait()

    assert ended.code == 20, ended.output
    assert list(world.attempt(4).glob("checkpoints/step-*/checkpoint.json"))


def test_another_grant_before_the_commit_fences(world: tiny.World, operator: Operator) -> None:
    for command in ("preflight", "train"):
        assert world.container(command, reporting=operator.reporting()).code == 0
    operator.attempt = 5

    ended = world.container("publish", reporting=operator.reporting())

    assert ended.code == 21
    assert not (world.run_folder / "commit.json").exists()


def test_an_operator_that_went_away_does_not_cost_the_result(world: tiny.World, operator: Operator) -> None:
    for command in ("preflight", "train"):
        assert world.container(command, reporting=operator.reporting()).code == 0
    gone = {"url": "http://127.0.0.1:9", "resultTimeoutSeconds": 1}

    def impatient() -> None:
        from graft_trainer import publish

        publish.ASK_AGAIN_SECONDS = 1

    ended = world.container("publish", reporting=gone, patch=impatient)

    assert ended.code == 0, ended.output
    assert ended.termination["result"]["accepted"] is True


def test_what_preflight_finds_is_reported_as_this_attempts_failure(world: tiny.World, operator: Operator) -> None:
    world.key.unlink()

    ended = world.pod(reporting=operator.reporting())

    assert (ended.code, ended.termination["attempt"], ended.termination["failed"]["reason"]) == (10, 4, "SigningKeyMissing")
    assert operator.bodies("result") == [ended.termination]


def test_a_failure_is_reported_too(world: tiny.World, operator: Operator) -> None:
    world.changes = {"lora": {"rank": 8, "targetModules": ["no_such_module"]}}

    ended = world.pod(reporting=operator.reporting())

    assert (ended.code, ended.termination["failed"]["reason"]) == (10, "InvalidSetting")
    assert "spec.lora.targetModules" in ended.termination["failed"]["message"]
    assert operator.bodies("result") == [ended.termination]


@pytest.mark.parametrize(
    "error",
    ["torch.OutOfMemoryError('CUDA out of memory')", "MemoryError()", 'RuntimeError("DefaultCPUAllocator: can\'t allocate memory")'],
)
def test_memory_that_runs_out_comes_with_advice(world: tiny.World, error: str) -> None:
    def patch() -> None:
        import torch

        from graft_trainer import training_loop

        def fail(*_: Any) -> None:
            raise eval(error, {"torch": torch})  # noqa: S307

        training_loop._trainer = fail

    ended = world.pod(train=patch)

    assert (ended.code, ended.termination["failed"]["reason"]) == (11, "OutOfMemory")
    assert "spec.training.batchSize (8)" in ended.termination["failed"]["message"]
