"""The gateway against a real API server."""

import asyncio
import json
import ssl
import subprocess
from datetime import timedelta

import pytest
from aiohttp import web

from graft_operator.engine.clock import SystemClock, rfc3339_micro
from graft_operator.engine.credentials import Credentials, TokenFile, load_credentials
from graft_operator.engine.errors import AlreadyExists, Conflict, Forbidden, Invalid, LeadershipLost, NotFound, Unauthorized, Unavailable
from graft_operator.engine.events import EventRecorder, Happening
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.resources import (
    CONFIG_MAPS,
    EVENTS,
    FINE_TUNE_JOBS,
    JOBS,
    LEASES,
    SERVICE_ACCOUNTS,
    SERVICES,
    TOKEN_REVIEWS,
    Resource,
)
from graft_operator.engine.status import write_status


async def kubectl(kubeconfig, *arguments, stdin=""):
    process = await asyncio.create_subprocess_exec(
        "kubectl", "--kubeconfig", str(kubeconfig), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate(stdin.encode())
    assert process.returncode == 0
    return out.decode()


def config_map(namespace, name="one", **data):
    return {"metadata": {"namespace": namespace, "name": name}, "data": data}


def job(namespace, name="job"):
    container = {"name": "main", "image": "none"}
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


async def test_what_is_not_there_is_none(kube, namespace):
    assert await kube.get(CONFIG_MAPS, namespace, "missing") is None


async def test_create_get_delete(kube, namespace):
    created = await kube.create(CONFIG_MAPS, config_map(namespace, a="1"))
    assert await kube.get(CONFIG_MAPS, namespace, "one") == created
    assert await kube.delete(CONFIG_MAPS, namespace, "one") is True
    assert await kube.delete(CONFIG_MAPS, namespace, "one") is False


async def test_creating_what_exists(kube, namespace):
    await kube.create(CONFIG_MAPS, config_map(namespace))
    with pytest.raises(AlreadyExists):
        await kube.create(CONFIG_MAPS, config_map(namespace))


async def test_apply_owns_its_fields_and_leaves_those_of_others(kube, namespace):
    await kube.apply(CONFIG_MAPS, config_map(namespace, a="1", b="1"))
    await kube.merge_patch(CONFIG_MAPS, namespace, "one", {"metadata": {"annotations": {"theirs": "kept"}}})
    applied = await kube.apply(CONFIG_MAPS, config_map(namespace, a="2"))
    assert applied["data"] == {"a": "2"}
    assert applied["metadata"]["annotations"] == {"theirs": "kept"}
    assert {entry["manager"] for entry in applied["metadata"]["managedFields"]} == {"graft"}


async def test_applying_the_same_again_changes_nothing(kube, namespace):
    first = await kube.apply(CONFIG_MAPS, config_map(namespace, a="1"))
    again = await kube.apply(CONFIG_MAPS, config_map(namespace, a="1"))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_an_apply_without_force_does_not_take_what_another_manager_owns(kube, kubeconfig, namespace):
    manifest = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", **config_map(namespace, a="theirs")})
    await kubectl(kubeconfig, "apply", "--server-side", "--field-manager=somebody", "-f", "-", stdin=manifest)
    with pytest.raises(Conflict):
        await kube.apply(CONFIG_MAPS, config_map(namespace, a="ours"), force=False)
    assert (await kube.apply(CONFIG_MAPS, config_map(namespace, a="ours")))["data"] == {"a": "ours"}


async def test_an_unknown_field_is_refused_and_named(kube, namespace):
    with pytest.raises(Invalid, match="unknown field"):
        await kube.create(CONFIG_MAPS, config_map(namespace) | {"daata": {}})


async def test_an_invalid_object_names_its_fields(kube, namespace):
    service = {"metadata": {"namespace": namespace, "name": "s"}, "spec": {"ports": [{"port": 99999}]}}
    with pytest.raises(Invalid) as refused:
        await kube.create(SERVICES, service)
    assert "spec.ports[0].port" in {cause.field for cause in refused.value.causes}


async def test_a_patch_on_top_of_something_old_is_a_conflict(kube, namespace):
    old = await kube.create(CONFIG_MAPS, config_map(namespace))
    await kube.merge_patch(CONFIG_MAPS, namespace, "one", {"data": {"a": "1"}})
    patch = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"a": "2"}}
    with pytest.raises(Conflict):
        await kube.merge_patch(CONFIG_MAPS, namespace, "one", patch)


