"""How far a judge's word depends on what it was shown first."""

from collections.abc import Iterable
from dataclasses import dataclass

from graft_evaluation.scorers.values import Judgement, Position


@dataclass(frozen=True)
class PositionBias:
    """How far a judge's word depends on what it was shown first (Zheng et al. 2023, section 3.3)."""

    judged: int
    agreeing: int
    """Both orders said the same."""
    first: int
    """They did not, and leaned to the answer that was shown first."""
    second: int
    """They did not, and leaned to the answer that was shown second."""

    @property
    def agreement(self) -> float:
        """Return the share on which both orders agree; 1 where nothing was judged."""
        return self.agreeing / self.judged if self.judged else 1.0


def position_bias(judgements: Iterable[Judgement]) -> PositionBias:
    """Count how often the two orders agree, and what those that do not lean to."""
    judged = agreeing = first = second = 0
    for judgement in judgements:
        judged, agreeing = judged + 1, agreeing + judgement.agree
        if not judgement.agree:
            said = (judgement.ab, judgement.ba)
            first, second = first + (Position.FIRST in said), second + (Position.SECOND in said)
    return PositionBias(judged, agreeing, first, second)
