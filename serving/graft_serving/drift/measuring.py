"""From prompts to what one moment came to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from graft_api.drift import Asked, DriftDocument, DriftTask, Principles
from graft_api.schema import canonical_json
from graft_evaluation.drift import MIN_PROMPTS, readings, unmeasured
from graft_evaluation.scorers.poster import Poster
from graft_serving.drift.embedding import NAME, check_size, embed
from graft_serving.drift.problem import FIELD, NotMeasuredError, first
from graft_serving.drift.versions import Prompt

AT_A_TIME = 4
"""Prompts: users' own requests come first, and these are few."""

Ask = Callable[[str, Prompt], Awaitable[str]]
"""Returns what a version answers to a prompt; see `Versions.ask`."""


@dataclass(frozen=True)
class Answered:
    """What was said to one prompt. In memory alone."""

    prompt: Prompt
    incumbent: str
    candidate: str
    again: str


def prompts(principles: Principles) -> list[Prompt]:
    """Return all that is asked."""
    return [
        Prompt(principle.name, place, text, principle.system)
        for principle in principles.principles
        for place, text in enumerate(principle.prompts)
    ]


async def answers(ask: Ask, task: DriftTask, asked: Sequence[Prompt]) -> list[Answered]:
    """
    Return what both versions say to every prompt. Raises `NotMeasuredError`.

    Of a prompt the three questions follow each other, so that what happens to the servers meanwhile happens to both versions.
    """
    places = asyncio.Semaphore(AT_A_TIME)

    async def one(prompt: Prompt) -> Answered:
        async with places:
            incumbent = await ask(task.incumbent, prompt)
            candidate = await ask(task.candidate, prompt)
            return Answered(prompt, incumbent, candidate, await ask(task.incumbent, prompt))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(prompt)) for prompt in asked]
    except* NotMeasuredError as failed:
        raise first(failed) from failed
    return [task.result() for task in tasks]


async def try_embeddings(asking: Poster, task: DriftTask, principles: Principles) -> None:
    """
    Have the names of the principles embedded, which are short: an endpoint that is away or set up wrong is known before a version is asked.

    Raises `NotMeasuredError`.
    """
    vectors = await embed(asking, task.policy.embeddings.model, (principle.name for principle in principles.principles))
    check_size(len(prompts(principles)), vectors)


async def measured(asking: Poster, task: DriftTask, answered: Sequence[Answered]) -> list[Asked]:
    """Return the answers as vectors. Raises `NotMeasuredError`."""
    texts = (text for each in answered for text in (each.incumbent, each.candidate, each.again))
    vectors = await embed(asking, task.policy.embeddings.model, texts)
    check_size(len(answered), vectors)
    return [
        Asked(
            principle=each.prompt.principle,
            prompt=fingerprint(each.prompt),
            incumbent=vectors[each.incumbent],
            candidate=vectors[each.candidate],
            again=vectors[each.again],
        )
        for each in answered
    ]


def fingerprint(prompt: Prompt) -> str:
    """Return the SHA-256 of what a version is told, by which the same prompt is found again."""
    return sha256(canonical_json([prompt.system, prompt.text])).hexdigest()


@dataclass(frozen=True)
class Taken:
    """When what was asked."""

    at: str
    """RFC 3339."""
    principles_digest: str


def document(task: DriftTask, taken: Taken, asked: Sequence[Asked], before: DriftDocument | None) -> DriftDocument:
    """Return what is kept of this moment. Raises `NotMeasuredError` where a principle's answers cannot be compared."""
    try:
        found = readings(asked, before.asked if before else ())
    except ValueError as error:
        raise NotMeasuredError(f"{NAME}.model: its vectors are not as long as before activation; it is another model") from error
    silent = unmeasured(dict.fromkeys(each.principle for each in asked), found)
    if silent:
        problem = f"both versions say nothing to all but {MIN_PROMPTS - 1} or fewer of the prompts of {', '.join(silent)}"
        raise NotMeasuredError(f"{problem}; a model that thinks first needs a larger {FIELD}.maxTokens")
    return DriftDocument(
        task=task,
        at=taken.at,
        principles_digest=taken.principles_digest,
        embedding_model=task.policy.embeddings.model,
        asked=list(asked),
        readings=found,
    )
