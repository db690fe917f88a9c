"""`graft-serving collector` as a process of its own, with a cluster's keys, an operator, a gateway and a shadow."""

import asyncio
import json
import signal
import time

import pytest
from aiohttp.test_utils import TestServer
from collector_process import Cluster, Program, token
from collector_world import FakeGateway, settings

from graft_api.collect import CollectorReport, Mode
from graft_api.schema import parse
from graft_runtime.environment import MissingSetting
from graft_serving.collector.settings import read_settings

SCORED = 'graft_observed_right_total{domain="dsl",score="right",version="dsl-old"} 3.0'


@pytest.fixture
async def cluster():
    made = Cluster()
    async with TestServer(made.application()) as server:
        made.url = str(server.make_url("")).rstrip("/")
        yield made


@pytest.fixture
async def program(tmp_path, cluster, shadow):
    document = settings(f"file://{tmp_path}/store", shadow.url, controlShare="0.3", segments={"seconds": 1})
    made = Program(tmp_path, cluster.url, document)
    yield made
    if made.process and made.process.returncode is None:
        await made.end(signal.SIGKILL)
    made.log.close()


async def test_a_process_begins_takes_reports_and_ends_in_order(program, cluster, session, tmp_path):
    await program.start()
    gateway = FakeGateway(token=token())
    await gateway.deliver(session, program.url, [gateway.exchange("secret") for _ in range(3)])
    async with asyncio.timeout(10):
        while not cluster.reports or cluster.reports[-1][1]["commit"] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    authorization, told = cluster.reports[-1]
    assert authorization == "Bearer report-token"
    report = parse(CollectorReport, told)
    assert (report.test, report.mode, report.lost) == ("t", Mode.COMPARE, {})
    assert report.comparison is not None
    assert await program.end(signal.SIGTERM) == 0, (tmp_path / "log").read_text()
    assert "secret" not in (tmp_path / "log").read_text()


async def test_a_test_that_cannot_begin_is_told_of_and_production_is_still_observed(program, cluster, session, tmp_path):
    document = settings(f"file://{tmp_path}/store", "nobody:1").to_json()
    document["compare"]["metrics"][0]["scorer"] = {"http": {"url": "https://judge", "tokenEnv": "NOT_THERE"}}
    domains = [{"domain": "dsl", "scores": [{"name": "right", "scorer": {"regex": {"pattern": "yes"}}}]}]
    document["observe"] = {"domains": domains, "store": f"file://{tmp_path}/observed"}
    (tmp_path / "collector.json").write_text(json.dumps(document))
    await program.start()
    gateway = FakeGateway(token=token())
    await gateway.deliver(session, program.url, [gateway.exchange("q") for _ in range(3)])
    async with asyncio.timeout(10):
        while not (told := cluster.reports and cluster.reports[-1][1].get("comparison")) or SCORED not in await program.metrics(session):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert told["broken"] == ["the scorer of wrong: http.tokenEnv: there is no environment variable NOT_THERE, or it is empty"]
    assert await program.end(signal.SIGTERM) == 0, (tmp_path / "log").read_text()


async def test_only_the_gateways_of_its_endpoint_get_in(program, session):
    await program.start()
    gateway = FakeGateway(token=token())
    refused = {
        "of another endpoint": token(aud=["graft.dev/collector/other"]),
        "for a door": token(aud=["graft.dev/door/prod"]),
        "of another account": token(sub="system:serviceaccount:team:default"),
        "expired": token(exp=time.time() - 60),
        "none": "x",
    }
    batch = [gateway.exchange("1")]
    await gateway.deliver(session, program.url, batch)
    for name, bad in refused.items():
        gateway.token = bad
        assert await gateway.send(session, program.url, [gateway.exchange("2")]) == 401, name
    text = await program.metrics(session)
    assert "graft_collector_exchanges_total 1.0" in text
    assert 'graft_collector_batches_total{code="401"} 5.0' in text


def test_settings_that_are_wrong_are_said_and_not_tried_again(tmp_path):
    document = settings("s3://b/t", "host:8000").to_json()
    document["compare"]["controlShare"] = "2"
    file = tmp_path / "collector.json"
    file.write_text(json.dumps(document))
    with pytest.raises(MissingSetting, match=r"collector\.json: compare\.controlShare: 2 must be >= 0 and <= 1"):
        read_settings(file)
    with pytest.raises(MissingSetting, match="No such file"):
        read_settings(tmp_path / "other.json")


def test_a_newer_operator_may_say_more(tmp_path):
    document = settings("s3://b/t", "host:8000").to_json()
    (tmp_path / "collector.json").write_text(json.dumps({**document, "soon": {}}))
    assert read_settings(tmp_path / "collector.json") == settings("s3://b/t", "host:8000")
