"""What a number means, with the bound it was held against. Standard library only: the operator says these sentences too."""

from graft_api.comparison import Direction, Estimate, HarmReading, Kind, Metric, MetricReading, Outcome, Role, Scale


def describe(reading: MetricReading, outcome: Outcome) -> str:
    """Return the sentence of one metric at the horizon."""
    metric, estimate = reading.metric, reading.overall
    if estimate is None:
        return f"{metric.called()} was not measured: {reading.reason or 'no pairs'}"
    return f"{change(metric, estimate)}{_held(metric, estimate, outcome)}"


def describe_first_turn(metric: Metric, estimate: Estimate, outcome: Outcome) -> str:
    """Return why the first turns, which say `outcome`, contradict the whole."""
    return f"on first turns alone {change(metric, estimate)}{_held(metric, estimate, outcome)}: this contradicts the whole"


def describe_harm(metric: Metric, harm: HarmReading) -> str:
    """Return why a test was stopped early."""
    high = amount(metric, abs(harm.high or 0.0))
    limit = f"the {amount(metric, metric.margin)} allowed" if metric.role is Role.GUARDRAIL else "none allowed"
    got = f"{metric.called()} got worse by at least {high} on {harm.clusters} closed conversations"
    return f"harm: {got}, more than {limit} (always-valid, 99 %)"


def describe_instrument(metric: Metric, check: Estimate, allowed: float) -> str:
    """Return why the instrument is not trusted."""
    ends = f"[{_number(metric, check.low)}, {_number(metric, check.high)}]"
    differs = f"production and the shadow's incumbent, the same model, differ in {metric.called()}"
    return f"{differs} by {amount(metric, check.improvement)} {ends}, at most {amount(metric, allowed)} may be"


def describe_broken(metric: Metric, broke: float, twice: float) -> str:
    """Return why a metric that passes is not trusted: what is missing may be what is wrong."""
    beside = f"{broke:.1%} of the pairs, {twice:.1%} where the incumbent was asked twice"
    return f"the scorer of {metric.called()} failed on {beside}; with the difference as the candidate's worst it does not pass"


def describe_left_out(contrast: str, count: int, of: int, allowed: float) -> str:
    """Return why too few of the requests are left to speak for all."""
    return f"{contrast}: {count} of {of} requests ({count / of:.1%}) were left out, at most {allowed:.1%} may be"


def change(metric: Metric, estimate: Estimate) -> str:
    """Return how a metric moved, its interval in the direction of the word: 'errors fell by 12.1 points [9.8, 14.4]'."""
    better = estimate.improvement >= 0
    fell = better == (metric.direction is Direction.LOWER)
    size, low, high = estimate.improvement, estimate.low, estimate.high
    if not better:
        size, low, high = -size, -high, -low
    word = "did not change:" if size == 0 else f"{'fell' if fell else 'rose'} by"
    return f"{metric.called()} {word} {amount(metric, size)} [{_number(metric, low)}, {_number(metric, high)}]"


def amount(metric: Metric, value: float) -> str:
    """Return a difference with its unit."""
    if metric.scale is Scale.RELATIVE:
        return f"{_number(metric, value)} %"
    unit = "points" if metric.kind is Kind.PROPORTION else metric.unit
    return f"{_number(metric, value)} {unit}".rstrip()


def _number(metric: Metric, value: float) -> str:
    """Return a number with as many digits as can matter: percentages with one, and more where a tenth is too coarse."""
    if metric.scale is Scale.RELATIVE or metric.kind is Kind.PROPORTION:
        value *= 100
        digits = 1 if abs(value) >= 0.1 or value == 0 else 3
        return f"{value + 0.0:.{digits}f}"
    return f"{value:.4g}" if value else "0.0"


def _held(metric: Metric, estimate: Estimate, outcome: Outcome) -> str:
    margin, allowance = _number(metric, metric.margin), amount(metric, metric.margin)
    better = "fall" if metric.direction is Direction.LOWER else "rise"
    if metric.role is Role.PRIMARY:
        passed = f", more than the {margin} it had to"
        failed = f", where it had to {better} by more than {margin}"
        unclear = f"; it had to {better} by more than {margin}, which is not shown"
    elif metric.role is Role.GUARDRAIL:
        # Of a change for the better the allowance needs no defence.
        passed = f", within the {allowance} allowed" if estimate.improvement < 0 else f"; it may get worse by {allowance} at most"
        failed = f", more than the {allowance} allowed"
        unclear = f"; that it got worse by {allowance} at most is not shown"
    else:
        return ""
    return {Outcome.PASSED: passed, Outcome.FAILED: failed}.get(outcome, unclear)
