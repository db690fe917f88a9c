"""`graft shadow`: recorded pairs read as the collector reads them, without a cluster."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from graft_api.comparison import Clock, Comparison, MetricVerdict, Outcome, Role, Verdict
from graft_api.schema import Invalid
from graft_cli.run import table
from graft_evaluation.paired.sentences import amount
from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import Found, files, lines
from graft_evaluation.pairs.recording import Recording, recording
from graft_evaluation.report.build import report
from graft_evaluation.report.page import page
from graft_evaluation.verdict import verdict

EXIT = {Outcome.PASSED: 0, Outcome.FAILED: 1}
UNDECIDED = 3


def shadow(options: Namespace) -> int:
    """Read pairs and print the verdict. Returns 0 Passed, 1 Failed, 3 Inconclusive or Error; raises `Invalid` for bad input."""
    found = files(options.pairs)
    read = recording(question(options.pairs, options.metrics), lines(found))
    compared = read.comparison()
    answer = decided(read, compared)
    print(said(answer))
    notes = noted(found, read)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if options.html or options.json:
        made = report(read, compared, answer, notes)
        _write(options.html, lambda: page(made))
        _write(options.json, lambda: made.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")
    return EXIT.get(answer.outcome, UNDECIDED)


def decided(read: Recording, compared: Comparison) -> Verdict:
    """Return the verdict at the horizon: there is no more to come, so too little is Inconclusive and never Pending."""
    hours = max(read.hours, 1.0)
    return verdict(compared, read.question.limits, Clock(elapsed=hours, duration=hours, max_duration=hours))


def said(answer: Verdict) -> str:
    """Return what a person wants to know: the metrics, what each number means, and the verdict."""
    header = ("metric", "contrast", "role", "improvement [95 %]", "margin", "conversations", "pairs", "outcome")
    rows = [header, *(_row(metric) for metric in answer.metrics)]
    sentences = [f"{metric.outcome.value}: {metric.sentence}" for metric in answer.metrics]
    return "\n".join(["", *table(rows), "", *sentences, "", answer.sentence])


def _row(found: MetricVerdict) -> tuple[str, ...]:
    metric, estimate = found.reading.metric, found.reading.overall
    improvement = "not measured"
    if estimate is not None:
        ends = f"{amount(metric, estimate.low)}, {amount(metric, estimate.high)}"
        improvement = f"{amount(metric, estimate.improvement)} [{ends}]"
    margin = "" if found.role is Role.INFORMATIONAL else amount(metric, metric.margin)
    return (found.name, found.contrast, found.role.value, improvement, margin, str(found.clusters), str(found.pairs), found.outcome.value)


def noted(found: Found, read: Recording) -> list[str]:
    """Return what else a reader must know of the pairs."""
    notes = []
    if read.repeated:
        notes.append(f"{read.repeated} lines repeat the boot and number of an earlier one and were not counted again")
    if found.uncommitted:
        notes.append(f"{found.uncommitted} files are in no commit, so they were never counted, and were not read")
    if found.deleted:
        notes.append(
            f"{found.deleted} committed files are gone, as retention deletes them: the collector's reading has them, this one has not"
        )
    if not read.question.by_hand:
        notes.append("requests that became no pair are counted in the collector's commits, not in its pairs: this reading has none of them")
    return notes


def _write(path: Path | None, content: Callable[[], str]) -> None:
    if path is None:
        return
    try:
        path.write_text(content(), encoding="utf-8")
    except OSError as error:
        raise Invalid([f"{path}: {error.strerror}"]) from error
