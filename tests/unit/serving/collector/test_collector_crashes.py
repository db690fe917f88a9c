"""Whatever is interrupted: what is committed counts once, what is not is known to be lost, and the sums say what the lines say."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest
from collector_world import METRICS, OLD, Does, FakeGateway, World, committed, settings

from graft_api.comparison import Clock as HourClock
from graft_api.comparison import Outcome
from graft_evaluation.paired.wire import to_bytes
from graft_evaluation.pairs.contrasts import PRODUCTION, plans, summed
from graft_evaluation.verdict import verdict
from graft_serving.collector import chain as chains
from graft_serving.collector import commits, reporter
from graft_serving.collector import journal as journals
from graft_serving.collector.adding import added_up
from graft_serving.collector.chain import Chain
from graft_serving.collector.commits import (
    DamagedError,
    FencedError,
    FoldedError,
    Progress,
    Sealed,
    path_of,
    read_commit,
)
from graft_serving.collector.indexes import segments
from graft_serving.collector.journal import Clock
from graft_serving.collector.numbers import SILENT_SECONDS, Numbers
from graft_serving.collector.observed import SUM, Key, ObservedSum, observed_algebra
from graft_serving.collector.observed_time import ObservedTime
from graft_serving.collector.store import FolderStore, StoreAwayError

WRITES = 8
"""Of the story: three segments, three commits, one index, one snapshot."""


class Killed(Exception):  # noqa: N818
    """The process is gone."""


class DyingStore:
    """Dies at its n-th write: before it, or after it but before anybody is told."""

    def __init__(self, folder, at, *, after):
        self._store = FolderStore(folder)
        self._left, self._after = at, after
        self.writes = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def write(self, path, content):
        return self._dying(self._store.write, path, content)

    def put_if_absent(self, path, content):
        return self._dying(self._store.put_if_absent, path, content)

    def _dying(self, act, *arguments):
        self.writes += 1
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        done = act(*arguments)
        if self._left == 0:
            raise Killed
        return done


def answer(version, prompt):
    number = int(prompt)
    return Does("no" if number % (5 if version == OLD else 3) == 0 else "yes" + " yes" * (number % 4))


async def story(shadow, session, tmp_path, at, *, after):
    """Three batches, each committed; the collector dies once and is started again. Returns the gateway and the last collector."""
    shadow.does = answer
    gateway = FakeGateway()
    options = settings(f"file://{tmp_path}/store", shadow.url, controlShare="0.3")
    world = World(options, store=DyingStore(tmp_path / "store", at, after=after), writer="w0")
    await world.start()
    lives = 1
    for _ in range(3):
        batch = [gateway.exchange(str(i), "yes" if i % 7 else "no", conversation=f"c{i % 9}") for i in range(12)]
        await gateway.deliver(session, world.url, batch)
        await world.idle()
        try:
            await world.commit()
        except Killed:
            await world.kill()
            world = World(options, writer=f"w{lives}")
            lives += 1
            await world.start()
            with suppress(AssertionError):
                await gateway.deliver(session, world.url, batch)  # its answer was lost, as far as the gateway knows
            await world.idle()
            await world.commit()
    await world.kill()
    assert lives == (2 if at <= WRITES else 1)
    return gateway, world


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, WRITES + 2))
async def test_killed_at_any_write_nothing_counts_twice_and_nothing_is_missed(at, after, shadow, session, tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "SNAPSHOT_EVERY", 2)
    gateway, world = await story(shadow, session, tmp_path, at, after=after)
    chain, lines = committed(tmp_path / "store", world.compare)
    assert sorted(line.number for line in lines) == list(range(1, gateway.numbered + 1))
    for name, plan in plans(world.compare).items():
        assert to_bytes(chain.total.sums[name].summary) == to_bytes(summed(plan, lines)), name


async def test_an_exchange_that_dies_with_the_collector_is_known_to_be_lost(shadow, session, tmp_path, monkeypatch):
    monkeypatch.setattr(reporter, "READ_SECONDS", 0)
    options = settings(f"file://{tmp_path}/store", shadow.url)
    gateway, world = FakeGateway(), World(options)
    await world.start()
    await gateway.deliver(session, world.url, [gateway.exchange("1") for _ in range(4)])
    await world.idle()
    await world.commit()
    await gateway.deliver(session, world.url, [gateway.exchange("2") for _ in range(3)])
    await world.idle()
    await world.kill()
    world = World(options, writer="w2")
    await world.start()
    await gateway.deliver(session, world.url, [gateway.exchange("3") for _ in range(5)])
    await world.idle()
    await world.commit()
    chain, lines = committed(tmp_path / "store", world.compare)
    await world.kill()
    assert len(lines) == 9
    assert Numbers(chain.total.progress.numbers).lost(time.time() + SILENT_SECONDS + 1) == {"never-came": 3}
    assert world.reporter.picture(1).comparison.lost_pairs == 3


async def test_of_two_collectors_that_both_think_they_are_the_one_the_later_ends(shadow, session, tmp_path):
    options = settings(f"file://{tmp_path}/store", shadow.url)
    gateway, other = FakeGateway(), FakeGateway("gateway-b")
    zombie, world = World(options, writer="old"), World(options, writer="new")
    await zombie.start()
    await world.start()
    await gateway.deliver(session, zombie.url, [gateway.exchange("1")])
    await other.deliver(session, world.url, [other.exchange("2")])
    await zombie.idle()
    await world.idle()
    await world.commit()
    with pytest.raises(FencedError):
        await zombie.commit()
    chain, (line,) = committed(tmp_path / "store", world.compare)
    assert line.boot == "gateway-b"
    assert chain.total.sums[PRODUCTION].summary.pairs.sum() == 1
    for running in (zombie, world):
        await running.kill()


class AwayStore:
    """Away until it is told otherwise; then the answer to every first write is lost."""

    def __init__(self, folder):
        self._store = FolderStore(folder)
        self.away = True
        self._told = set()

    def __getattr__(self, name):
        def call(*arguments):
            if self.away:
                raise StoreAwayError("away")
            done = getattr(self._store, name)(*arguments)
            if name in {"write", "put_if_absent"} and arguments[0] not in self._told:
                self._told.add(arguments[0])
                raise StoreAwayError("the answer was lost")
            return done

        return call


async def test_a_store_that_is_away_is_waited_for_and_a_lost_answer_is_no_second_commit(shadow, session, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "FIRST_PAUSE", 0.01)
    store = AwayStore(tmp_path / "store")
    world = World(settings(f"file://{tmp_path}/store", shadow.url), store=store)
    starting = asyncio.ensure_future(world.start())
    await asyncio.sleep(0.1)
    gateway = FakeGateway()
    assert await gateway.send(session, world.url, [gateway.exchange("1")]) == 503, "it is not known yet what counted already"
    store.away = False
    await starting
    await gateway.deliver(session, world.url, [gateway.exchange("2")])
    await world.idle()
    await world.commit()
    _, lines = committed(tmp_path / "store", world.compare)
    await world.kill()
    assert [line.number for line in lines] == [2]
    assert world.journal.chain.total.sequence == 1


class HiccupStore:
    """Away at its n-th call, before it is done or after."""

    def __init__(self, folder, at, *, after):
        self._store = FolderStore(folder)
        self._left, self._after = at, after

    def __getattr__(self, name):
        def call(*arguments):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise StoreAwayError("a hiccup")
            done = getattr(self._store, name)(*arguments)
            if self._left == 0:
                raise StoreAwayError("its answer was lost")
            return done

        return call


def observation(number):
    part = ObservedSum()
    part.cell(Key(number, "d", "v", "s")).add(0.5, right=True)
    return Sealed(float(number), float(number), b"lines", 1, {SUM: part}, Progress(arrived=number))


def insist(chain, sealed):
    """As the journal does."""
    try:
        chain.commit(sealed)
    except StoreAwayError:
        chain.commit(sealed)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 50))
def test_a_hiccup_of_the_store_at_any_call_makes_no_segment_count_twice(at, after, tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "SNAPSHOT_EVERY", 2)
    chain = Chain(HiccupStore(tmp_path, at, after=after), "w", observed_algebra())
    for number in range(1, 7):
        insist(chain, observation(number))
    again = Chain(FolderStore(tmp_path), "x", observed_algebra())
    again.resume()
    third = Chain(FolderStore(tmp_path), "x", observed_algebra())
    third.resume()
    insist(third, observation(7))
    insist(third, observation(8))
    folded = [read_commit(FolderStore(tmp_path), path_of(number)).folded for number in range(1, 9)]
    assert folded == sorted(folded, reverse=True)
    assert (folded[3], folded[7]) == (True, False)
    for found in (chain, again):
        assert found.total.sequence == 6
        assert sum(cell.count for cell in found.total.sums[SUM].cells.values()) == 6


def test_commits_keep_their_names_and_places_and_lose_their_sums_once_snapshots_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "SNAPSHOT_EVERY", 3)
    store = FolderStore(tmp_path)
    sleeping, chain = Chain(store, "old", observed_algebra()), Chain(store, "w", observed_algebra())
    sleeping.commit(observation(1))
    chain.resume()
    for number in range(2, 12):
        chain.commit(observation(number))
    assert [read_commit(store, path_of(number)).folded for number in range(1, 12)] == [True] * 6 + [False] * 5
    assert [segment.path for segment in segments(store, 8)] == store.list("pairs/")[:8]
    with pytest.raises(FencedError):
        sleeping.commit(observation(2))
    for through in range(6, 12):
        total, _ = added_up(store, observed_algebra(), through=through)
        assert (total.sequence, total.ended, sum(cell.count for cell in total.sums[SUM].cells.values())) == (through, through, through)
    with pytest.raises(FoldedError, match="commit 1 was folded"):
        added_up(store, observed_algebra(), through=5)
    for path in store.list("snapshots/"):
        store.delete(path)
    with pytest.raises(DamagedError, match="a later snapshot, which is not there"):
        Chain(store, "x", observed_algebra()).resume()


def test_a_store_that_only_says_that_a_commit_is_there_fences_nobody(tmp_path):
    class Confused(FolderStore):
        def put_if_absent(self, path, content):
            return False

    chain = Chain(Confused(tmp_path), "w", observed_algebra())
    with pytest.raises(StoreAwayError, match="is said to be there"):
        chain.commit(observation(1))


def objects(world):
    folder = Path(world.compare.store.removeprefix("file://"))
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def given_up(world, session):
    """Return why a collector ends its test; it goes on, takes what comes, and writes nothing over what lies there."""
    before = objects(world)
    await world.start()
    gateway = FakeGateway("gateway-late")
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    report = world.reporter.picture(1)
    found = verdict(report.comparison, world.compare.limits, HourClock(elapsed=0, duration=168, max_duration=336))
    await world.service.drain()
    assert not world.task.done()
    await world.kill()
    assert objects(world) == before
    assert (report.test_uid, world.lane.held, found.outcome) == (world.compare.uid, 0, Outcome.ERROR)
    (sentence,) = report.comparison.broken
    assert found.sentence == f"Error: {sentence}"
    return sentence


async def test_a_test_whose_scorer_cannot_be_built_is_an_error_at_once(session, tmp_path):
    judged = {"metric": METRICS[0]["metric"], "scorer": {"http": {"url": "https://judge", "tokenEnv": "NOT_THERE"}}}
    world = World(settings(f"file://{tmp_path}/store", "nobody:1", metrics=[judged, *METRICS[1:]]))
    told = await given_up(world, session)
    assert told == "the scorer of wrong: http.tokenEnv: there is no environment variable NOT_THERE, or it is empty"


async def test_a_chain_that_is_found_damaged_ends_the_test_with_what_was_read_before(shadow, session, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "SWEEP_SECONDS", 0)
    monkeypatch.setattr(journals, "IDLE_SECONDS", -1)
    gateway, world = FakeGateway(), World(settings(f"file://{tmp_path}/store", shadow.url, segments={"seconds": 1}))
    await world.start()
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    await world.idle()
    await world.commit()
    (tmp_path / "store" / "pairs/2027-01-01").mkdir(parents=True)
    (tmp_path / "store" / "pairs/2027-01-01/00000002-x.jsonl.zst").write_bytes(b"what a crash left")
    monkeypatch.setattr(chains, "read_commit", damaged)
    await met(lambda: world.service.over)
    comparison = world.reporter.picture(1).comparison
    await world.kill()
    assert (comparison.contrasts[0].pairs, comparison.broken) == (1, ["the store: commits/00000/00000002.json is no commit"])


def damaged(_, path):
    raise DamagedError(f"{path} is no commit")


async def test_who_is_overtaken_ends(shadow, session, tmp_path):
    options = settings(f"file://{tmp_path}/store", shadow.url, segments={"seconds": 1})
    zombie, world = World(options, writer="old"), World(options, writer="new")
    await zombie.start()
    await world.start()
    await world.commit()
    with pytest.raises(ExceptionGroup) as group:
        async with asyncio.timeout(10):
            await zombie.task
    assert group.group_contains(FencedError)
    for running in (zombie, world):
        await running.kill()


async def test_what_lies_there_from_other_settings_is_not_added_up(shadow, session, tmp_path):
    gateway, world = FakeGateway(), World(settings(f"file://{tmp_path}/store", shadow.url))
    await world.start()
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    await world.idle()
    await world.commit()
    await world.kill()
    other = World(settings(f"file://{tmp_path}/store", shadow.url, seed=8), writer="w2")
    assert (await given_up(other, session)).startswith("the store: commit 1 was written with other settings, or is damaged")


OTHER_TESTS = {
    "another test": {"uid": "u-2"},
    "another candidate": {"candidate": "dsl-newer"},
    "another incumbent": {"incumbent": "dsl-older"},
    "another scorer of the same metric": {"metrics": [{**METRICS[0], "scorer": {"regex": {"pattern": "no.*"}}}, *METRICS[1:]]},
    "another control share": {"controlShare": "0.5"},
}


@pytest.mark.parametrize("snapshot", [False, True], ids=["commit", "snapshot"])
@pytest.mark.parametrize("changes", OTHER_TESTS.values(), ids=OTHER_TESTS.keys())
async def test_what_another_test_measured_is_not_added_up(changes, snapshot, shadow, session, tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "SNAPSHOT_EVERY", 1 if snapshot else 60)
    world = World(settings(f"file://{tmp_path}/store", shadow.url))
    await world.start()
    await world.commit()
    await world.kill()
    other = World(settings(f"file://{tmp_path}/store", shadow.url, **changes), writer="w2")
    told = await given_up(other, session)
    assert told.startswith("the store: commit 1 is of another test")
    assert told.endswith("give this test a store of its own, or empty this one")
    again = World(world.settings, writer="w3")
    await again.start()
    await again.kill()


async def test_pairs_are_deleted_in_time_and_their_sums_stay(shadow, session, tmp_path):
    gateway, world = FakeGateway(), World(settings(f"file://{tmp_path}/store", shadow.url))
    await world.start()
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    await world.idle()
    left = tmp_path / "store/pairs/2999-01-01/00000001-dead.jsonl.zst"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"what a crash left")
    await world.commit()
    assert not left.exists()
    now = world.clock.now()
    assert world.journal.chain.forget(30, now + 30 * 86400) == 0
    assert world.journal.chain.forget(30, now + 31 * 86400) == 1
    await world.kill()
    again = World(world.settings, writer="w2")
    await again.start()
    assert again.journal.chain.total.sums[PRODUCTION].summary.pairs.sum() == 1
    await again.kill()


@pytest.mark.parametrize(
    ("jumps", "passed", "kept"), [(40 * 86_400, 60, True), (31 * 86_400, 31 * 86_400, False)], ids=["a jump", "a month"]
)
async def test_a_clock_that_jumps_makes_no_pair_old(jumps, passed, kept, shadow, session, tmp_path):
    wall, monotonic = [1_800_000_000.0], [1000.0]
    clock = Clock(lambda: wall[0], lambda: monotonic[0])
    gateway, world = FakeGateway(), World(settings(f"file://{tmp_path}/store", shadow.url), clock=clock)
    await world.start()
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    await world.idle()
    await world.commit()
    wall[0] += jumps
    monotonic[0] += passed + journals.SWEEP_SECONDS
    await world.commit()
    await world.kill()
    assert bool(FolderStore(tmp_path / "store").list("pairs/")) is kept


async def test_after_sigterm_what_is_being_asked_is_finished_and_written(shadow, session, tmp_path):
    shadow.does = lambda version, prompt: Does(seconds=0.1)
    gateway, world = FakeGateway(), World(settings(f"file://{tmp_path}/store", shadow.url))
    await world.start()
    await gateway.deliver(session, world.url, [gateway.exchange("1"), gateway.exchange("2")])
    while len(shadow.asked) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await world.stop()
    _, lines = committed(tmp_path / "store", world.compare)
    assert sorted(line.number for line in lines) == [1, 2]


async def test_what_is_cut_off_after_sigterm_is_lost_for_a_cause_of_its_own(shadow, session, tmp_path):
    """The slow candidate's, and not the one that nobody asked."""
    shadow.does = lambda version, prompt: Does(seconds=5 if prompt == "slow" else 0.1)
    gateway = FakeGateway()
    world = World(
        settings(
            f"file://{tmp_path}/store", shadow.url, controlShare="0", metrics=METRICS[:1], shadow={"concurrency": 2, "timeoutSeconds": 300}
        )
    )
    await world.start()
    world.service.finish = lambda: world.lane.drain(0.3)
    await gateway.deliver(session, world.url, [gateway.exchange(prompt) for prompt in ("slow", "quick", "slow", "slow")])
    while len(shadow.asked) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await world.stop()
    chain, lines = committed(tmp_path / "store", world.compare)
    assert [line.number for line in lines] == [2]
    assert chain.total.progress.lost == {"cut-off": 2}
    for made in (Numbers, Numbers.read):
        assert made(chain.total.progress.numbers).lost(time.time() + SILENT_SECONDS + 1) == {"never-came": 1}


