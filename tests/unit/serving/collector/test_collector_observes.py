# ruff: noqa: S311 -- simulations
"""Production alone: counts by hour, domain, version and score."""

import asyncio
import json
from random import Random

import numpy as np
import pytest
from aiohttp.test_utils import TestServer
from collector_world import START, FakeGateway, welcome
from prometheus_client import CollectorRegistry, generate_latest

from graft_api.collect import CollectorSettings, Mode, Observe
from graft_api.schema import parse
from graft_evaluation.paired.bins import bins_of
from graft_serving.collector.ingest import Intake, application
from graft_serving.collector.journal import Clock
from graft_serving.collector.lanes import Surroundings, observe_lane
from graft_serving.collector.metrics import ObservedMetrics
from graft_serving.collector.observed import SUM, UNIT, Cell, Key, ObservedSum

HOUR = START // 3600
SCORES = [
    {"name": "compile", "scorer": {"regex": {"pattern": "yes.*"}}},
    {"name": "latency", "measure": "Latency"},
    {"name": "errors", "measure": "ServerError"},
]


class Observed:
    def __init__(self, tmp_path, now, **changes):
        domains = [{"domain": "dsl", "scores": changes.pop("scores", SCORES), **changes}]
        settings = parse(Observe, {"domains": domains, "store": f"file://{tmp_path}/store", "segments": {"seconds": 3600}})
        clock = Clock(lambda: now[0], lambda: now[0])
        self.service, self.lane = observe_lane(settings, Surroundings(f"w{now[0]}", tmp_path, {}, clock, Random(1)))
        self.journal = self.service.journal
        self.intake = Intake([(self.lane, lambda: self.journal.numbers)], 10**8, clock.now, lambda: self.service.resumed)

    async def __aenter__(self):
        self.server = TestServer(application(self.intake, welcome))
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")
        self.task = asyncio.ensure_future(self.service.run())
        while not self.service.resumed:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.server.close()

    async def take(self, gateway, session, exchanges):
        await gateway.deliver(session, self.url, exchanges)
        async with asyncio.timeout(1.5):
            while self.lane.held:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def commit(self):
        await self.journal.commit(lambda: None)
        return self.journal.chain.total.sums[SUM].cells


@pytest.fixture
def now():
    return [float(START)]


async def test_answers_are_counted_by_domain_version_and_hour(tmp_path, now, session):
    gateway = FakeGateway()
    batch = [gateway.exchange("q", "yes" if i % 4 else "no", version="dsl-new" if i % 2 else "dsl-old", seconds=0.25) for i in range(40)]
    batch += [gateway.exchange("q", "no", started=START + 3600.0), gateway.exchange("q", "yes", domain="other")]
    batch += [
        gateway.exchange("q", status=503, version=None, cause="no-pod"),
        gateway.exchange("q", status=499),
        gateway.exchange("q", status=400),
    ]
    async with Observed(tmp_path, now) as observed:
        await observed.take(gateway, session, batch)
        cells = await observed.commit()
    old, new = cells[Key(HOUR, "dsl", "dsl-old", "compile")], cells[Key(HOUR, "dsl", "dsl-new", "compile")]
    assert (old.count, old.right, new.count, new.right) == (20, 10, 20, 20)
    assert cells[Key(HOUR + 1, "dsl", "dsl-old", "compile")].count == 1
    latency = cells[Key(HOUR, "dsl", "dsl-old", "latency")]
    assert latency.units * UNIT == 20 * 0.25
    assert dict(latency.bins) == {int(bins_of(np.array([0.25]))[0]): 20}
    errors = cells[Key(HOUR, "dsl", "none", "errors")]
    assert (errors.count, errors.right) == (1, 0)
    assert Key(HOUR, "dsl", "none", "compile") not in cells
    assert not [key for key in cells if key.domain == "other"]


async def test_a_restart_counts_nothing_twice_and_goes_on(tmp_path, now, session):
    gateway = FakeGateway()
    batch = [gateway.exchange("q", "yes") for _ in range(10)]
    async with Observed(tmp_path, now) as observed:
        await observed.take(gateway, session, batch)
        await observed.commit()
        await observed.take(gateway, session, [gateway.exchange("q", "no")])  # dies with the collector
    now[0] += 5
    async with Observed(tmp_path, now) as observed:
        await observed.take(gateway, session, [*batch, gateway.exchange("q", "no")])
        cells = await observed.commit()
        assert observed.lane.duplicates == 10
        assert observed.journal.numbers.lost(now[0] + 1000) == {"never-came": 1}
    cell = cells[Key(HOUR, "dsl", "dsl-old", "compile")]
    assert (cell.count, cell.right) == (11, 10)


