"""
The order of the training rows: mixture of the sources, then curriculum.

Only offsets are in memory; the rows are copied once, from their source's part to the final file.
"""

import random
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from graft_api.dataset import Dataset
from graft_api.finetunejob import FineTuneJobSpec
from graft_api.reports import Reason
from graft_trainer.errors import BadInputError


@dataclass
class TrainPart:
    """The training rows of one source: on disk, with where each begins and what it is ordered by."""

    path: Path
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    order: list[float | str] = field(default_factory=list)


def write_in_order(parts: list[TrainPart], spec: FineTuneJobSpec, target: Path) -> int:
    """Write the training rows in their final order; return how many."""
    order = _mixture(parts, spec.dataset, spec.training.seed if spec.training and spec.training.seed is not None else 0)
    if spec.dataset.curriculum:
        try:
            order.sort(key=lambda place: parts[place[0]].order[place[1]])
        except TypeError as error:
            message = f"spec.dataset.curriculum: {spec.dataset.curriculum.field} is a number in some rows and a string in others; use one"
            raise BadInputError(Reason.INVALID_DATA, message) from error
    with target.open("wb") as sink:
        readers = [part.path.open("rb") for part in parts]
        for number, index in order:
            readers[number].seek(parts[number].starts[index])
            sink.write(readers[number].readline())
        for reader in readers:
            reader.close()
    for part in parts:
        part.path.unlink()
    return len(order)


def _mixture(parts: list[TrainPart], dataset: Dataset, seed: int) -> list[tuple[int, int]]:
    """
    Return (source, row) pairs.

    With weights: the largest mixture with these shares in which no row repeats, interleaved at random by the seed.
    """
    if dataset.sources[0].weight is None:
        return [(number, index) for number, part in enumerate(parts) for index in range(len(part.starts))]
    weights = [float(source.weight or 0) for source in dataset.sources]
    whole = sum(weights)
    size = min(len(part.starts) * whole / weight for part, weight in zip(parts, weights, strict=True))
    chance = random.Random(seed)  # noqa: S311 - an order, not a secret
    order = []
    for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        share = min(len(part.starts), round(size * weight / whole))
        order += [(number, index) for index in chance.sample(range(len(part.starts)), share)]
    chance.shuffle(order)
    return order
