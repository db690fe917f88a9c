from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from graft_api.schema import Invalid
from graft_operator.engine.errors import Unavailable
from graft_operator.reports.chains import Foreign, Unauthenticated
from graft_operator.reports.server import MAX_FLEET_BODY_BYTES, ReportsServer
from graft_operator.reports.sink import FleetCaller, NotYours, Superseded, Unknown

CLAIM = {"jobUid": "tune-1"}
PROGRESS = {"attempt": 1, "progress": {"stage": "train", "step": 7, "loss": 0.5}}
RESULT = {"version": 1, "attempt": 1, "failed": {"exitCode": 10, "reason": "InvalidData", "message": "line 3: no prompt", "line": 3}}
ROOT = "/v1/namespaces/team/finetunejobs/tune"
SECRET = "the quick brown fox is content"


class Sink:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    async def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    async def claim(self, caller: Any, namespace: str, name: str, request: Any) -> int:
        await self._note("claim", caller, namespace, name, request)
        return 3

    async def progress(self, caller: Any, namespace: str, name: str, report: Any) -> None:
        await self._note("progress", caller, namespace, name, report)

    async def result(self, caller: Any, namespace: str, name: str, result: Any) -> None:
        await self._note("result", caller, namespace, name, result)


class Identities:
    """Whoever a test says."""

    def __init__(self, caller: Any) -> None:
        self.answer = caller

    async def fleet_caller(self, authorization: str | None, namespace: str, endpoint: str) -> Any:
        return await self.caller(authorization)

    async def caller(self, authorization: str | None) -> Any:
        if authorization is None:
            raise Unauthenticated("no token")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def identities(caller: Any) -> Identities:
    return Identities(caller())


@pytest.fixture
def leading() -> list[bool]:
    return [True]


@pytest.fixture
def server(sink: Sink, identities: Identities, leading: list[bool], clock: Any) -> ReportsServer:
    return ReportsServer(sink, identities, lambda: leading[0], clock, Fleet())  # type: ignore[arg-type]


@pytest.fixture
async def client(server: ReportsServer) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(server.application()), headers={"Authorization": "Bearer x"}) as made:
        yield made


async def test_a_claim_is_answered_with_its_number(client: Any, sink: Sink, caller: Any) -> None:
    answer = await client.post(f"{ROOT}/claim", json=CLAIM)
    assert (answer.status, await answer.json()) == (200, {"attempt": 3})
    assert sink.calls[0][:4] == ("claim", caller(), "team", "tune")


async def test_a_result_is_answered_after_it_was_taken(client: Any, sink: Sink) -> None:
    answer = await client.post(f"{ROOT}/result", json=RESULT)
    assert answer.status == 204
    assert sink.calls[0][4].failed.line == 3


async def test_progress_is_answered_before_it_is_written(client: Any, server: ReportsServer, sink: Sink) -> None:
    answer = await client.post(f"{ROOT}/progress", json=PROGRESS)
    assert answer.status == 204
    assert sink.calls == []
    task = asyncio.create_task(server.coalescer.run())
    async with asyncio.timeout(20):
        while not sink.calls:  # noqa: ASYNC110 - a condition of the server's own
            await asyncio.sleep(0.01)
    assert sink.calls[0][4].progress.step == 7
    task.cancel()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(Superseded("attempt 2 took over"), 409, id="superseded"),
        pytest.param(NotYours("another job"), 403, id="not yours"),
        pytest.param(Unknown("no such job"), 403, id="unknown"),
        pytest.param(Unavailable("API server away"), 503, id="the API server is away"),
        pytest.param(RuntimeError(SECRET), 503, id="a bug"),
        pytest.param(Invalid(["status is broken"]), 503, id="a status that cannot be read is not the pod's mistake"),
    ],
)
@pytest.mark.parametrize(("route", "body"), [("claim", CLAIM), ("result", RESULT)])
async def test_what_the_sink_says(client: Any, sink: Sink, route: str, body: Any, error: Exception, status: int) -> None:
    sink.error = error
    answer = await client.post(f"{ROOT}/{route}", json=body)
    assert answer.status == status
    assert ("Retry-After" in answer.headers) is (status == 503)
    assert SECRET not in await answer.text()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(Unauthenticated("no"), 401, id="a token that is not genuine"),
        pytest.param(Foreign("no"), 403, id="a pod of nobody"),
        pytest.param(Unavailable("away"), 503, id="the API server cannot be asked"),
    ],
)
async def test_who_may_speak(client: Any, identities: Identities, sink: Sink, answer: Exception, status: int) -> None:
    identities.answer = answer
    assert (await client.post(f"{ROOT}/claim", data=b"not even JSON")).status == status
    assert sink.calls == []