async def test_json_patch_and_its_test(kube, namespace):
    await kube.create(CONFIG_MAPS, config_map(namespace, a="1"))
    test = {"op": "test", "path": "/data/a", "value": "1"}
    replace = {"op": "replace", "path": "/data/a", "value": "2"}
    assert (await kube.json_patch(CONFIG_MAPS, namespace, "one", [test, replace]))["data"] == {"a": "2"}
    with pytest.raises(Invalid):
        await kube.json_patch(CONFIG_MAPS, namespace, "one", [test, replace])


async def test_patching_what_is_not_there(kube, namespace):
    with pytest.raises(NotFound):
        await kube.merge_patch(CONFIG_MAPS, namespace, "missing", {"data": {}})


async def test_deleting_only_the_object_that_was_meant(kube, namespace):
    created = await kube.create(CONFIG_MAPS, config_map(namespace))
    with pytest.raises(Conflict):
        await kube.delete(CONFIG_MAPS, namespace, "one", uid="00000000-0000-0000-0000-000000000000")
    assert await kube.delete(CONFIG_MAPS, namespace, "one", uid=created["metadata"]["uid"])


async def test_foreground_deletion_waits_for_the_children(kube, namespace):
    await kube.create(JOBS, job(namespace))
    await kube.delete(JOBS, namespace, "job", propagation="Foreground")
    deleted = await kube.get(JOBS, namespace, "job")
    assert "foregroundDeletion" in deleted["metadata"]["finalizers"]


async def test_lists_are_read_page_by_page(kube, namespace):
    for number in range(7):
        await kube.create(CONFIG_MAPS, config_map(namespace, f"c{number}") | {"metadata": labelled(namespace, f"c{number}")})
    selection = Selection(namespace, labels="team=a")
    assert [item["metadata"]["name"] for item in await kube.list(CONFIG_MAPS, selection, page=2)] == [f"c{n}" for n in range(7)]
    metadata = [item async for item in kube.list_metadata(CONFIG_MAPS, selection, page=3)]
    assert [item["name"] for item in metadata] == [f"c{n}" for n in range(7)]
    by_name = Selection(namespace, fields="metadata.name=c3")
    assert [item["name"] async for item in kube.list_metadata(CONFIG_MAPS, by_name)] == ["c3"]


def labelled(namespace, name):
    return {"namespace": namespace, "name": name, "labels": {"team": "a"}}


