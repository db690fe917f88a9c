import asyncio
import os
import signal

from graft_serving.process import Process, Service


async def forever():
    await asyncio.Event().wait()


async def nothing():
    pass


async def broken():
    raise OSError("the port is taken")


async def test_a_service_that_breaks_ends_the_process_with_1(caplog):
    assert await Process([Service("clients", broken), Service("routes", forever)], nothing).run() == 1
    assert "the process ends" in caplog.text


async def test_a_service_that_just_ends_does_so_too():
    assert await Process([Service("routes", nothing), Service("clients", forever)], nothing).run() == 1


async def test_sigterm_drains_while_services_still_run_and_ends_with_0():
    steps = []

    async def service():
        try:
            await forever()
        finally:
            steps.append("service ended")

    async def drain():
        await asyncio.sleep(0)
        steps.append("drained")

    running = asyncio.ensure_future(Process([Service("clients", service)], drain).run())
    await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert steps == ["drained", "service ended"]
