# ruff: noqa: S311 -- simulations
"""Production alone: counts by hour, domain, version and score."""

import asyncio
import json
import random
from collections import Counter
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
from graft_serving.collector.observed import COVERED, MOST_HOURS, SUM, UNIT, Cell, Key, ObservedSum
from graft_serving.collector.pacing import SLOT_SECONDS, Pace
from graft_serving.collector.reporter import Reporter

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
        self.reporter = Reporter(f"w{now[0]}", CollectorSettings(observe=settings), clock.now, lambda: None)
        self.service, self.lane = observe_lane(settings, Surroundings(f"w{now[0]}", tmp_path, {}, clock, Random(1)), self.reporter)
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
    batch += [gateway.exchange("q", "no", started=START - 3600.0), gateway.exchange("q", "yes", domain="other")]
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
    assert cells[Key(HOUR - 1, "dsl", "dsl-old", "compile")].count == 1
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


async def test_a_score_whose_scorer_cannot_be_built_counts_as_broken_and_the_others_go_on(tmp_path, now, session, caplog):
    away = {"name": "judged", "scorer": {"http": {"url": "https://judge", "tokenEnv": "NOT_THERE"}}}
    gateway, registry = FakeGateway(), CollectorRegistry()
    async with Observed(tmp_path, now, scores=[away, *SCORES]) as observed:
        registry.register(ObservedMetrics(observed.lane))
        await observed.take(gateway, session, [gateway.exchange("q", "yes") for i in range(5)])
        cells = await observed.commit()
    text = generate_latest(registry).decode()
    assert 'graft_observed_broken_total{cause="NotBuilt",domain="dsl",score="judged",version="dsl-old"} 5.0' in text
    assert 'graft_observed_right_total{domain="dsl",score="compile",version="dsl-old"} 5.0' in text
    assert dict(cells[Key(HOUR, "dsl", "dsl-old", "judged")].broken) == {"NotBuilt": 5}
    assert caplog.text.count("judged of dsl cannot be built") == 1
    assert "there is no environment variable NOT_THERE" in caplog.text


async def test_prometheus_can_ask_for_the_share_that_a_launch_criterion_names(tmp_path, now, session):
    gateway, registry = FakeGateway(), CollectorRegistry()
    async with Observed(tmp_path, now) as observed:
        registry.register(ObservedMetrics(observed.lane))
        await observed.take(gateway, session, [gateway.exchange("q", "yes" if i else "no") for i in range(5)])
    text = generate_latest(registry).decode()
    assert 'graft_observed_answers_total{domain="dsl",score="compile",version="dsl-old"} 5.0' in text
    assert 'graft_observed_right_total{domain="dsl",score="compile",version="dsl-old"} 4.0' in text


@pytest.mark.parametrize("away", [False, True])
async def test_prometheus_sees_that_the_store_is_away_while_nothing_is_compared(tmp_path, now, away):
    registry = CollectorRegistry()
    async with Observed(tmp_path, now) as observed:
        registry.register(ObservedMetrics(observed.lane))
        observed.journal.store_away = away
        assert registry.get_sample_value("graft_observed_store_away") == float(away)
        assert observed.reporter.picture(1).store_away is away, "and so does the operator"


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
    midnight = START // 86_400 * 86_400
    for later in (86_399, 86_399, 2 * 86_400, 2 * 86_400 + 14_400):
        now[0] = float(midnight + later)
        async with Observed(tmp_path, now, scores=scores) as observed:
            await observed.take(gateway, session, [gateway.exchange("q") for _ in range(9)])
            cells = await observed.commit()
            counts.append(sum(cell.count for key, cell in cells.items() if key.score == "compile"))
    assert counts == [1, 2, 2, 3], "late on a day there is more left of it than is spent at once; by four o'clock there is one"


