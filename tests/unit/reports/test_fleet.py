from __future__ import annotations

from typing import Any

import pytest

from graft_api.collect import CollectorReport
from graft_api.drift import DriftReport
from graft_api.fleet import SILENT_SECONDS, AgentReport, GatewayReport
from graft_api.schema import parse
from graft_operator.engine.queue import Key
from graft_operator.reports.fleet import FORGOTTEN, Fleet
from graft_operator.reports.sink import FleetCaller

PROD = Key("team", "prod")
VERSION = {"name": "dsl-0123456789abcdef", "digest": f"sha256:{'0' * 64}", "state": "Ready"}


def caller(pod: str = "prod-server-1", uid: str = "", role: str = "server", endpoint: str = "prod", namespace: str = "team") -> FleetCaller:
    return FleetCaller(
        pod_name=pod,
        pod_uid=uid or f"uid of {pod}",
        pod_created_at="2026-11-20T12:00:00Z",
        namespace=namespace,
        service_account=f"graft-{role}-{endpoint}",
        role=role,
        endpoint_name=endpoint,
        endpoint_uid="endpoint-1",
    )


def agent(**changes: Any) -> AgentReport:
    return parse(AgentReport, {"boot": "a", "sequence": 1, "epoch": 1, "revision": 1, "server": "Serving", **changes})


def gateway(**changes: Any) -> GatewayReport:
    return parse(GatewayReport, {"boot": "a", "sequence": 1, "epoch": 1, "revision": 1, **changes})


def collector(**changes: Any) -> CollectorReport:
    return parse(CollectorReport, {"boot": "a", "sequence": 1, "mode": "Compare", "test": "first", "testUid": "test-1", **changes})


def drift(**changes: Any) -> DriftReport:
    said = {"domain": "dsl", "gate": 1, "adapterUid": "uid-c", "moment": "Before", "attempt": 1}
    return parse(DriftReport, {"boot": "a", "sequence": 1} | said | changes)


def watched(seconds: float, conversations: int) -> list[dict[str, Any]]:
    metrics = [{"name": "errors", "new": {"clusters": conversations}}]
    return [{"domain": "dsl", "gate": 1, "count": {"observedSeconds": seconds, "metrics": metrics}}]


@pytest.fixture
def woken() -> list[Key]:
    return []


@pytest.fixture
def fleet(clock: Any, woken: list[Key]) -> Fleet:
    return Fleet(clock, woken.append)


async def test_the_latest_of_each_pod_with_when_it_came(fleet: Fleet, clock: Any) -> None:
    fleet.heard_agent(caller(), agent())
    await clock.advance(5)
    fleet.heard_agent(caller(), agent(sequence=2, revision=7))
    fleet.heard_agent(caller("prod-server-2"), agent())
    fleet.heard_gateway(caller("prod-gateway-1", role="gateway"), gateway())
    heard = fleet.agents(PROD)
    assert sorted(heard) == ["prod-server-1", "prod-server-2"]
    first = heard["prod-server-1"]
    assert (first.pod_uid, first.endpoint_uid, first.report.revision, first.received) == ("uid of prod-server-1", "endpoint-1", 7, 5.0)
    assert list(fleet.gateways(PROD)) == ["prod-gateway-1"]
    assert fleet.agents(Key("team", "other")) == fleet.agents(Key("other", "prod")) == {}
    assert len(fleet) == 3


def test_what_was_handed_out_does_not_change(fleet: Fleet) -> None:
    fleet.heard_agent(caller(), agent())
    heard = fleet.agents(PROD)
    fleet.heard_agent(caller("prod-server-2"), agent())
    assert list(heard) == ["prod-server-1"]


def test_endpoints_of_the_same_name_in_two_namespaces_are_two(fleet: Fleet, woken: list[Key]) -> None:
    fleet.heard_agent(caller(), agent())
    fleet.heard_agent(caller(namespace="other"), agent(server="Down"))
    assert fleet.agents(PROD)["prod-server-1"].report.server == "Serving"
    assert woken == [PROD, Key("other", "prod")]


@pytest.mark.parametrize(
    ("reports", "boot", "sequence"),
    [
        pytest.param([("a", 5), ("a", 4)], "a", 5, id="overtaken by a later one"),
        pytest.param([("a", 5), ("b", 1)], "b", 1, id="started again"),
        pytest.param([("a", 5), ("b", 1), ("a", 6)], "b", 1, id="still on its way from before the start"),
        pytest.param([("a", 5), ("b", 1), ("c", 1), ("a", 6)], "c", 1, id="from two starts before"),
    ],
)
def test_what_is_old_is_ignored(fleet: Fleet, reports: list[tuple[str, int]], boot: str, sequence: int) -> None:
    for of, number in reports:
        fleet.heard_agent(caller(), agent(boot=of, sequence=number))
    found = fleet.agents(PROD)["prod-server-1"].report
    assert (found.boot, found.sequence) == (boot, sequence)


