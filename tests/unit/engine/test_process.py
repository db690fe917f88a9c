import asyncio
import os
import signal
from datetime import timedelta

import pytest

from graft_operator.engine.process import LedProcess
from graft_runtime.process import Service

pytestmark = pytest.mark.usefixtures("collector_as_it_was")


class Lease:
    """Leadership that is granted when a test says so."""

    def __init__(self, granted=True):
        self.granted = asyncio.Event()
        self.released = False
        self.writers = 0
        if granted:
            self.granted.set()

    async def acquire(self):
        await self.granted.wait()
        return 1

    async def hold(self):
        await asyncio.Event().wait()

    async def release(self):
        assert self.writers == 0, "released while something could still write"
        self.released = True


async def forever():
    await asyncio.Event().wait()


async def fails():
    raise ValueError("broken")


async def ends():
    return


async def stopped(process, *, after):
    task = asyncio.ensure_future(process.run())
    await asyncio.sleep(0)
    await after()
    return await asyncio.wait_for(task, 20)


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("always", "leading"),
    [
        pytest.param([fails], [forever], id="a service that always runs fails"),
        pytest.param([forever], [fails], id="a service of the leader fails"),
        pytest.param([ends], [forever], id="a service that always runs ends"),
        pytest.param([forever], [ends], id="a service of the leader ends"),
    ],
)
async def test_whatever_ends_by_itself_ends_the_process_with_1_and_the_lease_is_released(always, leading):
    lease = Lease()
    process = LedProcess([Service("a", run) for run in always], [Service("l", run) for run in leading], lease)
    assert await asyncio.wait_for(process.run(), 20) == 1
    assert lease.released


async def test_a_signal_stops_the_process_with_0():
    lease = Lease()
    process = LedProcess([Service("a", forever)], [Service("l", forever)], lease)

    async def send():
        await turns()
        os.kill(os.getpid(), signal.SIGTERM)

    assert await stopped(process, after=send) == 0
    assert lease.released
    assert process.stopping


async def test_only_the_leader_starts_what_leading_means():
    lease = Lease(granted=False)
    started = []

    async def work():
        started.append(True)
        await forever()

    process = LedProcess([Service("a", forever)], [Service("l", work)], lease)
    task = asyncio.ensure_future(process.run())
    await turns()
    assert not started
    lease.granted.set()
    await turns()
    assert started
    process.stop()
    assert await task == 0


async def test_nobody_asks_to_lead_who_could_not_act_at_once():
    known, asked = asyncio.Event(), []

    class Asked(Lease):
        async def acquire(self):
            asked.append(True)
            return await super().acquire()

    lease = Asked()
    process = LedProcess([Service("watches", forever)], [Service("l", forever)], lease, prepared=known.wait)
    task = asyncio.ensure_future(process.run())
    await turns()
    assert not asked
    known.set()
    await turns()
    assert asked
    process.stop()
    assert await task == 0


async def test_stopping_lets_work_finish_and_only_then_releases_the_lease():
    lease = Lease()
    log = []
    finish = asyncio.Event()

    async def work():
        lease.writers += 1
        try:
            await finish.wait()
            log.append("finished")
        finally:
            lease.writers -= 1

    async def drain():
        finish.set()
        await turns()

    process = LedProcess([], [Service("controller", work, drain)], lease)

    async def stop():
        await turns()
        process.stop()

    assert await stopped(process, after=stop) == 0
    assert log == ["finished"]
    assert lease.released


async def test_work_that_does_not_finish_in_time_is_cancelled():
    lease = Lease()
    process = LedProcess([], [Service("controller", forever, forever)], lease, patience=timedelta(milliseconds=10))

    async def stop():
        await turns()
        process.stop()

    assert await stopped(process, after=stop) == 0
    assert lease.released


async def test_a_candidate_that_never_led_can_be_stopped():
    process = LedProcess([Service("a", forever)], [Service("l", forever)], Lease(granted=False))

    async def stop():
        await turns()
        process.stop()

    assert await stopped(process, after=stop) == 0


async def test_a_process_without_leadership_runs_everything():
    process = LedProcess([Service("a", forever)], [Service("l", forever)], None)

    async def stop():
        await turns()
        process.stop()

    assert await stopped(process, after=stop) == 0
