"""Whole runs of a tiny model on CPU: what comes out, and what comes out when anything is killed on the way."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from model_signing import verifying

from graft_api.artifact import ArtifactManifest, Probes
from graft_api.finetunejob import Stage


def test_a_run_publishes_one_signed_adapter(world: tiny.World) -> None:
    ended = world.pod()

    assert ended.code == 0, ended.output
    result = ended.termination["result"]
    folder = Path(result["artifact"]["uri"].removeprefix("file://"))
    content = (folder / "manifest.json").read_bytes()
    manifest = ArtifactManifest.model_validate_json(content)
    assert result["artifact"]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert {file.path for file in manifest.files} | {"manifest.json", "model.sig"} == {path.name for path in folder.iterdir()}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())
    assert str(world.root) not in (folder / "adapter_config.json").read_text().replace(str(world.model), "")
    assert set(result["stageSeconds"]) == set(get_args(Stage))
    assert result["accepted"] is True
    assert len(Probes.model_validate_json((folder / "probes.json").read_bytes()).probes) >= 8


def test_the_signature_is_checked_by_the_public_tool(world: tiny.World) -> None:
    world.pod()
    public = public_key(world)
    folder = world.artifacts()[0]

    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(folder, folder / "model.sig")

    with (folder / "probes.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=r"probes\.json"):
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(folder, folder / "model.sig")


def at_step(step: int) -> Callable[[], None]:
    def patch() -> None:
        from graft_trainer.training_loop import Keeper

        whole = Keeper.on_step_end

        def on_step_end(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step == step:
                self._uploader.close()
                tiny.kill_self()
            whole(self, args, state, control, **rest)

        Keeper.on_step_end = on_step_end

    return patch


def before(module: str, name: str) -> Callable[[], None]:
    def patch() -> None:
        import importlib

        place = importlib.import_module(module)
        assert hasattr(place, name), f"{module} has no {name}: nothing would be killed"
        setattr(place, name, tiny.kill_self)

    return patch


def after(module: str, name: str) -> Callable[[], None]:
    def patch() -> None:
        import importlib

        found = importlib.import_module(module)
        whole = getattr(found, name)

        def then_kill(*args: Any, **rest: Any) -> None:
            whole(*args, **rest)
            tiny.kill_self()

        setattr(found, name, then_kill)

    return patch


KILLS = {
    "in fetch": ("train", before("graft_trainer.fetch", "check_files")),
    "in prepare, before the lock": ("train", before("graft_trainer.prepare", "keep_or_compare")),
    "in prepare, after the lock": ("train", after("graft_trainer.prepare", "keep_or_compare")),
    "in training, between checkpoints": ("train", at_step(9)),
    "after training, before the adapter is stored": ("train", before("graft_trainer.train", "_store_trained")),
    "in evaluation": ("train", before("graft_trainer.scoring", "assess")),
    "in packaging": ("train", before("graft_trainer.package", "model_card")),
    "before the signature": ("publish", before("graft_trainer.publish", "sign")),
    "before the commit": ("publish", before("graft_trainer.publish", "commit")),
    "after the commit": ("publish", after("graft_trainer.publish", "commit")),
}


def verified(world: tiny.World) -> Path:
    """Return the artifact that commit.json names, after checking it as a server's agent does."""
    record = world.committed()
    content = (world.run_folder / record["manifest"]).read_bytes()
    folder = (world.run_folder / record["manifest"]).parent
    assert record["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    for file in ArtifactManifest.model_validate_json(content).files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
    verifying.Config().use_elliptic_key_verifier(public_key=public_key(world)).verify(folder, folder / "model.sig")
    return folder


def public_key(world: tiny.World) -> Path:
    path = world.root / "public.pem"
    key = load_pem_private_key(world.key.read_bytes(), None).public_key()
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    world = tiny.World(tmp_path_factory.mktemp("undisturbed"), model, changes={"method": "lora"})
    assert world.pod().code == 0
    return world.metrics()


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS.keys())
def test_a_pod_killed_anywhere_leaves_exactly_one_artifact_with_the_same_losses(
    world: tiny.World, undisturbed: dict[str, Any], kill: tuple[str, Callable[[], None]]
) -> None:
    container, patch = kill
    world.changes = {"method": "lora"}  # bitsandbytes' CPU kernels compute a little differently after the first evaluation of a process
    assert world.pod("first", **{container: patch}).code == -signal.SIGKILL

    ended = world.pod("second")

    assert ended.code == 0, ended.output
    committed = verified(world)
    assert world.artifacts() == [committed], "what the loser left is gone"
    assert ended.termination["result"]["artifact"]["uri"] == committed.as_uri()
    assert ended.termination["result"]["earlierRun"] is False
    assert not list(world.run_folder.glob("attempt-*/checkpoints/*/*")), "nobody resumes from them any more"
    losses = [[entry["loss"] for entry in metrics["log"] if "loss" in entry] for metrics in (undisturbed, world.metrics())]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_training_goes_on_from_the_newest_checkpoint(world: tiny.World) -> None:
    world.pod("first", train=at_step(15))

    ended = world.pod("second")

    assert ended.termination["result"]["resumedFromStep"] == 12
    assert world.metrics()["log"][0]["step"] == 2, "the history before the kill is kept"


