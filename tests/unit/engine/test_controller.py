import asyncio
import logging
from datetime import timedelta

import pytest

from graft_operator.engine.controller import Controller, Outcome, Result
from graft_operator.engine.errors import AlreadyExists, Conflict, Forbidden, LeadershipLost, NotYet, Unavailable, UserMustAct
from graft_operator.engine.queue import Key

KEY = Key("team", "job")


class Script:
    """A reconciler that does one thing after the other, and the last for ever."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.passes = 0

    async def __call__(self, key):
        self.passes += 1
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        return step


@pytest.fixture
def controller(queue, clock, metrics):
    def build(*steps, workers=2):
        return Controller("finetunejob", Script(*steps), queue, clock, metrics, workers)

    return build


def seconds_to_next(queue, clock):
    return round(queue._timers[0][0] - clock.monotonic(), 3) if queue._timers else None


@pytest.mark.parametrize(
    ("step", "result", "again"),
    [
        pytest.param(Outcome(), Result.DONE, None, id="done: nothing until the next change"),
        pytest.param(Outcome(timedelta(hours=48)), Result.DONE, 172800, id="done with a deadline: again at the deadline"),
        pytest.param(UserMustAct("rank 0 is below 1"), Result.USER, None, id="the user must act: never by itself"),
        pytest.param(NotYet("no pod yet", timedelta(seconds=7)), Result.WAIT, 7, id="not yet: after the delay it asks for"),
        pytest.param(Conflict("changed", code=409), Result.CONFLICT, 0.375, id="conflict: soon"),
        pytest.param(Unavailable("503", code=503), Result.UNAVAILABLE, 0.375, id="API server away: back-off"),
        pytest.param(
            Unavailable("429", code=429, retry_after=timedelta(seconds=30)), Result.UNAVAILABLE, 30, id="API server busy: when it says"
        ),
        pytest.param(Forbidden("no", code=403), Result.ERROR, 0.375, id="forbidden: back-off, an administrator may help"),
        pytest.param(AlreadyExists("job", code=409), Result.ERROR, 0.375, id="a name that is taken unexpectedly: back-off"),
        pytest.param(KeyError("status"), Result.ERROR, 0.375, id="a bug: back-off"),
    ],
)
async def test_what_a_pass_leads_to(controller, queue, clock, registry, *, step, result, again):
    assert await controller(step).reconcile_once(KEY) == result
    assert seconds_to_next(queue, clock) == again
    assert registry.get_sample_value("graft_reconcile_total", {"controller": "finetunejob", "result": result}) == 1


async def test_a_failure_is_logged_once_until_it_changes(controller, caplog):
    caplog.set_level(logging.INFO)
    run = controller(ValueError("a"), ValueError("a"), ValueError("b"), Outcome(), ValueError("b"))
    for _ in range(5):
        await run.reconcile_once(KEY)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "cannot reconcile: ValueError: a",
        "cannot reconcile: ValueError: b",
        "reconciled again",
        "cannot reconcile: ValueError: b",
    ]
    assert all(record.object == "team/job" for record in caplog.records)


async def test_success_ends_the_backoff(controller, queue):
    run = controller(ValueError("a"), ValueError("a"), Outcome(), Outcome())
    for _ in range(2):
        await run.reconcile_once(KEY)
    assert queue.failures(KEY) == 2
    await run.reconcile_once(KEY)
    assert queue.failures(KEY) == 0


async def test_a_key_that_fails_is_tried_until_it_goes_well(controller, queue, clock, background):
    run = controller(ValueError("a"), ValueError("a"), Outcome())
    background(run.run())
    queue.add(KEY)
    await clock.advance(3)
    assert run._reconcile.passes == 3
    await clock.advance(3600)
    assert run._reconcile.passes == 3


async def test_lost_leadership_ends_the_controller(controller, queue, clock, background):
    task = background(controller(LeadershipLost("too late")).run())
    queue.add(KEY)
    await clock.settle()
    with pytest.raises(ExceptionGroup) as failure:
        task.result()
    assert failure.group_contains(LeadershipLost, depth=1)


async def test_at_most_so_many_passes_at_a_time_and_no_key_twice(queue, clock, metrics, background):
    running: list[Key] = []
    most = 0

    async def reconcile(key):
        nonlocal most
        assert key not in running
        running.append(key)
        most = max(most, len(running))
        queue.add(key) if len(running) == 1 else None
        await clock.sleep(1)
        running.remove(key)
        return Outcome()

    background(Controller("c", reconcile, queue, clock, metrics, workers=3).run())
    for number in range(10):
        queue.add(Key("team", str(number)))
    await clock.advance(5)
    assert most == 3


async def test_draining_finishes_what_has_begun_and_begins_nothing(queue, clock, metrics, background):
    finished = []

    async def reconcile(key):
        await clock.sleep(5)
        finished.append(key)
        return Outcome()

    run = Controller("c", reconcile, queue, clock, metrics, workers=1)
    task = background(run.run())
    queue.add(KEY)
    queue.add(Key("team", "later"))
    await clock.settle()
    drain = background(run.drain())
    await clock.advance(5)
    await asyncio.wait_for(drain, 20)
    await asyncio.wait_for(task, 20)
    assert finished == [KEY]


async def test_the_depth_of_the_queue_is_a_metric(controller, queue, registry):
    controller(Outcome())
    queue.add(KEY)
    assert registry.get_sample_value("graft_queue_depth", {"controller": "finetunejob"}) == 1
