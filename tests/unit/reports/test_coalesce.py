from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from graft_operator.engine.errors import Invalid, LeadershipLost, Unavailable
from graft_operator.reports.coalesce import Coalescer
from graft_operator.reports.sink import Superseded


class Sink:
    """Notes what is written, and raises what it is told to."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, int]] = []
        self.error: Exception | None = None

    async def progress(self, caller: Any, namespace: str, name: str, report: Any) -> None:
        if self.error:
            raise self.error
        self.written.append((caller.pod_uid, f"{namespace}/{name}", report.progress.step))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
async def coalescer(sink: Sink, clock: Any) -> AsyncIterator[Coalescer]:
    made = Coalescer(sink.progress, clock, capacity=3)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_first_is_written_at_once_and_then_the_latest_every_two_seconds(
    coalescer: Coalescer, sink: Sink, clock: Any, caller: Any, progress: Any
) -> None:
    for step in range(1, 40):
        coalescer.offer(caller(), "team", "tune", progress(step))
        await clock.advance(0.1)
    await clock.advance(2)
    assert [step for _, _, step in sink.written] == [1, 21, 39]


async def test_pods_do_not_overwrite_each_other(coalescer: Coalescer, sink: Sink, clock: Any, caller: Any, progress: Any) -> None:
    coalescer.offer(caller(pod_uid="old"), "team", "tune", progress(7))
    coalescer.offer(caller(pod_uid="new"), "team", "tune", progress(1))
    await clock.advance(0)
    assert sorted(sink.written) == [("new", "team/tune", 1), ("old", "team/tune", 7)]


async def test_a_superseded_pod_is_told_the_next_time(coalescer: Coalescer, sink: Sink, clock: Any, caller: Any, progress: Any) -> None:
    sink.error = Superseded("attempt 2 took over")
    coalescer.offer(caller(), "team", "tune", progress(1))
    await clock.advance(0)
    with pytest.raises(Superseded, match="attempt 2"):
        coalescer.offer(caller(), "team", "tune", progress(2))


async def test_a_new_claim_wipes_the_slate(coalescer: Coalescer, sink: Sink, clock: Any, caller: Any, progress: Any) -> None:
    sink.error = Superseded("attempt 2 took over")
    coalescer.offer(caller(), "team", "tune", progress(1))
    await clock.advance(0)
    sink.error = None
    coalescer.forget(caller(), "team", "tune")
    coalescer.offer(caller(), "team", "tune", progress(2))
    await clock.advance(0)
    assert sink.written == [("pod-1", "team/tune", 2)]


async def test_an_api_server_that_is_away_costs_one_slot(coalescer: Coalescer, sink: Sink, clock: Any, caller: Any, progress: Any) -> None:
    sink.error = Unavailable("away")
    for step in range(1, 100):
        coalescer.offer(caller(), "team", "tune", progress(step))
        await clock.advance(1)
    sink.error = None
    await clock.advance(2)
    assert sink.written == [("pod-1", "team/tune", 99)]


@pytest.mark.parametrize("error", [Invalid("422"), RuntimeError("a bug")], ids=["refused for good", "a bug"])
async def test_what_cannot_be_written_is_dropped_and_harms_nobody(
    coalescer: Coalescer, sink: Sink, clock: Any, caller: Any, progress: Any, error: Exception
) -> None:
    sink.error = error
    coalescer.offer(caller(), "team", "tune", progress(1))
    await clock.advance(0)
    sink.error = None
    await clock.advance(10)
    assert sink.written == []
    coalescer.offer(caller(pod_uid="other"), "team", "other", progress(5))
    await clock.advance(0)
    assert sink.written == [("other", "team/other", 5)]


async def test_idle_pods_make_room_and_busy_ones_do_not(clock: Any, sink: Sink, caller: Any, progress: Any) -> None:
    coalescer = Coalescer(sink.progress, clock, capacity=3)
    for number in range(5):
        coalescer.offer(caller(pod_uid=f"pod-{number}"), "team", "tune", progress(number))
    assert coalescer.dropped == 2
    task = asyncio.create_task(coalescer.run())
    await clock.advance(0)
    coalescer.offer(caller(pod_uid="pod-9"), "team", "tune", progress(9))
    await clock.advance(0)
    assert [pod for pod, _, _ in sink.written] == ["pod-0", "pod-1", "pod-2", "pod-9"]
    assert len(coalescer._slots) == 3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_losing_the_lease_ends_it(clock: Any, sink: Sink, caller: Any, progress: Any) -> None:
    coalescer = Coalescer(sink.progress, clock)
    sink.error = LeadershipLost("gone")
    coalescer.offer(caller(), "team", "tune", progress(1))
    with pytest.raises(ExceptionGroup) as raised:
        await coalescer.run()
    assert raised.value.subgroup(LeadershipLost)


async def test_with_nothing_to_write_it_sleeps(coalescer: Coalescer, clock: Any) -> None:
    await clock.advance(0)
    assert clock.sleeps == [60.0]
