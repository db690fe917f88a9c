# ruff: noqa: S311 -- jitter, nothing secret
import asyncio
import itertools
from datetime import timedelta
from random import Random
from types import SimpleNamespace

import kopf
import pytest
from kopf._cogs.structs import references
from yarl import URL

from graft_operator.engine.queue import Key
from graft_operator.engine.resources import FINE_TUNE_JOBS, JOBS, PODS
from graft_operator.engine.watch import Backoffs, Streams, Watch, Watcher, own_key, owner_key, registry_of, settings_of


def reference(kind="FineTuneJob", api="graft.dev/v1alpha1", controller=True):
    return {"apiVersion": api, "kind": kind, "name": "owner", "uid": "u", "controller": controller}


def child(labels=None, references=None):
    metadata = {"namespace": "team", "name": "child"}
    return {"metadata": metadata | ({"labels": labels} if labels else {}) | ({"ownerReferences": references} if references else {})}


@pytest.mark.parametrize(
    ("body", "key"),
    [
        pytest.param(child({"graft.dev/finetunejob": "owner"}), Key("team", "owner"), id="by its label"),
        pytest.param(child(references=[reference()]), Key("team", "owner"), id="by its controller reference"),
        pytest.param(child({"graft.dev/finetunejob": "labelled"}, [reference()]), Key("team", "labelled"), id="the label goes first"),
        pytest.param(child(references=[reference(controller=False)]), None, id="a reference that does not control is not one"),
        pytest.param(child(references=[reference(kind="Adapter")]), None, id="another kind's child"),
        pytest.param(child(references=[reference(api="example.com/v1")]), None, id="the same kind of somebody else's group"),
        pytest.param(child({"graft.dev/finetunejob": ""}), None, id="an empty label"),
        pytest.param(child(), None, id="nobody's child"),
        pytest.param({"metadata": {"namespace": "team", "name": "c", "labels": None, "ownerReferences": None}}, None, id="nulls"),
    ],
)
def test_whom_a_child_wakes(body, key):
    assert owner_key("FineTuneJob")(body) == key


def test_an_object_wakes_itself():
    assert own_key(child()) == Key("team", "child")


@pytest.mark.parametrize("event_type", [None, "ADDED", "MODIFIED", "DELETED"])
async def test_every_event_only_puts_a_key_on_the_queue(event_type):
    seen = []
    registry = registry_of([Watch(FINE_TUNE_JOBS, seen.append)])
    (handler,) = registry._watching.get_all_handlers()
    await handler.fn(event={"type": event_type, "object": child()}, logger=None, patch=None)
    assert seen == [Key("team", "child")]


def test_nothing_but_on_event_handlers_is_registered():
    registry = registry_of([Watch(FINE_TUNE_JOBS, print), Watch(PODS, print, owner_key("FineTuneJob"))])
    assert len(registry._watching.get_all_handlers()) == 2
    for other in (registry._changing, registry._spawning, registry._indexing, registry._webhooks):
        assert not other.get_all_handlers()
    assert not registry._activities.get_all_handlers()


def kopf_resource(known):
    return references.Resource(known.group, known.version, known.plural, kind=known.kind, singular=known.kind.lower())


def test_selectors_go_to_the_streams_of_their_kind_only():
    jobs = Watch(JOBS, print, owner_key("FineTuneJob"), labels="graft.dev/finetunejob")
    own = Watch(FINE_TUNE_JOBS, print, fields="status.phase!=Succeeded")
    settings = settings_of([jobs, own], Random())
    labels, fields = settings.watching.label_selectors, settings.watching.field_selectors
    assert "graft.dev/finetunejob" in labels.collect(kopf_resource(JOBS))
    assert not any(labels.collect(kopf_resource(FINE_TUNE_JOBS)))
    assert "status.phase!=Succeeded" in fields.collect(kopf_resource(FINE_TUNE_JOBS))
    assert not any(fields.collect(kopf_resource(JOBS)))


def test_two_watches_of_a_kind_must_select_the_same():
    watches = [Watch(PODS, print, labels="graft.dev/finetunejob"), Watch(PODS, print, labels="graft.dev/adapter")]
    with pytest.raises(ValueError, match="watches of pods have different selectors"):
        settings_of(watches, Random())


def test_kopf_keeps_no_state_anywhere():
    settings = settings_of([], Random())
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    assert settings.persistence.diffbase_storage.fetch(body=kopf.Body({})) is None
    assert settings.persistence.diffbase_storage.build(body=kopf.Body({"spec": {"a": 1}})) == {}


def test_backoffs_never_end_and_start_anew_for_every_request():
    backoffs = Backoffs(Random(1))
    first = list(itertools.islice(backoffs, 1000))
    assert max(first) <= 30
    assert all(0.8 <= delay <= 1.2 for delay in (first[0], next(iter(backoffs))))


async def asked(streams, path, **query):
    """kopf sends a GET."""
    url = URL(f"https://server{path}").with_query(query)
    await streams._started(None, None, SimpleNamespace(method="GET", url=url))


async def test_all_is_listed_once_each_kind_is_watched_and_not_when_it_is_asked_for(clock):
    streams = Streams(clock, ["/api/v1/pods", "/apis/batch/v1/jobs"])
    await asked(streams, "/api/v1/pods", limit="25")
    await asked(streams, "/api/v1/pods", watch="true")
    await asked(streams, "/api/v1/pods", watch="true")
    await asked(streams, "/apis/batch/v1/jobs", limit="25")
    assert not streams.listed.is_set()
    await asked(streams, "/apis/batch/v1/jobs", watch="true")
    assert streams.listed.is_set()


async def test_a_kind_that_is_missing_keeps_nobody_waiting_for_ever(clock):
    watcher = Watcher(None, [Watch(PODS, print), Watch(JOBS, print)], clock, Random())
    await asyncio.wait_for(watcher.listed(timedelta(milliseconds=10)), 20)


async def test_a_stream_that_nobody_opens_again_is_stalled(clock):
    streams = Streams(clock, [])

    async def request(path, **query):
        await asked(streams, path, **query)

    await request("/api/v1/pods", watch="true")
    await request("/apis/batch/v1/jobs", watch="true")
    await request("/apis", limit="100")
    clock.elapsed += 400
    await request("/api/v1/pods", watch="true")
    assert streams.stalled() == []
    clock.elapsed += 31
    assert streams.stalled() == ["/apis/batch/v1/jobs"]
    await request("/apis/batch/v1/jobs", limit="100")
    assert streams.stalled() == []