@pytest.mark.parametrize("budget", [10, 200, 5000])
def test_a_budget_is_spent_over_the_day_on_whoever_the_hash_chooses(budget):
    """Traffic by day is ten times that of the night, and within a slot those who come first are no better off."""
    chance, pace, spent, hours, early = random.Random(4), Pace(budget), 0, Counter(), 0
    for second in range(86_400):
        busy = 8 * 3600 <= second < 20 * 3600
        for _ in range(1 if busy else second % 10 == 0):
            if pace.take(1, chance.random(), 1_800_057_600 + second, spent):
                spent += 1
                hours[second // 3600] += 1
                early += second % SLOT_SECONDS < SLOT_SECONDS / 2
    assert 0.85 * budget <= spent <= budget
    assert max(hours.values()) <= max(2, budget / 24 * 1.5)
    assert len(hours) >= min(budget, 24) * 0.8
    assert budget < 5000 or early / spent < 0.75


def test_a_start_at_noon_does_not_spend_half_a_day_at_once():
    pace = Pace(2400)
    assert sum(pace.take(1, 0.0, 1_800_057_600 + 12 * 3600, spent) for spent in range(2400)) == 100


@pytest.mark.parametrize("budget", [10, 400])
def test_a_tests_budget_is_spent_over_its_duration_and_what_is_left_in_its_extension(budget):
    """Three answers a second for an hour, of which traffic stops after the first half; then it goes on beyond the horizon."""
    chance, pace, spent, taken = random.Random(4), Pace(budget, 3600.0), 0, Counter()
    for tick in range(3 * 5400):
        now = tick / 3
        if not 1800 <= now < 3600 and pace.take(2, chance.random(), now, spent):
            spent += 2
            taken["first half" if now < 1800 else "extension"] += 2
    assert 0.4 * budget <= taken["first half"] <= 0.5 * budget + 2
    assert spent == budget, "all of it, and no more"


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


def hours(*seen):
    found = ObservedSum()
    for hour in seen:
        found.cells[Key(hour, "d", "v", "s")] = Cell(1)
    return found


def test_what_is_long_past_is_added_up_no_more():
    total = hours(*range(HOUR, HOUR + MOST_HOURS))
    total.merge(hours(HOUR + MOST_HOURS, HOUR + MOST_HOURS + 1))
    assert sorted(key.hour for key in total.cells) == [*range(HOUR + 2, HOUR + MOST_HOURS + 2)]


def test_a_clock_that_was_far_ahead_takes_the_place_of_one_hour_alone():
    total = hours(HOUR, HOUR + 1)
    total.merge(hours(HOUR + 10_000))
    total.merge(hours(HOUR + 2))
    assert sorted(key.hour for key in total.cells) == [HOUR, HOUR + 1, HOUR + 2, HOUR + 10_000]


async def test_what_a_gateway_says_of_the_future_was_now(tmp_path, now, session):
    gateway = FakeGateway()
    async with Observed(tmp_path, now) as observed:
        await observed.take(gateway, session, [gateway.exchange("q", "yes", started=START + 40 * 86400.0)])
        cells = await observed.commit()
    assert cells[Key(HOUR, "dsl", "dsl-old", "compile")].count == 1
    assert max(cells).hour == HOUR


async def test_a_segment_is_as_long_as_it_was_open_whatever_the_clock_does(tmp_path, now, session):
    gateway = FakeGateway()
    async with Observed(tmp_path, now) as observed:
        observed.journal.clock = Clock(lambda: now[0] + 40 * 86400.0, lambda: now[0])
        now[0] += 60
        await observed.take(gateway, session, [gateway.exchange("q", "yes")])
        cells = await observed.commit()
    looked = [cell for key, cell in cells.items() if key.domain == COVERED]
    assert sum(cell.units for cell in looked) * UNIT == pytest.approx(60, abs=1)


async def test_a_prompt_is_read_also_where_nothing_may_be_asked_again(tmp_path, now, session):
    """An image by URL at an allowed host: the gateway has let it through, and the answer is scored as any other."""
    gateway = FakeGateway()
    image = {"type": "image_url", "image_url": {"url": "https://cdn.example.com/a.png"}}
    asked = [{"type": "text", "text": "what is this?"}, image]
    async with Observed(tmp_path, now) as observed:
        await observed.take(gateway, session, [gateway.exchange(asked, "yes"), gateway.exchange(asked, "no")])
        cells = await observed.commit()
    cell = cells[Key(HOUR, "dsl", "dsl-old", "compile")]
    assert (cell.count, cell.right) == (2, 1)


def test_the_mode_is_what_is_asked_for():
    observe = {"domains": [{"domain": "dsl", "scores": SCORES}], "store": "s3://b/o"}
    assert parse(CollectorSettings, json.loads(json.dumps({"observe": observe}))).mode is Mode.OBSERVE
