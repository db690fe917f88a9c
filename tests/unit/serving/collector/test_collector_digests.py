"""Whoever can write into a store cannot change what counts unnoticed, and long tests are read in time."""

import asyncio
import json
import threading
import time
from hashlib import sha256

import pytest
from collector_world import FakeGateway, World, settings

from graft_evaluation.pairs import recorded
from graft_serving.collector import chain as chains
from graft_serving.collector.chain import Chain
from graft_serving.collector.commits import (
    Commit,
    DamagedError,
    Note,
    Progress,
    Sealed,
    bare,
    digest_of,
    parsed,
    path_of,
    read_commit,
    sealed_off,
    snapshot_path,
    told,
    write_note,
    written,
)
from graft_serving.collector.indexes import INDEXES, segments
from graft_serving.collector.journal import Clock
from graft_serving.collector.observed import SUM, Key, ObservedSum, observed_algebra
from graft_serving.collector.reading_ahead import AT_A_TIME, read_ahead
from graft_serving.collector.store import FolderStore


def observation(number, right=True):
    part = ObservedSum()
    part.cell(Key(number, "d", "v", "s")).add(0.5, right=right)
    return Sealed(float(number), float(number), b"lines", 1, {SUM: part}, Progress(arrived=number))


def resumed(store):
    chain = Chain(store, "x", observed_algebra())
    chain.resume()
    return chain


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Eleven commits, with snapshots after 3, 6 and 9."""
    monkeypatch.setattr(chains, "SNAPSHOT_EVERY", 3)
    store = FolderStore(tmp_path)
    extend(store, 11)
    return store


def extend(store, through):
    chain = resumed(store)
    for number in range(chain.total.sequence + 1, through + 1):
        chain.commit(observation(number))
    return chain


def changed(store, path, **changes):
    """Forge an object, with a digest of its content that fits."""
    commit = read_commit(store, path).model_copy(update=changes)
    store.write(path, written(commit if commit.folded else sealed_off(commit)))


def test_every_commit_names_its_predecessor_also_when_it_has_lost_its_sums(store):
    commits = [read_commit(store, path_of(number)) for number in range(1, 12)]
    assert [commit.folded for commit in commits] == [True] * 6 + [False] * 5
    assert [commit.previous for commit in commits] == [None, *map(digest_of, commits[:-1])]
    chain = resumed(store)
    assert (chain.total.sequence, chain.total.digest) == (11, digest_of(commits[-1]))
    assert chain.lineage == {number: digest_of(commits[number - 1]) for number in range(7, 12)}


FORGED = told(observation(99, right=False).sums)


@pytest.mark.parametrize(
    ("path", "words"),
    [(path_of(10), "commit 11 does not follow"), (path_of(9), "snapshot 9 is not what"), (snapshot_path(9), "snapshot 9 is not what")],
    ids=["a commit", "the commit of a snapshot", "a snapshot"],
)
def test_sums_that_were_forged_are_no_evidence(path, words, store):
    changed(store, path, sums=FORGED)
    with pytest.raises(DamagedError, match=words):
        resumed(store)


def test_sums_that_do_not_fit_their_own_digest_are_no_evidence(store):
    store.write(path_of(11), written(read_commit(store, path_of(11)).model_copy(update={"sums": FORGED})))
    with pytest.raises(DamagedError, match="somebody changed its sums"):
        resumed(store)


def test_the_last_commits_sums_are_forged_under_another_digest(store):
    before = resumed(store).total.digest
    changed(store, path_of(11), sums=FORGED)
    assert resumed(store).total.digest != before, "whoever keeps the last pair of number and digest sees it"


def stripped(store, path):
    store.write(path, written(read_commit(store, path).model_copy(update={"content": None, "previous": None, "total": None})))


@pytest.mark.parametrize("path", [path_of(10), path_of(11), path_of(9), snapshot_path(9)])
def test_digests_that_were_taken_out_are_not_taken_for_an_older_collectors(path, store):
    stripped(store, path)
    with pytest.raises(DamagedError, match=r"does not follow|is not what its commit says"):
        resumed(store)


def old(store, through):
    """What a collector wrote that knew neither digests nor indexes."""
    for path in [path_of(number) for number in range(1, through + 1)] + store.list("snapshots/"):
        stripped(store, path)
    for path in store.list(INDEXES):
        store.delete(path)


def test_an_older_collectors_store_is_read_and_gone_on_with(store):
    old(store, 11)
    chain = resumed(store)
    assert (chain.total.digest, chain.lineage) == (None, {})
    chain = extend(store, 16)
    again = resumed(store)
    assert again.total.sums[SUM].to_bytes() == chain.total.sums[SUM].to_bytes()
    assert again.total.digest == chain.total.digest is not None
    assert [segment.path for segment in segments(store, 16, again.total.digest)] == store.list("pairs/")
    changed(store, path_of(15), writer="somebody")
    with pytest.raises(DamagedError, match="snapshot 15 is not what its commit says"):
        resumed(store)


def test_segments_are_those_of_the_chain_with_and_without_indexes(store):
    digest, paths = resumed(store).total.digest, store.list("pairs/")
    assert store.list(INDEXES) == [f"{INDEXES}{last:08d}-{last - 2:08d}.json" for last in (3, 6, 9)]
    assert [segment.path for segment in segments(store, 11, digest)] == paths
    assert [segment.path for segment in segments(store, 5)] == paths[:5]
    store.delete(store.list(INDEXES)[1])
    assert [segment.path for segment in segments(store, 11, digest)] == paths
    with pytest.raises(DamagedError, match="not those that were added up"):
        list(segments(store, 10, digest))


@pytest.mark.parametrize("digests", [True, False])
def test_a_copy_of_a_store_is_read_without_a_cluster(digests, store, tmp_path):
    if not digests:
        old(store, 11)
    found = recorded.files(tmp_path)
    assert ([str(path.relative_to(tmp_path)) for path in found.files], found.uncommitted) == (store.list("pairs/"), 0)


def test_indexes_that_overlap_count_once(store):
    nine = [bare(read_commit(store, path_of(number))) for number in range(7, 11)]
    store.write(f"{INDEXES}00000010-00000007.json", b"\n".join(map(written, nine)))
    assert len(list(segments(store, 11, resumed(store).total.digest))) == 11


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_index_that_was_forged_is_no_evidence(index, store):
    path = store.list(INDEXES)[index]
    lines = [parsed(line, path) for line in store.read(path).splitlines()]
    lines[-1] = lines[-1].model_copy(update={"segment": lines[0].segment})
    store.write(path, b"\n".join(map(written, lines)))
    with pytest.raises(DamagedError, match=rf"commit {3 * index + 4} does not follow"):
        list(segments(store, 11))
    store.write(path, b"\n".join(map(written, lines[:2])))
    with pytest.raises(DamagedError, match="does not have the commits of its name"):
        list(segments(store, 11))


class Slow:
    """A store whose every read takes a while."""

    def __init__(self, objects, seconds):
        self._objects, self._seconds = objects, seconds
        self.reads = self.most = self._now = 0
        self._lock = threading.Lock()

    def list(self, prefix):
        return sorted(path for path in self._objects if path.startswith(prefix))

    def read(self, path):
        with self._lock:
            self.reads += 1
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
        return self._objects.get(path)


def long(length, every):
    """A chain without sums: its commits, and indexes of so many each."""
    objects, before, span = {}, None, []
    for sequence in range(1, length + 1):
        segment = {"path": f"pairs/d/{sequence:08d}-w.jsonl.zst", "sha256": "0" * 64, "size_bytes": 1, "lines": 1}
        previous = None if before is None else digest_of(before)
        before = bare(Commit(sequence=sequence, writer="w", began=1.0, ended=2.0, segment=segment, sums={}, progress=Progress(),
                             previous=previous, content=sha256(b"").hexdigest()))  # fmt: skip
        objects[path_of(sequence)] = written(before)
        span.append(objects[path_of(sequence)])
        if every and len(span) == every:
            objects[f"{INDEXES}{sequence:08d}-{sequence - every + 1:08d}.json"] = b"\n".join(span)
            span = []
    return objects, digest_of(before)


@pytest.mark.parametrize(("every", "reads"), [(60, 10 + 40), (0, 640)], ids=["indexes", "none"])
def test_many_commits_are_read_in_few_requests_and_many_at_a_time(every, reads):
    objects, digest = long(640, every)
    slow = Slow(objects, 0.005)
    began = time.monotonic()
    assert len(list(segments(slow, 640, digest))) == 640
    assert slow.reads == reads
    assert 4 < slow.most <= AT_A_TIME
    assert time.monotonic() - began < 640 * 0.005 / 2


def test_of_large_objects_few_are_ahead():
    objects = {str(number): b"x" for number in range(9)}
    slow = Slow(objects, 0.005)
    assert dict(read_ahead(slow, [(path, 30 * 1024**2) for path in objects])) == objects
    assert slow.most <= 2


async def test_the_report_tells_the_commits_digest_and_what_it_began_with(shadow, session, tmp_path):
    gateway, world = FakeGateway(), World(settings(f"file://{tmp_path}/store", shadow.url))
    await world.start()
    assert (world.reporter.picture(1).commit, world.reporter.picture(1).commit_digest) == (0, None)
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    await world.idle()
    world.reporter._read_at = float("-inf")
    await world.commit()
    first = world.reporter.picture(1)
    await world.kill()
    again = World(world.settings, writer="w2")
    await again.start()
    second = again.reporter.picture(1)
    await again.kill()
    assert first.commit_digest == digest_of(read_commit(FolderStore(tmp_path / "store"), path_of(1)))
    assert (second.commit, second.commit_digest, second.lineage) == (1, first.commit_digest, {"1": first.commit_digest})


@pytest.fixture
def idle(shadow, session, tmp_path, monkeypatch):
    """
    Return how to run a collector for so many minutes of a clock, an interval of one at a time, and then to kill it.

    There is a gateway that has nothing to send, and says so.
    """
    now, gateway = [1000.0], FakeGateway()

    async def run(minutes, writer):
        clock = Clock(lambda: now[0], lambda: now[0])
        world = World(settings(f"file://{tmp_path}/store", shadow.url), clock=clock, writer=writer)
        await world.start()
        for _ in range(minutes):
            now[0] += 60
            await gateway.deliver(session, world.url, [])
            # What `run` does when its interval is over.
            await (world.journal._note if world.journal._idle() else world.journal.commit)(world.reporter.read)
        hours = world.reporter.picture(1).observed_hours
        await world.kill()
        return world.journal.chain.total.sequence, round(60 * hours)

    return run


async def test_without_traffic_there_are_few_commits_and_no_minute_is_lost_or_counted_twice(idle, tmp_path):
    assert await idle(24, "w1") == (3, 24)
    minutes = 24
    for life in range(4):
        commits, told_minutes = await idle(4, f"again{life}")
        minutes += 4
        assert told_minutes == minutes
    assert commits <= 3 + 16 // 10
    note = json.loads((tmp_path / "store/observed.json").read_bytes())
    assert note["observedSeconds"] <= 60 * minutes


async def test_a_note_is_worth_some_minutes_and_only_of_its_commit(idle, tmp_path):
    store = FolderStore(tmp_path / "store")
    assert await idle(1, "w1") == (1, 1)
    digest = digest_of(read_commit(store, path_of(1)))
    write_note(store, Note(sequence=1, digest=digest, observed_seconds=1e6))
    assert await idle(0, "w2") == (1, 11)
    for other in (Note(sequence=1, digest="0" * 64, observed_seconds=100), Note(sequence=2, digest=digest, observed_seconds=100)):
        write_note(store, other)
        assert await idle(0, "w3") == (1, 1)
    store.write("observed.json", b"{")
    assert await idle(0, "w4") == (1, 1)


async def test_what_comes_while_only_time_is_noted_is_in_the_next_commit(shadow, session, tmp_path):
    options = settings(f"file://{tmp_path}/store", shadow.url)
    often = options.compare.segments.model_copy(update={"seconds": 0.2})
    options = options.model_copy(update={"compare": options.compare.model_copy(update={"segments": often})})
    gateway, world = FakeGateway(), World(options)
    await world.start()
    async with asyncio.timeout(10):
        while not (tmp_path / "store/observed.json").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert world.journal.chain.total.sequence == 1
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    await world.idle()
    async with asyncio.timeout(10):
        while world.journal.chain.total.sequence < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await world.kill()
    assert read_commit(FolderStore(tmp_path / "store"), path_of(2)).segment.lines == 1
