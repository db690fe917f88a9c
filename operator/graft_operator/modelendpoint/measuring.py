"""
Pure: what of production is measured at the moment, by the spec, by the ShadowTest whose turn it is, and by the new versions that are
watched; and how that goes.

    plan        what the collector is told, and whom gateways tell of
    collection  in the status
    condition   Measuring, in words
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal

from pydantic import ValidationError

from graft_api.collect import COLLECTOR_PORT, CollectorReport, CollectorSettings, Compare, Observe, ReportTask, collector_service
from graft_api.ledger import Ledger
from graft_api.modelendpoint import Collector, CollectorStatus, ModelEndpointSpec
from graft_api.schema import canonical_json
from graft_api.tee import Measuring, Tee
from graft_api.watch import WatchTask
from graft_operator.engine.conditions import shorten
from graft_operator.modelendpoint import scoring, tested
from graft_operator.modelendpoint.observed import CollectorPod, Observed
from graft_operator.promotion import arms
from graft_operator.shadowtest.settings import SETTINGS_BYTES, compare_settings, report_task
from graft_operator.shadowtest.turns import TestView, holder

ALL = 10_000
"""Basis points."""
OBSERVATIONS = "observe"
"""Below the collector's store."""
SHARE_DIGITS = 20

Said = tuple[str, str, str]
"""Of a condition: status, reason, message."""


@dataclass(frozen=True)
class Plan:
    """What is measured. Without settings: nothing, and there is no collector."""

    settings: CollectorSettings | None = None
    tee: Tee | None = None
    test: str | None = None
    """The ShadowTest that is compared, or whose report is written."""
    unusable: str | None = None
    """Why the ShadowTest whose turn it is, or what is to be observed, cannot be told to the collector."""
    reason: str = "TestUnusable"
    """Of the condition, where something is unusable."""


def plan(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger, now: datetime) -> Plan:
    """Return what is measured now."""
    collector = spec.collector
    if collector is None or spec.shadow is not None:
        return Plan()
    turn, unusable = _turn(holder(observed.tests, observed.parent.uid, now), observed.parent.namespace, ledger, now)
    compare = turn if isinstance(turn, Compare) else None
    report = turn if isinstance(turn, ReportTask) else None
    observe, watches = _observe(collector), _watches(spec, ledger)
    if observe is None and turn is None and not watches:
        return Plan(unusable=unusable)
    domains, compare = _tapped(_whole(collector, watches), compare)
    settings = CollectorSettings(observe=observe, compare=compare, report=report, watches=watches)
    test = report.compare.test if report else compare.test if compare else None
    if (size := len(canonical_json(settings.to_json()))) > SETTINGS_BYTES:
        return _too_large(observed, settings, (collector, ledger), test, size)
    return Plan(settings, _tee(observed, collector, ledger, domains), test, unusable)


def _too_large(observed: Observed, settings: CollectorSettings, endpoint: tuple[Collector, Ledger], test: str | None, size: int) -> Plan:
    """
    Return what can be measured still: without the test what is observed, if that is not too large by itself; and what is watched,
    which has no scorers and so is small.
    """
    (collector, ledger), watches = endpoint, settings.watches
    what = " and ".join(
        part for part in ("spec.collector.observe" if settings.observe else "", f"ShadowTest {test}" if test else "") if part
    )
    told = f"{what} make {size / 1024:.0f} KiB of settings for the collector, at most {SETTINGS_BYTES // 1024} KiB are possible"
    advice = "make the scorers smaller (schemas, grammars, preludes), or have fewer of them"
    alone = CollectorSettings(observe=settings.observe, watches=watches) if settings.observe or watches else None
    fits = alone is None or len(canonical_json(alone.to_json())) <= SETTINGS_BYTES
    if not fits:
        alone = CollectorSettings(watches=watches) if watches else None
    shares = _whole(collector, watches) if fits else {task.domain: ALL for task in watches}
    tee = _tee(observed, collector, ledger, shares) if alone else None
    return Plan(alone, tee, None, f"{told}; {advice}", "TestUnusable" if fits else "TooLarge")


def _watches(spec: ModelEndpointSpec, ledger: Ledger) -> list[WatchTask]:
    """Return the watches of the domains. A task stays the same from step to step of a ramp: another one would begin with nothing."""
    entries = [entry for domain in spec.domains if (entry := ledger.domain(domain.name))]
    return [task for entry in entries if (task := arms.watch_task(entry.name, entry))]


def _turn(test: TestView | None, namespace: str, ledger: Ledger, now: datetime) -> tuple[Compare | ReportTask | None, str | None]:
    """
    Return the task of the test whose turn it is. One that makes no sense must not keep the endpoint from everything else.

    The ledger is written before the task is: whatever is compared is counted.
    """
    try:
        if test is not None and test.compares():
            return (compare_settings(test, namespace), None) if _counted(test, ledger) else (None, None)
        if test is not None and test.reports(now):
            return report_task(test, namespace), None
    except ValidationError as error:
        assert test is not None  # noqa: S101 - nothing else was read
        return None, f"ShadowTest {test.name}: its status cannot be read ({error.error_count()} mistakes); delete it"
    return None, None


def _counted(test: TestView, ledger: Ledger) -> bool:
    resolved = test.status.resolved
    return resolved is not None and tested.is_counted(ledger.domain(resolved.domain), test)


def _observe(collector: Collector) -> Observe | None:
    if not collector.observe:
        return None
    return Observe(domains=list(collector.observe), store=f"{collector.store.rstrip('/')}/{OBSERVATIONS}", segments=collector.segments)


