# ruff: noqa: S311 -- tests
"""Watches: what gateways tell becomes sums of both versions in the collector's report, and nothing of it lies in a store."""

import asyncio
import json
import signal
from collections import Counter
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from collector_process import Cluster, Program, token
from collector_world import START, FakeGateway, welcome
from prometheus_client import CollectorRegistry, generate_latest

from graft_api.collect import CollectorReport, CollectorSettings
from graft_api.schema import parse
from graft_operator.engine.clock import SystemClock
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.sink import FleetCaller
from graft_serving.collector import watching as watching_module
from graft_serving.collector.conversations import CONVERSATION_BYTES, METRIC_BYTES
from graft_serving.collector.ingest import Intake, application
from graft_serving.collector.journal import Clock
from graft_serving.collector.judging import Judging
from graft_serving.collector.lanes import Surroundings, observe_lane
from graft_serving.collector.metrics import WatchMetrics
from graft_serving.collector.observed import SUM
from graft_serving.collector.reporter import Reporter
from graft_serving.collector.watching import CHANGED_SECONDS, CONTACT_SECONDS, Watching
from graft_serving.operator_client import OperatorClient, ReportTimes, report_target

NEW, OLD = "dsl-new", "dsl-old"
IDLE = 60
SCORES = [{"name": "compile-errors", "scorer": {"regex": {"pattern": "yes.*"}}}]
METRICS = [
    {"name": "compile-errors"},
    {"name": "server-errors", "measure": "ServerError"},
    {"name": "seconds", "measure": "Latency", "kind": "Mean"},
]


def task(**changes):
    return {"domain": "dsl", "gate": 3, "new": NEW, "heldBack": OLD, "metrics": METRICS, "idleSeconds": IDLE, **changes}


class Watched:
    """A collector that observes and watches, or only the second."""

    def __init__(self, tmp_path, boot="w1", share="1", scores=SCORES, observe=True, tasks=None):
        self.time, self.boot = [float(START)], boot
        clock = Clock(lambda: self.time[0], lambda: self.time[0])
        domains = [{"domain": "dsl", "scores": scores, "share": share}]
        document = {"watches": tasks or [task()]}
        if observe:
            document["observe"] = {"domains": domains, "store": f"file://{tmp_path}/store", "segments": {"seconds": 3600}}
        settings = parse(CollectorSettings, document)
        judging = Judging(settings.observe.domains if settings.observe else (), {}, clock)
        self.changes = Counter()
        self.told_operator = lambda: None
        self.lane = Watching(settings.watches, judging, clock, self.changed)
        self.reporter = Reporter(boot, settings, clock.now, lambda: None)
        self.reporter.watches(self.lane.counts)
        self.lanes, self.observing = [(self.lane, lambda: self.lane.numbers)], None
        self.judging = judging
        if settings.observe:
            around = Surroundings(boot, tmp_path, {}, clock, Random(1))
            self.service, self.observing = observe_lane(settings.observe, around, None, judging)
            self.lanes.insert(0, (self.observing, lambda: self.service.journal.numbers))
        self.intake = Intake(self.lanes, 10**9, clock.now, lambda: self.observing is None or self.service.resumed, self.lane.contact)

    async def __aenter__(self):
        self.server = TestServer(application(self.intake, welcome))
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")
        self.tasks = [asyncio.ensure_future(self.lane.run())]
        if self.observing:
            self.tasks.append(asyncio.ensure_future(self.service.run()))
        return self

    async def __aexit__(self, *_):
        for running in self.tasks:
            running.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.judging.aclose()
        await self.server.close()

    def changed(self):
        self.changes.update(["changed"])
        self.told_operator()

    async def take(self, gateway, session, exchanges):
        await gateway.deliver(session, self.url, exchanges)
        async with asyncio.timeout(1.5):
            while self.lane.held or (self.observing and self.observing.held):  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    def quiet(self, seconds=IDLE):
        self.time[0] += seconds
        self.lane.sweep()

    def sums(self, name="compile-errors"):
        (watched,) = self.reporter.picture(1).watched
        assert (watched.domain, watched.gate) == ("dsl", 3)
        return next(sums for sums in watched.count.metrics if sums.name == name)


def told(gateway, wanted, conversation, answer="yes", **changes):
    return gateway.exchange("q", answer, conversation=conversation, **{"wanted": wanted, "version": wanted, **changes})