async def test_hours_in_which_the_store_is_away_are_not_observed(shadow, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "FIRST_PAUSE", 0.01)
    now, store = [1000.0], AwayStore(tmp_path / "store")
    store.away = False
    world = World(settings(f"file://{tmp_path}/store", shadow.url), store=store, clock=Clock(lambda: now[0], lambda: now[0]))
    await world.start()
    now[0] += 100
    store.away = True
    committing = asyncio.ensure_future(world.commit())
    await met(lambda: world.journal.store_away)
    now[0] += 5000
    store.away = False
    await committing
    now[0] += 30
    await world.commit()
    await world.kill()
    assert world.journal.chain.total.progress.observed_seconds == 130


async def test_hours_in_which_the_shadow_is_away_are_not_observed(shadow, session, tmp_path):
    now = [1000.0]
    world = World(settings(f"file://{tmp_path}/store", shadow.url), clock=Clock(lambda: now[0], lambda: now[0]))
    await world.start()
    now[0] += 100
    shadow.up = False
    gateway = FakeGateway()
    await gateway.deliver(session, world.url, [gateway.exchange("1")])
    await met(lambda: world.equipment.gate.away)
    now[0] += 500
    await world.commit()
    assert world.journal.chain.total.progress.observed_seconds == 100
    shadow.up = True
    await world.idle()
    now[0] += 7
    await world.commit()
    await world.kill()
    assert world.journal.chain.total.progress.observed_seconds == 107


