"""Build a scorer, score one answer, score many."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from graft_api.remote_scorers import HttpScorer, LlmJudgeScorer
from graft_api.scorers import Scorer
from graft_evaluation.sandbox.command import PATH
from graft_evaluation.scorers import sandboxed, schemas, text
from graft_evaluation.scorers.values import Broken, Case, Cause, Judge, Outcome, Score, ScorerBrokenError, ScorerInvalidError

Clock = Callable[[], float]


def build(scorer: Scorer, environment: Mapping[str, str], processes: int | None = None) -> Judge:
    """
    Return the judge that `scorer` describes; nothing runs or connects before it judges. Raises `ScorerInvalidError`.

    `environment` holds the tokens that `tokenEnv` names. `processes` bounds what grammar, smt and command run at the same time; default:
    one a core.
    """
    places = processes or len(os.sched_getaffinity(0))
    builders: dict[str, Callable[..., Judge]] = {
        "exact": text.exact,
        "regex": text.regex,
        "cel": text.cel,
        "refusal": text.refusal,
        "json_schema": schemas.json_schema,
        "tool_calls": lambda given: schemas.tool_calls(given, places),
        "grammar": lambda given: sandboxed.grammar(given, places),
        "smt": lambda given: sandboxed.smt(given, places),
        "command": lambda given: sandboxed.command(given, places),
        "llm_judge": lambda given: _asking(given, environment),
        "http": lambda given: _asking(given, environment),
    }
    (name,) = (name for name in builders if getattr(scorer, name) is not None)  # the model's rule: exactly one
    return builders[name](getattr(scorer, name))


def build_here(scorer: Scorer, environment: Mapping[str, str]) -> Judge:
    """As `build`, in the container where the judge is to judge. Raises `ScorerInvalidError`, for a program that is not in it, too."""
    check_program(scorer)
    return build(scorer, environment)


def check_program(scorer: Scorer) -> None:
    """Refuse a command whose program this container does not hold. Raises `ScorerInvalidError`."""
    command = scorer.command
    if command is not None and shutil.which(command.argv[0], path=PATH) is None:
        raise ScorerInvalidError(f"command.argv[0]: {command.argv[0]!r} is not a program in this image ({PATH}); use one that holds it")


def _asking(scorer: LlmJudgeScorer | HttpScorer, environment: Mapping[str, str]) -> Judge:
    from graft_evaluation.scorers import remote  # noqa: PLC0415 - aiohttp takes longer to load than all else here

    return remote.llm_judge(scorer, environment) if isinstance(scorer, LlmJudgeScorer) else remote.http(scorer, environment)


async def score(judge: Judge, case: Case, clock: Clock = time.monotonic) -> Outcome:
    """Return the score of one answer, or that the scorer broke on it. Raises `ScorerInvalidError` for what its author must change."""
    if not case.answer.finished:
        return Score.of(False, Cause.UNFINISHED)
    trimmed = dataclasses.replace(case, answer=dataclasses.replace(case.answer, text=case.answer.text.strip()))
    start = clock()
    try:
        found = await judge.judge(trimmed)
    except ScorerBrokenError as error:
        return Broken(error.cause, error.message)
    return dataclasses.replace(found, seconds=clock() - start)


async def score_all(judge: Judge, cases: Iterable[Case], concurrency: int = 64, clock: Clock = time.monotonic) -> list[Outcome]:
    """Return the outcomes in the order of the cases. The first `ScorerInvalidError` ends all."""
    found: dict[int, Outcome] = {}
    waiting = iter(enumerate(cases))

    async def work() -> None:
        for index, case in waiting:  # one iterator for all: each case is taken once
            found[index] = await score(judge, case, clock)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [found[index] for index in range(len(found))]


def score_batch(judge: Judge, cases: Sequence[Case], concurrency: int = 64) -> list[Outcome]:
    """Score all and close the judge, for callers that have no event loop."""

    async def run() -> list[Outcome]:
        async with contextlib.aclosing(judge):
            return await score_all(judge, cases, concurrency)

    return asyncio.run(run())


def causes(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Count the answers that were not scored by cause."""
    return Counter(outcome.cause for outcome in outcomes if isinstance(outcome, Broken))