def _whole(collector: Collector, watches: Sequence[WatchTask]) -> dict[str, int]:
    """Return the domains of which gateways tell everything: a share of a small hold-back would be nothing."""
    return {observed.domain: ALL for observed in collector.observe} | {task.domain: ALL for task in watches}


def _tapped(whole: dict[str, int], compare: Compare | None) -> tuple[dict[str, int], Compare | None]:
    """
    Return of which share of conversations gateways tell, by domain; and the comparison with what is left for it to choose.

    The gateway's choice and the collector's are independent, so that the product of their shares is the test's. Observations and
    watches need all; else gateways choose, and send nothing that nobody looks at.
    """
    if compare is None or compare.domain in whole:
        return whole, compare
    wanted = Decimal(compare.share) * ALL
    told = int(wanted.to_integral_value(ROUND_CEILING))
    left = max(wanted / told, Decimal(10) ** -SHARE_DIGITS)
    compare = compare.model_copy(update={"share": f"{left:.{SHARE_DIGITS}f}".rstrip("0").rstrip(".")})
    return whole | {compare.domain: told}, compare


def _tee(observed: Observed, collector: Collector, ledger: Ledger, domains: dict[str, int]) -> Tee | None:
    """Return what gateways are told. The salt is the domain's own: a conversation that was in a test is in the next one, too."""
    salts = {domain.name: domain.salt for domain in ledger.domains}
    measured = [Measuring(domain=name, share=share, salt=salts[name]) for name, share in sorted(domains.items()) if name in salts]
    if not measured:
        return None
    address = f"{collector_service(observed.parent.name)}.{observed.parent.namespace}.svc:{COLLECTOR_PORT}"
    return Tee(collector=address, queue_bytes=collector.queue_bytes, domains=measured)


def collection(observed: Observed, planned: Plan) -> CollectorStatus | None:
    """Return how the collector is; None without one."""
    if planned.settings is None:
        return None
    pod = observed.counting()
    said = pod.report if pod else None
    return CollectorStatus(
        ready=pod is not None and pod.ready,
        test=planned.test,
        waiting=said.waiting if said else None,
        lost=sum(said.lost.values()) if said else None,
        store_away=said.store_away if said else None,
    )


def condition(observed: Observed, spec: ModelEndpointSpec, planned: Plan) -> Said | None:
    """Return what to say of the measuring. None: it was never asked for."""
    if spec.collector is None:
        before = {condition.type for condition in observed.status.conditions or []}
        return ("False", "NoCollector", "spec.collector is not set") if "Measuring" in before else None
    if planned.unusable:
        return "False", planned.reason, shorten(planned.unusable)
    if unaskable := scoring.unaskable(spec):
        return "False", "MetricCannotBeMeasured", shorten(unaskable)
    if planned.settings is None:
        return "False", "NothingToMeasure", "spec.collector.observe is empty, no ShadowTest is running, no version is watched"
    return _going(observed.counting(), planned, listening=observed.listening)


def _going(pod: CollectorPod | None, planned: Plan, *, listening: bool) -> Said:
    if pod is None:
        return "False", "CollectorNotReady", "there is no collector pod yet"
    return _amiss(pod) or _unclear(pod, planned, listening=listening) or _away(pod) or _failing(pod) or ("True", *_words(planned))


def _amiss(pod: CollectorPod) -> Said | None:
    if pod.report is not None and pod.report.store_away:
        return "False", "StoreAway", "what is measured cannot be written to the store; the collector tries again"
    if not pod.ready:
        reason, words = pod.problem or ("CollectorNotReady", "it is not ready")
        return "False", reason, shorten(f"{pod.name}: {words}")
    return None


def _unclear(pod: CollectorPod, planned: Plan, *, listening: bool) -> Said | None:
    if pod.report is None:
        return "Unknown", "NotHeard", f"{pod.name} is ready and " + ("was not heard of yet" if listening else "says nothing")
    if not _obeys(pod.report, planned):
        return "Unknown", "CollectorChanges", f"{pod.name} goes by other settings; another one takes its place"
    if unwatched := _unwatched(pod.report, planned):
        return "Unknown", "CollectorChanges", shorten(f"{pod.name} does not watch {', '.join(unwatched)} yet")
    return None


def _unwatched(said: CollectorReport, planned: Plan) -> list[str]:
    """Return the domains whose watch the collector has not taken over."""
    tasks = planned.settings.watches if planned.settings else []
    return [task.domain for task in tasks if not any(task.is_of(watched) for watched in said.watched)]


def _away(pod: CollectorPod) -> Said | None:
    away = pod.report.shadow_away if pod.report else None
    return ("False", "ShadowAway", shorten(f"nothing is asked of the shadow server: {away}")) if away else None


def _failing(pod: CollectorPod) -> Said | None:
    told = scoring.failing(pod.report)
    return ("False", "ScorerBroken", shorten(told)) if told else None


def _words(planned: Plan) -> tuple[str, str]:
    settings = planned.settings
    assert settings is not None  # noqa: S101 - there is a collector
    watched = f"the new versions of {', '.join(task.domain for task in settings.watches)} are watched" if settings.watches else ""
    beside = f"; {watched}" if watched else ""
    if settings.report:
        return "Reporting", f"the report of ShadowTest {planned.test} is written{beside}"
    if settings.compare:
        return "Comparing", f"ShadowTest {planned.test} is compared{beside}"
    if settings.observe is None:
        return "Watching", watched
    return "Observing", f"{len(settings.observe.domains)} domains are observed{beside}"


def _obeys(said: CollectorReport, planned: Plan) -> bool:
    """Whether a collector speaks as one with these settings does."""
    assert planned.settings is not None  # noqa: S101 - there is a collector
    compare = planned.settings.compare
    return said.mode is planned.settings.mode and (compare is None or said.test_uid == compare.uid)
