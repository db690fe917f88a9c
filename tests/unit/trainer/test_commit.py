import hashlib
import threading
from pathlib import Path

import pytest

from graft_api.artifact import Commit, attempt_folder
from graft_trainer.commit import commit, read_commit, tidy
from graft_trainer.errors import FencedError
from graft_trainer.store import FileStore


def record(attempt: int) -> Commit:
    manifest = f"{attempt_folder(attempt, 'u1')}/artifact/manifest.json"
    return Commit(attempt=attempt, manifest=manifest, digest="sha256:" + str(attempt) * 64, size_bytes=1)


def test_one_of_many_commits_wins(tmp_path: Path) -> None:
    store, lost = FileStore(tmp_path.as_uri()), []

    def try_it(attempt: int) -> None:
        try:
            commit(store, record(attempt), conditional_writes=True)
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


def test_a_commit_whose_answer_was_lost_is_found_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path.as_uri())
    commit(store, record(1), conditional_writes=True)

    commit(store, record(1), conditional_writes=True)

    assert read_commit(store) == record(1)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_later_commit_is_fenced(tmp_path: Path, conditional: bool) -> None:
    store = FileStore(tmp_path.as_uri())
    commit(store, record(2), conditional_writes=conditional)

    with pytest.raises(FencedError, match="attempt 2 committed before attempt 1"):
        commit(store, record(1), conditional_writes=conditional)


def test_the_folder_of_an_attempt_is_that_of_one_job_alone() -> None:
    assert attempt_folder(1, "uid-a") == "attempt-1-" + hashlib.sha256(b"uid-a").hexdigest()[:8]
    assert len({attempt_folder(attempt, uid) for attempt in (1, 2) for uid in ("uid-a", "uid-b")}) == 4


def test_after_the_commit_only_the_winners_artifact_is_left(tmp_path: Path) -> None:
    store = FileStore(tmp_path.as_uri())
    own, others = attempt_folder(2, "u1"), (attempt_folder(1, "u1"), attempt_folder(2, "u0"))
    for folder in (own, *others):
        for name in ("checkpoints/step-000006/checkpoint.json", "trained/checkpoint.json", "artifact/manifest.json", "evaluation.json"):
            store.write(f"{folder}/{name}", b"{}")
    commit(store, record(2), conditional_writes=True)

    tidy(store)

    kept = [f"{folder}/{name}" for folder in (own, *others) for name in ("evaluation.json", "trained/checkpoint.json")]
    assert [entry.path for entry in store.list("")] == sorted([*kept, f"{own}/artifact/manifest.json", "commit.json"])


def test_nothing_is_removed_before_the_commit(tmp_path: Path) -> None:
    store = FileStore(tmp_path.as_uri())
    store.write(f"{attempt_folder(1, 'u1')}/checkpoints/step-000006/checkpoint.json", b"{}")

    tidy(store)

    assert len(store.list("")) == 1
