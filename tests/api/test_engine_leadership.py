# ruff: noqa: S311 -- jitter, nothing secret
"""Two candidates and a real API server that hangs, goes away, and comes back. Times are a fifth of the defaults."""

import asyncio
import json
import signal
import sys
import textwrap
from random import Random

import pytest

from graft_operator.engine.clock import SystemClock
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.errors import LeadershipLost
from graft_operator.engine.kube import Kube
from graft_operator.engine.leadership import Candidate, Leadership, LeaseTimes
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import CONFIG_MAPS, LEASES

TIMES = LeaseTimes(duration=3, renew=2, retry=0.4)


class Replica:
    """A candidate that holds what it has acquired; `log` says when it led and when it gave up."""

    def __init__(self, kubeconfig, name):
        self.kube = Kube(load_credentials(kubeconfig))
        self.lost = False
        self.leadership = Leadership(
            self.kube,
            Candidate(Key("default", name.rpartition("/")[0]), name.rpartition("/")[2], TIMES),
            SystemClock(),
            Random(),
            on_lost=self._on_lost,
        )
        self.task = asyncio.ensure_future(self._run())

    async def _run(self):
        await self.leadership.acquire()
        await self.leadership.hold()

    def _on_lost(self):
        self.lost = True

    async def close(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.kube.close()


@pytest.fixture
async def replica(disturbed_api_server):
    replicas = []

    def start(name):
        replicas.append(Replica(disturbed_api_server.kubeconfig, name))
        return replicas[-1]

    yield start
    for each in replicas:
        await each.close()


async def never_both(replicas, condition, seconds=40.0):
    async with asyncio.timeout(seconds):
        while not condition():
            assert sum(each.leadership.is_leader for each in replicas) <= 1
            await asyncio.sleep(0.01)


async def test_one_of_two_leads_and_the_other_follows_a_release_at_once(replica, until):
    first = replica("release/a")
    await until(lambda: first.leadership.is_leader)
    second = replica("release/b")
    await asyncio.sleep(1.5)
    assert not second.leadership.is_leader
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)
    await first.leadership.release()
    async with asyncio.timeout(2):
        await until(lambda: second.leadership.is_leader)
    assert second.leadership.epoch == first.leadership.epoch + 1


async def test_a_leader_that_dies_is_followed(replica, until):
    first = replica("dies/a")
    await until(lambda: first.leadership.is_leader)
    second = replica("dies/b")
    first.task.cancel()
    await never_both([first, second], lambda: second.leadership.is_leader)


async def test_a_hung_api_server_ends_the_leader_before_anybody_else_leads(replica, disturbed_api_server, until):
    first, second = replica("hung/a"), replica("hung/b")
    pair = [first, second]
    await until(lambda: any(each.leadership.is_leader for each in pair))
    leader = first if first.leadership.is_leader else second
    disturbed_api_server.pause()
    try:
        await never_both(pair, lambda: leader.lost, seconds=6)
    finally:
        disturbed_api_server.resume()
    with pytest.raises(LeadershipLost):
        await leader.task
    other = second if leader is first else first
    await never_both(pair, lambda: other.leadership.is_leader)


async def test_a_stopped_api_server_ends_the_leader_and_one_leads_when_it_is_back(replica, disturbed_api_server, until, aside):
    first, second = replica("stopped/a"), replica("stopped/b")
    pair = [first, second]
    await until(lambda: any(each.leadership.is_leader for each in pair))
    leader = first if first.leadership.is_leader else second
    await aside(disturbed_api_server.stop_api_server)
    await never_both(pair, lambda: leader.lost, seconds=6)
    await aside(disturbed_api_server.start_api_server)
    other = second if leader is first else first
    await never_both(pair, lambda: other.leadership.is_leader)
    assert other.leadership.epoch > leader.leadership.epoch


PAUSED_LEADER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from random import Random
    from graft_operator.engine.clock import SystemClock
    from graft_operator.engine.credentials import load_credentials
    from graft_operator.engine.kube import Kube
    from graft_operator.engine.leadership import Candidate, Leadership, LeaseTimes
    from graft_operator.engine.queue import Key
    from graft_operator.engine.resources import CONFIG_MAPS

    async def main():
        async with Kube(load_credentials(Path(sys.argv[1]))) as kube:
            times = LeaseTimes(duration=3, renew=2, retry=0.4)
            leadership = Leadership(kube, Candidate(Key("default", "paused"), "old", times), SystemClock(), Random())
            fenced = kube.fenced(leadership.check)
            print(await leadership.acquire(), flush=True)
            holding = asyncio.ensure_future(leadership.hold())
            count, seen = 0, await kube.get(CONFIG_MAPS, "default", "paused")
            while True:  # writes as fast as it can, so that it wakes up in the middle of it
                count += 1
                # As every status of graft is written. Half a request may be in the socket when the process is paused, past
                # every check of ours: the other half follows when it wakes, and only the version keeps that from counting.
                version = {"resourceVersion": seen["metadata"]["resourceVersion"]}
                patch = {"metadata": version, "data": {"writer": "old", "count": str(count)}}
                seen = await fenced.merge_patch(CONFIG_MAPS, "default", "paused", patch)

    asyncio.run(main())
    """
)


async def test_an_old_leader_that_was_paused_wakes_up_and_writes_nothing_more(disturbed_api_server, replica, until):
    kubeconfig = disturbed_api_server.kubeconfig
    async with Kube(load_credentials(kubeconfig)) as kube:
        await kube.apply(CONFIG_MAPS, {"metadata": {"namespace": "default", "name": "paused"}})
        old = await asyncio.create_subprocess_exec(sys.executable, "-c", PAUSED_LEADER, str(kubeconfig), stdout=asyncio.subprocess.PIPE)
        epoch = int(await asyncio.wait_for(old.stdout.readline(), 30))
        await until(lambda: written_by(kube, "old"))
        old.send_signal(signal.SIGSTOP)
        new = replica("paused/new")
        await until(lambda: new.leadership.is_leader)
        assert new.leadership.epoch == epoch + 1
        await kube.merge_patch(CONFIG_MAPS, "default", "paused", {"data": {"writer": "new"}})
        old.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(old.wait(), 10) == 1
        assert await written_by(kube, "new")
        lease = await kube.get(LEASES, "default", "paused")
        assert lease["spec"]["holderIdentity"] == "new", json.dumps(lease)


async def written_by(kube, writer):
    found = await kube.get(CONFIG_MAPS, "default", "paused")
    return (found.get("data") or {}).get("writer") == writer
