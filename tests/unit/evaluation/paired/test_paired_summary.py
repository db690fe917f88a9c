"""A summary is the same bits in any order, any split and any process."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_api.comparison import Direction, Kind, Metric, Role
from graft_evaluation.paired import heaviest
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.reading import largest_share
from graft_evaluation.paired.sample import Sample, empty
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.paired.wire import from_bytes, read, to_bytes, write

METRICS = (
    Metric(name="errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY),
    Metric(name="score", kind=Kind.MEAN, direction=Direction.HIGHER, role=Role.GUARDRAIL, margin=0.02, worst=0.0),
    Metric(name="latency", kind=Kind.QUANTILE, quantile=0.9, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=0.1),
)
PLAN = Plan("production", METRICS, seed=7, buckets=64, capacity=64)


def pairs(count: int, seed: int = 1, conversations: int = 150) -> Batch:
    chance = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        values = np.stack([chance.random(count) < 0.3, chance.random(count), chance.lognormal(0, 0.5, count)]).astype(float)
        sides.append(np.where(chance.random(values.shape) < 0.1, np.nan, values))
    keys = chance.integers(0, conversations, count).astype(np.uint64)
    return Batch(keys, chance.random(count) < 0.4, chance.integers(0, 3600, count), sides[0], sides[1])


def summary_of(batch: Batch, plan: Plan = PLAN) -> Summary:
    summary = Summary(plan)
    summary.add(batch)
    return summary


def picked(batch: Batch, places: np.ndarray) -> Batch:
    return Batch(
        batch.clusters[places], batch.first_turn[places], batch.seconds[places], batch.incumbent[:, places], batch.candidate[:, places]
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), segments=st.integers(1, 12))
def test_any_order_and_any_split_into_segments_is_the_same_to_the_bit(seed: int, segments: int) -> None:
    whole = pairs(400)
    chance = np.random.default_rng(seed)
    owner = chance.integers(0, segments, len(whole))
    parts = [summary_of(picked(whole, np.flatnonzero(owner == segment))) for segment in range(segments)]
    # Merged as a tree of random shape: associative as well as commutative.
    while len(parts) > 1:
        one, other = chance.choice(len(parts), 2, replace=False)
        parts[one].merge(parts[other])
        del parts[other]

    assert to_bytes(parts[0]) == to_bytes(summary_of(whole))


def test_tallies_add_up() -> None:
    one, other = Summary(PLAN), Summary(PLAN)
    one.exclude("client-cancelled", "Both", 3)
    other.exclude("client-cancelled", "Both")
    other.exclude("no-answer", "Incumbent")
    other.fail("score", 2)
    one.fail("score", transient=True)
    other.fail("score", 3, transient=True)

    one.merge(other)

    assert one.tallies.exclusions == {("client-cancelled", "Both"): 4, ("no-answer", "Incumbent"): 1}
    assert one.tallies.scorer_failures == {"score": 2}
    assert one.tallies.transient_failures == {"score": 4}


def test_summaries_of_different_plans_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="plans differ"):
        Summary(PLAN).merge(Summary(Plan("production", METRICS, seed=8, buckets=64, capacity=64)))


def test_a_file_gives_the_same_summary_back(tmp_path: Path) -> None:
    summary = summary_of(pairs(500))
    summary.exclude("client-cancelled", "Both")
    summary.fail("score")
    summary.fail("score", 2, transient=True)

    write(summary, tmp_path / "summary")
    again = read(tmp_path / "summary")

    assert again.plan == summary.plan
    assert to_bytes(again) == to_bytes(summary)
    assert again.tallies == summary.tallies
    assert [path.name for path in tmp_path.iterdir()] == ["summary"]
    again.merge(summary)
    assert int(again.pairs.sum()) == 1000


def test_a_summary_of_before_transient_failures_were_told_apart_has_none_and_the_same_bytes() -> None:
    before = to_bytes(summary_of(pairs(50)))

    assert b"transient" not in before
    assert from_bytes(before).tallies.transient_failures == {}


def test_an_hour_of_traffic_is_small() -> None:
    plan = Plan("production", METRICS, seed=7)

    assert len(to_bytes(summary_of(pairs(3600, conversations=1200), plan))) < 300_000


def resealed(data: bytes) -> bytes:
    return data[:14] + struct.pack("<I", zlib.crc32(data[18:])) + data[18:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda data: b"", "too short", id="nothing"),
        pytest.param(lambda data: b"PK" + data[2:], "GRFTPAIR", id="another format"),
        pytest.param(lambda data: data[:8] + b"\x63\0" + data[10:], "version 99", id="a later version"),
        pytest.param(lambda data: data[:-20], "checksum", id="cut off"),
        pytest.param(lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "checksum", id="one flipped bit"),
        pytest.param(lambda data: resealed(data.replace(b'"keys","<u8"', b'"keys","<u4"')), "length", id="arrays of another length"),
    ],
)
def test_bytes_that_are_no_summary_are_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_bytes(damage(to_bytes(summary_of(pairs(50)))))


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        pytest.param(0, 0.5, "0 and 1", id="half an event"),
        pytest.param(1, 1e12, "coarser resolution", id="a mean beyond what is summed exactly"),
        pytest.param(1, np.inf, "coarser resolution", id="an infinite mean"),
        pytest.param(2, -1.0, "never negative", id="negative seconds"),
    ],
)
def test_values_that_a_metric_cannot_have_are_refused_and_change_nothing(index: int, value: float, message: str) -> None:
    batch, summary = pairs(20), Summary(PLAN)
    batch.candidate[index, 3] = value

    with pytest.raises(ValueError, match=message):
        summary.add(batch)

    assert to_bytes(summary) == to_bytes(Summary(PLAN))


def test_batches_that_do_not_belong_together_are_refused() -> None:
    good = pairs(10)
    with pytest.raises(ValueError, match="values of shape"):
        Batch(good.clusters, good.first_turn, good.seconds, good.incumbent, good.candidate[:2])
    with pytest.raises(ValueError, match="uint64"):
        Batch(good.clusters.astype(np.int64), good.first_turn, good.seconds, good.incumbent, good.candidate)
    with pytest.raises(ValueError, match="first turns"):
        Batch(good.clusters, good.first_turn[:2], good.seconds, good.incumbent, good.candidate)
    with pytest.raises(ValueError, match="3"):
        Summary(PLAN).add(Batch(good.clusters, good.first_turn, good.seconds, good.incumbent[:2], good.candidate[:2]))


@pytest.mark.parametrize("buckets", [0, 1, 100])
def test_buckets_are_a_power_of_two(buckets: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Plan("production", METRICS, 1, buckets=buckets)


def test_conversations_are_counted_exactly_while_they_fit_and_closely_after() -> None:
    keys = np.random.default_rng(2).integers(0, 2**64, 40_000, np.uint64)
    exact, sampled = Sample(1, 50_000, empty(1)), Sample(1, 2_000, empty(1))
    for part in np.array_split(np.concatenate([keys, keys[:5000]]), 9):
        for sample in (exact, sampled):
            sample.add(part, np.zeros(len(part), np.int64), np.ones((len(part), 1), np.int64))

    assert exact.table().distinct() == 40_000
    assert len(sampled.table()) <= 2_000
    assert sampled.table().distinct() == pytest.approx(40_000, rel=5 * 1.2 / np.sqrt(2_000))


def test_a_sampled_conversation_has_all_its_pairs() -> None:
    keys = np.repeat(np.random.default_rng(2).integers(0, 2**64, 5_000, np.uint64), 3)
    sample = Sample(1, 500, empty(1))
    for part in np.array_split(np.random.default_rng(3).permutation(keys), 20):
        sample.add(part, np.zeros(len(part), np.int64), np.ones((len(part), 1), np.int64))

    assert sample.table().level > 0
    assert set(sample.table().sums[:, 0].tolist()) == {3}


@pytest.mark.parametrize("capacity", [64, 65_536], ids=["by the sketch", "exactly"])
def test_the_largest_conversation_is_never_taken_for_smaller(capacity: int) -> None:
    chance = np.random.default_rng(6)
    keys = np.concatenate([np.full(1000, 42, np.uint64), chance.integers(0, 2**64, 9000, np.uint64)])
    nan = np.full((3, 10_000), np.nan)
    nan[0] = 0
    plan = Plan("production", METRICS, seed=7, capacity=capacity)

    share = largest_share(summary_of(Batch(keys, np.ones(10_000, bool), np.zeros(10_000, np.int64), nan, nan), plan))

    assert 0.1 <= share < 0.1 + 0.002
    assert capacity == 64 or share == 0.1


def test_the_sketch_is_an_upper_bound() -> None:
    for seed in range(5):
        sizes = np.random.default_rng(seed).zipf(1.5, 3000).clip(max=2000)
        keys = np.repeat(np.arange(3000, dtype=np.uint64), sizes)
        assert sizes.max() <= heaviest.largest(heaviest.counted(keys, seed)) <= sizes.max() + 0.01 * sizes.sum()
