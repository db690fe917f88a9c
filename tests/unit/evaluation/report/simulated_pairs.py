"""Pairs of a simulated week, written as lines."""

from __future__ import annotations

import numpy as np

from graft_api.collect import PairLine, SideLine, Told

START = 1_800_000_000


def simulated(conversations: int, candidate_errors: float, *, seed: int = 1, hours: int = 168, slower: float = 1.0) -> list[PairLine]:
    """30 % of production's answers are errors; every fifth conversation is of the control share."""
    chance = np.random.default_rng(seed)
    lines: list[PairLine] = []
    for number in range(conversations):
        at = START + int(chance.integers(0, hours * 3600))
        digest, tendency, controlled = chance.bytes(16).hex(), chance.beta(2, 2), number % 5 == 0
        for turn in range(int(chance.geometric(0.5))):
            wrong = [float(chance.random() < share * 2 * tendency) for share in (0.3, candidate_errors)]
            seconds = chance.lognormal(0, 0.4, 3) * (1.0, slower, 1.0)
            hangs = chance.random() < 0.01
            lines.append(_line(len(lines), digest, turn, at + 60 * turn, wrong, seconds, hangs=hangs, controlled=controlled))
    return lines


def _line(number, conversation, turn, at, wrong, seconds, *, hangs, controlled) -> PairLine:
    values = {"production": {"compile-errors": (wrong[0], None if hangs else wrong[1]), "score": (1 - wrong[0] / 2, 1 - wrong[1] / 2)}}
    if controlled:
        values |= {"control": {"latency": (seconds[2], None if hangs else seconds[1])}}
        values |= {"instrument": {"compile-errors": (wrong[0], wrong[0]), "score": (1 - wrong[0] / 2, 1 - wrong[0] / 2)}}
    sides = [
        SideLine(ended="Complete", seconds=float(seconds[0]), told=Told(text=f"rule r{number} {{ allow if user.age > {number % 90} }}")),
        SideLine(ended="Timeout" if hangs else "Complete", seconds=float(seconds[1]), told=Told(text="rule r {{ allow if user.age > }")),
    ]
    return PairLine(
        boot="b",
        number=number,
        request_id=f"request-{number}",
        conversation=conversation,
        first_turn=turn == 0,
        at=at,
        api="chat",
        stream=False,
        production=sides[0],
        candidate=sides[1],
        incumbent=SideLine(ended="Complete", seconds=float(seconds[2])) if controlled else None,
        candidate_first=bool(number % 2) if controlled else None,
        values=values,
        request='{"messages": [{"role": "user", "content": "Write the rule for adults."}]}',
    )


METRICS = """
test: dsl-3
production:
- {name: compile-errors, kind: Proportion, direction: LowerIsBetter, role: Primary, margin: 0.02}
- {name: score, kind: Mean, direction: HigherIsBetter, role: Guardrail, margin: 0.05, worst: 0, best: 1}
control:
- {name: latency, kind: Quantile, quantile: 0.9, direction: LowerIsBetter, role: Guardrail, margin: 0.5, scale: Relative, unit: s}
limits: {minClusters: 40}
seed: 7
"""
