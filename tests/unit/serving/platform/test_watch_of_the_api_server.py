# ruff: noqa: S311 -- jitter, nothing secret
import asyncio
from random import Random

import pytest
from aiohttp.test_utils import TestServer, unused_port

from graft_runtime.environment import MissingSetting
from graft_serving.cluster import ApiAddress, ApiError, ApiServer, ApiTimes, Changed, Listed, api_address_from
from graft_serving.rotated_file import token_file

QUICK = ApiTimes(connect=0.5, answer=0.5, stream=2, silent=0.3, first_pause=0.01, longest_pause=0.05)
PATH = "/api/v1/namespaces/team/configmaps"


@pytest.fixture
def seen(api, background):
    """What a watch has said so far: the names of a list, or a change."""
    said = []

    async def read():
        async for event in api.watch(PATH, {"fieldSelector": "metadata.name=a"}):
            match event:
                case Listed(items):
                    said.append([item["metadata"]["name"] for item in items])
                case Changed(kind, item):
                    said.append((kind, item["metadata"]["name"]))

    background(read())
    return said


async def test_the_whole_picture_comes_first_then_every_change(fake_api, seen, until):
    fake_api.put("a")
    await until(lambda: seen)
    fake_api.put("a")
    fake_api.delete("a")
    await until(lambda: len(seen) == 3)
    assert seen == [["a"], ("MODIFIED", "a"), ("DELETED", "a")]


async def test_the_query_asks_for_bookmarks_an_end_and_our_objects_only(fake_api, seen, until):
    await until(lambda: fake_api.watches)
    query = fake_api.watches[0]
    assert query["fieldSelector"] == "metadata.name=a"
    assert query["allowWatchBookmarks"] == "true"
    assert query["resourceVersion"] == "1"
    assert int(query["timeoutSeconds"]) >= 1


async def test_what_happened_while_a_stream_was_broken_is_not_missed(fake_api, seen, until):
    await until(lambda: fake_api.watches)
    fake_api.broken = True
    fake_api.cut()
    fake_api.put("a")
    await asyncio.sleep(0.1)
    fake_api.broken = False
    await until(lambda: ["a"] in seen)


async def test_a_forgotten_version_is_answered_by_a_new_list(fake_api, seen, until):
    await until(lambda: fake_api.watches)
    fake_api.objects["late"] = {"metadata": {"name": "late", "resourceVersion": "9"}}
    fake_api.version = 9
    fake_api.forget()
    await until(lambda: seen[-1] == ["late"])
    assert fake_api.lists == 2


async def test_a_stream_that_ends_in_order_goes_on_from_the_last_bookmark_without_a_list(fake_api, background, until):
    ended = asyncio.Event()

    class Ending(type(fake_api)):
        async def _feed(self, response, since, cut):
            await self._send(response, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(since + 10)}}})
            await response.write_eof()
            ended.set()

    ending = Ending()
    async with (
        TestServer(ending.application()) as server,
        ApiServer(ApiAddress(str(server.make_url("")).rstrip("/")), Random(1), QUICK) as api,
    ):

        async def read():
            async for _ in api.watch(PATH, {}):
                pass

        task = asyncio.ensure_future(read())
        await until(lambda: len(ending.watches) >= 3)
        task.cancel()
    assert ending.lists == 1
    assert [query["resourceVersion"] for query in ending.watches[:3]] == ["1", "11", "21"]


async def test_a_silent_connection_is_given_up(fake_api, seen, until):
    fake_api.mute = True
    fake_api.put("a")
    await until(lambda: len(fake_api.watches) >= 2)


async def test_bookmarks_keep_a_quiet_connection(fake_api, seen, until):
    await until(lambda: fake_api.watches)
    await asyncio.sleep(2 * QUICK.silent)
    assert len(fake_api.watches) == 1
    assert seen == [[]]


async def test_an_api_server_that_comes_late_is_found(background, fake_api, until):
    port, seen = unused_port(), []
    async with ApiServer(ApiAddress(f"http://127.0.0.1:{port}"), Random(1), QUICK) as api:

        async def read():
            async for event in api.watch(PATH, {}):
                seen.extend([event])

        background(read())
        await asyncio.sleep(0.1)
        assert api.away
        assert api.silent_seconds is None
        fake_api.put("a")
        async with TestServer(fake_api.application(), port=port):
            await until(lambda: seen)
            assert not api.away
            fake_api.cut()


async def test_a_long_line_is_one_event(fake_api, seen, until):
    await until(lambda: fake_api.watches)
    fake_api.put("a", data={"x": "y" * 900_000})
    await until(lambda: ("ADDED", "a") in seen)


@pytest.mark.parametrize("event", [{"type": "MODIFIED"}, {"object": {}}, {"type": "ADDED", "object": {"metadata": None}}, [], 7])
async def test_garbage_in_the_stream_is_answered_by_a_new_list(event, fake_api, seen, until):
    await until(lambda: fake_api.watches)
    fake_api.log.append((5, event))
    await until(lambda: fake_api.lists >= 2)
    fake_api.log.clear()


async def test_the_same_trouble_is_logged_once(fake_api, seen, until, caplog):
    caplog.set_level("INFO")
    await until(lambda: fake_api.watches)
    fake_api.broken = True
    fake_api.cut()
    await until(lambda: len(fake_api.headers) > 10)
    fake_api.broken = False
    await until(lambda: len(fake_api.watches) > 1)
    await until(lambda: "works again" in caplog.text)
    assert len([record for record in caplog.records if "status 503" in record.getMessage()]) == 1


async def test_get_says_none_for_what_is_not_there_and_raises_for_the_rest(fake_api, api):
    assert await api.get(PATH) == {"metadata": {"resourceVersion": "1"}, "items": []}
    fake_api.broken = True
    with pytest.raises(ApiError, match="status 503 ServiceUnavailable") as raised:
        await api.get(PATH)
    assert raised.value.status == 503


async def test_a_rotated_token_is_sent_from_then_on(fake_api, tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    async with ApiServer(ApiAddress(fake_api.url, token_file(token)), Random(1), QUICK) as api:
        await api.get(PATH)
        token.write_text("other")
        await api.get(PATH)
    assert fake_api.headers == ["Bearer one", "Bearer other"]


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        pytest.param({}, None, id="no cluster"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "https://10.0.0.1:443", id="in a pod"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443", id="IPv6"),
        pytest.param(
            {"GRAFT_API_SERVER": "http://127.0.0.1:8001/", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "http://127.0.0.1:8001", id="named"
        ),
    ],
)
def test_where_the_api_server_is(environ, url):
    address = api_address_from(environ)
    assert (address.url if address else None) == url


def test_an_address_that_is_none_is_refused():
    with pytest.raises(MissingSetting, match="GRAFT_API_SERVER"):
        api_address_from({"GRAFT_API_SERVER": "kubernetes.default"})