def mean(moments):
    return moments.total / moments.values


async def test_both_versions_are_counted_by_conversation(tmp_path, session):
    gateway = FakeGateway()
    batch = [told(gateway, NEW, f"n{i // 3}", "yes" if i % 3 else "no", seconds=0.5) for i in range(30)]
    batch += [told(gateway, OLD, f"o{i // 2}", "yes", seconds=0.25) for i in range(10)]
    batch += [told(gateway, "dsl-third", "t1"), told(gateway, NEW, "n1", domain="other")]
    async with Watched(tmp_path) as watched:
        await watched.take(gateway, session, batch)
        assert watched.sums().new.clusters == 0, "nothing is closed yet"
        watched.quiet()
        wrong, seconds, errors = watched.sums(), watched.sums("seconds"), watched.sums("server-errors")
    assert (wrong.new.clusters, wrong.held_back.clusters) == (10, 5)
    assert (mean(wrong.new), mean(wrong.held_back)) == pytest.approx((1 / 3, 0.0)), "a proportion that should be low counts the wrong ones"
    assert wrong.new.values_squared / wrong.new.values**2 == pytest.approx(1 / 10)
    assert (mean(seconds.new), mean(seconds.held_back)) == pytest.approx((0.5, 0.25))
    assert (mean(errors.new), errors.new.clusters) == (0.0, 10)
    assert CollectorReport.model_validate(watched.reporter.picture(2).model_dump()).watched == watched.reporter.picture(2).watched


async def test_errors_of_the_server_count_and_what_clients_do_does_not(tmp_path, session):
    gateway = FakeGateway()
    batch = [told(gateway, OLD, "o1")]
    batch += [told(gateway, NEW, f"e{i}", status=status) for i, status in enumerate((500, 503, 502))]
    batch += [told(gateway, NEW, f"c{i}", status=status) for i, status in enumerate((499, 400, 429))]
    batch += [told(gateway, NEW, "c3", cause="client-gone"), told(gateway, NEW, "c4", api="unheard-of")]
    batch += [told(gateway, NEW, "e3", status=503, version=None, cause="no-pod")]
    batch += [told(gateway, NEW, "e4", version="base"), told(gateway, NEW, "n1")]
    async with Watched(tmp_path) as watched:
        await watched.take(gateway, session, batch)
        watched.quiet()
        errors, wrong = watched.sums("server-errors"), watched.sums()
    assert errors.new.clusters == 6
    assert mean(errors.new) == pytest.approx(5 / 6), "no pod had it, or the base model answered in its place: it was not there"
    assert (wrong.new.clusters, mean(wrong.new)) == (1, 0.0), "what the base model said is not what the version says"


async def test_the_base_model_is_a_version_like_others_where_it_is_held_back(tmp_path, session):
    gateway = FakeGateway()
    async with Watched(tmp_path, tasks=[task(heldBack="base")]) as watched:
        await watched.take(gateway, session, [told(gateway, NEW, "n1"), told(gateway, "base", "b1", "no"), told(gateway, OLD, "o1")])
        watched.quiet()
        wrong = watched.sums()
    assert (wrong.new.clusters, wrong.held_back.clusters, mean(wrong.held_back)) == (1, 1, 1.0)


@pytest.mark.parametrize("share", ["1", "0.3"])
async def test_no_answer_is_scored_twice_and_none_of_the_watch_is_left_out(tmp_path, session, monkeypatch, share):
    asked, gateway = Counter(), FakeGateway()
    async with Watched(tmp_path, share=share) as watched:
        (gauge,) = watched.judging.gauges("dsl")
        judge = type(gauge.judge).judge

        async def counted(self, case):
            asked[case.answer.text] += 1
            await asyncio.sleep(0)
            return await judge(self, case)

        monkeypatch.setattr(type(gauge.judge), "judge", counted)
        batch = [told(gateway, NEW if i % 2 else OLD, f"c{i}", f"yes {i}") for i in range(60)]
        await watched.take(gateway, session, batch)
        assert await watched_duplicate(watched, gateway, session, batch) == 0
        watched.quiet()
        sums = watched.sums()
        await watched.service.journal.commit(lambda: None)
        cells = watched.service.journal.chain.total.sums[SUM].cells
    assert set(asked.values()) == {1}
    assert len(asked) == 60
    assert (sums.new.clusters, sums.held_back.clusters) == (30, 30)
    observed = sum(cell.count for key, cell in cells.items() if key.score == "compile-errors")
    assert observed == 60 if share == "1" else 5 < observed < 40
    assert not watched.judging._claimed, "nothing is kept of what is done with"