async def test_a_status_is_written_once_only_if_it_changed_and_only_on_top_of_what_was_read(kube, namespace):
    read = await kube.create(JOBS, job(namespace))
    assert await write_status(kube, JOBS, read, {"active": 1}) is True
    now = await kube.get(JOBS, namespace, "job")
    assert now["status"] == {"active": 1}
    assert await write_status(kube, JOBS, now, {"active": 1}) is False
    assert (await kube.get(JOBS, namespace, "job"))["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await write_status(kube, JOBS, read, {"active": 2})


async def test_a_status_of_an_object_that_was_replaced_by_another_of_its_name_is_a_conflict(kube, namespace):
    read = await kube.create(JOBS, job(namespace))
    await kube.delete(JOBS, namespace, "job")
    await kube.create(JOBS, job(namespace))
    with pytest.raises(Conflict):
        await write_status(kube, JOBS, read, {"active": 1})


async def test_replace_status(kube, namespace):
    read = await kube.create(JOBS, job(namespace))
    written = await kube.replace_status(JOBS, {**read, "status": {"active": 1}})
    assert written["status"] == {"active": 1}
    with pytest.raises(Conflict):
        await kube.replace_status(JOBS, {**read, "status": {"active": 2}})


async def test_what_the_api_server_serves(kube):
    assert await kube.serves(JOBS)
    assert not await kube.serves(Resource("nowhere.dev", "v1", "things", "Thing"))
    assert not await kube.serves(Resource("batch", "v1", "things", "Thing"))


async def test_reviews_are_created_and_answered(kube):
    review = await kube.create(TOKEN_REVIEWS, {"metadata": {}, "spec": {"token": "nonsense"}})
    assert not review["status"].get("authenticated", False)


async def service_account_token(kubeconfig, kube, namespace, path):
    await kube.create(SERVICE_ACCOUNTS, {"metadata": {"namespace": namespace, "name": "who"}})
    path.write_text(await kubectl(kubeconfig, "-n", namespace, "create", "token", "who"))


async def test_a_token_that_is_rotated_is_read_again(kubeconfig, kube, namespace, tmp_path):
    token = tmp_path / "token"
    token.write_text("expired")
    admin = load_credentials(kubeconfig)
    credentials = Credentials(admin.server, namespace, server_only(admin), TokenFile(token))
    async with Kube(credentials) as somebody:
        with pytest.raises(Unauthorized):
            await somebody.get(CONFIG_MAPS, namespace, "x")
        await service_account_token(kubeconfig, kube, namespace, token)
        with pytest.raises(Forbidden):
            await somebody.get(CONFIG_MAPS, namespace, "x")


def server_only(credentials):
    """The same API server without the client certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert credentials.tls is not context
    return context


async def test_an_api_server_that_is_not_there(kubeconfig):
    credentials = load_credentials(kubeconfig)
    nowhere = Credentials("https://127.0.0.1:1", credentials.namespace, credentials.tls)
    async with Kube(nowhere) as client:
        with pytest.raises(Unavailable):
            await client.get(CONFIG_MAPS, "team", "x")


async def test_nothing_is_written_once_the_lease_is_lost(kube, namespace):
    def lost():
        raise LeadershipLost("too late")

    fenced = kube.fenced(lost)
    writes = [
        lambda: fenced.create(CONFIG_MAPS, config_map(namespace)),
        lambda: fenced.apply(CONFIG_MAPS, config_map(namespace)),
        lambda: fenced.merge_patch(CONFIG_MAPS, namespace, "one", {}),
        lambda: fenced.json_patch(CONFIG_MAPS, namespace, "one", []),
        lambda: fenced.replace_status(JOBS, job(namespace)),
        lambda: fenced.delete(CONFIG_MAPS, namespace, "one"),
    ]
    for write in writes:
        with pytest.raises(LeadershipLost):
            await write()
    assert await fenced.get(CONFIG_MAPS, namespace, "one") is None


async def test_an_event_is_posted_once_however_often_it_is_said(kube, namespace):
    created = await kube.create(CONFIG_MAPS, config_map(namespace))
    recorder = EventRecorder(kube, SystemClock(), "pod-1")
    for _ in range(3):
        await recorder.emit(created, Happening("Normal", "Started", "Start", "training has started"))
    await recorder.emit(created, Happening("Warning", "Failed", "Stop", "out of memory"))
    events = await kube.list(EVENTS, Selection(namespace))
    assert {event["reason"]: event.get("series") for event in events} == {"Started": None, "Failed": None}


async def test_an_event_that_occurs_again_much_later_is_counted(kube, namespace):
    created = await kube.create(CONFIG_MAPS, config_map(namespace))
    happening = Happening("Normal", "Started", "Start", "training has started")

    class Later(SystemClock):
        def now(self):
            return super().now() + timedelta(minutes=30)

    await EventRecorder(kube, SystemClock(), "pod-1").emit(created, happening)
    await EventRecorder(kube, Later(), "pod-2").emit(created, happening)
    (event,) = await kube.list(EVENTS, Selection(namespace))
    assert event["series"]["count"] == 2


async def test_an_event_that_cannot_be_posted_stops_nothing(kube, namespace, caplog):
    created = await kube.create(CONFIG_MAPS, config_map(namespace))
    elsewhere = {**created, "metadata": {**created["metadata"], "namespace": "no-such-namespace"}}
    await EventRecorder(kube, SystemClock(), "pod-1").emit(elsewhere, Happening("Normal", "Started", "Start", "note"))
    assert "cannot post event Started" in caplog.text


async def test_leases_take_the_times_we_write(kube, namespace):
    now = rfc3339_micro(SystemClock().now())
    lease = {
        "metadata": {"namespace": namespace, "name": "l"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": now},
    }
    assert (await kube.create(LEASES, lease))["spec"]["renewTime"] == now


class Scripted:
    """A server that answers as it is told: for what a healthy API server does not do on demand."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    async def answer(self, request):
        self.requests.append(request)
        status, body, headers = self.answers.pop(0)
        return web.json_response(body, status=status, headers=headers)

    async def hang(self, request):
        await asyncio.sleep(60)


@pytest.fixture
async def scripted(kubeconfig):
    runners = []

    async def start(handler, **kwargs):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        credentials = load_credentials(kubeconfig)
        client = Kube(Credentials(f"http://127.0.0.1:{runner.addresses[0][1]}", "default", credentials.tls), **kwargs)
        runners.append(client)
        return client

    yield start
    for opened in reversed(runners):
        await (opened.close() if isinstance(opened, Kube) else opened.cleanup())


def page(*names, token=""):
    metadata = {"continue": token, "resourceVersion": "1"}
    return 200, {"metadata": metadata, "items": [{"metadata": {"namespace": "t", "name": name}} for name in names]}, {}


EXPIRED = 410, {"reason": "Expired", "message": "the provided continue parameter is too old"}, {}


async def test_a_list_whose_token_has_expired_starts_over(scripted):
    server = Scripted(page("a", "b", token="next"), EXPIRED, page("a", token="next"), page("c"))
    client = await scripted(server.answer)
    assert [item["metadata"]["name"] for item in await client.list(FINE_TUNE_JOBS)] == ["a", "c"]
    assert [request.query.get("continue") for request in server.requests] == [None, "next", None, "next"]


async def test_a_metadata_list_whose_token_has_expired_starts_over_and_may_yield_twice(scripted):
    server = Scripted(page("a", "b", token="next"), EXPIRED, page("a", token="next"), page("c"))
    client = await scripted(server.answer)
    assert [item["name"] async for item in client.list_metadata(FINE_TUNE_JOBS)] == ["a", "b", "a", "c"]
    assert all("PartialObjectMetadataList" in request.headers["Accept"] for request in server.requests)


async def test_an_answer_that_never_comes_is_unavailable(scripted):
    client = await scripted(Scripted().hang, timeout=timedelta(seconds=0.2))
    with pytest.raises(Unavailable, match="TimeoutError"):
        await client.get(FINE_TUNE_JOBS, "team", "job")


async def test_too_many_requests_say_when_to_come_back(scripted):
    server = Scripted((429, {"reason": "TooManyRequests"}, {"Retry-After": "3"}))
    client = await scripted(server.answer)
    with pytest.raises(Unavailable) as busy:
        await client.get(FINE_TUNE_JOBS, "team", "job")
    assert busy.value.retry_after == timedelta(seconds=3)


async def test_a_warning_of_the_api_server_is_logged_once(scripted, caplog):
    warning = {"Warning": '299 - "v1 is deprecated"'}
    server = Scripted((200, {}, warning), (200, {}, warning))
    client = await scripted(server.answer)
    for _ in range(2):
        await client.get(FINE_TUNE_JOBS, "team", "job")
    assert caplog.text.count("v1 is deprecated") == 1