def test_a_checkpoint_that_was_damaged_is_passed_over(world: tiny.World) -> None:
    world.pod("first", train=at_step(15))
    with (world.attempt(1) / "checkpoints/step-000012/optimizer.pt").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\0damage\0")

    ended = world.pod("second")

    assert ended.termination["result"]["resumedFromStep"] == 6


def test_finished_training_is_not_repeated(world: tiny.World) -> None:
    world.pod("first", train=before("graft_trainer.scoring", "assess"))

    assert world.container("preflight", "second").code == 0
    ended = world.container("train", "second", patch=before("graft_trainer.train", "run_workers"))

    assert ended.code == 0, ended.output


def test_sigterm_saves_and_asks_for_another_attempt(world: tiny.World) -> None:
    def slow() -> None:
        from graft_trainer.training_loop import Keeper

        Keeper.on_step_begin = lambda self, args, state, control, **_: time.sleep(0.2)

    world.container("preflight")
    process = tiny.Forked(world, "train", "work", None, slow)
    while not (world.attempt(1) / "checkpoints/step-000006/checkpoint.json").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)

    ended = process.wait()

    assert ended.code == 20, ended.output
    resumed = world.pod("second")
    assert resumed.termination["result"]["resumedFromStep"] > 6


def test_an_attempt_that_wakes_up_after_its_successor_committed_is_fenced(world: tiny.World) -> None:
    for command in ("preflight", "train"):
        assert world.container(command, "first").code == 0

    def pause() -> None:
        from graft_trainer import publish

        whole = publish.upload

        def upload_and_sleep(*arguments: Any) -> Any:
            record = whole(*arguments)
            os.kill(os.getpid(), signal.SIGSTOP)
            return record

        publish.upload = upload_and_sleep

    first = tiny.Forked(world, "publish", "first", None, pause)
    os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
    assert world.pod("second").code == 0
    winner = world.committed()
    os.kill(first.pid, signal.SIGCONT)

    ended = first.wait()

    assert ended.code == 21
    assert ended.termination["failed"]["reason"] == "Fenced"
    assert world.committed() == winner
    assert winner["attempt"] == 2


def test_a_restored_job_reports_the_committed_result_and_trains_nothing(world: tiny.World) -> None:
    first = world.pod("first").termination["result"]
    world.uid = "uid-2"

    ended = world.pod("second", train=before("graft_trainer.stages", "fetch"))

    assert ended.code == 0, ended.output
    del first["stageSeconds"]["publish"]  # nothing was published this time
    assert ended.termination["result"] == first | {"earlierRun": True}


@pytest.fixture(scope="module")
def ended_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tiny.World:
    """A run with a result, to be copied by tests that change something about it."""
    root = tmp_path_factory.mktemp("ended")
    shutil.copytree(model, root / "base")
    world = tiny.World(root, root / "base")
    assert world.pod("first").code == 0
    return world