async def watched_duplicate(watched, gateway, session, batch):
    """Send a batch again. Returns how many more conversations there are for it."""
    before = watched.lane.watches["dsl"].conversations.open
    await watched.take(gateway, session, batch)
    assert watched.lane.watches["dsl"].values.total() == 3 * len(batch)
    return watched.lane.watches["dsl"].conversations.open - before


async def test_measures_need_nothing_that_is_observed(tmp_path, session):
    gateway = FakeGateway()
    refusing = {"name": "refusals", "measure": "Refusal"}
    async with Watched(tmp_path, observe=False, tasks=[task(metrics=[*METRICS, refusing])]) as watched:
        batch = [told(gateway, OLD, "o1"), told(gateway, NEW, "n1", "I'm sorry, but I can't help with that.")]
        await watched.take(gateway, session, batch)
        watched.quiet()
        refusals, wrong = watched.sums("refusals"), watched.sums()
    assert (mean(refusals.new), mean(refusals.held_back)) == (1.0, 0.0)
    assert wrong.new.clusters == 0
    assert not list(tmp_path.iterdir()), "nothing of a watch is written"


async def test_a_metric_that_nothing_measures_is_said(tmp_path, caplog):
    metrics, scores = [{"name": "unheard-of"}, {"name": "slow"}], [{"name": "slow", "measure": "Latency"}]
    async with Watched(tmp_path, scores=scores, tasks=[task(metrics=metrics)]):
        pass
    assert "unheard-of of the watch of dsl: collector.observe has no score of this name for the domain" in caplog.text
    assert "slow of the watch of dsl: a quantity has no proportion, its kind must be Mean" in caplog.text


async def test_time_is_observed_from_one_contact_to_the_next(tmp_path, session):
    gateway = FakeGateway()
    async with Watched(tmp_path, observe=False) as watched:
        for gap, expected in (
            (100.0, 0.0),
            (30.0, 30.0),
            (CONTACT_SECONDS, 30.0 + CONTACT_SECONDS),
            (CONTACT_SECONDS + 1, 90.0),
            (5.0, 95.0),
        ):
            watched.time[0] += gap
            await watched.take(gateway, session, [])
            assert watched.reporter.picture(1).watched[0].count.observed_seconds == expected
        watched.intake.stopping = True
        watched.time[0] += 10
        assert await gateway.send(session, watched.url, []) == 503
        watched.time[0] += 10
        assert watched.lane.observed_seconds == 95.0


async def test_without_room_it_is_not_observed(tmp_path, session, monkeypatch):
    gateway = FakeGateway()
    async with Watched(tmp_path, observe=False) as watched:
        await watched.take(gateway, session, [])
        monkeypatch.setattr(watching_module, "WAITING_BYTES", 1)
        watched.time[0] += 10
        await watched.take(gateway, session, [told(gateway, NEW, "n1")])
        assert (watched.lane.observed_seconds, watched.lane.left_out["overload"]) == (0.0, 1)
        watched.time[0] += 10
        await watched.take(gateway, session, [])
        assert watched.lane.observed_seconds == 10.0


async def test_open_conversations_have_so_much_room_and_no_more(tmp_path, session, monkeypatch):
    monkeypatch.setattr(watching_module, "OPEN_BYTES", 10 * (CONVERSATION_BYTES + 3 * METRIC_BYTES))
    gateway = FakeGateway()
    async with Watched(tmp_path, observe=False) as watched:
        await watched.take(gateway, session, [told(gateway, NEW if i % 2 else OLD, f"c{i}") for i in range(20)])
        await watched.take(gateway, session, [told(gateway, NEW if i % 2 else OLD, f"d{i}") for i in range(10)])
        conversations = watched.lane.watches["dsl"].conversations
        assert (conversations.open, conversations.left_out["closed-early"]) == (10, 20)
        watched.quiet()
        sums = watched.sums("server-errors")
    assert sums.new.clusters + sums.held_back.clusters == 30 - conversations.left_out["too-late"]
    assert sums.new.clusters >= 10


