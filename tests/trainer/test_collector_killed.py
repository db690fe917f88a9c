"""The collector, a real process with a real S3 store, killed again and again while exchanges come in."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import s3world
from aiohttp.test_utils import TestServer

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/serving/collector"))

from collector_process import Cluster, Program, token
from collector_world import NEW, Does, FakeGateway, FakeShadow, committed, settings

from graft_evaluation.paired.wire import to_bytes
from graft_evaluation.pairs.contrasts import plans, summed
from graft_serving.collector.numbers import SILENT_SECONDS, Numbers
from graft_serving.collector.store import Store, open_store

KILLS = 5


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    async with TestServer(made.application()) as server:
        made.url = str(server.make_url("")).rstrip("/")
        yield made


@pytest.fixture
async def shadow() -> AsyncIterator[FakeShadow]:
    fake = FakeShadow()
    fake.does = lambda version, prompt: Does(
        "yes" if (int(prompt) + (version == NEW)) % 3 else "no", seconds=0.02, status=500 if int(prompt) % 11 == 0 else 200
    )
    async with TestServer(fake.application()) as server:
        fake.url = f"127.0.0.1:{server.port}"
        yield fake


@pytest.fixture
def bucket(gateway: s3world.Gateway) -> str:
    return gateway.bucket(f"killed-{time.time_ns()}")


class Production:
    """A gateway that goes on whatever happens to the collector."""

    def __init__(self, url: str) -> None:
        self.gateway = FakeGateway(token=token())
        self._url = url

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                at = self.gateway.numbered
                batch = [self.gateway.exchange(str(at + i), "yes" if i % 5 else "no", conversation=f"c{(at + i) % 40}") for i in range(4)]
                await self.gateway.deliver(session, self._url, batch)
                await asyncio.sleep(0.02)


async def test_killed_in_a_loop_it_loses_the_open_segment_at_most_and_counts_nothing_twice(
    cluster: Cluster, shadow: FakeShadow, bucket: str, gateway: s3world.Gateway, tmp_path: Path
) -> None:
    document = settings(f"s3://{bucket}/tests/t", shadow.url, controlShare="0.3", segments={"seconds": 1})
    credentials = gateway.credentials(tmp_path / "credentials")
    program = Program(tmp_path, cluster.url, document, GRAFT_CREDENTIALS_DIRECTORY=str(credentials))
    store, production = open_store(f"s3://{bucket}/tests/t", credentials), Production(program.url)
    producing = asyncio.ensure_future(production.run())
    for life in range(KILLS + 1):
        await program.start()
        await one_more(store)
        await asyncio.sleep(0.17 * life)
        if life < KILLS:
            await program.end(signal.SIGKILL)
    assert not producing.done()
    producing.cancel()
    await asyncio.gather(producing, return_exceptions=True)
    assert await program.end(signal.SIGTERM) == 0, (tmp_path / "log").read_text()
    program.log.close()
    compare: Any = document.compare
    chain, lines = await asyncio.to_thread(committed, store, compare)
    numbers = [line.number for line in lines]
    assert len(numbers) == len(set(numbers)), "counted twice"
    assert len(numbers) > 100
    for name, plan in plans(compare).items():
        assert to_bytes(chain.total.sums[name].summary) == to_bytes(summed(plan, lines)), name
    progress, all_numbers = chain.total.progress, production.gateway.numbered
    lost = Numbers(progress.numbers).lost(time.time() + SILENT_SECONDS + 1).get("never-came", 0)
    print(f"{KILLS} kills: {all_numbers} exchanges, {len(numbers)} pairs, {lost} known to be lost, {chain.total.sequence} commits")
    told = progress.numbers.boots["gateway-a"].numbered
    assert told - 4 <= all_numbers - 4 <= told
    assert lost + len(numbers) + sum(progress.lost.values()) == told, "every number is accounted for"
    assert "yes" not in (tmp_path / "log").read_text()


async def one_more(store: Store) -> None:
    """Wait for a commit."""
    before = len(await asyncio.to_thread(store.list, "commits/"))
    async with asyncio.timeout(30):
        while len(await asyncio.to_thread(store.list, "commits/")) <= before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
