"""
Adapters that were lost with all that goes with them, and restored beside the ledger of a backup, against the real API server: their uids
are others, and what was on its way goes on. And one that somebody deletes and makes anew, which is another candidate.

What no backup brings back is lost here, too: ShadowTests, which go with their Adapters, and AdapterApprovals.
"""

from datetime import timedelta

import pytest
from test_drift import CHECKED, Drifting
from test_promotion import (
    SERVES,
    TESTED,
    World,
    after,
    it_fails,
    it_is_tested,
    it_passes,
    people_approve,
    the_ramp_is_over,
    version,
)

from graft_api.dataplane import LEDGER_KEY, ledger_name
from graft_operator.engine.kube import Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTER_APPROVALS, ADAPTERS, CONFIG_MAPS, JOBS, SHADOW_TESTS


async def nobody_has_looked(world):
    """Until the watch was over by the clock."""
    world.clock.by = timedelta(days=3)
    world.start()
    await world.all_say("a", "c")


WATCHED = [*SERVES, the_ramp_is_over]
KEPT = ("number", "version", "adapter_uid", "began", "test", "evidence_digest", "verdict", "policy", "watch", "step", "switch")


@pytest.fixture
def world(kube, definitions):
    return World(kube)


async def lose(world):
    """Without the operator: what vanishes so, nobody has deleted."""
    for name in world.names:
        await world.kube.merge_patch(ADAPTERS, world.namespace, name, {"metadata": {"finalizers": None}})
        await world.kube.delete(ADAPTERS, world.namespace, name)
    for kind in (SHADOW_TESTS, ADAPTER_APPROVALS):
        for item in await world.kube.list(kind, Selection(world.namespace)):
            await world.kube.delete(kind, world.namespace, item["metadata"]["name"])
    await world.kube.delete(CONFIG_MAPS, world.namespace, ledger_name("prod"))


async def lose_and_restore(world):
    """In the order of the runbook: the ledger first, and the operator does not wait for the rest."""
    ledger = await world.kube.get(CONFIG_MAPS, world.namespace, ledger_name("prod"))
    adapters = await world.kube.list(ADAPTERS, Selection(world.namespace))
    await lose(world)
    metadata = {name: ledger["metadata"][name] for name in ("name", "namespace", "labels")}
    await world.kube.create(CONFIG_MAPS, {"metadata": metadata, "data": {LEDGER_KEY: ledger["data"][LEDGER_KEY]}})
    world.start()
    await world.say_again()
    await world.endpoints.reconcile(world.key)
    for adapter in adapters:
        await world.kube.create(ADAPTERS, {"metadata": world.named(adapter["metadata"]["name"]), "spec": adapter["spec"]})
    await world.say_again()
    await world.settle()


async def restored(world, steps):
    """Return the gate as it was, and as it is after a restore."""
    await after(world, steps)
    before = (await world.entry()).gate
    await lose_and_restore(world)
    gate = (await world.entry()).gate
    assert [getattr(gate, name) for name in KEPT] == [getattr(before, name) for name in KEPT]
    assert (gate.missing, (await world.entry()).ended) == (None, [])
    assert (await world.adapter())["metadata"]["uid"] != gate.adapter_uid
    return before, gate


async def test_what_was_tested_is_tested_for_the_restored_adapter_and_goes_the_whole_way(world):
    _, gate = await restored(world, TESTED)
    (test,) = await world.tests()
    (owner,) = test["metadata"]["ownerReferences"]
    assert (test["metadata"]["name"], owner["uid"]) == (gate.test, (await world.adapter())["metadata"]["uid"])
    assert (await world.phase(), gate.test_uid) == (("Testing", "False"), test["metadata"]["uid"])
    for step in (it_is_tested, it_passes, people_approve, the_ramp_is_over):
        await step(world)
        await world.settle()
    assert await world.arms() == [(version("c"), 9500), (version("a"), 500)]