async def test_an_answer_that_cannot_be_measured_is_known_and_the_others_are(tmp_path, session, monkeypatch, caplog):
    gateway = FakeGateway()
    async with Watched(tmp_path, observe=False) as watched:
        outcome = watched.judging.outcome

        async def odd(gauge, exchange):
            if exchange.head.number == 2:
                raise RuntimeError("secret")
            return await outcome(gauge, exchange)

        monkeypatch.setattr(watched.judging, "outcome", odd)
        await watched.take(gateway, session, [told(gateway, NEW, f"n{i}") for i in range(4)] + [told(gateway, OLD, "o1")])
        watched.quiet()
        assert (watched.sums("server-errors").new.clusters, watched.lane.left_out["internal-error"]) == (3, 1)
        assert watched.lane.held == 0
    assert "RuntimeError" in caplog.text


async def test_another_boot_begins_with_nothing(tmp_path, session):
    gateway, batch = FakeGateway(), []
    for boot in ("w1", "w2"):
        async with Watched(tmp_path, boot=boot) as watched:
            assert watched.sums().new.clusters == 0
            batch = [told(gateway, NEW, "n1"), told(gateway, OLD, "o1")]
            await watched.take(gateway, session, batch)
            watched.quiet()
            report = watched.reporter.picture(1)
            assert (report.boot, report.watched[0].count.metrics[0].new.clusters) == (boot, 1)


async def test_it_is_reported_every_few_seconds_at_most(tmp_path, session):
    gateway = FakeGateway()
    async with Watched(tmp_path, observe=False, tasks=[task(idleSeconds=1)]) as watched:
        for _ in range(8):
            await watched.take(gateway, session, [told(gateway, NEW, f"n{gateway.numbered}")])
            watched.quiet(1)
        assert watched.changes["changed"] == 4, "at once, and then every other second"
        watched.quiet(CHANGED_SECONDS - 1)
        assert watched.changes["changed"] == 5, "what was closed last is told as soon as it may be"
        watched.quiet(100)
        assert watched.changes["changed"] == 5, "there is nothing new"


async def test_harm_that_is_seen_wakes_the_operator_without_a_wait_for_the_next_report(tmp_path, session, until):
    """The regular report would come in an hour: what comes was woken by the conversations that were closed, in the same sweep."""
    woken, gateway = [], FakeGateway()
    fleet = Fleet(SystemClock(), woken.append)
    caller = FleetCaller("c-0", "u", "2026-11-21T12:00:00Z", "team", "graft-collector-prod", "collector", "prod", "uid")

    async def heard(request):
        fleet.heard_collector(caller, parse(CollectorReport, await request.json()))
        return web.Response(status=204)

    operator = web.Application()
    operator.router.add_post("/v1/namespaces/team/modelendpoints/prod/collector", heard)
    (tmp_path / "token").write_text("t")
    async with TestServer(operator) as server, Watched(tmp_path, observe=False, tasks=[task(metrics=METRICS[1:])]) as watched:
        target = report_target(str(server.make_url("")), "team", "prod", "collector", tmp_path)
        client = OperatorClient(target, Random(1), ReportTimes(every=3600.0, apart=0.01))
        watched.told_operator = client.changed
        running = asyncio.ensure_future(client.run(watched.reporter.picture))
        await until(lambda: woken)
        for harmed in range(1, 4):
            woken.clear()
            batch = [told(gateway, NEW, f"n{harmed}", status=503), told(gateway, OLD, f"o{harmed}")]
            await watched.take(gateway, session, batch)
            assert woken == [], "nothing is closed"
            watched.quiet()
            await until(lambda: woken)
            (said,) = fleet.collectors(woken[0])["c-0"].report.watched
            assert said.count.metrics[0].new.clusters == harmed
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_prometheus_sees_how_far_it_is(tmp_path, session):
    gateway, registry = FakeGateway(), CollectorRegistry()
    async with Watched(tmp_path, observe=False) as watched:
        registry.register(WatchMetrics(watched.lane))
        await watched.take(gateway, session, [told(gateway, NEW, f"n{i}") for i in range(3)] + [told(gateway, OLD, "o1")])
        watched.quiet()
        await watched.take(gateway, session, [told(gateway, NEW, "n9")])
    text = generate_latest(registry).decode()
    assert f'graft_watch_conversations_total{{domain="dsl",version="{NEW}"}} 3.0' in text
    assert f'graft_watch_values_total{{domain="dsl",metric="server-errors",version="{NEW}"}} 4.0' in text
    assert 'graft_watch_open_conversations{domain="dsl"} 1.0' in text
    assert "graft_watch_observed_seconds_total 60.0" in text
    assert 'graft_watch_left_out_total{cause="overload"} 0.0' in text, "it begins with 0, so that its growth is seen"


