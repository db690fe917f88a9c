"""
The verdict of a shadow test: pure, and read once.

Every metric is one one-sided test at 2.5 %; all primaries and all guardrails must pass, so together they need no correction
(intersection-union: Berger 1982, Technometrics 24:295). Before the horizon only harm, a broken instrument or a switched incumbent
end a test; there is no early success. Standard library and graft_api only: the operator reads verdicts without numpy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graft_api.comparison import (
    Clock,
    Comparison,
    Contrast,
    Direction,
    Estimate,
    Exclusion,
    Kind,
    Limits,
    Metric,
    MetricReading,
    MetricVerdict,
    Outcome,
    Role,
    Scale,
    Verdict,
    progress,
    spoken,
)
from graft_evaluation.paired.sentences import (
    describe,
    describe_broken,
    describe_first_turn,
    describe_harm,
    describe_instrument,
    describe_left_out,
)


@dataclass(frozen=True)
class Finding:
    """Something that decides, before or instead of the metrics."""

    outcome: Outcome
    reason: str


def verdict(comparison: Comparison, limits: Limits, clock: Clock) -> Verdict:
    """Return the verdict of a comparison at a point of the test's time."""
    metrics = [_metric_verdict(contrast, reading) for contrast in comparison.contrasts for reading in contrast.metrics]
    early = [*_broken(comparison, limits), *_harm(comparison), *_switched(clock)]
    if early:
        return _verdict(_first(early), [finding.reason for finding in early], comparison, metrics)
    if clock.elapsed < clock.duration:
        return _pending(f"{progress(clock.elapsed, clock.duration)}; read once, at the end", comparison)
    little = list(_too_little(comparison, limits))
    if little and clock.elapsed < clock.max_duration:
        return _pending(f"{little[0]}; extended to at most {spoken(clock.max_duration)}", comparison)
    return _at_horizon(comparison, limits, metrics, little)


def _at_horizon(comparison: Comparison, limits: Limits, metrics: list[MetricVerdict], little: Sequence[str]) -> Verdict:
    drift = [*_failing(comparison, limits, over=True), *_instrument(comparison)]
    if any(finding.outcome is Outcome.ERROR for finding in drift):
        return _verdict(Outcome.ERROR, [finding.reason for finding in drift], comparison, metrics)
    doubts = [*little, *(finding.reason for finding in drift), *_exclusions(comparison, limits), *_losses(comparison, limits)]
    if doubts:
        return _verdict(Outcome.INCONCLUSIVE, doubts, comparison, metrics)
    deciding = [metric for metric in metrics if metric.role is not Role.INFORMATIONAL]
    if not deciding:
        return _verdict(Outcome.INCONCLUSIVE, ["no metric decides: all are informational"], comparison, metrics)
    outcome = _intersection([metric.outcome for metric in deciding])
    objections = list(_contradictions(deciding, outcome))
    if outcome is Outcome.PASSED:
        objections += [*_unchecked(comparison, limits), *_flattered(comparison)]
    if objections:
        return _verdict(Outcome.INCONCLUSIVE, objections, comparison, metrics)
    return _verdict(outcome, [metric.sentence for metric in deciding if metric.outcome is outcome], comparison, metrics)


def _intersection(outcomes: Sequence[Outcome]) -> Outcome:
    if Outcome.FAILED in outcomes:
        return Outcome.FAILED
    return Outcome.PASSED if all(outcome is Outcome.PASSED for outcome in outcomes) else Outcome.INCONCLUSIVE


def assess(metric: Metric, estimate: Estimate | None) -> Outcome:
    """Return what one metric's interval says: its lower end beyond the bound passes, its upper end short of it fails."""
    if metric.role is Role.INFORMATIONAL:
        return Outcome.INFORMATIONAL
    if estimate is None:
        return Outcome.INCONCLUSIVE
    bound = metric.margin if metric.role is Role.PRIMARY else -metric.margin
    if estimate.low > bound:
        return Outcome.PASSED
    return Outcome.FAILED if estimate.high < bound else Outcome.INCONCLUSIVE


def _metric_verdict(contrast: Contrast, reading: MetricReading) -> MetricVerdict:
    outcome = assess(reading.metric, reading.overall)
    return MetricVerdict(
        contrast=contrast.name,
        name=reading.metric.name,
        role=reading.metric.role,
        outcome=outcome,
        sentence=describe(reading, outcome),
        reading=reading,
        clusters=reading.clusters,
        pairs=reading.pairs,
    )


def _broken(comparison: Comparison, limits: Limits) -> Iterator[Finding]:
    for what in comparison.broken:
        yield Finding(Outcome.ERROR, what)
    yield from _failing(comparison, limits, over=False)


