import threading
from pathlib import Path

import pytest

from graft_api.artifact import Commit
from graft_trainer.commit import commit, read_commit
from graft_trainer.errors import FencedError
from graft_trainer.store import FileStore


def record(attempt: int) -> Commit:
    return Commit(attempt=attempt, manifest=f"attempt-{attempt}/artifact/manifest.json", digest="sha256:" + str(attempt) * 64, size_bytes=1)


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
