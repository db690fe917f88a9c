"""The scorers on the hold-out: checked before anything is trained, then held against both models' answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graft_api.evaluation import Suite
from graft_api.finetunejob import FineTuneJobSpec, SuiteResult
from graft_api.reports import Reason
from graft_evaluation.acceptance import assess
from graft_evaluation.scorers import (
    Answer,
    Broken,
    Case,
    Outcome,
    Score,
    ScorerInvalidError,
    affordable,
    build,
    causes,
    check_program,
    position_bias,
    requests_per_answer,
    score_batch,
)
from graft_trainer.errors import BadInputError, EnvironmentFailureError

MODELS = 2
"""Base and adapter."""
MOST_BROKEN = 0.01
"""Share of examples that a broken scorer may leave without a score; beyond it what is left might not be like the rest."""


@dataclass(frozen=True)
class Question:
    """A prompt and every answer that the data calls right."""

    prompt: list[int]
    text: str
    references: tuple[str, ...]


def check_scorers(spec: FineTuneJobSpec, environment: Mapping[str, str]) -> None:
    """Refuse scorers that cannot be built or could not serve a hold-out. Raises `BadInputError`."""
    for index, suite in enumerate(spec.evaluation.suites):
        try:
            build(suite.scorer, environment)
            _check_holdout(suite)
        except ScorerInvalidError as error:
            raise BadInputError(Reason.INVALID_SETTING, f"spec.evaluation.suites[{index}].scorer.{error}") from error


def check_commands(spec: FineTuneJobSpec) -> None:
    """Refuse commands that this container does not hold. Raises `BadInputError`."""
    for index, suite in enumerate(spec.evaluation.suites):
        try:
            check_program(suite.scorer)
        except ScorerInvalidError as error:
            message = f"spec.evaluation.suites[{index}].scorer.{error}: set spec.podTemplate.image"
            raise BadInputError(Reason.INVALID_SETTING, message) from error


def declared_environment(spec: FineTuneJobSpec) -> dict[str, str]:
    """Return the variables that the training container will have, for a container that has them not."""
    template = spec.pod_template
    return {variable.name: variable.value or "from elsewhere" for variable in (template and template.env) or []}


def examples_of(suite: Suite, rows: int) -> int:
    """Return how many of so many rows, which lie in the order of a hash, the suite asks about."""
    return affordable(suite.scorer, rows if suite.max_examples is None else min(rows, suite.max_examples), MODELS)


def assess_suite(
    suite: Suite, asked: Sequence[Question], base: Sequence[Answer], adapter: Sequence[Answer], environment: Mapping[str, str]
) -> SuiteResult:
    """Score both models' answers and hold the adapter's against the threshold. What a scorer broke on is left out for both."""
    examples = len(asked)
    cases = [
        Case(answer, question.references, question.text)
        for answers in (base, adapter)
        for answer, question in zip(answers, asked, strict=True)
    ]
    try:
        outcomes = score_batch(build(suite.scorer, environment), cases)
    except ScorerInvalidError as error:
        raise BadInputError(Reason.INVALID_SETTING, f"spec.evaluation.suites (suite {suite.name}).scorer.{error}") from error
    pairs = list(zip(outcomes[:examples], outcomes[examples:], strict=True))
    scored = [(one, other) for one, other in pairs if isinstance(one, Score) and isinstance(other, Score)]
    _check_broken(suite, outcomes, examples, examples - len(scored))
    result = assess(suite, [one.right for one, _ in scored], [other.right for _, other in scored])
    return result.model_copy(update={"message": "; ".join([result.message, *_remarks(outcomes, examples - len(scored))])[:512]})


def _check_holdout(suite: Suite) -> None:
    scorer, sample = suite.scorer, suite.scorer.sample
    if scorer.tool_calls is not None and scorer.tool_calls.tools is None:
        raise ScorerInvalidError("toolCalls.tools: must be set in a job: the rows of a hold-out bring no tools")
    if sample is None or sample.max_requests is None:
        return
    each = MODELS * requests_per_answer(scorer)
    least = (suite.accept.min_examples if suite.accept else None) or 1
    if sample.max_requests < each * least:
        raise ScorerInvalidError(
            f"sample.maxRequests: {sample.max_requests} pays for {sample.max_requests // each} examples at {each} requests each "
            f"(base and adapter), and {least} are needed; set at least {each * least}"
        )


def _check_broken(suite: Suite, outcomes: Sequence[Outcome], examples: int, broken: int) -> None:
    if broken <= MOST_BROKEN * examples:
        return
    first = next(outcome for outcome in outcomes if isinstance(outcome, Broken))
    said = f"suite {suite.name}: the scorer broke on {broken} of {examples} examples, at most {MOST_BROKEN:.0%} may be left out: "
    said += f"{_counted(outcomes)}; {first.message}"
    if any(isinstance(outcome, Broken) and outcome.transient for outcome in outcomes):
        raise EnvironmentFailureError(Reason.SCORER_BROKEN, said)
    raise BadInputError(Reason.SCORER_BROKEN, said)


def _remarks(outcomes: Sequence[Outcome], broken: int) -> list[str]:
    scores = [outcome for outcome in outcomes if isinstance(outcome, Score)]
    remarks = [f"{broken} not scored ({_counted(outcomes)})"] if broken else []
    if judgements := [score.judgement for score in scores if score.judgement]:
        bias = position_bias(judgements)
        remarks.append(f"the judge's two orders agree on {bias.agreement:.1%}, else it leans {bias.first} times to the first")
        remarks[-1] += f" and {bias.second} times to the second"
    if seconds := [score.solver_seconds for score in scores if score.solver_seconds is not None]:
        remarks.append(f"solver {max(seconds):.1f} s at most")
    return remarks


def _counted(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in sorted(causes(outcomes).items()))
