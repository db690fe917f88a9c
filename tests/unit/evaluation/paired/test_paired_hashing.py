"""Weights are Poisson(1), pure functions of seed and place, and independent where they must be."""

import numpy as np
import pytest
from scipy import stats

from graft_evaluation.paired.hashing import buckets_of, conversation_keys, mix, poisson_weights


def test_mix_is_splitmix64() -> None:
    # First outputs of the reference generator seeded with 0 (Steele, Lea and Flood; Vigna's splitmix64.c).
    state = np.array([0, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)

    assert [f"{value:016x}" for value in mix(state).tolist()] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]


def test_weights_are_poisson_with_mean_and_variance_1() -> None:
    weights = poisson_weights(7, 1000, 1024)

    counts = np.bincount(weights.astype(int).ravel(), minlength=7)
    expected = stats.poisson(1).pmf(np.arange(7)) * weights.size

    assert counts[:7] == pytest.approx(expected, abs=5 * np.sqrt(expected).max())
    assert weights.mean() == pytest.approx(1, abs=5 / 1000)
    assert weights.var() == pytest.approx(1, abs=0.01)


def test_weights_of_different_buckets_and_replicates_are_uncorrelated() -> None:
    weights = poisson_weights(7, 1000, 64)

    across = np.corrcoef(weights.T)[np.triu_indices(64, 1)]

    assert np.abs(across).max() < 5 / np.sqrt(1000)
    assert abs(np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]) < 5 / np.sqrt(64_000)


def test_weights_depend_on_the_seed_alone() -> None:
    assert np.array_equal(poisson_weights(7, 100, 64), poisson_weights(7, 100, 64))
    assert not np.array_equal(poisson_weights(7, 100, 64), poisson_weights(8, 100, 64))


def test_keys_that_follow_each_other_fall_into_all_buckets_evenly() -> None:
    buckets = buckets_of(np.arange(102_400, dtype=np.uint64), 7, 1024)

    counts = np.bincount(buckets, minlength=1024)

    assert stats.chisquare(counts).pvalue > 1e-4


def test_conversation_keys_take_both_halves_in() -> None:
    keys = [bytes(16), bytes(15) + b"\1", b"\1" + bytes(15), bytes(7) + b"\1" + bytes(8), bytes(8) + b"\1" + bytes(7)]

    assert len(set(conversation_keys(keys).tolist())) == len(keys)
    assert len(conversation_keys([])) == 0


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        conversation_keys([b"short"])
