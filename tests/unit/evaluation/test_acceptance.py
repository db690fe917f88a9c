import pytest

from graft_api.evaluation import Accept, Suite
from graft_api.scorers import ExactScorer, Scorer
from graft_evaluation.acceptance import accepted, assess


def suite(**accept: object) -> Suite:
    return Suite(name="compile", scorer=Scorer(exact=ExactScorer()), accept=Accept(**accept) if accept else None)  # type: ignore[arg-type]


def outcomes(wrong: int, examples: int) -> list[bool]:
    return [False] * wrong + [True] * (examples - wrong)


@pytest.mark.parametrize(
    ("accept", "base_wrong", "adapter_wrong", "met", "words"),
    [
        ({"max": "0.01"}, 40, 1, True, "1.00% meets the bound of at most 1.00%"),
        ({"max": "0.01"}, 40, 2, False, "2.00% misses the bound of at most 1.00%"),
        ({"max": "0.01", "test": "Bound"}, 40, 1, False, "upper 95 % bound 5.45% misses the bound of at most 1.00%"),
        ({"max": "0.06", "test": "Bound"}, 40, 1, True, "upper 95 % bound 5.45% meets"),
        ({"metric": "accuracy", "min": "0.98"}, 40, 2, True, "98.00% meets the bound of at least 98.00%"),
        ({"metric": "accuracy", "min": "0.98", "test": "Bound"}, 40, 2, False, "lower 95 % bound 93.00% misses"),
        ({"max_regression": "0.02"}, 2, 4, True, "regression +2.00% meets"),
        ({"max_regression": "0.02"}, 2, 5, False, "regression +3.00% misses"),
        ({"metric": "accuracy", "max_regression": "0.02"}, 2, 5, False, "regression +3.00% misses"),
        ({"metric": "accuracy", "max_regression": "0.02"}, 5, 2, True, "regression -3.00% meets"),
        ({"max_regression": "0.02", "test": "Bound"}, 2, 2, False, "upper 95 % bound regression +3.70% misses"),
        ({"max": "0.5", "min_examples": 200}, 40, 1, False, "100 examples misses the bound of at least 200"),
    ],
)
def test_a_threshold_is_held_against_the_number_it_names(
    accept: dict[str, object], base_wrong: int, adapter_wrong: int, met: bool, words: str
) -> None:
    result = assess(suite(**accept), outcomes(base_wrong, 100), outcomes(adapter_wrong, 100))

    assert result.accepted is met
    assert words in result.message


def test_max_and_min_examples_must_both_hold() -> None:
    assert assess(suite(max="0.5", min_examples=100), outcomes(1, 100), outcomes(1, 100)).accepted is True


def test_a_suite_without_threshold_informs() -> None:
    result = assess(suite(), outcomes(10, 100), outcomes(5, 100))

    assert result.accepted is None
    assert "informational" in result.message
    assert accepted([result])


def test_one_missed_threshold_is_enough() -> None:
    met, missed = assess(suite(max="0.5"), [True], [True]), assess(suite(max="0.5"), [True], [False])

    assert not accepted([met, missed])
