# ruff: noqa: S311 -- jitter, nothing secret
import asyncio
import json
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from graft_api.fleet import GatewayReport
from graft_serving.operator_client import OperatorClient, ReportTimes, report_target

QUICK = ReportTimes(every=0.3, apart=0.05, connect=0.2, answer=0.3, first_pause=0.01, longest_pause=0.05)


class FakeOperator:
    def __init__(self):
        self.status = 204
        self.reports = []
        self.paths = []
        self.tokens = []
        self.peers = []

    async def take(self, request):
        self.paths.append(request.path)
        self.tokens.append(request.headers["Authorization"])
        self.peers.append(request.transport.get_extra_info("peername"))
        self.reports.append((self.status, json.loads(await request.read())))
        return web.Response(status=self.status, headers={"Retry-After": "2"} if self.status == 503 else {})

    def application(self):
        application = web.Application()
        application.router.add_post("/{path:.*}", self.take)
        return application

    @property
    def accepted(self):
        return [report for status, report in self.reports if status == 204]


@pytest.fixture
async def operator():
    fake = FakeOperator()
    async with TestServer(fake.application()) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


class Sender:
    """A process that reports: `revision` is its picture."""

    def __init__(self, url, folder):
        (folder / "token").write_text("token-1")
        self.revision = 1
        self.client = OperatorClient(report_target(url, "team", "prod", "gateway", folder), Random(1), QUICK)

    def picture(self, sequence):
        return GatewayReport(boot="b", sequence=sequence, epoch=1, revision=self.revision)

    def change(self, revision):
        self.revision = revision
        self.client.changed()


@pytest.fixture
def sender(operator, tmp_path, background):
    made = Sender(operator.url, tmp_path)
    background(made.client.run(made.picture))
    return made


async def test_the_first_report_goes_out_at_once_with_token_and_path(operator, sender, until):
    await until(lambda: operator.reports)
    assert operator.paths[0] == "/v1/namespaces/team/modelendpoints/prod/gateway"
    assert operator.tokens[0] == "Bearer token-1"
    assert operator.accepted[0] == {
        "boot": "b",
        "sequence": 1,
        "epoch": 1,
        "revision": 1,
        "inFlight": {},
        "pods": {},
        "draining": False,
        "trips": [],
    }
    await until(lambda: sender.client.delivered == 1)


async def test_without_a_change_it_reports_every_so_often(operator, sender, until):
    await until(lambda: len(operator.reports) == 3)
    assert [report["sequence"] for report in operator.accepted] == [1, 2, 3]


async def test_changes_in_quick_succession_go_into_one_report(operator, sender, until):
    await until(lambda: sender.client.delivered == 1)
    for revision in range(2, 20):
        sender.change(revision)
        await asyncio.sleep(0)
    await until(lambda: sender.client.delivered == 2)
    assert operator.accepted[-1]["revision"] == 19
    assert len(operator.reports) == 2


async def test_after_a_leader_was_away_only_the_newest_picture_is_sent_over_a_new_connection(operator, sender, until):
    await until(lambda: sender.client.delivered)
    operator.status = 503
    sender.change(2)
    await until(lambda: len(operator.reports) > 4)
    sender.change(3)
    operator.status = 204
    await until(lambda: operator.accepted[-1]["revision"] == 3)
    assert {report["revision"] for report in operator.accepted} == {1, 3}
    refused = [peer for peer, (status, _) in zip(operator.peers, operator.reports, strict=True) if status == 503]
    assert len(set(refused)) == len(refused), "a replica that does not lead must not keep the connection"


async def test_good_answers_share_a_connection(operator, sender, until):
    await until(lambda: len(operator.reports) == 3)
    assert len(set(operator.peers)) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
async def test_a_refusal_is_logged_once_and_tried_again_with_the_newest_token(status, operator, sender, until, tmp_path, caplog):
    operator.status = status
    await until(lambda: len(operator.reports) > 3)
    (tmp_path / "token").write_text("token-two")
    operator.status = 204
    await until(lambda: sender.client.delivered)
    assert operator.tokens[-1] == "Bearer token-two"
    assert len([record for record in caplog.records if f"status {status}" in record.getMessage()]) <= 1


async def test_an_operator_that_comes_late_is_found(operator, tmp_path, background, until):
    port = unused_port()
    late = Sender(f"http://127.0.0.1:{port}", tmp_path)
    background(late.client.run(late.picture))
    await asyncio.sleep(0.05)
    late.change(7)
    fake = FakeOperator()
    async with TestServer(fake.application(), port=port):
        await until(lambda: fake.reports)
        assert fake.accepted[0]["revision"] == 7


async def test_a_token_that_is_not_there_yet_is_waited_for(operator, tmp_path, background, until):
    sender = Sender(operator.url, tmp_path)
    (tmp_path / "token").unlink()
    background(sender.client.run(sender.picture))
    await asyncio.sleep(0.05)
    assert not operator.reports
    (tmp_path / "token").write_text("late")
    await until(lambda: operator.tokens == ["Bearer late"])