@pytest.fixture
def restored(ended_run: tiny.World) -> Iterator[tiny.World]:
    """The same job, created again beside its run folder; everything is put back afterwards."""
    shutil.copytree(ended_run.root, saved := ended_run.root.with_name("saved"))
    yield tiny.World(ended_run.root, ended_run.model, uid="uid-2")
    shutil.rmtree(ended_run.root)
    saved.rename(ended_run.root)


def other_data(world: tiny.World) -> None:
    tiny.write_rows(world.data, tiny.rows(210))


def other_base(world: tiny.World) -> None:
    config = world.model / "config.json"
    config.write_text(config.read_text() + " ")


def another_manifest(world: tiny.World) -> None:
    path = world.run_folder / world.committed()["manifest"]
    path.write_text(path.read_text().replace('"accepted":true', '"accepted":false'))


def replanted(**changes: Any) -> Callable[[tiny.World], None]:
    """Change the manifest and make commit.json name the change: whoever may write to the bucket can."""

    def plant(world: tiny.World) -> None:
        record = world.committed()
        path = world.run_folder / record["manifest"]
        content = json.dumps(json.loads(path.read_bytes()) | changes).encode()
        path.write_bytes(content)
        record["digest"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (world.run_folder / "commit.json").write_text(json.dumps(record))

    return plant


def other_weights(world: tiny.World) -> None:
    with (world.artifacts()[0] / "adapter_model.safetensors").open("ab") as file:
        file.write(b" ")


def other_key(world: tiny.World) -> None:
    tiny.make_key(world.key)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (other_data, "DataChanged", "data.jsonl is not what an earlier attempt"),
        (other_base, "DataChanged", "spec.baseModel.uri: the base model file://"),
        (another_manifest, "DigestMismatch", "delete the run folder file://"),
        (replanted(domain="other"), "DigestMismatch", "its domain is another"),
        (replanted(specHash="0" * 16), "DigestMismatch", "its specHash is another"),
        (
            replanted(baseModel={"uri": "file:///x", "digest": "sha256:" + "0" * 64, "tokenizerDigest": "sha256:" + "0" * 64}),
            "DigestMismatch",
            "base model",
        ),
        (replanted(createdAt="2020-01-01T00:00:00Z"), "DigestMismatch", "model.sig does not verify"),
        (other_weights, "DigestMismatch", "adapter_model.safetensors is not what manifest.json lists"),
        (other_key, "SigningKeyInvalid", "if you rotated the key"),
    ],
    ids=[
        "other data",
        "other base",
        "manifest changed",
        "planted: domain",
        "planted: spec",
        "planted: base",
        "planted: unsigned",
        "weights",
        "key",
    ],
)
def test_a_result_that_is_found_is_checked_before_it_is_reported(
    restored: tiny.World, change: Callable[[tiny.World], None], reason: str, words: str
) -> None:
    change(restored)

    ended = restored.pod("second", train=before("graft_trainer.stages", "fetch"))

    assert (ended.code, ended.termination["failed"]["reason"]) == (10, reason), ended.output
    assert words in ended.termination["failed"]["message"]


def test_publish_does_not_believe_the_claim_file_of_a_pod_that_ran_user_code(restored: tiny.World) -> None:
    assert restored.container("preflight", "second").code == 0
    claim = restored.root / "second/claim.json"
    claim.write_text(json.dumps(json.loads(claim.read_bytes()) | {"committed": False}))
    before_ = restored.committed()

    ended = restored.container("publish", "second")

    assert (ended.code, restored.committed()) == (0, before_)
    assert ended.termination["result"]["artifact"]["digest"] == before_["digest"]


