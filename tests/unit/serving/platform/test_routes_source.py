import asyncio
import json

import pytest

from graft_serving.routes_source import RoutesSource

RECORD = {"graft.dev/record": "routes", "graft.dev/modelendpoint": "prod"}


def document(routes):
    return routes if isinstance(routes, str) else json.dumps(routes.to_json())


class Scene:
    """A pod with a mounted folder, and perhaps an API server."""

    def __init__(self, folder, background, fake_api, api):
        self.applied = []
        self.fake_api = fake_api
        self.folder = folder
        self._api = api
        self._background = background

    def start(self, *, cluster=True, apply=None):
        source = RoutesSource("team", "prod", self.folder, self._api if cluster else None, poll_seconds=0.02)
        self._background(source.run(apply or self.applied.append))
        return source

    def put(self, routes, labels=RECORD):
        metadata = {"name": "prod-routes", "labels": labels}
        self.fake_api.put("prod-routes", metadata=metadata, data={"routes.json": document(routes)})

    def mount(self, routes):
        (self.folder / "new").write_text(document(routes))
        (self.folder / "new").replace(self.folder / "routes.json")

    @property
    def revisions(self):
        return [(routes.epoch, routes.revision) for routes in self.applied]


@pytest.fixture
def scene(tmp_path, background, fake_api, api):
    return Scene(tmp_path, background, fake_api, api)


async def test_routes_come_from_the_mounted_file_and_its_changes(scene, routes, until):
    scene.mount(routes(1))
    source = scene.start(cluster=False)
    await until(lambda: scene.applied)
    scene.mount(routes(2))
    await until(lambda: len(scene.applied) == 2)
    assert scene.revisions == [(1, 1), (1, 2)]
    assert source.current == scene.applied[-1]


async def test_a_file_that_comes_late_is_found(scene, routes, until):
    scene.start(cluster=False)
    await asyncio.sleep(0.05)
    scene.mount(routes(1))
    await until(lambda: scene.applied)


async def test_lower_routes_are_ignored_and_a_higher_epoch_beats_a_higher_revision(scene, routes, until):
    scene.start()
    await until(lambda: scene.fake_api.watches)
    for one in (routes(5), routes(4), routes(3, epoch=2), routes(9, epoch=1), routes(4, epoch=2)):
        scene.put(one)
    await until(lambda: len(scene.applied) == 3)
    assert scene.revisions == [(1, 5), (2, 3), (2, 4)]


async def test_routes_of_an_endpoint_made_anew_replace_the_old_ones(scene, routes, until):
    scene.put(routes(50))
    scene.start()
    await until(lambda: scene.applied)
    scene.put(routes(1, uid="uid-2"))
    await until(lambda: len(scene.applied) == 2)


async def test_after_the_watch_has_spoken_a_late_file_changes_nothing(scene, routes, until):
    scene.put(routes(1, uid="uid-2"))
    scene.start()
    await until(lambda: scene.applied)
    scene.mount(routes(50, uid="uid-1"))
    await asyncio.sleep(0.1)
    assert scene.revisions == [(1, 1)]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("{", id="not JSON"),
        pytest.param('{"format": 1}', id="fields missing"),
        pytest.param("", id="empty"),
        pytest.param("[" * 100_000, id="too deep"),
        pytest.param(None, id="of another endpoint"),
    ],
)
async def test_a_broken_document_is_logged_once_and_the_last_good_one_stays(broken, scene, routes, until, caplog):
    scene.put(routes(1))
    scene.start()
    await until(lambda: scene.applied)
    for one in (broken, broken):
        scene.put(routes(7, name="other") if one is None else one)
    scene.put(routes(2))
    await until(lambda: len(scene.applied) == 2)
    assert len([record for record in caplog.records if "last good ones stay" in record.getMessage()]) == 1


async def test_a_deleted_config_map_changes_nothing(scene, routes, until):
    scene.put(routes(1))
    scene.start()
    await until(lambda: scene.fake_api.watches)
    scene.fake_api.delete("prod-routes")
    scene.put(routes(2))
    await until(lambda: len(scene.applied) == 2)


async def test_routes_that_cannot_be_applied_end_nothing(scene, routes, until, caplog):
    calls = []

    def apply(one):
        calls.append(one.revision)
        if one.revision == 1:
            raise KeyError("a bug of ours")

    scene.mount(routes(1))
    source = scene.start(cluster=False, apply=apply)
    await until(lambda: calls)
    scene.mount(routes(2))
    await until(lambda: calls == [1, 2])
    assert source.current == routes(2)
    assert "could not be applied" in caplog.text


async def test_it_comes_up_from_the_file_with_the_api_server_away(scene, routes, until):
    scene.fake_api.broken = True
    scene.mount(routes(3))
    scene.start()
    await until(lambda: scene.applied)
    scene.mount(routes(4))
    await until(lambda: len(scene.applied) == 2)
    scene.fake_api.broken = False
    scene.put(routes(5))
    await until(lambda: len(scene.applied) == 3)


async def test_routes_of_a_newer_operator_are_followed(scene, routes, until):
    """An upgrade of the operator alone restarts no gateway: what it says in words of its own is left out."""
    scene.start()
    newer = routes(3).to_json() | {"someNewField": {"deep": 1}}
    newer["gateway"]["anotherOne"] = True
    scene.put(json.dumps(newer))
    await until(lambda: [found.revision for found in scene.applied] == [3])


@pytest.mark.parametrize("labels", [None, {}, {"graft.dev/record": "ledger"}, {"graft.dev/modelendpoint": "prod"}])
async def test_what_somebody_else_has_under_the_name_is_ignored_in_watch_list_and_mounted_file(labels, scene, routes, until, caplog):
    scene.put(routes(7), labels)
    source = scene.start()
    await until(lambda: "not the operator's" in caplog.text)
    scene.mount(routes(8))  # the kubelet mounts by name
    scene.put(routes(9), labels)
    await until(lambda: caplog.text.count("not the operator's") == 2)
    await asyncio.sleep(0.05)
    assert (scene.applied, source.watched) == ([], False)
    scene.fake_api.delete("prod-routes")
    scene.put(routes(1))
    await until(lambda: scene.applied)
    assert (scene.revisions, source.watched) == ([(1, 1)], True)


async def test_somebody_else_s_object_does_not_replace_what_holds(scene, routes, until, caplog):
    scene.put(routes(1))
    source = scene.start()
    await until(lambda: scene.applied)
    scene.fake_api.delete("prod-routes")
    scene.put(routes(9), None)
    await until(lambda: "not the operator's" in caplog.text)
    assert (scene.revisions, source.watched) == ([(1, 1)], True)
