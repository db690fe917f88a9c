"""
Turn answers into vectors, by an OpenAI-compatible embeddings endpoint.

Equal answers are sent once, and so are of distance 0 whatever the model's arithmetic does. Silent ones are not sent: many endpoints
refuse them, and of those that do not each has its own idea of what nothing means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graft_api.drift import Embeddings
from graft_evaluation.drift import unit
from graft_evaluation.scorers.poster import Poster, Service
from graft_evaluation.scorers.values import ScorerBrokenError, ScorerInvalidError
from graft_serving.drift.problem import FIELD, NotMeasuredError, first
from graft_serving.drift.trying import Sleep

NAME = f"{FIELD}.embeddings"
BATCH = 16
CONCURRENT = 2
ANSWER_BYTES = 16 * 1024 * 1024
"""Sixteen vectors of 16,384 numbers with all digits come to half of it."""
MOST_NUMBERS = 2_000_000
"""In all vectors that are kept, of what was asked three times: what is held in memory and written as JSON, some 25 MB."""


def poster(embeddings: Embeddings, environ: Mapping[str, str], sleep: Sleep = asyncio.sleep) -> Poster:
    """Return what posts to the endpoint. Raises `NotMeasuredError` where its token is not set."""
    token = None if embeddings.token_env is None else environ.get(embeddings.token_env, "").strip()
    if token == "":
        raise NotMeasuredError(f"{NAME}.tokenEnv: there is no environment variable {embeddings.token_env}, or it is empty")
    url = f"{embeddings.url.rstrip('/')}/embeddings"
    return Poster(Service(NAME, url, token, embeddings.timeout_seconds, CONCURRENT, embeddings.retry, ANSWER_BYTES), sleep)


async def embed(asking: Poster, model: str, said: Iterable[str]) -> dict[str, list[float]]:
    """Return the vector of each text, of length 1; of a silent one an empty list. Raises `NotMeasuredError`."""
    texts = sorted(set(said) - {""})
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_batch(asking, model, batch)) for batch in batches]
    except* NotMeasuredError as failed:
        raise first(failed) from failed
    vectors = [vector for task in tasks for vector in task.result()]
    if len({len(vector) for vector in vectors}) > 1:
        raise NotMeasuredError(f"{NAME}.url: vectors of different lengths came back")
    return {"": [], **dict(zip(texts, vectors, strict=True))}


def check_size(prompts: int, vectors: Mapping[str, Sequence[float]]) -> None:
    """Raises `NotMeasuredError` for more numbers than can be kept."""
    numbers = 3 * prompts * max(len(vector) for vector in vectors.values())
    if numbers > MOST_NUMBERS:
        problem = f"{prompts} prompts of three vectors each come to {numbers} numbers, at most {MOST_NUMBERS} are kept"
        raise NotMeasuredError(f"{NAME}: {problem}; ask fewer prompts, or take a model of shorter vectors")


async def _batch(asking: Poster, model: str, batch: Sequence[str]) -> list[list[float]]:
    try:
        reply = await asking.post({"model": model, "input": list(batch), "encoding_format": "float"})
    except (ScorerBrokenError, ScorerInvalidError) as error:
        raise NotMeasuredError(str(error)) from error
    answered_by, vectors = _read(reply)
    if answered_by != model:
        raise NotMeasuredError(f"{NAME}.model: {model[:64]} was asked and {answered_by[:64]!r} answered; pin that name")
    if len(vectors) != len(batch):
        raise NotMeasuredError(f"{NAME}.url: {len(batch)} texts were sent and {len(vectors)} vectors came back")
    try:
        return [unit(vector) for vector in vectors]
    except (ValueError, OverflowError) as error:
        raise NotMeasuredError(f"{NAME}.url: a vector without a direction came back") from error


def _read(reply: Any) -> tuple[str, list[list[float]]]:  # noqa: ANN401 - JSON
    """Return the model's name, and the vectors in the order in which they were asked for."""
    try:
        found = {int(entry["index"]): [float(value) for value in entry["embedding"]] for entry in reply["data"]}
        return str(reply["model"]), [found[place] for place in range(len(found))]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise NotMeasuredError(f"{NAME}.url: the reply is no list of embeddings") from error
