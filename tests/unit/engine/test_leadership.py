"""Leadership against a Lease in memory, on a clock that the tests move. The real API server: tests/api/test_engine_leadership.py."""

import asyncio
import copy
from datetime import timedelta

import pytest

from graft_operator.engine.errors import AlreadyExists, Conflict, LeadershipLost, NotFound, Unavailable
from graft_operator.engine.leadership import Candidate, Leadership, LeaseTimes
from graft_operator.engine.queue import Key

LEASE = Key("graft-system", "graft-operator")


class LeaseServer:
    """One Lease with a resourceVersion, and the ways in which an API server lets one down."""

    def __init__(self):
        self.lease = None
        self.version = 0
        self.writes = 0
        self.away = False
        self.answers_lost = 0

    async def get(self, resource, namespace, name):
        self._reachable()
        return copy.deepcopy(self.lease)

    async def create(self, resource, body):
        self._reachable()
        if self.lease:
            raise AlreadyExists("taken", code=409)
        return self._store({"metadata": {**body["metadata"], "uid": "u"}, "spec": body["spec"]})

    async def merge_patch(self, resource, namespace, name, patch, *, subresource=None):
        self._reachable()
        if self.lease is None:
            raise NotFound("no lease", code=404)
        if patch["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict("changed", code=409)
        spec = {**self.lease["spec"], **patch["spec"]}
        answer = self._store({**self.lease, "spec": {name: value for name, value in spec.items() if value is not None}})
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unavailable("no answer")
        return answer

    def _store(self, lease):
        self.version += 1
        self.writes += 1
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self.version)}}
        return copy.deepcopy(self.lease)

    def _reachable(self):
        if self.away:
            raise Unavailable("connection refused")

    @property
    def holder(self):
        return self.lease["spec"].get("holderIdentity")


@pytest.fixture
def server():
    return LeaseServer()


@pytest.fixture
def candidate(server, clock, random):
    def build(identity, **kwargs):
        return Leadership(server, Candidate(LEASE, identity, LeaseTimes()), clock, random, on_lost=lambda: None, **kwargs)

    return build


async def lead(leadership, background):
    await leadership.acquire()
    return background(leadership.hold())


