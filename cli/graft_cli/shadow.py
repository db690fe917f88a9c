"""`graft shadow`: pairs read as the collector reads them, without a cluster; and made of a log of requests, without a gateway."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from graft_api.comparison import Clock, Comparison, Verdict
from graft_api.schema import Invalid
from graft_cli.replaying import asked, telling
from graft_cli.verdicts import UNDECIDED, exit_code, printable, said
from graft_evaluation.pairs.question import BESIDE, Question, question
from graft_evaluation.pairs.recorded import Found, files, lines
from graft_evaluation.pairs.recording import Recording, recording
from graft_evaluation.pairs.unknown import Unknown
from graft_evaluation.replay.log import survey
from graft_evaluation.replay.server import StoppedError
from graft_evaluation.replay.settings import read_settings, unmeasured
from graft_evaluation.report.build import report
from graft_evaluation.report.page import page
from graft_evaluation.verdict import verdict

NOT_IN_PAIRS = (
    "requests that became no pair are counted in a collector's commits, and follow from the log of a replay: this reading has none of them",
)

OF_REQUESTS = ("incumbent", "candidate", "out", "concurrency", "patience")
"""Options that mean nothing for pairs."""


def shadow(options: Namespace) -> int:
    """Read pairs and print the verdict. Returns 0 Passed, 1 Failed, 3 Inconclusive or Error; raises `Invalid` for bad input."""
    _writable(options)
    if options.requests is not None:
        return _replayed(options)
    if given := [name for name in OF_REQUESTS if getattr(options, name)]:
        raise Invalid([f"--{name}: belongs to --requests, and pairs are read as they are" for name in given])
    found = files(options.pairs)
    asking = _question(options)
    return _judged(options, found, asking, more=() if asking.by_hand else NOT_IN_PAIRS)


def _question(options: Namespace) -> Question:
    """Return what the pairs are asked: by a replay's metrics where such a file is named or beside them."""
    folder = options.pairs if options.pairs.is_dir() else options.pairs.parent
    path = options.metrics or next((folder / name for name in BESIDE if (folder / name).is_file()), None)
    settings = None if path is None else read_settings(path)
    return question(options.pairs, path) if path is None or settings is None else settings.question(path, options.pairs)


def _replayed(options: Namespace) -> int:
    told = telling(options)
    log = survey(options.requests)
    beforehand = unmeasured(options.metrics)
    _note(beforehand)
    if (little := told.settings.too_little(log.conversations)) is not None:
        print(f"warning: {little}", file=sys.stderr, flush=True)
    try:
        asked(told, log, options.out)
    except KeyboardInterrupt:
        print(f"interrupted; what was answered is in {options.out}, and the same command goes on", file=sys.stderr)
        return UNDECIDED
    except StoppedError as stopped:
        print(f"stopped: {stopped}; what was answered is in {options.out}, and the same command goes on", file=sys.stderr)
        return UNDECIDED
    asking = told.settings.question(options.metrics, options.out, log.exclusions)
    return _judged(options, files(options.out), asking, said_before=beforehand)


def _judged(options: Namespace, found: Found, asking: Question, *, more: Sequence[str] = (), said_before: Sequence[str] = ()) -> int:
    unknown = Unknown()
    read = recording(asking, lines(found, unknown.note_fields), unknown)
    compared = read.comparison()
    answer = decided(read, compared)
    print(said(answer))
    notes = [*noted(found, read), *more]
    _note(notes)
    if options.html or options.json:
        made = report(read, compared, answer, [*notes, *said_before])
        _write(options.html, lambda: page(made))
        _write(options.json, lambda: made.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")
    return exit_code(answer.outcome)


def decided(read: Recording, compared: Comparison) -> Verdict:
    """Return the verdict at the horizon: there is no more to come, so too little is Inconclusive and never Pending."""
    hours = max(read.hours, 1.0)
    return verdict(compared, read.question.limits, Clock(elapsed=hours, duration=hours, max_duration=hours))


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
    return notes + read.unknown.notes()


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        print(printable(f"note: {note}"), file=sys.stderr, flush=True)


def _writable(options: Namespace) -> None:
    """Raise `Invalid` for a report that could not be written, before a replay that may take a day."""
    for name in ("html", "json"):
        path: Path | None = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            raise Invalid([f"--{name}: {path}: No such file or directory; make the folder {path.parent} first"])
        if path is not None and path.is_dir():
            raise Invalid([f"--{name}: {path}: is a folder; name a file"])


def _write(path: Path | None, content: Callable[[], str]) -> None:
    if path is None:
        return
    try:
        path.write_text(content(), encoding="utf-8")
    except OSError as error:
        raise Invalid([f"{path}: {error.strerror}"]) from error
