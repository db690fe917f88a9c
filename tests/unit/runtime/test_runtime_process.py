import asyncio
import gc
import os
import signal
from datetime import timedelta

import pytest

from graft_runtime.process import YOUNG_OBJECTS, Process, Service

pytestmark = pytest.mark.usefixtures("collector_as_it_was")


async def forever():
    await asyncio.Event().wait()


async def nothing():
    pass


async def broken():
    raise OSError("the port is taken")


async def late():
    raise TimeoutError


async def ends(process, *, after=0.01):
    """Let the process run for a moment and stop it; return its exit code."""
    running = asyncio.ensure_future(process.run())
    await asyncio.sleep(after)
    process.stop()
    return await asyncio.wait_for(running, 20)


async def test_a_service_that_breaks_ends_the_process_with_1(caplog):
    assert await Process([Service("clients", broken), Service("routes", forever)]).run() == 1
    assert "the process ends" in caplog.text


async def test_a_service_that_just_ends_does_so_too():
    assert await Process([Service("routes", nothing), Service("clients", forever)]).run() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_while_services_still_run_and_ends_with_0(number):
    steps = []

    async def service():
        try:
            await forever()
        finally:
            steps.append("service ended")

    async def drain():
        assert process.stopping
        await asyncio.sleep(0)
        steps.append("drained")

    process = Process([Service("clients", service, drain)])
    running = asyncio.ensure_future(process.run())
    await asyncio.sleep(0.01)
    assert not process.stopping
    os.kill(os.getpid(), number)
    assert await running == 0
    assert steps == ["drained", "service ended"]


async def test_a_service_that_ends_because_it_was_drained_is_no_failure():
    stop = asyncio.Event()

    async def run():
        await stop.wait()

    async def drain():
        stop.set()
        await asyncio.sleep(0.01)

    assert await ends(Process([Service("queue", run, drain)])) == 0


async def test_what_does_not_finish_in_time_is_cancelled():
    assert await ends(Process([Service("queue", forever, forever)], patience=timedelta(milliseconds=10))) == 0


@pytest.mark.parametrize("drain", [broken, late], ids=["breaks", "gives up by itself"])
async def test_a_drain_that_fails_ends_the_process_with_1(drain):
    assert await ends(Process([Service("clients", forever, drain)])) == 1


async def test_a_library_that_took_the_signals_can_be_made_to_give_them_back():
    process = Process([Service("clients", forever)])
    running = asyncio.ensure_future(process.run())
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
    process.take_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 20) == 0


async def test_what_was_wired_before_is_no_business_of_the_collector_of_cycles():
    seen = []

    async def look():
        seen.append((gc.get_freeze_count(), gc.get_threshold()[0]))

    gc.unfreeze()
    await Process([Service("look", look)]).run()
    assert seen[0][0] > 10_000
    assert seen[0][1] == YOUNG_OBJECTS