def test_a_job_that_is_created_again_writes_to_folders_of_its_own(world: tiny.World) -> None:
    world.pod("first", train=at_step(9))
    old = world.attempt(1)
    left = sorted(old.rglob("*"))
    world.uid = "uid-2"

    assert world.container("preflight", "second").code == 0
    assert world.container("train", "second").code == 0

    assert sorted(old.rglob("*")) == left
    assert json.loads((world.root / "second/trained/outcome.json").read_bytes())["resumedFromStep"] == 6, "yet it goes on from there"


@pytest.mark.parametrize("change", [other_data, other_base], ids=["other data", "other base"])
def test_a_second_attempt_on_something_else_is_refused(world: tiny.World, change: Callable[[tiny.World], None]) -> None:
    world.model = Path(shutil.copytree(world.model, world.root / "base"))
    world.pod("first", train=at_step(9))
    change(world)

    ended = world.pod("second")

    assert ended.termination["failed"]["reason"] == "DataChanged"


def test_missing_a_threshold_publishes_an_adapter_that_is_not_accepted(world: tiny.World) -> None:
    world.changes = {
        "training.learningRate": "1e-9",
        "evaluation.suites": [{"name": "letters", "scorer": {"exact": {}}, "accept": {"max": "0.01"}}],
    }

    result = world.pod().termination["result"]

    assert result["accepted"] is False
    assert result["evaluation"][0]["message"].endswith("misses the bound of at most 1.00%")


def test_report_says_what_was_committed(world: tiny.World) -> None:
    first = world.pod("first").termination

    del first["result"]["stageSeconds"]["publish"]  # ends after what it could be written into
    assert world.container("report", "third").termination == first


def test_report_without_a_result_is_not_tried_again(world: tiny.World) -> None:
    ended = world.container("report")

    assert (ended.code, ended.termination["failed"]["reason"]) == (10, "NotCommitted")


def test_a_lora_run_on_plain_text(world: tiny.World) -> None:
    world.changes = {"method": "lora", "dataset.validation": {"fraction": "0"}}
    tiny.write_rows(world.data, [{"prompt": f"{'abcd'[i % 4]}{i}=", "completion": "ABCD"[i % 4]} for i in range(120)])

    ended = world.pod()

    assert ended.code == 0, ended.output
    assert json.loads((world.artifacts()[0] / "training_config.json").read_text())["spec"]["method"] == "lora"


def test_nothing_of_the_data_is_logged(world: tiny.World) -> None:
    items = tiny.rows(120)
    for item in items:
        item["messages"][0]["content"] += " swordfish"
    tiny.write_rows(world.data, [*items, {"messages": [{"role": "swordfish", "content": 1}]}])

    ended = world.pod()

    assert ended.code == 10
    assert ended.termination["failed"]["line"] == 121
    assert "swordfish" not in ended.output
    assert "swordfish" not in json.dumps(ended.termination)


@pytest.mark.timeout(300)
def test_several_workers_train_in_a_ray_cluster_of_the_pods_own(world: tiny.World) -> None:
    """Two gloo workers stand for two GPUs."""

    def two() -> None:
        from graft_trainer import train

        whole = train.run_workers
        train.run_workers = lambda plan, workers, gpus, mounts: whole(plan, 2, gpus, mounts)

    ended = world.pod(train=two)

    assert ended.code == 0, ended.output
    assert world.metrics()["steps"] == 11, "two workers take twice the rows in each step"


def test_what_failed_in_a_worker_is_found_below_rays_layers() -> None:
    from graft_trainer.errors import BadInputError, OutOfMemoryError
    from graft_trainer.train import _cause

    class WorkerGroupError(Exception):
        worker_failures = {0: RuntimeError("lost its peer"), 1: BadInputError("InvalidSetting", "spec.lora.targetModules: no")}  # type: ignore[arg-type]  # noqa: RUF012

    class RayTaskError(Exception):
        cause = type("OutOfMemoryError", (Exception,), {})("killed by the memory monitor")

    assert isinstance(_cause(WorkerGroupError(), "advice"), BadInputError)
    assert isinstance(_cause(RayTaskError(), "advice"), OutOfMemoryError)
    assert str(_cause(ValueError("else"), "advice")) == "else"