async def test_what_was_proven_is_approved_again_by_the_same_evidence(world):
    before, gate = await restored(world, [*TESTED, it_passes])
    assert (gate.state, gate.since, await world.tests()) == ("AwaitingApproval", before.since, [])
    told = (await world.adapter())["status"]["promotion"]
    assert (told["state"], told["evidenceDigest"], told["test"]) == ("AwaitingApproval", gate.evidence_digest, gate.test)
    await people_approve(world)
    await world.settle()
    assert (await world.arms(), await world.tests()) == ([(version("c"), 1000), (version("a"), 9000)], [])


async def test_what_was_checked_is_approved_again_and_checked_in_the_next_attempt(kube, definitions):
    world = Drifting(kube)
    await world.begin(CHECKED)
    for step in SERVES:
        await step(world)
        await world.settle()
    before = (await world.entry()).gate
    for job in await world.jobs():
        await world.kube.delete(JOBS, world.namespace, job["metadata"]["name"])
    await lose_and_restore(world)
    gate = (await world.entry()).gate
    assert (before.state, gate.state, gate.drift.before.failed) == ("Checking", "AwaitingApproval", 1)
    assert [getattr(gate, name) for name in KEPT] == [getattr(before, name) for name in KEPT]
    world.clock.by += timedelta(minutes=2)
    await people_approve(world)
    await world.all_say("a", "c")
    await world.settle()
    _, task = await world.task()
    assert ((await world.entry()).gate.state, task.attempt, await world.tests()) == ("Checking", 2, [])
    await world.job_says(0.1)
    await world.settle()
    assert await world.arms() == [(version("c"), 1000), (version("a"), 9000)]


@pytest.mark.parametrize("steps", [SERVES, WATCHED], ids=["ramps", "is watched"])
async def test_what_serves_is_watched_on_and_confirmed_by_all_that_was_observed(world, steps):
    before, gate = await restored(world, steps)
    assert (gate.state, gate.since, await world.phase()) == (before.state, before.since, ("Serving", "True"))
    observed = gate.watch.count().observed_seconds
    for seconds, confirmed in ((600.0 - observed, False), (4199.0 - observed, False), (4200.0 - observed, True)):
        await world.all_say("a", "c")
        await world.collector_says(seconds, boot="2")
        await world.settle()
        assert ((await world.entry()).gate is None) is confirmed
    assert ((await world.told())["promotion"]["state"], await world.tests()) == ("Confirmed", [])
    assert await world.phase() == ("Serving", "True")


async def test_what_is_unconfirmed_can_be_confirmed_and_taken_out(world):
    _, gate = await restored(world, [*WATCHED, nobody_has_looked])
    told = (await world.adapter())["status"]["promotion"]
    assert (gate.state, told["state"], told["evidenceDigest"]) == ("Unconfirmed", "Unconfirmed", gate.evidence_digest)
    await world.say_word("bert", "Reject")
    await world.settle()
    assert await world.arms() == [(version("a"), 10_000)]
    assert await world.phase() == ("RolledBack", "False")


async def test_who_had_its_turn_has_none_after_a_restore(world):
    await after(world, [*TESTED, it_fails])
    await lose_and_restore(world)
    assert ((await world.entry()).gate, await world.tests()) == (None, [])
    assert await world.phase() == ("NotProven", "False")


async def test_one_that_is_deleted_and_made_anew_has_another_turn(world):
    """As the runbook has it: nothing but its deletion tells it from a restored one."""
    await after(world, [*TESTED, it_fails])
    await world.kube.delete(ADAPTERS, world.namespace, "adapter-c")
    await world.adapters.reconcile(Key(world.namespace, "adapter-c"))
    assert (await world.adapter()) is not None, "its endpoint has not noted it"
    await world.settle()
    for _ in range(2):  # it is dropped from the routes when nothing goes to it any more, and then from the servers
        await world.all_say("a")
        await world.settle()
    assert (await world.adapter(), (await world.entry()).gone) == (None, [1])
    await world.add_adapter("c")
    await world.all_say("a", "c")
    await world.settle()
    assert (await world.entry()).gate.number == 2
    assert await world.phase() == ("Testing", "False")