def _failing(comparison: Comparison, limits: Limits, *, over: bool) -> Iterator[Finding]:
    """
    Say which scorers failed on too many pairs.

    What network or machine were at fault for counts when the test's time is over, and not before: two minutes without a judge must not
    end a week.
    """
    for _, reading in _deciding(comparison.every()):
        failures, sampled = reading.scorer_failures + over * reading.transient_failures, reading.sampled()
        # A handful of the first few pairs is no share of anything yet.
        if sampled >= limits.min_clusters and failures / sampled > limits.max_scorer_failures:
            failed = f"the scorer of {reading.metric.called()} failed on {failures / sampled:.1%} of the pairs"
            yield Finding(Outcome.ERROR, f"{failed}, at most {limits.max_scorer_failures:.1%} may be")


def _harm(comparison: Comparison) -> Iterator[Finding]:
    """Say which metrics show harm; where the instrument shows as much of the same model twice, it is the instrument's."""
    checks = {reading.metric.name: reading for reading in (comparison.instrument.metrics if comparison.instrument else [])}
    for _, reading in _deciding(comparison.contrasts):
        if reading.harm is None or not reading.harm.shown:
            continue
        check = checks.get(reading.metric.name)
        if check is not None and check.harm is not None and check.harm.shown:
            yield Finding(
                Outcome.ERROR, f"production and the shadow's incumbent, the same model: {describe_harm(check.metric, check.harm)}"
            )
        elif check is not None and (drift := _drift(reading, check.overall)) is not None and drift.outcome is Outcome.ERROR:
            yield drift
        yield Finding(Outcome.FAILED, describe_harm(reading.metric, reading.harm))


def _switched(clock: Clock) -> Iterator[Finding]:
    if clock.incumbent_switched:
        yield Finding(Outcome.INCONCLUSIVE, "the incumbent was switched during the test, so there are two tests in one")


def _too_little(comparison: Comparison, limits: Limits) -> Iterator[str]:
    for contrast in comparison.every():
        if contrast.clusters < limits.min_clusters:
            yield f"{contrast.name}: {contrast.clusters} conversations, at least {limits.min_clusters} are needed"
        elif contrast.largest_cluster_share > limits.max_cluster_share:
            share = f"{contrast.name}: one conversation is {contrast.largest_cluster_share:.1%} of the pairs"
            yield f"{share}, at most {limits.max_cluster_share:.1%} may be"
        else:
            for _, reading in _deciding([contrast]):
                if reading.overall is None:
                    yield f"{contrast.name}: {reading.metric.called()} was not measured: {reading.reason or 'no pairs'}"


def _exclusions(comparison: Comparison, limits: Limits) -> Iterator[str]:
    for contrast in comparison.contrasts:
        incumbent, candidate = (_excluded_share(contrast, side) for side in ("Incumbent", "Candidate"))
        if abs(incumbent - candidate) > limits.max_exclusion_difference:
            shares = f"{contrast.name}: {incumbent:.1%} of requests were excluded for the incumbent and {candidate:.1%} for the candidate"
            yield f"{shares}, a difference of at most {limits.max_exclusion_difference:.1%} is allowed"
        left_out = sum(exclusion.count for exclusion in contrast.exclusions)
        if left_out > limits.max_excluded_share * (contrast.pairs + left_out):
            yield describe_left_out(contrast.name, left_out, contrast.pairs + left_out, limits.max_excluded_share)


def _excluded_share(contrast: Contrast, side: str) -> float:
    # What both sides excluded says nothing of either, and would hide a difference if it were counted in.
    everything = contrast.pairs + sum(exclusion.count for exclusion in contrast.exclusions if exclusion.side != "Both")
    return sum(exclusion.count for exclusion in contrast.exclusions if exclusion.side == side) / everything if everything else 0.0


def _losses(comparison: Comparison, limits: Limits) -> Iterator[str]:
    mirrored = comparison.contrasts[0].pairs + comparison.lost_pairs
    if mirrored and comparison.lost_pairs / mirrored > limits.max_lost_share:
        yield f"{comparison.lost_pairs / mirrored:.1%} of mirrored requests were lost, at most {limits.max_lost_share:.1%} may be"


def _instrument(comparison: Comparison) -> Iterator[Finding]:
    """
    Say where the same model differs from itself by more than half of what the test decides.

    It is an Error where its whole interval lies beyond, so that chance does not end a sound test, and a doubt where the estimate
    does and the difference is there. Where a primary's margin is 0, the claim itself stands in: an instrument that is off by more
    than half of the improvement could have made it.
    """
    checks = _checks(comparison)
    for _, reading in _deciding(comparison.contrasts):
        drift = _drift(reading, checks.get(reading.metric.name))
        if drift is not None:
            yield drift


