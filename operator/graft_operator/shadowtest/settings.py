"""Pure: what a collector is told of a ShadowTest."""

from graft_api.collect import SHADOW_TOKEN_FILE, Compare, ReportTask, Shadow
from graft_api.comparison import Outcome, Verdict
from graft_api.dataplane import DOOR_PORT, server_service
from graft_api.schema import seconds_of
from graft_api.shadowtest import ResolvedTest, VerdictStatus, shadow_endpoint
from graft_operator.shadowtest.guardrails import with_added
from graft_operator.shadowtest.turns import TestView

SETTINGS_BYTES = 900 * 1024
"""That a collector's settings may have as canonical JSON. They lie in a ConfigMap, which holds 1 MiB with all its metadata."""


def compare_settings(test: TestView, namespace: str) -> Compare:
    """Return the comparison: the same for as long as the test runs, so that its collector is not replaced in between."""
    resolved, server = _resolved(test), test.spec.shadow
    return Compare(
        test=test.name,
        uid=test.uid,
        domain=resolved.domain,
        incumbent=resolved.incumbent.version,
        candidate=resolved.candidate.version,
        shadow=Shadow(
            address=f"{server_service(shadow_endpoint(test.name))}.{namespace}.svc:{DOOR_PORT}",
            token_file=SHADOW_TOKEN_FILE,
            concurrency=server.concurrency,
            timeout_seconds=server.timeout_seconds,
        ),
        seed=resolved.seed,
        share=test.spec.share,
        control_share=test.spec.control_share,
        duration_seconds=seconds_of(test.spec.duration),
        warm_up_requests=server.warm_up_requests,
        allowed_media_hosts=resolved.allowed_media_hosts,
        metrics=with_added(test.spec.metrics, resolved.guardrails),
        content=test.spec.content,
        store=resolved.store,
        segments=test.spec.segments,
        limits=test.spec.limits,
    )


def report_task(test: TestView, namespace: str) -> ReportTask:
    """Return the writing of the report of a test whose verdict is read."""
    read = test.status.verdict
    assert read is not None  # noqa: S101 - asked only then (`TestView.reports`)
    return ReportTask(compare=compare_settings(test, namespace), verdict=_verdict(read), commit=read.commit)


def _verdict(read: VerdictStatus) -> Verdict:
    return Verdict(
        outcome=Outcome(read.outcome), sentence=read.sentence, reasons=read.reasons, metrics=read.metrics, exclusions=read.exclusions
    )


def _resolved(test: TestView) -> ResolvedTest:
    assert test.status.resolved is not None  # noqa: S101 - a test has the collector only from its start on
    return test.status.resolved
