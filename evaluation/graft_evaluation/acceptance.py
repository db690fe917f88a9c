"""Pure: from outcomes on the same examples to a suite's result, with the number and the bound it was held against."""

from collections.abc import Sequence

from graft_api.evaluation import Accept, Suite
from graft_api.finetunejob import Interval, SuiteResult
from graft_evaluation.intervals import paired_difference, wilson


def assess(suite: Suite, base_right: Sequence[bool], adapter_right: Sequence[bool]) -> SuiteResult:
    """Compare base and adapter on one suite and hold the adapter against the suite's threshold."""
    metric = suite.accept.metric if suite.accept else "error_rate"
    event = metric == "accuracy"
    base, adapter = [right is event for right in base_right], [right is event for right in adapter_right]
    result = SuiteResult(
        suite=suite.name,
        metric=metric,
        examples=len(base),
        base=wilson(sum(base), len(base)),
        adapter=wilson(sum(adapter), len(adapter)),
        difference=paired_difference(base, adapter),
    )
    if suite.accept is None:
        return result.model_copy(update={"message": f"{_numbers(result)}; informational"})
    checks = _checks(suite.accept, result)
    return result.model_copy(
        update={
            "accepted": all(met for met, _ in checks),
            "message": f"{_numbers(result)}; {'; '.join(sentence for _, sentence in checks)}"[:512],
        }
    )


def accepted(results: Sequence[SuiteResult]) -> bool:
    """Return whether every suite that has a threshold met it."""
    return all(result.accepted is not False for result in results)


def _checks(accept: Accept, result: SuiteResult) -> list[tuple[bool, str]]:
    bound = accept.test == "Bound"
    checks = []
    if accept.max is not None:
        value = result.adapter.high if bound else result.adapter.estimate
        checks.append(_check(value <= float(accept.max), f"{_which('upper', bound)}{value:.2%}", f"at most {float(accept.max):.2%}"))
    if accept.min is not None:
        value = result.adapter.low if bound else result.adapter.estimate
        checks.append(_check(value >= float(accept.min), f"{_which('lower', bound)}{value:.2%}", f"at least {float(accept.min):.2%}"))
    if accept.max_regression is not None:
        value = _regression(result, bound=bound)
        name = f"{_which('upper', bound)}regression {value:+.2%}"
        checks.append(_check(value <= float(accept.max_regression), name, f"at most {float(accept.max_regression):.2%}"))
    if accept.min_examples is not None:
        checks.append(_check(result.examples >= accept.min_examples, f"{result.examples} examples", f"at least {accept.min_examples}"))
    return checks


def _check(met: bool, value: str, wanted: str) -> tuple[bool, str]:
    return met, f"{value} {'meets' if met else 'misses'} the bound of {wanted}"


def _which(end: str, bound: bool) -> str:
    return f"{end} 95 % bound " if bound else ""


def _regression(result: SuiteResult, *, bound: bool) -> float:
    """Return how much worse than the base the adapter is: positive is worse, whichever way the metric points."""
    worse = result.difference if result.metric == "error_rate" else _negative(result.difference)
    return worse.high if bound else worse.estimate


def _negative(interval: Interval) -> Interval:
    return Interval(estimate=-interval.estimate, low=-interval.high, high=-interval.low)


def _numbers(result: SuiteResult) -> str:
    base, adapter = result.base, result.adapter
    return (
        f"{result.metric.replace('_', ' ')} {adapter.estimate:.2%} [{adapter.low:.2%}, {adapter.high:.2%}] on {result.examples}, "
        f"base {base.estimate:.2%}"
    )