def _drift(reading: MetricReading, check: Estimate | None) -> Finding | None:
    metric = reading.metric
    if check is None or reading.overall is None:
        return None
    allowed = metric.margin / 2
    if metric.role is Role.PRIMARY:
        allowed = max(metric.margin, abs(reading.overall.improvement)) / 2
    if check.low > allowed or check.high < -allowed:
        return Finding(Outcome.ERROR, describe_instrument(metric, check, allowed))
    if abs(check.improvement) > allowed and (check.low > 0 or check.high < 0):
        return Finding(Outcome.INCONCLUSIVE, describe_instrument(metric, check, allowed))
    return None


def _flattered(comparison: Comparison) -> Iterator[str]:
    """
    Say which metrics would not pass if the answers that broke their scorer were the worst.

    Such pairs are in no sum. Answers of both sides break a scorer now and then; what it broke on more often than where the incumbent
    was asked twice is the candidate's doing, and a pass must hold with these at the worst (the bound without assumptions on what is
    missing: Manski 1990, American Economic Review 80:319).
    """
    twice = {reading.metric.name: _broke(reading) for reading in (comparison.instrument.metrics if comparison.instrument else [])}
    for _, reading in _deciding(comparison.contrasts):
        metric, estimate = reading.metric, reading.overall
        excess = _broke(reading) - twice.get(metric.name, 0.0)
        if estimate is None or excess <= 0 or metric.kind is Kind.QUANTILE:
            continue
        worst = metric.worst if metric.worst is not None else float(metric.direction is Direction.LOWER)
        scale = estimate.incumbent if metric.scale is Scale.RELATIVE else 1.0
        lowered = (1 - excess) * estimate.low - excess * abs(worst - estimate.incumbent) / scale
        if assess(metric, estimate.model_copy(update={"low": lowered})) is not Outcome.PASSED:
            yield describe_broken(metric, _broke(reading), twice.get(metric.name, 0.0))


def _broke(reading: MetricReading) -> float:
    """Return the share of sampled pairs that the scorer failed on."""
    return (reading.sampled() - reading.pairs) / reading.sampled() if reading.sampled() else 0.0


def _unchecked(comparison: Comparison, limits: Limits) -> Iterator[str]:
    """Say which metrics of production's own answers pass by an instrument that was not held against itself."""
    checks = _checks(comparison)
    for _, reading in _deciding(comparison.contrasts[:1]):
        if limits.require_instrument and reading.metric.name not in checks:
            yield f"the same model was not measured twice in {reading.metric.called()}, so the instrument may have made the difference"


def _checks(comparison: Comparison) -> dict[str, Estimate]:
    instrument = comparison.instrument.metrics if comparison.instrument else []
    return {reading.metric.name: reading.overall for reading in instrument if reading.overall is not None}


def _contradictions(deciding: Sequence[MetricVerdict], outcome: Outcome) -> Iterator[str]:
    """
    Say where first turns alone show the opposite.

    Of a pass one metric is enough, as every metric must pass; a failure stands as long as one metric fails without contradiction.
    """
    opposite = {Outcome.PASSED: Outcome.FAILED, Outcome.FAILED: Outcome.PASSED}.get(outcome)
    decided = [metric for metric in deciding if metric.outcome is outcome]
    found = [
        describe_first_turn(metric.reading.metric, first, opposite)
        for metric in decided
        if opposite and (first := metric.reading.first_turn) is not None and assess(metric.reading.metric, first) is opposite
    ]
    if outcome is Outcome.PASSED or len(found) == len(decided):
        yield from found


def _deciding(contrasts: Sequence[Contrast]) -> Iterator[tuple[Contrast, MetricReading]]:
    for contrast in contrasts:
        for reading in contrast.metrics:
            if reading.metric.role is not Role.INFORMATIONAL:
                yield contrast, reading


def _first(findings: Sequence[Finding]) -> Outcome:
    """Return the gravest: a broken instrument cannot show harm, and harm is harm whoever switched."""
    for outcome in (Outcome.ERROR, Outcome.FAILED):
        if any(finding.outcome is outcome for finding in findings):
            return outcome
    return findings[0].outcome


def _verdict(outcome: Outcome, reasons: Sequence[str], comparison: Comparison, metrics: list[MetricVerdict]) -> Verdict:
    return Verdict(
        outcome=outcome,
        sentence=f"{outcome.value}: {'; '.join(reasons)}"[:512],
        reasons=[reason[:320] for reason in reasons],
        metrics=metrics,
        exclusions=_every_exclusion(comparison),
    )


def _pending(reason: str, comparison: Comparison) -> Verdict:
    """Return no verdict yet, and no metric's either: a number that is shown early is read early."""
    return Verdict(outcome=Outcome.PENDING, sentence=f"Pending: {reason}"[:512], exclusions=_every_exclusion(comparison))


def _every_exclusion(comparison: Comparison) -> list[Exclusion]:
    return [found.model_copy(update={"contrast": contrast.name}) for contrast in comparison.every() for found in contrast.exclusions]
