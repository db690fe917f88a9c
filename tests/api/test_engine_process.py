"""A whole process: leadership, watches, a controller and the health server, on a real API server; started and ended as kubelet does."""

import asyncio
import signal
import sys
import textwrap

import aiohttp
import pytest

from graft_operator.engine.resources import CONFIG_MAPS, LEASES

PROGRAM = textwrap.dedent(
    """
    import sys
    from datetime import timedelta
    from pathlib import Path
    from random import Random

    from prometheus_client import CollectorRegistry

    from graft_operator.engine.clock import SystemClock
    from graft_operator.engine.controller import Controller, Outcome, ReconcileMetrics
    from graft_operator.engine.credentials import load_credentials
    from graft_operator.engine.kube import Kube
    from graft_operator.engine.leadership import Candidate, Leadership
    from graft_operator.engine.process import LedProcess, controller_service
    from graft_operator.engine.queue import Key, WorkQueue
    from graft_operator.engine.resources import CONFIG_MAPS
    from graft_operator.engine.watch import Watch, Watcher
    from graft_runtime.health import Checks, HealthServer
    from graft_runtime.logs import configure_logging
    from graft_runtime.process import Service, run_process

    kubeconfig, namespace, delay = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

    async def operate():
        clock, random, registry = SystemClock(), Random(), CollectorRegistry()
        async with Kube(load_credentials(kubeconfig)) as kube:
            leadership = Leadership(kube, Candidate(Key(namespace, "operator"), "me"), clock, random)
            leader = kube.fenced(leadership.check)
            queue = WorkQueue(clock, random)

            async def reconcile(key):
                await clock.sleep(delay)
                await leader.merge_patch(CONFIG_MAPS, key.namespace, key.name, {"data": {"reconciled": str(leadership.epoch)}})
                return Outcome()

            controller = Controller("configmap", reconcile, queue, clock, ReconcileMetrics(registry))
            watcher = Watcher(
                kube, [Watch(CONFIG_MAPS, queue.add, labels="watched=yes")], clock, random, (namespace,), lambda: process.take_signals()
            )
            stalled = lambda: ", ".join(watcher.streams.stalled()) or None
            leads = lambda: None if leadership.is_leader else "not leading"
            health = HealthServer(registry, Checks({"streams": stalled}, {"leading": leads}), "127.0.0.1", 0)

            async def say_port():
                await health.started.wait()
                print(health.port, flush=True)
                await clock.sleep(3600)

            process = LedProcess(
                [Service("health", health.run), Service("port", say_port), Service("watches", watcher.run)],
                [controller_service(controller)],
                leadership,
                prepared=watcher.listed,
            )
            return await process.run()

    configure_logging(words=True)
    sys.exit(run_process(operate))
    """
)


@pytest.fixture
async def start(kubeconfig, namespace):
    processes = []

    async def start(delay=0.0):
        arguments = (sys.executable, "-W", "error", "-c", PROGRAM, str(kubeconfig), namespace, str(delay))
        process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        processes.append(process)
        port = int(await asyncio.wait_for(process.stdout.readline(), 30))
        return process, f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


async def make(kube, namespace, name):
    await kube.create(CONFIG_MAPS, {"metadata": {"namespace": namespace, "name": name, "labels": {"watched": "yes"}}})


def data_of(kube, namespace, name):
    async def read():
        return (await kube.get(CONFIG_MAPS, namespace, name)).get("data")

    return read


async def test_a_process_leads_reconciles_says_so_and_leaves_cleanly(kube, namespace, start, until, http):
    process, url = await start()
    await make(kube, namespace, "one")
    data = await until(data_of(kube, namespace, "one"))
    lease = await kube.get(LEASES, namespace, "operator")
    assert data == {"reconciled": str(lease["spec"]["leaseTransitions"])}
    assert lease["spec"]["holderIdentity"] == "me"
    async with http.get(f"{url}/livez") as live, http.get(f"{url}/readyz") as ready:
        assert (live.status, ready.status) == (200, 200)
        assert await live.text() == "ok streams\nok\n"
    async with http.get(f"{url}/metrics") as metrics:
        text = await metrics.text()
        assert 'graft_reconcile_total{controller="configmap",result="done"}' in text
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert "holderIdentity" not in (await kube.get(LEASES, namespace, "operator"))["spec"]


async def test_sigterm_lets_a_pass_finish_before_the_lease_is_released(kube, namespace, start, until):
    process, _ = await start(delay=2.0)
    await make(kube, namespace, "slow")
    await until(holder_is(kube, namespace, "me"))
    await asyncio.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert await data_of(kube, namespace, "slow")()


async def test_a_second_process_is_not_ready_until_it_leads(kube, namespace, start, until, http):
    first, _ = await start()
    await until(holder_is(kube, namespace, "me"))
    second, url = await start()
    async with http.get(f"{url}/readyz") as ready:
        assert ready.status == 503
        assert "not leading" in await ready.text()

    async def is_ready():
        async with http.get(f"{url}/readyz") as answer:
            return answer.status == 200

    first.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(first.wait(), 20) == 0
    await until(is_ready)
    await make(kube, namespace, "after")
    await until(data_of(kube, namespace, "after"))
    second.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(second.wait(), 20) == 0


async def test_a_process_whose_lease_is_taken_ends_at_once(kube, namespace, start, until):
    process, _ = await start()
    await until(holder_is(kube, namespace, "me"))
    await kube.merge_patch(LEASES, namespace, "operator", {"spec": {"holderIdentity": "somebody"}})
    assert await asyncio.wait_for(process.wait(), 20) == 1
    assert (await kube.get(LEASES, namespace, "operator"))["spec"]["holderIdentity"] == "somebody"


def holder_is(kube, namespace, identity):
    async def check():
        lease = await kube.get(LEASES, namespace, "operator")
        return lease is not None and lease["spec"].get("holderIdentity") == identity

    return check