async def test_the_first_candidate_leads_at_once(candidate, server, clock):
    first = candidate("a")
    epoch = await first.acquire()
    assert first.is_leader
    assert server.holder == "a"
    assert epoch == int(clock.now().timestamp() // 60)


async def test_a_second_candidate_waits_as_long_as_the_first_renews(candidate, server, clock, background):
    await lead(candidate("a"), background)
    waiting = background(candidate("b").acquire())
    await clock.advance(300)
    assert not waiting.done()
    assert server.holder == "a"


async def test_a_leader_that_dies_is_followed_after_the_lease_has_not_changed_for_its_duration(candidate, server, clock, background):
    first = candidate("a")
    held = await lead(first, background)
    second = candidate("b")
    waiting = background(second.acquire())
    await clock.advance(10)
    held.cancel()
    await clock.advance(14)
    assert not waiting.done()
    await clock.advance(6)
    assert waiting.done()
    assert second.epoch == first.epoch + 1
    assert server.holder == "b"


@pytest.mark.parametrize("hours", [-5, 5], ids=["the candidate's clock is behind", "the candidate's clock is ahead"])
async def test_wall_clocks_are_not_compared(server, clock, random, background, candidate, hours):
    await lead(candidate("a"), background)

    class Skewed:
        def now(self):
            return clock.now() + timedelta(hours=hours)

        monotonic = clock.monotonic
        sleep = clock.sleep

    second = Leadership(server, Candidate(LEASE, "b"), Skewed(), random, on_lost=lambda: None)
    waiting = background(second.acquire())
    await clock.advance(600)
    assert not waiting.done()


async def test_a_candidate_that_has_just_arrived_waits_a_whole_duration_for_an_old_lease(candidate, server, clock, background):
    await candidate("a").acquire()
    await clock.advance(10_000)
    waiting = background(candidate("b").acquire())
    await clock.advance(14)
    assert not waiting.done()
    await clock.advance(6)
    assert waiting.done()


async def test_a_released_lease_is_taken_at_once(candidate, server, clock, background):
    first = candidate("a")
    held = await lead(first, background)
    waiting = background(candidate("b").acquire())
    await clock.advance(5)
    held.cancel()
    await first.release()
    assert not first.is_leader
    await clock.advance(3)
    assert waiting.done()
    assert server.holder == "b"


async def test_a_leader_that_cannot_renew_gives_up_before_another_may_lead(candidate, server, clock, background):
    first = candidate("a")
    held = await lead(first, background)
    second = candidate("b")
    waiting = background(second.acquire())
    await clock.advance(4)
    server.away = True
    given_up_at = taken_at = None
    for tick in range(100):
        await clock.advance(0.5)
        if held.done() and given_up_at is None:
            given_up_at = clock.elapsed
        if tick == 30:
            server.away = False
        if waiting.done() and taken_at is None:
            taken_at = clock.elapsed
        assert not (first.is_leader and second.is_leader)
    assert given_up_at < 4 + 12.5
    assert given_up_at < taken_at
    with pytest.raises(LeadershipLost):
        held.result()


async def test_a_short_outage_changes_nothing(candidate, server, clock, background):
    first = candidate("a")
    held = await lead(first, background)
    server.away = True
    await clock.advance(7)
    server.away = False
    await clock.advance(60)
    assert first.is_leader
    assert not held.done()


async def test_a_renewal_whose_answer_was_lost_is_found_to_have_worked(candidate, server, clock, background):
    first = candidate("a")
    held = await lead(first, background)
    server.answers_lost = 1
    await clock.advance(60)
    assert first.is_leader
    assert not held.done()


async def test_a_leader_whose_lease_was_taken_gives_up(candidate, server, clock, background):
    first = candidate("a")
    held = await lead(first, background)
    server._store({**server.lease, "spec": {**server.lease["spec"], "holderIdentity": "b"}})
    await clock.advance(2)
    with pytest.raises(LeadershipLost):
        held.result()


async def test_a_leader_whose_lease_was_deleted_gives_up(candidate, server, clock, background):
    held = await lead(candidate("a"), background)
    server.lease = None
    await clock.advance(2)
    with pytest.raises(LeadershipLost):
        held.result()


async def test_a_leader_that_was_paused_may_not_write_when_it_wakes_up(candidate, clock):
    paused = candidate("a")
    await paused.acquire()
    paused.check()
    clock.elapsed += 3600  # nothing of the process ran in between, renewals included
    with pytest.raises(LeadershipLost):
        paused.check()


async def test_losing_the_lease_calls_back_before_anything_else_can_run(server, clock, random):
    called = []
    paused = Leadership(server, Candidate(LEASE, "a"), clock, random, on_lost=lambda: called.append(True))
    await paused.acquire()
    clock.elapsed += 3600
    with pytest.raises(LeadershipLost):
        paused.check()
    assert called == [True]


async def test_the_epoch_grows_also_when_the_lease_was_deleted(candidate, server, clock, background):
    first = candidate("a")
    await first.acquire()
    for leader in "bcd":
        server.lease["spec"].pop("holderIdentity", None)
        await candidate(leader).acquire()
    before = server.lease["spec"]["leaseTransitions"]
    server.lease = None
    await clock.advance(600)
    last = candidate("e")
    await last.acquire()
    assert last.epoch > before


async def test_two_candidates_at_the_same_moment_yield_one_leader(candidate, server, clock, background):
    contenders = [candidate(name) for name in "abc"]
    for contender in contenders:
        background(contender.acquire())
    await clock.advance(1)
    assert sum(contender.is_leader for contender in contenders) == 1


async def test_a_candidate_outlives_an_api_server_that_is_away(candidate, server, clock, background):
    server.away = True
    waiting = background(candidate("a").acquire())
    await clock.advance(600)
    assert not waiting.done()
    server.away = False
    await clock.advance(3)
    assert waiting.done()


async def test_a_lease_without_a_spec_is_free(candidate, server, clock):
    server._store({"metadata": {"uid": "u"}, "spec": {}})
    assert await asyncio.wait_for(candidate("a").acquire(), 20) == 1


async def test_releasing_what_is_not_held_writes_nothing(candidate, server):
    await candidate("a").release()
    assert server.writes == 0


@pytest.mark.parametrize("times", [(15, 10, 10), (10, 10, 2), (15, 20, 2), (15, 10, 0)])
def test_times_that_would_let_two_lead_are_refused(times):
    with pytest.raises(ValueError, match="retry < renew < duration"):
        LeaseTimes(*times)
