"""Against a real S3 server."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import s3world
import tiny
from minio.commonconfig import CopySource

from graft_api.artifact import Commit
from graft_trainer import s3
from graft_trainer.commit import commit, read_commit
from graft_trainer.errors import BadInputError, EnvironmentFailureError, FencedError
from graft_trainer.store import Store, open_store


@pytest.fixture
def credentials(gateway: s3world.Gateway, tmp_path: Path) -> Path:
    return gateway.credentials(tmp_path / "credentials")


@pytest.fixture
def store(gateway: s3world.Gateway, credentials: Path, request: pytest.FixtureRequest) -> Store:
    bucket = gateway.bucket(f"b-{abs(hash(request.node.name)) % 10**8}")
    return open_store(f"s3://{bucket}/pre/fix", credentials)


def test_what_is_written_is_read(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    store.write("a/small", b"hello")
    store.upload(tmp_path / "file", "a/large")
    store.download("a/large", tmp_path / "back/file")

    assert store.read("a/small") == b"hello"
    assert (tmp_path / "back/file").read_bytes() == b"x" * 100_000
    assert [(entry.path, entry.size_bytes) for entry in store.list("a/")] == [("a/large", 100_000), ("a/small", 5)]
    assert (store.stat("a/none"), store.read("a/none")) == (None, None)
    store.delete("a/small")
    assert [entry.path for entry in store.list("")] == ["a/large"]


def test_the_server_refuses_to_replace_and_preflight_sees_it(store: Store) -> None:
    assert store.check_writable() is True
    assert store.list("") == [], "the probe is gone"


def test_one_of_many_commits_wins(store: Store) -> None:
    lost = []

    def try_it(attempt: int) -> None:
        try:
            commit(store, Commit(attempt=attempt, manifest="m", digest="sha256:" + "0" * 64, size_bytes=1), conditional_writes=True)
        except FencedError:
            lost.append(attempt)

    threads = [threading.Thread(target=try_it, args=(attempt,)) for attempt in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winner = read_commit(store)
    assert winner is not None
    assert sorted([*lost, winner.attempt]) == list(range(1, 9))


def test_a_bucket_that_is_not_there_is_named(credentials: Path) -> None:
    with pytest.raises(BadInputError, match="bucket 'nowhere'") as raised:
        open_store("s3://nowhere/x", credentials).check_writable()
    assert raised.value.reason == "BucketNotFound"


@pytest.mark.parametrize("changes", [{"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "nobody"}])
def test_credentials_that_are_refused_are_named(gateway: s3world.Gateway, store: Store, tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(BadInputError) as raised:
        open_store(store.uri, gateway.credentials(tmp_path / "other", **changes)).check_writable()
    assert raised.value.reason == "CredentialsRefused"


def test_a_server_that_is_away_is_the_environments_fault(gateway: s3world.Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "LIMITS", replace(s3.LIMITS, retries=1))
    away = open_store("s3://bucket/x", gateway.credentials(tmp_path / "away", AWS_ENDPOINT_URL="http://127.0.0.1:9"))

    with pytest.raises(EnvironmentFailureError) as raised:
        away.read("x")
    assert raised.value.reason == "StoreUnavailable"


def test_a_server_that_comes_back_is_waited_for(gateway: s3world.Gateway, store: Store) -> None:
    os.kill(gateway.process.pid, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (gateway.process.pid, signal.SIGCONT)).start()

    store.write("x", b"1")

    assert store.read("x") == b"1"


def test_a_whole_run_from_and_to_s3(gateway: s3world.Gateway, world: tiny.World) -> None:
    bucket = gateway.bucket("whole-run")
    gateway.credentials(world.root / "credentials")
    for file in world.model.iterdir():
        gateway.client().fput_object(bucket, f"models/tiny/{file.name}", str(file))
    gateway.client().fput_object(bucket, "data/rows.jsonl", str(world.data))
    world.output = f"s3://{bucket}/out"
    world.changes = {"baseModel": {"uri": f"s3://{bucket}/models/tiny"}, "dataset.sources": [{"uri": f"s3://{bucket}/data/rows.jsonl"}]}
    from test_run import at_step

    assert world.pod("first", train=at_step(9)).code == -signal.SIGKILL
    ended = world.pod("second")

    assert ended.code == 0, ended.output
    result = ended.termination["result"]
    assert result["resumedFromStep"] == 6
    names = [item.object_name for item in gateway.client().list_objects(bucket, prefix="out/", recursive=True)]
    assert sum(name.endswith("/commit.json") for name in names) == 1
    assert sum(name.endswith("/artifact/model.sig") for name in names) == 1
    world.uid = "uid-2"
    restored = world.pod("third", train=lambda: setattr(__import__("graft_trainer.stages").stages, "fetch", tiny.kill_self))
    del result["stageSeconds"]["publish"]
    assert restored.termination["result"] == result | {"earlierRun": True}
    gateway.client().copy_object(bucket, "models/tiny/config.json", CopySource(bucket, "models/tiny/generation_config.json"))
    changed = world.pod("fourth")
    assert (changed.code, changed.termination["failed"]["reason"]) == (10, "DataChanged"), changed.output