@pytest.mark.parametrize("path", ["/v1/namespaces/team/finetunejobs/other", "/v1/namespaces/other/finetunejobs/tune"])
async def test_only_for_its_own_job(client: Any, sink: Sink, path: str) -> None:
    assert (await client.post(f"{path}/claim", json=CLAIM)).status == 403
    assert sink.calls == []


async def test_no_token(server: ReportsServer) -> None:
    async with TestServer(server.application()) as running, ClientSession() as session:
        assert (await session.post(running.make_url(f"{ROOT}/claim"), json=CLAIM)).status == 401


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"{", "not JSON", id="not JSON"),
        pytest.param(b"\xff", "not JSON", id="not UTF-8"),
        pytest.param(b"[" * 60000, "not JSON", id="too deep"),
        pytest.param(b"1" * 5000, "not JSON", id="a number of absurd length"),
        pytest.param(b"[]", "", id="not an object"),
        pytest.param(json.dumps({**PROGRESS, "more": 1}).encode(), "more", id="an unknown field"),
        pytest.param(json.dumps({**PROGRESS, "attempt": "1"}).encode(), "attempt", id="a number in a string"),
        pytest.param(json.dumps({**PROGRESS, "attempt": 0}).encode(), "attempt", id="out of bounds"),
        pytest.param(json.dumps({"attempt": 1, "progress": {"stage": SECRET}}).encode(), "progress.stage", id="an unknown stage"),
        pytest.param(b'{"attempt": 1, "progress": {"stage": "train", "loss": NaN}}', "not JSON", id="NaN, which the API server refuses"),
    ],
)
async def test_bodies_that_are_refused(client: Any, sink: Sink, body: bytes, words: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await client.post(f"{ROOT}/progress", data=body)
    assert answer.status == 400
    assert words in (await answer.json())["error"]
    assert SECRET not in await answer.text() + caplog.text
    assert sink.calls == []


@pytest.mark.parametrize(("size", "status"), [(64 * 1024, 400), (64 * 1024 + 1, 413)], ids=["64 KiB", "one byte more"])
async def test_bodies_are_bounded(client: Any, size: int, status: int) -> None:
    assert (await client.post(f"{ROOT}/progress", data=b" " * size)).status == status


async def test_no_leader_no_answer(client: Any, leading: list[bool], sink: Sink) -> None:
    leading[0] = False
    answer = await client.post(f"{ROOT}/claim", json=CLAIM)
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "2"
    assert sink.calls == []


async def test_a_superseded_pod_hears_of_it_when_it_reports_progress(client: Any, server: ReportsServer, sink: Sink) -> None:
    sink.error = Superseded("attempt 2 took over")
    task = asyncio.create_task(server.coalescer.run())
    statuses = []
    async with asyncio.timeout(20):
        while 409 not in statuses:
            statuses.append((await client.post(f"{ROOT}/progress", json=PROGRESS)).status)
    assert statuses[0] == 204
    task.cancel()


async def test_logs_name_the_object_and_quote_nobody(client: Any, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sink.error = RuntimeError(SECRET)
    await client.post(f"{ROOT}/result", json={**RESULT, "failed": {**RESULT["failed"], "message": SECRET}})  # type: ignore[dict-item]
    assert "finetunejobs/tune/result" in caplog.text
    assert "RuntimeError" in caplog.text
    assert "test_server.py" in caplog.text
    assert SECRET not in caplog.text


AGENT = {"boot": "a", "sequence": 1, "epoch": 1, "revision": 1, "server": "Serving"}
GATEWAY = {"boot": "a", "sequence": 1, "epoch": 1, "revision": 1, "inFlight": {"base": 2}}
DRIFT: dict[str, Any] = {
    "boot": "a",
    "sequence": 1,
    "domain": "dsl",
    "gate": 1,
    "adapterUid": "uid-c",
    "moment": "Before",
    "attempt": 1,
}
COLLECTOR = {"boot": "a", "sequence": 1, "mode": "Compare", "test": "first", "testUid": "test-1", "commit": 7}
FLEET = "/v1/namespaces/team/modelendpoints/prod"


class Fleet:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def heard_agent(self, caller: Any, report: Any) -> None:
        self.heard.append(("agent", caller, report))

    def heard_gateway(self, caller: Any, report: Any) -> None:
        self.heard.append(("gateway", caller, report))

    def heard_collector(self, caller: Any, report: Any) -> None:
        self.heard.append(("collector", caller, report))

    def heard_drift(self, caller: Any, report: Any) -> None:
        self.heard.append(("drift", caller, report))


class TestFleet:
    """Routes of the data plane."""

    @pytest.fixture
    def fleet(self) -> Fleet:
        return Fleet()

    @pytest.fixture
    def server(self, sink: Sink, identities: Identities, leading: list[bool], clock: Any, fleet: Fleet) -> ReportsServer:
        identities.answer = speaker()
        return ReportsServer(sink, identities, lambda: leading[0], clock, fleet)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("route", "role", "body"),
        [("agent", "server", AGENT), ("gateway", "gateway", GATEWAY), ("collector", "collector", COLLECTOR), ("drift", "drift", DRIFT)],
        ids=["an agent", "a gateway", "a collector", "a Job that measures drift"],
    )
    async def test_a_report_is_taken(
        self, client: Any, identities: Identities, fleet: Fleet, route: str, role: str, body: dict[str, Any]
    ) -> None:
        identities.answer = speaker(role=role)
        assert (await client.post(f"{FLEET}/{route}", json=body)).status == 204
        ((kind, caller, report),) = fleet.heard
        assert (kind, caller, report.boot) == (route, speaker(role=role), "a")

    @pytest.mark.parametrize(
        ("route", "body", "who"),
        [
            pytest.param("gateway", GATEWAY, {"role": "server"}, id="a server as a gateway"),
            pytest.param("agent", AGENT, {"role": "gateway"}, id="a gateway as a server"),
            pytest.param("collector", COLLECTOR, {"role": "server"}, id="a server as a collector"),
            pytest.param("gateway", GATEWAY, {"role": "collector"}, id="a collector as a gateway"),
            pytest.param("drift", DRIFT, {"role": "collector"}, id="a collector as a Job that measures drift"),
            pytest.param("collector", COLLECTOR, {"role": "drift"}, id="a Job that measures drift as a collector"),
            pytest.param("drift", DRIFT, {"role": "drift", "endpoint_name": "other"}, id="such a Job for another endpoint"),
            pytest.param("collector", COLLECTOR, {"role": "collector", "endpoint_name": "other"}, id="a collector for another endpoint"),
            pytest.param("agent", AGENT, {"endpoint_name": "other"}, id="for another endpoint"),
            pytest.param("agent", AGENT, {"namespace": "other"}, id="for another namespace"),
        ],
    )
    async def test_nobody_speaks_for_others(
        self, client: Any, identities: Identities, fleet: Fleet, route: str, body: dict[str, Any], who: dict[str, str]
    ) -> None:
        identities.answer = speaker(**who)
        assert (await client.post(f"{FLEET}/{route}", json=body)).status == 403
        assert fleet.heard == []

    @pytest.mark.parametrize(("answer", "status"), [(Unauthenticated("no"), 401), (Foreign("no"), 403), (Unavailable("away"), 503)])
    async def test_who_may_speak(self, client: Any, identities: Identities, fleet: Fleet, answer: Exception, status: int) -> None:
        identities.answer = answer
        assert (await client.post(f"{FLEET}/agent", data=b"not even JSON")).status == status
        assert fleet.heard == []

    async def test_no_leader_no_answer(self, client: Any, leading: list[bool], fleet: Fleet) -> None:
        leading[0] = False
        answer = await client.post(f"{FLEET}/agent", json=AGENT)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert fleet.heard == []

    @pytest.mark.parametrize("body", [b"{", json.dumps({**AGENT, "more": 1}).encode(), json.dumps(GATEWAY).encode()])
    async def test_bodies_that_are_refused(self, client: Any, fleet: Fleet, body: bytes) -> None:
        assert (await client.post(f"{FLEET}/agent", data=body)).status == 400
        assert fleet.heard == []

    @pytest.mark.parametrize(("more", "status"), [(0, 400), (1, 413)])
    async def test_bodies_are_bounded(self, client: Any, more: int, status: int) -> None:
        assert (await client.post(f"{FLEET}/agent", data=io.BytesIO(b" " * (MAX_FLEET_BODY_BYTES + more)))).status == status

    async def test_an_agent_with_much_to_say(self, client: Any, fleet: Fleet) -> None:
        version = {"digest": f"sha256:{'0' * 64}", "state": "Failed", "reason": "LoadRefused", "message": "\U0001f50e" * 512}
        report = {**AGENT, "versions": [{"name": f"dsl-{number:016x}", **version} for number in range(64)]}
        body = json.dumps(report, ensure_ascii=False).encode()
        assert len(body) > 128 * 1024
        assert (await client.post(f"{FLEET}/agent", data=body)).status == 204
        assert len(fleet.heard[0][2].versions) == 64

    async def test_a_collector_with_as_much_to_say_as_its_contract_lets_it(self, client: Any, identities: Identities, fleet: Fleet) -> None:
        identities.answer = speaker(role="collector")
        body = json.dumps(longest_report(), ensure_ascii=False).encode()
        assert len(body) > 300 * 1024
        assert (await client.post(f"{FLEET}/collector", data=body)).status == 204
        assert len(fleet.heard[0][2].comparison.instrument.metrics) == 20
        assert len(fleet.heard[0][2].watched) == 31


def longest_report() -> dict[str, Any]:
    """Three contrasts of twenty metrics, with every field that a comparison may have, as long as it may be; and a watch of each domain."""
    estimate = {"improvement": -1 / 3, "low": -2 / 3, "high": 1 / 7, "incumbent": 1e9 / 7, "candidate": 1e9 / 3, "pairs": 10**9}
    estimate |= {"method": "Bootstrap"}
    counts = dict.fromkeys(("clusters", "pairs", "missingIncumbent", "missingCandidate", "scorerFailures"), 10**9)
    metric = {"label": "l" * 80, "unit": "u" * 16, "kind": "Mean", "direction": "LowerIsBetter", "role": "Informational", "margin": 1 / 7}
    metric |= {"scale": "Relative", "worst": 1e5 / 7, "best": -1e5 / 7, "resolution": 1 / 7, "detectable": 1 / 7}
    reading = {"overall": estimate, "firstTurn": estimate, "reason": "r" * 160, "hoursToDetect": 1e4 / 7, **counts}
    reading["harm"] = {"clusters": 10**9, "high": 1 / 7, "limit": -1 / 7, "shown": True}
    metrics = [{"metric": {"name": f"{number:063}", **metric}, **reading} for number in range(20)]
    exclusions = [{"cause": f"{number:063}", "side": "Candidate", "count": 10**9} for number in range(64)]
    contrast = {"pairs": 10**9, "firstTurnPairs": 10**9, "clusters": 10**9, "clustersEstimated": True, "largestClusterShare": 1 / 7}
    contrasts = [{"name": name, "exclusions": exclusions, "metrics": metrics, **contrast} for name in ("production", "control", "same")]
    comparison = {"contrasts": contrasts[:2], "instrument": contrasts[2], "broken": ["b" * 160] * 32, "lostPairs": 10**9}
    lost = {f"{number:063}": 10**9 for number in range(32)}
    reported = {"testUid": "t" * 64, "problem": "p" * 256}
    said = {"comparison": comparison, "lost": lost, "shadowAway": "s" * 160, "storeAway": True, "reported": reported}
    return {**COLLECTOR, **said, "watched": longest_watches()}


def longest_watches() -> list[dict[str, Any]]:
    sums = dict.fromkeys(("clusters", "values", "valuesSquared", "product"), 10**12) | {"total": 1e9 / 7, "totalSquared": 1e12 / 7}
    metrics = [{"name": f"{number:063}", "new": sums, "heldBack": sums} for number in range(17)]
    count = {"observedSeconds": 1e7 / 3, "metrics": metrics}
    return [{"domain": f"{number:063}", "gate": 10**6, "count": count} for number in range(31)]


def speaker(**changes: str) -> FleetCaller:
    values = {
        "pod_name": "prod-server-7d-x2",
        "pod_uid": "pod-1",
        "pod_created_at": "2026-11-20T12:00:00Z",
        "namespace": "team",
        "service_account": "graft-server-prod",
        "role": "server",
        "endpoint_name": "prod",
        "endpoint_uid": "endpoint-1",
    }
    return FleetCaller(**{**values, **changes})