async def test_what_is_old_is_no_sign_of_life(fleet: Fleet, clock: Any) -> None:
    fleet.heard_agent(caller(), agent(sequence=5))
    await clock.advance(10)
    fleet.heard_agent(caller(), agent(sequence=4))
    assert fleet.agents(PROD)["prod-server-1"].received == 0
    fleet.heard_agent(caller(), agent(sequence=5))
    assert fleet.agents(PROD)["prod-server-1"].received == 10


def test_another_pod_of_the_same_name_starts_from_nothing(fleet: Fleet) -> None:
    fleet.heard_agent(caller(uid="one"), agent(boot="a", sequence=5))
    fleet.heard_agent(caller(uid="two"), agent(boot="a", sequence=1))
    found = fleet.agents(PROD)["prod-server-1"]
    assert (found.pod_uid, found.report.sequence, found.former) == ("two", 1, ())


def test_a_pod_that_starts_again_and_again_takes_no_more_room(fleet: Fleet) -> None:
    for number in range(100):
        fleet.heard_agent(caller(), agent(boot=str(number)))
    assert fleet.agents(PROD)["prod-server-1"].former == ("95", "96", "97", "98")


@pytest.mark.parametrize(
    ("changes", "wakes"),
    [
        pytest.param({}, False, id="the same"),
        pytest.param({"revision": 2}, True, id="works on newer routes"),
        pytest.param({"server": "Down"}, True, id="vLLM is down"),
        pytest.param({"serverStarts": 1}, True, id="vLLM came up again"),
        pytest.param({"versions": [VERSION]}, True, id="a version is ready"),
        pytest.param({"boot": "b"}, True, id="it started again"),
    ],
)
def test_which_agents_words_wake_the_reconciler(fleet: Fleet, woken: list[Key], changes: dict[str, Any], wakes: bool) -> None:
    fleet.heard_agent(caller(), agent())
    assert woken == [PROD]
    fleet.heard_agent(caller(), agent(**{"sequence": 2, **changes}))
    assert woken == [PROD] * (2 if wakes else 1)


TRIP = {"domain": "dsl", "version": "dsl-0123456789abcdef", "metric": "errors", "value": 0.4, "bound": 0.1, "requests": 20}
TRIP |= {"at": "2026-11-21T12:00:00Z"}
BUSY = {"dsl-0123456789abcdef": 3, "base": 1}


@pytest.mark.parametrize(
    ("changes", "wakes"),
    [
        pytest.param({"inFlight": BUSY}, False, id="the same"),
        pytest.param({"inFlight": {**BUSY, "base": 9}}, False, id="more requests"),
        pytest.param({"inFlight": {**BUSY, "other-0123456789abcdef": 1}}, False, id="the first request of a version"),
        pytest.param({"inFlight": {"base": 1}}, True, id="the last request of a version has ended"),
        pytest.param({"inFlight": {"base": 0, "dsl-0123456789abcdef": 3}}, True, id="and is said to be none"),
        pytest.param({"inFlight": BUSY, "revision": 2}, True, id="routes by a newer revision"),
        pytest.param({"inFlight": BUSY, "pods": {"base": 2}}, True, id="reaches more pods"),
        pytest.param({"inFlight": BUSY, "draining": True}, True, id="is going"),
        pytest.param({"inFlight": BUSY, "trips": [TRIP]}, True, id="has taken a version out"),
    ],
)
def test_which_gateways_words_wake_the_reconciler(fleet: Fleet, woken: list[Key], changes: dict[str, Any], wakes: bool) -> None:
    speaker = caller("prod-gateway-1", role="gateway")
    fleet.heard_gateway(speaker, gateway(inFlight=BUSY))
    assert woken == [PROD]
    fleet.heard_gateway(speaker, gateway(**{"sequence": 2, **changes}))
    assert woken == [PROD] * (2 if wakes else 1)


