# ruff: noqa: S311 -- tests
"""What of its settings a running collector follows, and whose word it believes."""

import asyncio
import json
from contextlib import asynccontextmanager
from random import Random

import pytest
from aiohttp.test_utils import TestServer
from collector_process import Cluster

from graft_api.collect import CollectorSettings
from graft_api.schema import parse
from graft_serving.cluster import ApiAddress, ApiServer, ApiTimes
from graft_serving.collector.following import SettingsSource

METRICS = [{"name": "server-errors", "measure": "ServerError"}]


def settings(*domains):
    watches = [{"domain": domain, "gate": 1, "new": f"{domain}-new", "heldBack": "base", "metrics": METRICS} for domain in domains]
    return parse(CollectorSettings, {"watches": watches})


class Followed:
    """A source, its file, and what it has said."""

    def __init__(self, tmp_path, server):
        self.file = tmp_path / "collector.json"
        self.seen = []
        self.cluster = Cluster()
        self.api = ApiServer(ApiAddress(str(server.make_url("")).rstrip("/")), Random(1), ApiTimes(first_pause=0.01, longest_pause=0.02))
        self.source = SettingsSource("team", "prod", self.file, self.api, poll_seconds=0.01)

    def write(self, *domains):
        self.file.write_text(json.dumps(settings(*domains).to_json()))

    def follow(self, tasks):
        self.seen.append([task.domain for task in tasks])


@pytest.fixture
async def followed(tmp_path):
    cluster = Cluster()
    async with TestServer(cluster.application()) as server:
        found = Followed(tmp_path, server)
        found.cluster = cluster
        found.write("dsl")
        yield found


@asynccontextmanager
async def running(followed):
    async with followed.api:
        task = asyncio.ensure_future(followed.source.run(followed.follow))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_the_file_is_followed_until_the_api_server_has_spoken(followed, until):
    async with running(followed):
        await until(lambda: followed.seen == [["dsl"]])
        followed.write("dsl", "other")
        await until(lambda: followed.seen[-1] == ["dsl", "other"])
        followed.cluster.say(settings("governance"))
        await until(lambda: followed.seen[-1] == ["governance"])
        followed.write("dsl")
        followed.cluster.say(settings("governance", "other"))
        await until(lambda: followed.seen[-1] == ["governance", "other"])
        await asyncio.sleep(0.05)
    assert followed.seen == [["dsl"], ["dsl", "other"], ["governance"], ["governance", "other"]], "the kubelet is late, and is not asked"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        pytest.param("{", "no JSON", id="no JSON"),
        pytest.param('{"watches": [{"domain": "dsl"}]}', "watches[0].gate", id="no settings"),
        pytest.param("{}", "set observe, compare, report or watches", id="nothing to do"),
    ],
)
async def test_what_cannot_be_read_changes_nothing(followed, until, caplog, document, sentence):
    async with running(followed):
        followed.cluster.say(settings("dsl"))
        await until(lambda: followed.source.watched)
        followed.cluster.documents.append(document)
        await until(lambda: sentence in caplog.text)
        followed.cluster.say(settings("other"))
        await until(lambda: followed.seen[-1] == ["other"])
    assert followed.seen == [["dsl"], ["other"]]


async def test_settings_that_are_somebody_elses_are_nobodys(followed, until, caplog):
    followed.cluster.label = "mine"
    followed.cluster.say(settings("theirs"))
    async with running(followed):
        await until(lambda: "is not the operator's" in caplog.text)
        followed.write("theirs")
        await asyncio.sleep(0.05)
        assert ["theirs"] not in followed.seen
        followed.cluster.label = "collector"
        followed.cluster.say(settings("dsl", "other"))
        await until(lambda: followed.seen[-1:] == [["dsl", "other"]])


async def test_what_cannot_be_taken_over_ends_nothing(followed, until, caplog):
    def refuse(tasks):
        followed.follow(tasks)
        if len(tasks) > 1:
            raise RuntimeError("no room")

    async with followed.api:
        task = asyncio.ensure_future(followed.source.run(refuse))
        followed.cluster.say(settings("dsl", "other"))
        await until(lambda: "could not be taken over" in caplog.text)
        followed.cluster.say(settings("other"))
        await until(lambda: followed.seen[-1] == ["other"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