async def met(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_two_outages_at_a_time_stop_the_observed_time_once():
    now = [0.0]
    observed = ObservedTime(lambda: now[0])
    observed.restart(10)
    now[0] = 5
    observed.lacks("store", 3)
    now[0] = 6
    observed.lacks("shadow")
    observed.lacks("shadow")
    now[0] = 8
    observed.has("store")
    now[0] = 20
    assert observed.seconds == 13
    observed.has("shadow")
    observed.has("shadow")
    now[0] = 21
    assert observed.seconds == 14


def test_a_long_chain_is_resumed_from_its_snapshot_and_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "BLOCK", 4)
    monkeypatch.setattr(chains, "SNAPSHOT_EVERY", 5)
    store = FolderStore(tmp_path)
    chain = Chain(store, "w", observed_algebra())
    for length in range(1, 24):
        part = ObservedSum()
        part.cell(Key(length, "d", "v", "s")).add(0.5, right=True)
        chain.commit(Sealed(float(length), float(length), b"", 0, {SUM: part}, Progress(arrived=length)))
        again = Chain(store, "x", observed_algebra())
        again.resume()
        assert again.total.sequence == again.total.progress.arrived == length
        assert again.total.sums[SUM].to_bytes() == chain.total.sums[SUM].to_bytes()
    assert len(store.list("snapshots/")) == 2
    store.delete("commits/00005/00000022.json")
    with pytest.raises(DamagedError, match="commit 22 is missing"):
        Chain(store, "x", observed_algebra()).resume()