def tasks(*documents):
    return parse(CollectorSettings, {"watches": list(documents)}).watches


def governance(**changes):
    return task(domain="governance", gate=1, new="gov-new", heldBack="gov-old", metrics=METRICS[1:], **changes)


async def test_a_watch_that_goes_on_notices_nothing_of_those_that_begin_and_end(tmp_path, session):
    gateway, plain = FakeGateway(), task(metrics=METRICS[1:])
    async with Watched(tmp_path, observe=False, tasks=[plain]) as watched:
        await watched.take(
            gateway, session, [told(gateway, NEW, "n1"), told(gateway, OLD, "o1"), told(gateway, "gov-new", "g1", domain="governance")]
        )
        watched.time[0] += 10
        watched.lane.follow(tasks(plain, governance()))
        assert watched.changes["changed"] == 1, "the operator hears of it at once"
        batch = [told(gateway, NEW, "n1", status=503), told(gateway, "gov-new", "g1", domain="governance")]
        await watched.take(gateway, session, batch)
        watched.time[0] += 10
        await watched.take(gateway, session, [])
        first, second = watched.reporter.picture(1).watched
        assert (first.turn, second.turn) == (0, 1)
        assert (first.count.observed_seconds, second.count.observed_seconds) == (20.0, 10.0), "from the first contact on"
        watched.lane.follow(tasks(governance(), plain))
        watched.lane.follow(tasks(plain))
        watched.quiet()
        errors = watched.sums("server-errors")
        assert (errors.new.clusters, errors.held_back.clusters) == (1, 1), "what was open stayed open, and is one conversation"
        assert errors.new.total == pytest.approx(errors.new.values / 2)
        assert [one.domain for one in watched.reporter.picture(2).watched] == ["dsl"]
        await watched.take(gateway, session, [told(gateway, "gov-new", "g2", domain="governance")])


async def test_a_watch_that_changes_begins_with_nothing_under_another_turn(tmp_path, session):
    gateway, plain = FakeGateway(), task(metrics=METRICS[1:])
    changes = [task(metrics=METRICS[1:], gate=4), task(metrics=METRICS[1:2], gate=4), task(metrics=METRICS[1:2], gate=4, heldBack="base")]
    async with Watched(tmp_path, observe=False, tasks=[plain]) as watched:
        for turn, changed in enumerate([plain, *changes]):
            watched.lane.follow(tasks(changed))
            (told_of,) = watched.reporter.picture(1).watched
            assert (told_of.turn, told_of.gate, told_of.count.observed_seconds) == (turn, changed["gate"], 0.0)
            assert all(sums.new.clusters == 0 for sums in told_of.count.metrics)
            batch = [told(gateway, NEW, f"n{turn}-{i}") for i in range(3)] + [told(gateway, changed["heldBack"], f"o{turn}")]
            await watched.take(gateway, session, batch)
            watched.quiet()
            await watched.take(gateway, session, [])
            assert watched.reporter.picture(1).watched[0].count.metrics[0].new.clusters == 3
        watched.lane.follow([])
        watched.lane.follow(tasks(changes[-1]))
        (told_of,) = watched.reporter.picture(1).watched
        assert (told_of.turn, told_of.count.metrics[0].new.clusters) == (4, 0), "forgotten, and begun again"


