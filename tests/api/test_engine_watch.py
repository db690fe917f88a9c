# ruff: noqa: S311 -- jitter, nothing secret
"""The watches against a real API server that is paused, stopped and started again under them."""

import asyncio
import json
import subprocess
from random import Random

import pytest

from graft_operator.engine.clock import SystemClock
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.errors import KubeError
from graft_operator.engine.kube import Kube
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import CONFIG_MAPS, JOBS, NAMESPACES, PODS, Resource
from graft_operator.engine.watch import Watch, Watcher, own_key, owner_key


class Recorder(list):
    """Keys in the order in which they were queued."""

    def names(self):
        return {key.name for key in self}


@pytest.fixture
async def disturbed(disturbed_api_server):
    async with Kube(load_credentials(disturbed_api_server.kubeconfig)) as client:
        yield client


@pytest.fixture
async def start():
    tasks = []

    def start(kube, *watches, namespaces=()):
        watcher = Watcher(kube, watches, SystemClock(), Random(1), namespaces)
        tasks.append(asyncio.ensure_future(watcher.run()))
        return watcher, tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.2)  # TLS connections say goodbye after they were closed; there is nothing to wait on


async def kubectl(kubeconfig, *arguments, stdin=""):
    process = await asyncio.create_subprocess_exec(
        "kubectl", "--kubeconfig", str(kubeconfig), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate(stdin.encode())
    assert process.returncode == 0
    return out.decode()


async def make_namespace(kube, name):
    await kube.create(NAMESPACES, {"metadata": {"name": name}})
    return name


async def make(kube, namespace, name, labels=None):
    metadata = {"namespace": namespace, "name": name, "labels": labels or {"watched": "yes"}}
    return await kube.create(CONFIG_MAPS, {"metadata": metadata})


def watched(seen, **kwargs):
    return Watch(CONFIG_MAPS, seen.append, own_key, **{"labels": "watched=yes", **kwargs})


async def test_existing_new_changed_and_deleted_objects_are_queued(kube, namespace, start, until):
    seen = Recorder()
    await make(kube, namespace, "before")
    start(kube, watched(seen))
    await until(lambda: Key(namespace, "before") in seen)
    await make(kube, namespace, "after")
    await until(lambda: Key(namespace, "after") in seen)
    for change in (
        lambda: kube.merge_patch(CONFIG_MAPS, namespace, "after", {"data": {"a": "1"}}),
        lambda: kube.delete(CONFIG_MAPS, namespace, "after"),
    ):
        seen.clear()
        await change()
        await until(lambda: Key(namespace, "after") in seen)


async def test_objects_outside_the_selection_are_not_even_sent(kube, namespace, start, until):
    seen = Recorder()
    start(kube, watched(seen))
    await make(kube, namespace, "other", labels={"watched": "no"})
    await make(kube, namespace, "ours")
    await until(lambda: Key(namespace, "ours") in seen)
    assert "other" not in seen.names()


async def test_a_child_wakes_its_owner(kube, namespace, start, until):
    seen = Recorder()
    start(kube, Watch(CONFIG_MAPS, seen.append, owner_key("FineTuneJob"), labels="graft.dev/finetunejob"))
    await make(kube, namespace, "child", labels={"graft.dev/finetunejob": "parent"})
    await until(lambda: Key(namespace, "parent") in seen)


async def test_only_the_namespaces_that_are_named(kube, namespace, start, until):
    seen = Recorder()
    start(kube, watched(seen), namespaces=(namespace,))
    await make(kube, "default", f"elsewhere-{namespace}")
    await make(kube, namespace, "here")
    await until(lambda: Key(namespace, "here") in seen)
    assert {key.namespace for key in seen} == {namespace}


async def test_watching_leaves_no_trace_on_the_objects(kube, namespace, start, until, api_server):
    seen = Recorder()
    created = await make(kube, namespace, "clean")
    start(kube, watched(seen))
    await until(lambda: Key(namespace, "clean") in seen)
    assert await kube.get(CONFIG_MAPS, namespace, "clean") == created


async def test_a_kind_that_is_not_served_yet_is_waited_for(kube, namespace, start, until, kubeconfig):
    seen = Recorder()
    things = Resource("late.graft.dev", "v1", "things", "Thing")
    _, task = start(kube, Watch(things, seen.append))
    await asyncio.sleep(0.5)
    assert not task.done()
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.late.graft.dev"},
        "spec": {"group": "late.graft.dev", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    await kubectl(kubeconfig, "apply", "-f", "-", stdin=json.dumps(crd))

    async def created():
        try:
            return await kube.create(things, {"metadata": {"namespace": namespace, "name": "thing"}})
        except KubeError:
            return None

    await until(created)
    await until(lambda: Key(namespace, "thing") in seen)

    # ... and when the kind is taken away, the process must end rather than watch nothing
    await kubectl(kubeconfig, "delete", "crd", "things.late.graft.dev", "--wait=false")
    await until(task.done, 60)
    with pytest.raises(Exception, match=r"not find|NotFound|not found|ended"):
        task.result()


async def test_watches_survive_a_stopped_api_server(disturbed_api_server, disturbed, start, until, aside):
    seen = Recorder()
    namespace = await make_namespace(disturbed, "stopped")
    await make(disturbed, namespace, "before")
    watcher, task = start(disturbed, watched(seen), Watch(JOBS, seen.append), Watch(PODS, seen.append))
    await until(lambda: "before" in seen.names())
    await aside(disturbed_api_server.stop_api_server)
    await asyncio.sleep(3)
    assert not task.done()
    await aside(disturbed_api_server.start_api_server)
    await until_created(disturbed, namespace, "after", until)
    await until(lambda: "after" in seen.names(), 60)
    assert watcher.streams.stalled() == []


async def test_watches_survive_a_paused_api_server(disturbed_api_server, disturbed, start, until):
    seen = Recorder()
    namespace = await make_namespace(disturbed, "paused")
    await make(disturbed, namespace, "before-pause")
    _, task = start(disturbed, watched(seen))
    await until(lambda: "before-pause" in seen.names())
    disturbed_api_server.pause()
    try:
        await asyncio.sleep(2)
    finally:
        disturbed_api_server.resume()
    assert not task.done()
    await until_created(disturbed, namespace, "after-pause", until)
    await until(lambda: "after-pause" in seen.names(), 60)


async def until_created(kube, namespace, name, until):
    async def created():
        try:
            return await make(kube, namespace, name)
        except KubeError:
            return None

    await until(created, 60)
