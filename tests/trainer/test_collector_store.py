"""What the collector writes and resumes from, against a real S3 server."""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3world

from graft_serving.collector.chain import Chain
from graft_serving.collector.commits import COMMITS, FencedError, Progress, Sealed
from graft_serving.collector.observed import SUM, Key, ObservedSum, observed_algebra
from graft_serving.collector.store import Store, StoreAwayError, open_store


@pytest.fixture
def store(gateway: s3world.Gateway, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    bucket = gateway.bucket(f"c-{abs(hash(request.node.name)) % 10**8}")
    return open_store(f"s3://{bucket}/tests/t-1", gateway.credentials(tmp_path / "credentials"))


def sealed(count: int, lines: bytes = b"lines") -> Sealed[ObservedSum]:
    part = ObservedSum()
    for _ in range(count):
        part.cell(Key(1, "d", "v", "s")).add(1.0, right=True)
    now = time.time()
    return Sealed(now - 1, now, lines, count, {SUM: part}, Progress(arrived=count))


def counted(chain: Chain[ObservedSum]) -> int:
    return sum(cell.count for cell in chain.total.sums[SUM].cells.values())


def test_commits_are_resumed_from_and_of_two_writers_one_is_fenced(store: Store) -> None:
    first: Chain[ObservedSum] = Chain(store, "w1", observed_algebra())
    first.resume()
    for count in (3, 4, 5):
        first.commit(sealed(count))
    second: Chain[ObservedSum] = Chain(store, "w2", observed_algebra())
    second.resume()
    assert (second.total.sequence, counted(second), second.total.progress.arrived) == (3, 12, 5)
    second.commit(sealed(6))
    with pytest.raises(FencedError):
        first.commit(sealed(7))
    assert second.sweep() == 1, "the segment of the fenced one"
    assert second.sweep() == 0
    third: Chain[ObservedSum] = Chain(store, "w3", observed_algebra())
    third.resume()
    assert counted(third) == 18
    assert third.forget(1, time.time() + 3 * 86_400) == 4
    assert len(store.list(COMMITS)) == 4


def test_a_conditional_write_has_one_winner(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda index: store.put_if_absent("commits/00000001.json", str(index).encode()), range(8)))
    assert Counter(won) == {True: 1, False: 7}
    assert store.read("commits/00000001.json") == str(won.index(True)).encode()
    assert store.read("commits/00000002.json") is None


def test_a_store_that_is_away_is_said_to_be(gateway: s3world.Gateway, tmp_path: Path) -> None:
    credentials = gateway.credentials(tmp_path / "credentials", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    away = open_store("s3://nowhere/x", credentials)
    with pytest.raises(StoreAwayError):
        asyncio.run(asyncio.to_thread(away.write, "a", b"b"))
    missing = open_store("s3://no-such-bucket/x", gateway.credentials(tmp_path / "credentials"))
    with pytest.raises(StoreAwayError, match="does not exist; create it"):
        missing.write("a", b"b")
