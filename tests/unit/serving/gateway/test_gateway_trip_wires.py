"""A gateway takes a new version out by itself: what counts, what it does, and until when."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from graft_api.fleet import Trip
from graft_api.routes import Arm, HardLimits, TripWire
from graft_serving.gateway.errors import Cause
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.table import Alias, compile_table
from graft_serving.gateway.trace import continue_trace
from graft_serving.gateway.trip_wires import TripWires

LIMITS = HardLimits(min_requests=5, window_seconds=10, latency_seconds="2", latency_share="0.1")
TRACE = continue_trace(None, None, Random(1))  # noqa: S311


class Bench:
    """Trip wires without a data path, and what they ask of one. `now` is the time."""

    def __init__(self, kit: Any) -> None:
        self._kit = kit
        self.now = 1000.0
        self.serves = True
        self.rerouted: list[Alias] = []
        self.told: list[Trip] = []
        self.wires = TripWires(self.rerouted.append, lambda: self.serves, self.told.append, lambda: self.now, lambda: 1_800_000_000.25)
        self.revision = 0

    def apply(self, wire: TripWire | None = None, **route: Any) -> dict[str, tuple[str, ...]]:
        """Take routes, by default with the wire. Returns the arms that requests are sent to."""
        arms = route.pop("arms", [Arm(version=self._kit.NEW, weight=95), Arm(version=self._kit.OLD, weight=5)])
        self.revision += 1
        table = self.wires.apply(compile_table(self._kit.make_routes(self.revision, *arms, trip_wire=wire, **route)))
        return {name: alias.versions for name, alias in table.aliases.items()}

    def end(self, times: int = 1, **more: Any) -> None:
        """So many requests end: by default well, on the new version, after a tenth of a second."""
        seconds = more.pop("seconds", 0.1)
        told = {"domain": "dsl", "wanted": self._kit.NEW, "status": 200, "ended": self.now} | more
        for _ in range(times):
            exchange = Exchange("chat", "r", TRACE, started=self.now - seconds, **{"version": told["wanted"]} | told)
            self.wires.completed(exchange)

    def held_back_are_well(self) -> None:
        """Enough of them to compare with."""
        self.end(20, wanted=self._kit.OLD)

    def passes(self, times: int = 1, **more: Any) -> None:
        """So many conversations, one a second, each of one request."""
        for number in range(times):
            self.now += 1
            self.end(conversation=f"{self.now}-{number}".encode(), **more)


@pytest.fixture
def bench(kit: Any) -> Bench:
    return Bench(kit)


def wire(kit: Any, **more: Any) -> TripWire:
    return TripWire(**{"version": kit.NEW, "instead": kit.OLD, "limits": LIMITS} | more)


BAD = {"status": 500, "cause": Cause.UPSTREAM_ERROR}


@pytest.mark.parametrize(
    ("ended", "trips"),
    [
        pytest.param(BAD, True, id="an answer of 500"),
        pytest.param({"status": 504, "cause": Cause.FIRST_BYTE_TIMEOUT}, True, id="timed out"),
        pytest.param({"status": 502, "cause": Cause.BROKEN}, True, id="broken off"),
        pytest.param({"status": 503, "cause": Cause.VERSION_MISSING}, True, id="vLLM does not know it, and nobody else does"),
        pytest.param({"status": 503, "cause": Cause.NO_POD, "version": ""}, True, id="on no pod"),
        pytest.param({"status": 500, "cause": Cause.INTERNAL}, True, id="an answer that the gateway fails on"),
        pytest.param({"version": "base"}, True, id="the base model had to answer"),
        pytest.param({"cause": Cause.BROKEN, "stream": True}, True, id="a stream that broke"),
        pytest.param({"cause": Cause.IDLE_TIMEOUT, "stream": True}, True, id="a stream that stopped"),
        pytest.param({"cause": Cause.UPSTREAM_ERROR, "stream": True}, True, id="a stream with an error in it"),
        pytest.param({"seconds": 2.1}, True, id="slow"),
        pytest.param({"seconds": 2.1, "status": 499, "cause": Cause.CLIENT_GONE}, True, id="so slow that the client left"),
        pytest.param({}, False, id="well"),
        pytest.param({"seconds": 2.0}, False, id="just not slow"),
        pytest.param({"status": 499, "cause": Cause.CLIENT_GONE}, False, id="a client that leaves"),
        pytest.param({"status": 400}, False, id="vLLM refuses what the client wants"),
        pytest.param({"status": 400, "cause": Cause.INVALID}, False, id="the gateway refuses what the client wants"),
        pytest.param({"status": 429}, False, id="vLLM has too much to do"),
        pytest.param({"status": 429, "cause": Cause.RATE, "wanted": "", "version": ""}, False, id="over the limit of the domain"),
        pytest.param({"status": 503, "cause": Cause.ABORTED}, False, id="broken off by ourselves"),
        pytest.param({"status": 503, "cause": Cause.UNREACHABLE}, False, id="no pod could be reached"),
        pytest.param({"status": 503, "cause": Cause.NOT_STARTED}, False, id="no vLLM has seen it"),
        pytest.param({**BAD, "domain": "other"}, False, id="of another domain"),
        pytest.param({**BAD, "wanted": "dsl-cccccccccccccccc"}, False, id="on a version that is no arm any more"),
    ],
)
def test_what_counts(bench: Bench, kit: Any, ended: dict[str, Any], trips: bool) -> None:
    bench.apply(wire(kit))
    bench.held_back_are_well()
    bench.end(5, **ended)
    assert bool(bench.told) is trips


def test_on_no_pod_says_nothing_of_a_version_when_not_even_the_base_model_is_on_one(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.serves = False
    bench.end(50, status=503, cause=Cause.NO_POD, version="")
    assert bench.told == []


def test_an_outage_of_both_arms_trips_nothing(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.end(10, wanted=kit.OLD, **BAD)
    bench.end(100, **BAD)
    assert bench.told == []


def test_what_trips_is_said_once(bench: Bench, kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench.apply(wire(kit))
    bench.end(10, wanted=kit.OLD)
    bench.end(15)
    bench.end(25, **BAD)
    told = Trip(
        domain="dsl",
        version=kit.NEW,
        metric="errors",
        value=20 / 35,
        bound=0.1,
        held_back=0.0,
        requests=35,
        at="2027-01-15T08:00:00.250000Z",
    )
    assert bench.told == [told]
    assert bench.wires.trips() == [told]
    assert [alias.versions for alias in bench.rerouted] == [(kit.OLD, kit.OLD)]
    [record] = caplog.records
    assert record.getMessage().startswith("a version is taken out by its hard limit: errors of 0.571 of 35 requests, limit 0.1")
    assert (record.domain, record.version) == ("dsl", kit.NEW)


def test_without_a_previous_version_the_base_model_serves(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit, instead=None), arms=[Arm(version=kit.NEW, weight=95), Arm(weight=5)])
    bench.end(10, wanted="base")
    bench.end(5, **BAD)
    assert [alias.versions for alias in bench.rerouted] == [("base", "base")]


def test_errors_that_are_too_old_do_not_count(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.end(4, **BAD)
    bench.now += 11
    bench.held_back_are_well()
    bench.end(4, **BAD)
    assert bench.told == []
    bench.end(1, **BAD)
    assert bench.told


def test_a_look_finds_what_no_bad_answer_asks_for(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.held_back_are_well()
    bench.end(4, **BAD)
    bench.end(1)
    assert bench.told == []
    bench.wires.look()
    assert bench.told[0].value == 0.8


def test_when_the_others_are_well_again_a_look_finds_it(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.end(5, wanted=kit.OLD, **BAD)
    bench.now += 5
    bench.end(10, **BAD)
    bench.end(5, wanted=kit.OLD)
    bench.wires.look()
    assert bench.told == []
    bench.now += 6
    bench.wires.look()
    assert bench.told[0].held_back == 0.0


def out(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.held_back_are_well()
    bench.end(5, **BAD)
    assert bench.told


LATER = pytest.mark.parametrize(
    ("route", "arms", "stays"),
    [
        pytest.param({"wire": {}}, None, True, id="another domain has changed"),
        pytest.param({"wire": {}}, [50, 50], True, id="a step of the ramp"),
        pytest.param({"wire": {"limits": HardLimits()}}, None, True, id="other limits"),
        pytest.param({"wire": {"version": "dsl-cccccccccccccccc"}}, None, False, id="another version is watched"),
        pytest.param({}, None, False, id="nothing is watched any more"),
    ],
)


@LATER
def test_what_is_out_stays_out_until_routes_watch_it_no_more(
    bench: Bench, kit: Any, route: dict[str, Any], arms: list[int] | None, stays: bool
) -> None:
    out(bench, kit)
    weights = arms or [95, 5]
    shares = [Arm(version=kit.NEW, weight=weights[0]), Arm(version=kit.OLD, weight=weights[1])]
    told = bench.apply(wire(kit, **route["wire"]) if route else None, arms=shares)
    assert told["dsl"] == ((kit.OLD, kit.OLD) if stays else (kit.NEW, kit.OLD))
    assert bool(bench.wires.trips()) is stays


def test_newer_routes_may_say_what_serves_instead(bench: Bench, kit: Any) -> None:
    out(bench, kit)
    assert bench.apply(wire(kit, instead=None))["dsl"] == ("base", kit.OLD)


def test_a_version_that_was_released_is_watched_anew(bench: Bench, kit: Any) -> None:
    out(bench, kit)
    bench.apply(None)
    bench.apply(wire(kit))
    bench.held_back_are_well()
    bench.end(4, **BAD)
    assert len(bench.told) == 1
    bench.end(1, **BAD)
    assert len(bench.told) == 2


@pytest.mark.parametrize(("limits", "trips"), [(LIMITS, True), (HardLimits(min_requests=5), False)], ids=["the same", "other limits"])
def test_counts_outlive_routes_with_the_same_limits(bench: Bench, kit: Any, limits: HardLimits, trips: bool) -> None:
    bench.apply(wire(kit))
    bench.held_back_are_well()
    bench.end(4, **BAD)
    bench.apply(wire(kit, limits=limits), arms=[Arm(version=kit.NEW), Arm(version=kit.OLD)])
    bench.end(1, **BAD)
    assert bool(bench.told) is trips


# Too few were held back in the window.


def test_in_an_outage_what_was_held_back_before_it_says_nothing(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.end(4, wanted=kit.OLD)
    bench.passes(60, **BAD)
    assert bench.told == []
    bench.passes(1, wanted=kit.OLD, **BAD)
    bench.passes(200, **BAD)
    assert bench.told == [], "one was held back since, and failed"


def test_what_was_held_back_since_and_went_well_takes_the_version_out(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.passes(20, **BAD)
    bench.passes(3, wanted=kit.OLD)
    bench.passes(1)
    bench.wires.look()
    assert bench.told == [], "it may have been an outage that is over"
    bench.passes(1, **BAD)
    assert bench.told[0].held_back == 0.0


def test_what_had_begun_before_says_nothing_of_what_came_since(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.passes(20, **BAD)
    bench.passes(4, wanted=kit.OLD, seconds=60)
    bench.passes(20, **BAD)
    assert bench.told == []


def test_where_none_is_held_back_for_long_the_limit_decides(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    bench.passes(4, **BAD)
    bench.passes(135, **BAD)
    assert bench.told == [], "it was passed with the fifth"
    bench.passes(2, **BAD)
    assert bench.told[0].held_back is None


def test_one_conversation_that_is_tried_again_and_again_says_less_than_many(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    for _ in range(99):
        bench.now += 1
        bench.end(10, **BAD)
    assert bench.told == []
    bench.now += 1
    bench.end(20, **BAD)
    assert bench.told[0].held_back is None


@pytest.mark.parametrize(
    ("elsewhere", "trips"),
    [
        pytest.param({}, True, id="other domains are well"),
        pytest.param(BAD, False, id="other domains fail, too"),
        pytest.param(BAD | {"started": True}, True, id="what failed elsewhere had begun before"),
    ],
)
def test_where_none_is_held_back_other_domains_are_asked(bench: Bench, kit: Any, elsewhere: dict[str, Any], trips: bool) -> None:
    bench.apply(wire(kit))
    seconds = 5000 if elsewhere.pop("started", False) else 0.1
    for _ in range(200):
        bench.passes(1, **BAD)
        bench.end(1, domain="other", wanted="base", seconds=seconds, **elsewhere)
    assert bool(bench.told) is trips


def test_a_limit_that_is_not_passed_any_more_begins_anew(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit))
    for _ in range(5):
        bench.passes(40, **BAD)
        bench.passes(40)
        bench.wires.look()
    assert bench.told == []


def test_a_wider_hold_back_is_missed_sooner(bench: Bench, kit: Any) -> None:
    bench.apply(wire(kit), arms=[Arm(version=kit.NEW), Arm(version=kit.OLD)])
    bench.passes(15, **BAD)
    assert bench.told


# With clients, a whole data path and a pod.


def fails(kit: Any, pod: Any) -> Any:
    async def behave(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == kit.NEW:
            return web.json_response({"error": {"message": "boom", "code": 500}}, status=500)
        return await pod.answer(request, body)

    return behave


async def ask(world: Any, kit: Any, number: int, status: int | None = None) -> str:
    async with world.post(body=kit.ask(), headers={"x-conversation-id": str(number)}) as answer:
        assert status is None or answer.status == status
        return str(answer.headers["x-graft-served-by"])


async def test_from_then_on_everything_tells_the_other_version(make_world: Any, kit: Any) -> None:
    arms = Arm(version=kit.NEW, weight=50), Arm(version=kit.OLD, weight=50)
    world = await make_world(routes=kit.make_routes(1, *arms, trip_wire=wire(kit)))
    world.pods[0].behave = fails(kit, world.pods[0])
    served = [await ask(world, kit, number) for number in range(24)]
    assert 5 <= served.count(f"{kit.NEW}@e-server-0") < 10
    assert set(served[-3:]) == {f"{kit.OLD}@e-server-0"}
    assert {(one.wanted, one.version, one.status) for one in world.recorder.all[-3:]} == {(kit.OLD, kit.OLD, 200)}
    [trip] = world.path.wires.trips()
    assert (trip.domain, trip.version, trip.metric, trip.value, trip.held_back) == ("dsl", kit.NEW, "errors", 1.0, 0.0)
    registry = CollectorRegistry()
    registry.register(world.path.metrics)
    assert 'graft_gateway_trips_total{domain="dsl"} 1.0' in generate_latest(registry).decode()
    world.path.apply(kit.make_routes(2, *arms, trip_wire=wire(kit)))
    assert await ask(world, kit, 0, 200) == f"{kit.OLD}@e-server-0"
    world.path.apply(kit.make_routes(3, *arms))
    assert world.path.wires.trips() == []
    assert {await ask(world, kit, number) for number in range(5)} >= {f"{kit.NEW}@e-server-0"}


async def test_conversations_of_the_other_arms_stay_where_they_are(make_world: Any, kit: Any) -> None:
    arms = Arm(version=kit.NEW, weight=60), Arm(weight=40)
    world = await make_world(routes=kit.make_routes(1, *arms, trip_wire=wire(kit)))
    before = [await ask(world, kit, number, 200) for number in range(12)]
    world.pods[0].behave = fails(kit, world.pods[0])
    for number in range(12, 40):
        await ask(world, kit, number)
    assert world.path.wires.trips()
    after = [await ask(world, kit, number, 200) for number in range(12)]
    assert after == [served.replace(kit.NEW, kit.OLD) for served in before]
    assert len(set(after)) == 2


async def test_the_process_looks_every_second(bench: Bench, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft_serving.gateway.trip_wires.LOOK_SECONDS", 0.01)
    bench.apply(wire(kit))
    bench.held_back_are_well()
    bench.end(4, **BAD)
    bench.end(1)
    running = asyncio.create_task(bench.wires.run())
    await kit.until(lambda: bench.told)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