async def test_an_answer_that_is_being_measured_when_its_watch_ends_is_nobodys(tmp_path, session, monkeypatch):
    gateway, gate = FakeGateway(), asyncio.Event()
    async with Watched(tmp_path, observe=False, tasks=[task(metrics=METRICS[1:])]) as watched:
        outcome = watched.judging.outcome

        async def slow(gauge, exchange):
            await gate.wait()
            return await outcome(gauge, exchange)

        monkeypatch.setattr(watched.judging, "outcome", slow)
        await gateway.deliver(session, watched.url, [told(gateway, NEW, "n1"), told(gateway, OLD, "o1")])
        watched.lane.follow(tasks(governance()))
        gate.set()
        await watched.take(gateway, session, [told(gateway, "gov-new", "g1", domain="governance")])
        watched.quiet()
        (told_of,) = watched.reporter.picture(1).watched
    assert (told_of.domain, watched.lane.held) == ("governance", 0)
    assert not watched.judging._claimed, "nothing is kept of what is done with"


async def test_open_conversations_of_all_watches_share_the_room(tmp_path, session, monkeypatch):
    monkeypatch.setattr(watching_module, "OPEN_BYTES", 10 * (CONVERSATION_BYTES + 2 * METRIC_BYTES))
    gateway, plain = FakeGateway(), task(metrics=METRICS[1:])
    async with Watched(tmp_path, observe=False, tasks=[plain]) as watched:
        for among, most in ((1, 10), (2, 5), (1, 10)):
            watched.lane.follow(tasks(plain, governance())[:among])
            await watched.take(gateway, session, [told(gateway, NEW, f"c{gateway.numbered + i}") for i in range(20)])
            assert watched.lane.watches["dsl"].conversations.open == most


async def test_a_running_collector_takes_watches_over(tmp_path, session, until):
    cluster = Cluster()
    plain = task(metrics=METRICS[1:], idleSeconds=3600)
    one, two = (parse(CollectorSettings, {"watches": documents}) for documents in ([plain], [plain, governance(idleSeconds=3600)]))
    async with TestServer(cluster.application()) as server:
        cluster.url = str(server.make_url("")).rstrip("/")
        cluster.say(one)
        program = Program(tmp_path, cluster.url, one)
        await program.start()
        gateway = FakeGateway(token=token())

        def watched():
            return [watched["domain"] for watched in cluster.reports[-1][1].get("watched", [])] if cluster.reports else []

        try:
            await gateway.deliver(session, program.url, [told(gateway, NEW, "n1"), told(gateway, OLD, "o1")])
            cluster.say(two)
            await until(lambda: watched() == ["dsl", "governance"])
            await gateway.deliver(session, program.url, [told(gateway, NEW, "n1"), told(gateway, "gov-new", "g1", domain="governance")])
            assert await program.end(signal.SIGTERM) == 0, (tmp_path / "log").read_text()
        finally:
            if program.process.returncode is None:
                await program.end(signal.SIGKILL)
            program.log.close()
    assert len({report["boot"] for _, report in cluster.reports}) == 1, "the same process"
    report = parse(CollectorReport, cluster.reports[-1][1])
    counted = {watched.domain: watched.count.metrics[0].new.clusters for watched in report.watched}
    assert counted == {"dsl": 1, "governance": 0}, "one conversation, and one that only one arm has weighs nothing"


async def test_a_collector_that_only_watches_is_ready_and_says_its_last_word(tmp_path, session):
    cluster = Cluster()
    async with TestServer(cluster.application()) as server:
        cluster.url = str(server.make_url("")).rstrip("/")
        settings = parse(CollectorSettings, {"watches": [task(metrics=METRICS[1:], idleSeconds=3600)]})
        program = Program(tmp_path, cluster.url, settings)
        await program.start()
        gateway = FakeGateway(token=token())
        try:
            await gateway.deliver(session, program.url, [told(gateway, NEW, "n1", "secret"), told(gateway, OLD, "o1")])
            assert "graft_watch_open_conversations" in await program.metrics(session)
            async with session.get(f"http://127.0.0.1:{program.health_port}/readyz") as ready:
                assert ready.status == 200
            assert await program.end(signal.SIGTERM) == 0, (tmp_path / "log").read_text()
        finally:
            if program.process.returncode is None:
                await program.end(signal.SIGKILL)
            program.log.close()
    report = parse(CollectorReport, cluster.reports[-1][1])
    assert report.mode == "Observe"
    assert [sums.new.clusters for sums in report.watched[0].count.metrics] == [1, 1], "what was open at the end is counted"
    assert "secret" not in json.dumps(cluster.reports) + (tmp_path / "log").read_text()
