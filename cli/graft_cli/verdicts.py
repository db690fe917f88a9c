"""A verdict in a terminal, whether it was read here or in a cluster. Without numpy."""

from __future__ import annotations

from collections.abc import Iterator

from graft_api.comparison import MetricVerdict, Outcome, Role, Verdict
from graft_cli.run import table
from graft_evaluation.paired.sentences import amount

EXIT = {Outcome.PASSED: 0, Outcome.FAILED: 1}
BAD_INPUT, UNDECIDED = 2, 3
VERDICT_EXITS = "Exit code 0: Passed, 1: Failed, 2: bad input or usage, 3: Inconclusive, Error, or no verdict."


def exit_code(outcome: Outcome) -> int:
    """Return what a script reads."""
    return EXIT.get(outcome, UNDECIDED)


def said(answer: Verdict) -> str:
    """Return what a person wants to know: the metrics, what each number means, and the verdict."""
    header = ("metric", "contrast", "role", "improvement [95 %]", "margin", "conversations", "pairs", "outcome")
    rows = [header, *(_row(metric) for metric in answer.metrics)]
    sentences = [f"{metric.outcome.value}: {metric.sentence}" for metric in answer.metrics]
    return printable("\n".join(["", *table(rows), "", *sentences, *_left_out(answer), "", answer.sentence]))


def printable(text: str) -> str:
    """Return text without what a terminal would obey: names and reasons are not always ours."""
    return "".join(character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text)


def _left_out(answer: Verdict) -> Iterator[str]:
    for contrast in dict.fromkeys(exclusion.contrast for exclusion in answer.exclusions):
        of = [exclusion for exclusion in answer.exclusions if exclusion.contrast == contrast]
        causes = ", ".join(f"{exclusion.count} by {exclusion.cause} ({exclusion.side})" for exclusion in of)
        yield f"left out of {contrast}: {causes}" if contrast else f"left out: {causes}"


def _row(found: MetricVerdict) -> tuple[str, ...]:
    metric, estimate = found.reading.metric, found.reading.overall
    improvement = "not measured"
    if estimate is not None:
        ends = f"{amount(metric, estimate.low)}, {amount(metric, estimate.high)}"
        improvement = f"{amount(metric, estimate.improvement)} [{ends}]"
    margin = "" if found.role is Role.INFORMATIONAL else amount(metric, metric.margin)
    return (found.name, found.contrast, found.role.value, improvement, margin, str(found.clusters), str(found.pairs), found.outcome.value)
