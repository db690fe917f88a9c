"""Pure: whether what a collector reads from its store is what was there before, and more. See `CollectorReport.commit_digest`."""

from graft_api.collect import CollectorReport
from graft_api.shadowtest import KeptCommit


def kept(report: CollectorReport) -> KeptCommit | None:
    """Return what to hold later reports against; None of a report that says nothing sure."""
    sure = report.comparison is not None and not report.comparison.broken
    return KeptCommit(boot=report.boot, commit=report.commit, digest=report.commit_digest) if sure and report.commit_digest else None


def changed(before: KeptCommit | None, report: CollectorReport) -> str | None:
    """Return what shows that the store was changed behind the collector; None where nothing does."""
    if before is None or report.comparison is None or report.comparison.broken:
        return None
    if report.commit < before.commit:
        return f"commit {before.commit} was there, and now the last one is {report.commit}"
    if report.commit_digest is None:
        return f"the digests of its commits are gone, that of commit {before.commit} among them"
    if report.commit == before.commit and report.commit_digest != before.digest:
        return f"commit {before.commit} is another one than it was"
    return None if report.boot == before.boot else _since_another(before, report)


def _since_another(before: KeptCommit, report: CollectorReport) -> str | None:
    """Hold it against what the next collector began with. Of commits that are older than that nothing can be said."""
    lineage = {int(number): digest for number, digest in report.lineage.items()}
    if before.commit in lineage:
        return None if lineage[before.commit] == before.digest else f"commit {before.commit} is another one than it was"
    if not lineage or before.commit > min(lineage):
        return f"commit {before.commit} was there, and the collector that began since did not find it"
    return None
