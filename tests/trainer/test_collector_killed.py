"""
The collector, a real process with a real S3 store, killed again and again while exchanges come in.

GRAFT_KILLS=10 GRAFT_SECONDS_BETWEEN_KILLS=30 kills it every 30 s for five minutes (pytest --timeout 900).
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import s3world
from aiohttp.test_utils import TestServer

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/serving/collector"))

from collector_process import Cluster, Program, token
from collector_world import NEW, Does, FakeGateway, FakeShadow, committed, settings

from graft_api.collect import REPORT_HTML, REPORT_JSON, PairLine, ReportTask
from graft_api.comparison import Clock, Outcome, Verdict
from graft_evaluation.paired.wire import to_bytes
from graft_evaluation.pairs.contrasts import comparison, plans, summed
from graft_evaluation.report.document import Report
from graft_evaluation.verdict import verdict
from graft_serving.collector import readings
from graft_serving.collector.commits import COMMITS, Commit, read_commit
from graft_serving.collector.numbers import SILENT_SECONDS, Numbers
from graft_serving.collector.reporting_process import attempt
from graft_serving.collector.store import Store, open_store

KILLS = int(os.environ.get("GRAFT_KILLS", "5"))
SECONDS_BETWEEN = float(os.environ.get("GRAFT_SECONDS_BETWEEN_KILLS", "0"))
PAUSE = 0.08 if SECONDS_BETWEEN else 0.02
"""Between two batches of four exchanges. In a long life more would only make a queue, which is not what is asked here."""
UNDER_WAY_SECONDS = 3.0
"""From the moment when an exchange is taken to that when its pair is in the open segment, on a machine that does other things, too."""


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
        self.taken: dict[int, float] = {}
        """Number -> when the collector had said that it took it, in seconds since 1970."""
        self._url = url

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                at = self.gateway.numbered
                batch = [self.gateway.exchange(str(at + i), "yes" if i % 5 else "no", conversation=f"c{(at + i) % 400}") for i in range(4)]
                await self.gateway.deliver(session, self._url, batch)
                self.taken |= dict.fromkeys(range(at + 1, at + 5), time.time())
                await asyncio.sleep(PAUSE)


async def test_killed_in_a_loop_it_loses_the_open_segment_at_most_and_counts_nothing_twice(
    cluster: Cluster, shadow: FakeShadow, bucket: str, gateway: s3world.Gateway, tmp_path: Path
) -> None:
    document = settings(f"s3://{bucket}/tests/t", shadow.url, controlShare="0.3", segments={"seconds": 1}, limits={"minClusters": 20})
    credentials = gateway.credentials(tmp_path / "credentials")
    program = Program(tmp_path, cluster.url, document, GRAFT_CREDENTIALS_DIRECTORY=str(credentials))
    store, production = open_store(f"s3://{bucket}/tests/t", credentials), Production(program.url)
    producing = asyncio.ensure_future(production.run())
    kills = []
    for life in range(KILLS + 1):
        await program.start()
        await commits(store, program, 3)
        await asyncio.sleep(max(0.17 * life, SECONDS_BETWEEN))
        if life < KILLS:
            kills.append(time.time())
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
    sealed = await asyncio.to_thread(lambda: [commit.ended for commit in every_commit(store)])
    lost = sorted(set(production.taken) - set(numbers))
    for number in lost:
        at = production.taken[number]
        killed = min((kill for kill in kills if kill >= at), default=0.0)
        last = max(ended for ended in sealed if ended <= killed)
        assert at > last - UNDER_WAY_SECONDS, f"{number} was taken {last - at:.2f} s before the last segment of its collector was sealed"
    for name, plan in plans(compare).items():
        assert to_bytes(chain.total.sums[name].summary) == to_bytes(summed(plan, lines)), name
    answer = assert_verdicts_are_the_same(compare, chain, lines)
    await asyncio.to_thread(
        assert_the_report_is_of_all, ReportTask(compare=compare, verdict=answer, commit=chain.total.sequence), store, lines
    )
    progress, all_numbers = chain.total.progress, production.gateway.numbered
    known = Numbers(progress.numbers).lost(time.time() + SILENT_SECONDS + 1).get("never-came", 0)
    print(f"{KILLS} kills: {all_numbers} exchanges, {len(numbers)} pairs, {known} known to be lost, {chain.total.sequence} commits")
    told = progress.numbers.boots["gateway-a"].numbered
    assert told - 4 <= all_numbers - 4 <= told
    assert known + len(numbers) + sum(progress.lost.values()) == told, "every number is accounted for"
    assert lost, "it was killed while there was something to lose"
    assert len(lost) < 0.6 * all_numbers
    assert "yes" not in (tmp_path / "log").read_text()


def every_commit(store: Store) -> list[Commit]:
    return [read_commit(store, path) for path in store.list(COMMITS)]


def assert_the_report_is_of_all(task: ReportTask, store: Any, lines: list[PairLine]) -> None:
    reported = attempt(task, lambda: store)
    html, document = store.read(REPORT_HTML), store.read(REPORT_JSON)
    assert f"sha256:{sha256(html).hexdigest()}" == reported.html_digest
    report = Report.model_validate_json(document)
    assert (report.pairs, report.verdict, report.notes) == (len(lines), task.verdict, [])
    folder = store._folder
    stored = folder._client.stat_object(folder._bucket, f"{folder._prefix}{REPORT_HTML}")
    assert stored.content_type == "text/html; charset=utf-8"


def assert_verdicts_are_the_same(compare: Any, chain: Any, lines: list[PairLine]) -> Verdict:
    """What the collector would say, and what anybody says who adds up the committed pairs at once."""
    total = chain.total
    undisturbed = {name: summed(plan, lines) for name, plan in plans(compare).items()}
    hours = total.progress.observed_seconds / 3600
    alone = comparison(undisturbed, compare.limits, int(total.ended), hours)
    read = readings.comparison(compare, total, {}, total.ended)
    clock = Clock(elapsed=200, duration=168, max_duration=200)
    answer = verdict(read, compare.limits, clock)
    assert answer == verdict(alone.model_copy(update={"lost_pairs": read.lost_pairs}), compare.limits, clock)
    assert answer.outcome is not Outcome.PENDING
    assert all(metric.reading.overall is not None for metric in answer.metrics if metric.name == "wrong")
    return answer


async def commits(store: Store, program: Program, more: int) -> None:
    """Wait for so many more commits, of a collector that is up."""
    before = len(await asyncio.to_thread(store.list, COMMITS))
    async with asyncio.timeout(60):
        while len(await asyncio.to_thread(store.list, COMMITS)) < before + more:
            assert program.process.returncode is None, "the collector has ended; its log is beside its settings"
            await asyncio.sleep(0.05)
