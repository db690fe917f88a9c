"""The last word of a container: one JSON object of at most 4096 bytes, which is all that the kubelet keeps."""

from pathlib import Path

from graft_api.finetunejob import Interval, SuiteResult
from graft_api.reports import MAX_TERMINATION_BYTES, Result, TerminalResult
from graft_api.schema import canonical_json


def write(path: Path, result: TerminalResult) -> None:
    """Write the termination message, trimmed to what fits. Not atomically: kubelet has mounted this very file."""
    path.write_bytes(message(result))


def message(result: TerminalResult) -> bytes:
    """Return the result as JSON that fits, leaving out what people can read elsewhere first."""
    for shorter in (_same, _rounded, _without_sentences, _without_seconds, _without_suites):
        result = shorter(result)
        content = canonical_json(result.to_json())
        if len(content) <= MAX_TERMINATION_BYTES:
            return content
    return canonical_json(_short_failure(result).to_json())


def _same(result: TerminalResult) -> TerminalResult:
    return result


def _rounded(result: TerminalResult) -> TerminalResult:
    return _with_suites(result, [_round_suite(suite) for suite in result.result.evaluation] if result.result else [])


def _without_sentences(result: TerminalResult) -> TerminalResult:
    return _with_suites(result, [s.model_copy(update={"message": ""}) for s in result.result.evaluation] if result.result else [])


def _without_seconds(result: TerminalResult) -> TerminalResult:
    return _update(result, stage_seconds={})


def _without_suites(result: TerminalResult) -> TerminalResult:
    return _with_suites(result, [])


def _short_failure(result: TerminalResult) -> TerminalResult:
    # 1024 characters are at most 4096 bytes as UTF-8, and six times that as JSON escapes: 512 always fit.
    if result.failed is None:
        return result
    return result.model_copy(update={"failed": result.failed.model_copy(update={"message": result.failed.message[:512]})})


def _with_suites(result: TerminalResult, suites: list[SuiteResult]) -> TerminalResult:
    return _update(result, evaluation=suites)


def _update(result: TerminalResult, **fields: object) -> TerminalResult:
    inner: Result | None = result.result
    return result if inner is None else result.model_copy(update={"result": inner.model_copy(update=fields)})


def _round_suite(suite: SuiteResult) -> SuiteResult:
    return suite.model_copy(update={name: _round(getattr(suite, name)) for name in ("base", "adapter", "difference")})


def _round(interval: Interval) -> Interval:
    return Interval(**{name: round(value, 4) for name, value in interval})
