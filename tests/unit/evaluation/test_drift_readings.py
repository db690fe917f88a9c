"""Distances, intervals and what they decide; held against scipy."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cosine

from graft_api.drift import Asked, Contrast, DriftReading, Moment
from graft_evaluation.drift import beyond, critical, describe, distance, interval, readings, unit, unmeasured

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
SILENT: list[float] = []


def towards(size: float) -> list[float]:
    """A vector at this cosine distance from EAST."""
    return unit([1 - size, math.sqrt(1 - (1 - size) ** 2)])


def asked(principle="refunds", prompt=0, incumbent=EAST, candidate=EAST, again=EAST) -> Asked:
    return Asked(principle=principle, prompt=f"{prompt:064x}", incumbent=incumbent, candidate=candidate, again=again)


def reading(principle="refunds", contrast=Contrast.VERSIONS, mean=0.2, low=0.1, high=0.3) -> DriftReading:
    return DriftReading(principle=principle, contrast=contrast, prompts=5, mean=mean, low=low, high=high)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(EAST, EAST, 0.0, id="the same direction"),
        pytest.param(EAST, NORTH, 1.0, id="unrelated"),
        pytest.param(EAST, WEST, 2.0, id="opposite"),
        pytest.param(EAST, SILENT, 1.0, id="a silent answer beside one with words is unrelated"),
        pytest.param(SILENT, EAST, 1.0, id="whichever is silent"),
        pytest.param(SILENT, SILENT, None, id="two silent answers show nothing"),
    ],
)
def test_the_distance_of_two_answers(one, other, expected):
    assert distance(one, other) == expected


def test_vectors_of_two_models_are_not_compared():
    with pytest.raises(ValueError, match="zip"):
        distance(EAST, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("vector", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], []])
def test_a_vector_without_a_direction_is_refused(vector):
    with pytest.raises(ValueError, match="without a direction"):
        unit(vector)


numbers = st.floats(-1e3, 1e3, allow_nan=False)
vectors = st.lists(numbers, min_size=4, max_size=4).filter(lambda vector: math.hypot(*vector) > 1e-3)


@given(vectors, vectors)
def test_a_distance_is_scipys_and_within_its_range(one, other):
    found = distance(unit(one), unit(other))
    assert 0 <= found <= 2
    assert found == pytest.approx(cosine(one, other), abs=1e-6)


@given(vectors, st.floats(1e-3, 1e3))
def test_length_does_not_matter(vector, times):
    assert distance(unit(vector), unit([times * value for value in vector])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("degrees", range(1, 64))
def test_the_critical_value_is_scipys(degrees):
    assert critical(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-12)


@given(st.lists(st.floats(0, 2), min_size=3, max_size=64))
def test_an_interval_is_scipys_cut_to_what_a_distance_can_be(distances):
    low, high = interval(distances)
    expected = stats.t.interval(0.95, len(distances) - 1, np.mean(distances), max(stats.sem(distances), 1e-300))
    assert (low, high) == pytest.approx((max(expected[0], 0), min(expected[1], 2)), abs=1e-9)
    assert 0 <= low <= np.mean(distances) + 1e-12
    assert np.mean(distances) - 1e-12 <= high <= 2


@pytest.mark.parametrize("size", [0.0, 0.3, 1.0, 2.0])
def test_the_interval_of_equal_distances_is_a_point(size):
    assert interval([size] * 3) == pytest.approx((size, size), abs=1e-12)


@pytest.mark.parametrize("prompts", [3, 5, 20])
def test_the_interval_covers_the_mean_as_often_as_it_says(prompts):
    """Prompts drawn from a world in which distances are normal and far from both ends: 3,000 principles, 95 % within 1.6 points."""
    random = Random(prompts)  # noqa: S311
    hits = 0
    for _ in range(3000):
        low, high = interval([random.gauss(0.8, 0.05) for _ in range(prompts)])
        hits += low <= 0.8 <= high
    assert hits / 3000 == pytest.approx(0.95, abs=0.016)


def test_an_interval_narrows_with_prompts():
    widths = [high - low for low, high in (interval([0.2, 0.3] * pairs) for pairs in (2, 4, 16))]
    assert widths == sorted(widths, reverse=True)


def test_every_contrast_compares_what_it_says():
    before = [asked(prompt=place, incumbent=EAST, candidate=towards(0.1)) for place in range(3)]
    after = [asked(prompt=place, incumbent=EAST, candidate=NORTH, again=towards(0.05)) for place in range(3)]
    found = {reading.contrast: reading for reading in readings(after, before)}
    assert found[Contrast.VERSIONS].mean == pytest.approx(1.0)
    assert found[Contrast.CANDIDATE].mean == pytest.approx(cosine(NORTH, towards(0.1)), abs=1e-6)
    assert found[Contrast.INCUMBENT].mean == 0
    assert found[Contrast.NOISE].mean == pytest.approx(0.05, abs=1e-6)
    assert {reading.prompts for reading in found.values()} == {3}


def test_before_activation_nothing_is_held_against_then():
    found = readings([asked(prompt=place) for place in range(3)])
    assert [reading.contrast for reading in found] == [Contrast.VERSIONS, Contrast.NOISE]


def test_only_the_same_prompts_are_held_against_then():
    before = [asked(prompt=place, candidate=NORTH) for place in (0, 1, 2, 9)]
    now = [asked(prompt=place) for place in range(5)]
    found = {reading.contrast: reading.prompts for reading in readings(now, before)}
    assert found == {Contrast.VERSIONS: 5, Contrast.CANDIDATE: 3, Contrast.INCUMBENT: 3, Contrast.NOISE: 5}


def test_principles_are_read_by_themselves_and_in_their_order():
    both = [asked("tone", place, candidate=NORTH) for place in range(3)] + [asked("refunds", place) for place in range(4)]
    found = [reading for reading in readings(both) if reading.contrast is Contrast.VERSIONS]
    assert [(reading.principle, reading.prompts, reading.mean) for reading in found] == [("tone", 3, 1.0), ("refunds", 4, 0.0)]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([(EAST, EAST)] * 4, (4, 0.0), id="all with words"),
        pytest.param([(EAST, SILENT)] * 4, (4, 1.0), id="a candidate that falls silent is unrelated"),
        pytest.param([(EAST, EAST)] * 3 + [(SILENT, SILENT)], (3, 0.0), id="what both are silent on does not count"),
        pytest.param([(EAST, EAST)] * 2 + [(SILENT, SILENT)] * 9, None, id="and of what is left three are needed"),
        pytest.param([(SILENT, SILENT)] * 9, None, id="two models that say nothing are not near"),
    ],
)
def test_silent_answers(answers, expected):
    found = readings([asked(prompt=place, incumbent=one, candidate=other) for place, (one, other) in enumerate(answers)])
    versions = [(reading.prompts, reading.mean) for reading in found if reading.contrast is Contrast.VERSIONS]
    assert versions == ([] if expected is None else [expected])
    assert unmeasured(["refunds"], found) == ([] if expected else ["refunds"])


BEFORE, AFTER = Moment.BEFORE, Moment.AFTER


@pytest.mark.parametrize(
    ("moment", "contrast", "low", "high", "stops"),
    [
        pytest.param(BEFORE, Contrast.VERSIONS, 0.1, 0.3, False, id="shown to be near, the limit itself included"),
        pytest.param(BEFORE, Contrast.VERSIONS, 0.1, 0.31, True, id="not shown to be near"),
        pytest.param(BEFORE, Contrast.VERSIONS, 0.4, 0.5, True, id="far"),
        pytest.param(BEFORE, Contrast.NOISE, 0.4, 0.5, False, id="noise decides nothing"),
        pytest.param(AFTER, Contrast.VERSIONS, 0.1, 0.2, False, id="serving and near"),
        pytest.param(AFTER, Contrast.VERSIONS, 0.1, 0.9, False, id="serving and not shown to be far"),
        pytest.param(AFTER, Contrast.VERSIONS, 0.3, 0.9, False, id="serving, and the limit itself is not far"),
        pytest.param(AFTER, Contrast.VERSIONS, 0.31, 0.9, True, id="serving and far from the incumbent"),
        pytest.param(AFTER, Contrast.CANDIDATE, 0.31, 0.9, True, id="serving and far from itself before"),
        pytest.param(AFTER, Contrast.INCUMBENT, 0.31, 0.9, False, id="the incumbent's own change is not the candidate's"),
        pytest.param(AFTER, Contrast.NOISE, 0.31, 0.9, False, id="noise decides nothing after, either"),
    ],
)
def test_what_stops_a_candidate(moment, contrast, low, high, stops):
    found = [reading("tone"), reading(contrast=contrast, mean=(low + high) / 2, low=low, high=high)]
    assert beyond(found, "0.3", moment) == (found[1:] if stops else [])


@pytest.mark.parametrize(
    ("moment", "contrast", "low", "high", "said", "held"),
    [
        (
            BEFORE,
            Contrast.VERSIONS,
            0.1,
            0.3,
            "candidate's answers are 0.200 [0.100, 0.300] from the incumbent's",
            ", within the 0.3 allowed",
        ),
        (
            BEFORE,
            Contrast.VERSIONS,
            0.1,
            0.5,
            "candidate's answers are 0.300 [0.100, 0.500] from the incumbent's",
            "; that it is at most 0.3 is not shown",
        ),
        (
            BEFORE,
            Contrast.VERSIONS,
            0.4,
            0.6,
            "candidate's answers are 0.500 [0.400, 0.600] from the incumbent's",
            ", more than the 0.3 allowed",
        ),
        (
            AFTER,
            Contrast.VERSIONS,
            0.1,
            0.5,
            "candidate's answers are 0.300 [0.100, 0.500] from the incumbent's",
            "; that it is more than 0.3 is not shown",
        ),
        (
            AFTER,
            Contrast.CANDIDATE,
            0.4,
            0.6,
            "candidate's answers are 0.500 [0.400, 0.600] from its own before activation",
            ", more than the 0.3 allowed",
        ),
        (AFTER, Contrast.NOISE, 0.0, 0.2, "incumbent's answers are 0.100 [0.000, 0.200] from its own when asked twice", ""),
    ],
)
def test_what_a_reading_means(moment, contrast, low, high, said, held):
    found = reading(contrast=contrast, mean=(low + high) / 2, low=low, high=high)
    assert describe(found, "0.3", moment) == f"refunds: the {said} in cosine distance{held}"


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.sampled_from(list(Contrast))), max_size=8),
    st.sampled_from(["0.1", "0.3", "1.5"]),
)
def test_what_is_far_after_would_not_have_been_let_in_before(drawn, limit):
    found = [reading(contrast=contrast, mean=min(pair), low=min(pair), high=max(pair)) for *pair, contrast in drawn]
    far = [each for each in beyond(found, limit, AFTER) if each.contrast is Contrast.VERSIONS]
    assert all(each in beyond(found, limit, BEFORE) for each in far)
