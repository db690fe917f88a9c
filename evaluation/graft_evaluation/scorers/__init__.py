"""
Carry out the scorers of `graft_api.scorers`.

    build(scorer) -> Judge -> score(judge, case) -> Score | Broken

A judge is asynchronous, for it may ask a service or wait for a process; one that need not just does not wait. The collector awaits `score`
for each answer as it comes; the trainer hands a list to `score_batch`. An answer never makes a scorer raise, whatever the model wrote: what
breaks is the scorer, and an answer that it broke on is counted and not scored.
"""

from graft_evaluation.scorers.bias import PositionBias, position_bias
from graft_evaluation.scorers.run import build, build_here, causes, check_program, score, score_all, score_batch
from graft_evaluation.scorers.sampling import Budget, affordable, requests_per_answer, sampled
from graft_evaluation.scorers.values import (
    TRANSIENT,
    Answer,
    Broken,
    Case,
    Cause,
    Judge,
    Judgement,
    Outcome,
    Position,
    Score,
    ScorerBrokenError,
    ScorerInvalidError,
    ToolCall,
    transcript,
)

__all__ = [
    "TRANSIENT",
    "Answer",
    "Broken",
    "Budget",
    "Case",
    "Cause",
    "Judge",
    "Judgement",
    "Outcome",
    "Position",
    "PositionBias",
    "Score",
    "ScorerBrokenError",
    "ScorerInvalidError",
    "ToolCall",
    "affordable",
    "build",
    "build_here",
    "causes",
    "check_program",
    "position_bias",
    "requests_per_answer",
    "sampled",
    "score",
    "score_all",
    "score_batch",
    "transcript",
]
