"""
The report of a test that has ended, from what is committed: `report.html` and `report.json` beside its pairs.

Everything that decides is the verdict, as it was read; here are only its pictures. What no line knows (losses, exclusions, the
instrument) is in the commits' sums, up to the commit that the verdict was read from.

Pairs are read segment by segment, and of each only numbers are added up (`graft_evaluation.pairs.recording`): memory does not grow with
them. Nor does time: of more than `MOST_BYTES` every second segment is read, or every third, evenly over the test, and the report says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from graft_api.collect import REPORT_HTML, REPORT_JSON, Compare, PairLine, Reported, ReportTask
from graft_api.comparison import Comparison, Verdict
from graft_evaluation.pairs.contrasts import plans
from graft_evaluation.pairs.question import Question
from graft_evaluation.pairs.recorded import Place, stream_lines
from graft_evaluation.pairs.recording import Recording, gathered
from graft_evaluation.report.build import report
from graft_evaluation.report.document import Report
from graft_evaluation.report.page import page
from graft_serving.collector.adding import added_up
from graft_serving.collector.commits import DamagedError, FoldedError, SegmentReference, Sum, Total
from graft_serving.collector.indexes import segments
from graft_serving.collector.reading_ahead import read_ahead
from graft_serving.collector.readings import comparison, losses
from graft_serving.collector.segments import pair_algebra, test_digest
from graft_serving.collector.store import Store

logger = logging.getLogger(__name__)

MOST_BYTES = 512 * 1024**2
"""Of packed pairs that are read: some millions, which take minutes of one core."""
HTML, JSON = "text/html; charset=utf-8", "application/json"


def write_report(task: ReportTask, store: Store) -> Reported:
    """Write it. Raises `StoreAwayError`, `DamagedError`, and `Invalid` for lines that are none."""
    made = built(task, store)
    html = page(made).encode()
    document = made.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode() + b"\n"
    store.write(REPORT_JSON, document, JSON)
    store.write(REPORT_HTML, html, HTML)
    return Reported(test_uid=task.compare.uid, html_digest=_digest(html), json_digest=_digest(document))


def built(task: ReportTask, store: Store) -> Report:
    """Return the report. Raises as `write_report`."""
    compare = task.compare
    total, notes = _total(task, store)
    compared = comparison(compare, total, {}, total.ended)
    source = _Source(store, list(segments(store, total.sequence, total.digest)))
    read = gathered(_question(compare), source.lines())
    if not read.lines:
        read.first = read.last = int(total.ended)
    notes += [*_differs(task.verdict, compared), *source.notes(read)]
    made = report(read, compared, task.verdict, notes, losses(total.progress, total.ended))
    logger.info("the report is of %d segments with %d pairs", len(source.read), read.lines)
    return made


def _total(task: ReportTask, store: Store) -> tuple[Total[Sum], list[str]]:
    algebra, test = pair_algebra(plans(task.compare)), test_digest(task.compare)
    try:
        if task.commit == 0:
            added_up(store, algebra, test)  # of no commit nobody would know whose store it is
        return added_up(store, algebra, test, task.commit)[0], []
    except FoldedError:
        # Whoever compared went on for hours after the verdict was read.
        later = f"Counts and pictures are of pairs beyond commit {task.commit}, too, which the verdict was read from."
        return added_up(store, algebra, test)[0], [later]


def _question(compare: Compare) -> Question:
    source = f"ShadowTest {compare.test}"
    return Question(compare.test, source, plans(compare), compare.limits, incumbent=compare.incumbent, candidate=compare.candidate)


@dataclass
class _Source:
    """The pairs of some segments."""

    store: Store
    committed: Sequence[SegmentReference]
    read: list[SegmentReference] = field(default_factory=list)
    gone: int = 0
    """Segments that were deleted, as retention does."""

    @property
    def step(self) -> int:
        """Every how many segments one is read."""
        return max(1, math.ceil(sum(segment.size_bytes for segment in self.committed) / MOST_BYTES))

    def lines(self) -> Iterator[tuple[Place, PairLine]]:
        """Yield pairs, with some segments in memory."""
        chosen = self.committed[:: self.step]
        contents = read_ahead(self.store, [(segment.path, segment.size_bytes) for segment in chosen])
        for segment, (_, content) in zip(chosen, contents, strict=True):
            if content is None:
                self.gone += 1
                continue
            if sha256(content).hexdigest() != segment.sha256:
                raise DamagedError(f"{segment.path} is not what was committed")
            self.read.append(segment)
            yield from stream_lines(BytesIO(content), Path(segment.path))

    def notes(self, read: Recording) -> Iterator[str]:
        """Yield what a reader must know of them."""
        of = sum(segment.lines for segment in self.committed)
        if self.step > 1 or self.gone:
            yield f"Drawings and worst pairs are of {read.lines:,} of {of:,} pairs. The verdict is of all."
        if self.gone:
            yield f"{self.gone:,} segments are older than the retention and were deleted."


def _differs(verdict: Verdict, compared: Comparison) -> Iterator[str]:
    """Say where the sums no longer come to what the verdict was read from: the verdict's numbers are those that are shown."""
    now = {(contrast.name, reading.metric.name): reading.overall for contrast in compared.contrasts for reading in contrast.metrics}
    changed = [found.name for found in verdict.metrics if now.get((found.contrast, found.name)) != found.reading.overall]
    if changed:
        yield f"The verdict was read from fewer or other pairs than these pictures are of: {', '.join(changed)}."


def _digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"