@pytest.mark.parametrize(
    ("changes", "wakes"),
    [
        pytest.param({}, False, id="the same"),
        pytest.param({"waiting": 9}, False, id="more exchanges wait"),
        pytest.param({"lost": {"overload": 9}}, False, id="more were lost, which the next commit tells"),
        pytest.param({"commit": 1}, True, id="another commit"),
        pytest.param({"testUid": "test-2"}, True, id="another test of the same name"),
        pytest.param({"mode": "Observe"}, True, id="it only observes"),
        pytest.param({"shadowAway": "connection refused"}, True, id="the shadow is away"),
        pytest.param({"storeAway": True}, True, id="the store is away"),
        pytest.param({"reported": {"testUid": "test-1", "problem": "too large"}}, True, id="the report could not be written"),
        pytest.param({"watched": watched(20.0, 5)}, False, id="a watch was looked at for longer"),
        pytest.param({"watched": watched(10.0, 6)}, True, id="a conversation of a watch was counted"),
        pytest.param({"watched": []}, True, id="nothing is watched any more"),
        pytest.param({"boot": "b"}, True, id="it started again"),
    ],
)
def test_which_collectors_words_wake_the_reconciler(fleet: Fleet, woken: list[Key], changes: dict[str, Any], wakes: bool) -> None:
    speaker = caller("prod-collector-1", role="collector")
    fleet.heard_collector(speaker, collector(watched=watched(10.0, 5)))
    assert woken == [PROD]
    fleet.heard_collector(speaker, collector(**{"sequence": 2, "watched": watched(10.0, 5), **changes}))
    assert woken == [PROD] * (2 if wakes else 1)


@pytest.mark.parametrize(
    ("changes", "wakes"),
    [
        pytest.param({}, False, id="the same"),
        pytest.param({"problem": "503 of the embeddings"}, True, id="it cannot be measured"),
        pytest.param({"attempt": 2}, True, id="of another attempt"),
        pytest.param({"boot": "b"}, True, id="it started again"),
    ],
)
def test_which_words_about_drift_wake_the_reconciler(fleet: Fleet, woken: list[Key], changes: dict[str, Any], wakes: bool) -> None:
    speaker = caller("prod-drift-1", role="drift")
    fleet.heard_drift(speaker, drift())
    assert (woken, list(fleet.drifts(PROD)), len(fleet)) == ([PROD], ["prod-drift-1"], 1)
    fleet.heard_drift(speaker, drift(**{"sequence": 2, **changes}))
    assert woken == [PROD] * (2 if wakes else 1)
    fleet.forget(PROD)
    assert (fleet.drifts(PROD), len(fleet)) == ({}, 0)


async def test_a_pod_that_was_silent_wakes_the_reconciler(fleet: Fleet, woken: list[Key], clock: Any) -> None:
    fleet.heard_agent(caller(), agent())
    await clock.advance(SILENT_SECONDS)
    fleet.heard_agent(caller(), agent(sequence=2))
    assert woken == [PROD]
    await clock.advance(SILENT_SECONDS + 1)
    fleet.heard_agent(caller(), agent(sequence=3))
    assert woken == [PROD, PROD]


async def test_pods_that_are_silent_for_long_are_forgotten(fleet: Fleet, clock: Any) -> None:
    fleet.heard_agent(caller("gone"), agent())
    fleet.heard_gateway(caller("gone", role="gateway", endpoint="other"), gateway())
    fleet.heard_collector(caller("gone", role="collector", endpoint="third"), collector())
    await clock.advance(FORGOTTEN.total_seconds() - 1)
    fleet.heard_agent(caller("here"), agent())
    assert sorted(fleet.agents(PROD)) == ["gone", "here"]
    await clock.advance(SILENT_SECONDS + 1)
    fleet.heard_agent(caller("here"), agent(sequence=2))
    assert list(fleet.agents(PROD)) == ["here"]
    assert fleet.gateways(Key("team", "other")) == fleet.collectors(Key("team", "third")) == {}
    assert len(fleet) == 1


async def test_there_is_no_more_than_fits(clock: Any, woken: list[Key]) -> None:
    fleet = Fleet(clock, woken.append, per_endpoint=2, total=3)
    for name in ("one", "two", "three"):
        fleet.heard_agent(caller(name), agent())
    assert (sorted(fleet.agents(PROD)), fleet.dropped) == (["one", "two"], 1)
    fleet.heard_gateway(caller("four", role="gateway"), gateway())
    fleet.heard_agent(caller("five", endpoint="other"), agent())
    assert (len(fleet), fleet.dropped, len(woken)) == (3, 2, 3)
    fleet.heard_agent(caller("one"), agent(sequence=2, revision=2))
    assert fleet.agents(PROD)["one"].report.revision == 2
    await clock.advance(FORGOTTEN.total_seconds() + 1)
    fleet.heard_agent(caller("five", endpoint="other"), agent())
    assert (len(fleet), fleet.dropped) == (1, 2)


def test_an_endpoint_that_is_gone(fleet: Fleet) -> None:
    fleet.heard_agent(caller(), agent())
    fleet.heard_gateway(caller("prod-gateway-1", role="gateway"), gateway())
    fleet.heard_collector(caller("prod-collector-1", role="collector"), collector())
    fleet.heard_agent(caller(endpoint="other"), agent())
    assert len(fleet) == 4
    fleet.forget(PROD)
    assert fleet.agents(PROD) == fleet.gateways(PROD) == fleet.collectors(PROD) == {}
    assert len(fleet) == 1