async def test_prometheus_can_ask_for_the_share_that_a_launch_criterion_names(tmp_path, now, session):
    gateway, registry = FakeGateway(), CollectorRegistry()
    async with Observed(tmp_path, now) as observed:
        registry.register(ObservedMetrics(observed.lane))
        await observed.take(gateway, session, [gateway.exchange("q", "yes" if i else "no") for i in range(5)])
    text = generate_latest(registry).decode()
    assert 'graft_observed_answers_total{domain="dsl",score="compile",version="dsl-old"} 5.0' in text
    assert 'graft_observed_right_total{domain="dsl",score="compile",version="dsl-old"} 4.0' in text


async def test_a_scorer_that_breaks_is_not_a_wrong_answer(tmp_path, now, session):
    gateway = FakeGateway()
    scores = [{"name": "compile", "scorer": {"command": {"argv": ["/not/there"]}}}]
    async with Observed(tmp_path, now, scores=scores) as observed:
        await observed.take(gateway, session, [gateway.exchange("q", "yes")])
        cell = (await observed.commit())[Key(HOUR, "dsl", "dsl-old", "compile")]
    assert (cell.count, sum(cell.broken.values())) == (0, 1)


async def test_a_budget_is_of_one_day_and_survives_a_restart(tmp_path, now, session):
    gateway = FakeGateway()
    scores = [{"name": "compile", "scorer": {"regex": {"pattern": "yes"}, "sample": {"maxRequests": 6}}}]
    counts = []
    for later in (1, 2, 86_400):
        async with Observed(tmp_path, now, scores=scores) as observed:
            await observed.take(gateway, session, [gateway.exchange("q") for _ in range(4)])
            counts.append((await observed.commit())[Key(HOUR, "dsl", "dsl-old", "compile")].count)
        now[0] += later
    assert counts == [4, 6, 6]
    async with Observed(tmp_path, now, scores=scores) as observed:
        await observed.take(gateway, session, [gateway.exchange("q") for _ in range(4)])
        assert (await observed.commit())[Key(HOUR, "dsl", "dsl-old", "compile")].count == 10


async def test_only_the_sample_is_looked_at(tmp_path, now, session):
    gateway = FakeGateway()
    async with Observed(tmp_path, now, share="0.25") as observed:
        await observed.take(gateway, session, [gateway.exchange("q") for _ in range(400)])
        count = (await observed.commit())[Key(HOUR, "dsl", "dsl-old", "compile")].count
    assert 70 < count < 130


def test_sums_add_up_to_the_same_bytes_in_any_order():
    chance = Random(5)
    parts = []
    for _ in range(6):
        part = ObservedSum()
        for _ in range(50):
            cell = part.cell(Key(HOUR + chance.randrange(3), "d", chance.choice("vw"), "s"))
            cell.add(chance.random(), right=None)
            cell.broken["Timeout"] += chance.randrange(2)
        parts.append(ObservedSum.from_bytes(part.to_bytes()))
    forward, backward = ObservedSum(), ObservedSum()
    for part in parts:
        forward.merge(part)
    for part in reversed(parts):
        backward.merge(ObservedSum.from_bytes(part.to_bytes()))
    assert forward.to_bytes() == backward.to_bytes()
    assert sum(cell.count for cell in forward.cells.values()) == 300


def test_what_is_no_sum_is_refused():
    with pytest.raises(ValueError, match="no sums"):
        ObservedSum.from_bytes(b"something")


def test_what_is_long_past_is_added_up_no_more():
    total, old, new = ObservedSum(), ObservedSum(), ObservedSum()
    old.cells[Key(HOUR, "d", "v", "s")] = Cell(1)
    new.cells[Key(HOUR + 10_000, "d", "v", "s")] = Cell(2)
    total.merge(old)
    total.merge(new)
    assert [key.hour for key in total.cells] == [HOUR + 10_000]


def test_the_mode_is_what_is_asked_for():
    observe = {"domains": [{"domain": "dsl", "scores": SCORES}], "store": "s3://b/o"}
    assert parse(CollectorSettings, json.loads(json.dumps({"observe": observe}))).mode is Mode.OBSERVE
