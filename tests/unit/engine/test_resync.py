# ruff: noqa: S311 -- jitter, nothing secret
from datetime import timedelta
from random import Random

from graft_operator.engine.errors import Unavailable
from graft_operator.engine.kube import Selection
from graft_operator.engine.queue import Key, WorkQueue
from graft_operator.engine.resources import FINE_TUNE_JOBS
from graft_operator.engine.resync import Resync, ResyncSource

PERIOD = timedelta(minutes=15)


class Listing:
    """What the API server would list."""

    def __init__(self, *names):
        self.names = names
        self.selections = []
        self.away = False

    async def list_metadata(self, resource, selection):
        if self.away:
            raise Unavailable("connection refused")
        self.selections.append(selection)
        for name in self.names:
            yield {"namespace": "team", "name": name}


async def drain(queue, clock, seconds):
    keys = []
    for _ in range(int(seconds / 10)):
        await clock.advance(10)
        while len(queue):
            key = await queue.get()
            keys.append((clock.elapsed, key.name))
            queue.done(key)
    return keys


async def test_everything_is_looked_at_once_a_period_and_not_all_at_once(clock, background):
    queue = WorkQueue(clock, Random(1))
    listing = Listing(*(f"job-{number}" for number in range(200)))
    source = ResyncSource(FINE_TUNE_JOBS, queue, Selection(fields="status.phase!=Succeeded"))
    background(queue.run())
    await Resync(listing, [source], clock, Random(1), PERIOD).list_once(source)
    seen = await drain(queue, clock, 900)
    assert len(seen) == 200
    assert listing.selections == [Selection(fields="status.phase!=Succeeded")]
    per_tick = [sum(1 for when, _ in seen if when == tick) for tick in {when for when, _ in seen}]
    assert max(per_tick) < 15


async def test_what_vanished_while_nobody_watched_is_looked_at_at_once(clock, queue, random):
    listing = Listing("a", "b")
    source = ResyncSource(FINE_TUNE_JOBS, queue)
    resync = Resync(listing, [source], clock, random, PERIOD)
    await resync.list_once(source)
    assert len(queue) == 0
    listing.names = ("b",)
    await resync.list_once(source)
    assert await queue.get() == Key("team", "a")
    await resync.list_once(source)
    assert len(queue) == 0


async def test_an_object_that_a_restarted_list_yields_twice_is_one_object(clock, queue, random):
    source = ResyncSource(FINE_TUNE_JOBS, queue)
    await Resync(Listing("a", "a"), [source], clock, random, PERIOD).list_once(source)
    assert source.known == {Key("team", "a")}


async def test_an_outage_neither_ends_the_resync_nor_makes_everything_look_vanished(clock, queue, random, background):
    listing = Listing("a")
    source = ResyncSource(FINE_TUNE_JOBS, queue)
    background(Resync(listing, [source], clock, random, PERIOD).run())
    await clock.advance(901)
    listing.away = True
    await clock.advance(900)
    assert source.known == {Key("team", "a")}
    listing.away = False
    await clock.advance(900)
    assert len(listing.selections) == 2
