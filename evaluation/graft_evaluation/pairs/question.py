"""What recorded pairs are asked: a file of metrics, or the settings of the collector that recorded them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import Field

from graft_api.collect import CollectorSettings, Compare
from graft_api.comparison import Exclusion, Limits, Metric
from graft_api.schema import Count, Invalid, Model, Rule, parse
from graft_evaluation.paired.summary import Plan
from graft_evaluation.pairs.contrasts import INSTRUMENT, PRODUCTION, planned, plans

BESIDE = ("metrics.yaml", "metrics.yml", "collector.json")
"""Where a folder's metrics are looked for when no file is named."""


def _named_once(question: QuestionFile) -> bool:
    return len({metric.name for metric in question.every_metric()}) == len(question.every_metric())


def _of_production(question: QuestionFile) -> bool:
    return all(exclusion.contrast in {None, PRODUCTION} for exclusion in question.exclusions)


class QuestionFile(Model):
    """A file of metrics."""

    test: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """What the report is called. Default: the name of the file or folder."""
    production: Annotated[list[Metric], Field(min_length=1, max_length=16)]
    """Of production's answers against the candidate's."""
    control: Annotated[list[Metric], Field(max_length=16)] = Field(default_factory=list)
    """Of what depends on the machine: both versions on the same hardware."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    limits: Limits = Field(default_factory=Limits)
    exclusions: Annotated[list[Exclusion], Field(max_length=64)] = Field(default_factory=list)
    """Requests of production's contrast that became no line, by cause and side."""
    lost_pairs: Count = 0
    """Requests that should have been compared and never were."""

    rules: ClassVar = (
        Rule(
            cel="self.production.all(m, !self.control.exists(n, n.name == m.name))",
            message="every metric needs a name of its own",
            check=_named_once,
            field=".production",
        ),
        Rule(
            cel="self.exclusions.all(e, !has(e.contrast) || e.contrast == 'production')",
            message="requests that became no line are of contrast production",
            check=_of_production,
            field=".exclusions",
        ),
    )

    def every_metric(self) -> list[Metric]:
        """Return the metrics of all contrasts."""
        return [*self.production, *self.control]


@dataclass(frozen=True)
class Question:
    """What is summed, and what must hold before a verdict is read."""

    test: str
    source: str
    """Where the metrics are from."""
    plans: dict[str, Plan]
    limits: Limits
    exclusions: tuple[Exclusion, ...] = ()
    lost_pairs: int = 0
    incumbent: str = "incumbent"
    candidate: str = "candidate"
    by_hand: bool = False
    """Written for these pairs by a person, who may mistype a name."""
    replayed: bool = False
    """Of a replay: its hours are those of the replay, and say nothing of any traffic."""

    @property
    def strict(self) -> bool:
        """Whether a line with what this version does not know is an error: a collector may be newer than its reader."""
        return self.by_hand or self.replayed


def question(pairs: Path, given: Path | None) -> Question:
    """Return what the pairs are asked. Raises `Invalid`."""
    path = given or _beside(pairs)
    content = _content(path)
    try:
        if isinstance(content, dict) and ("compare" in content or "observe" in content):
            return _of_settings(path, parse(CollectorSettings, content, from_newer=True).compare)
        return _of_file(path, pairs, parse(QuestionFile, content))
    except Invalid as invalid:
        raise Invalid([f"{path}: {problem}" for problem in invalid.problems]) from invalid


def _beside(pairs: Path) -> Path:
    folder = pairs if pairs.is_dir() else pairs.parent
    for name in BESIDE:
        if (folder / name).is_file():
            return folder / name
    raise Invalid([f"--metrics: name the file that says which way each metric points; there is no {', '.join(BESIDE)} in {folder}"])


def _content(path: Path) -> Any:  # noqa: ANN401 - YAML
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid([f"{path}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Invalid([f"{path}: not YAML: {error}"]) from error


def _of_settings(path: Path, compare: Compare | None) -> Question:
    if compare is None:
        raise Invalid(["compare: is not set, so these settings are of no ShadowTest"])
    return Question(compare.test, str(path), plans(compare), compare.limits, incumbent=compare.incumbent, candidate=compare.candidate)


def _of_file(path: Path, pairs: Path, file: QuestionFile) -> Question:
    found = planned(tuple(file.production), tuple(file.control), file.seed, control=True)
    return Question(file.test or pairs.name, str(path), found, file.limits, tuple(file.exclusions), file.lost_pairs, by_hand=True)


def answerable(asked: Question, seen: dict[str, set[str]]) -> Question:
    """
    Return the question without an instrument check that no pair was made for. Raises `Invalid` for a metric that no pair has.

    `seen`: contrast -> metrics of its pairs. Such a metric is a name mistyped more often than a thing never measured.
    """
    if not asked.by_hand:
        return asked
    found = {name: plan for name, plan in asked.plans.items() if name != INSTRUMENT or seen.get(name)}
    absent = [
        f"{asked.source}: {metric.name}: no pair has it under {name}; it has {', '.join(sorted(seen.get(name, ()))) or 'none'}"
        for name, plan in found.items()
        for metric in plan.metrics
        if name != INSTRUMENT and metric.name not in seen.get(name, ())
    ]
    if absent:
        raise Invalid(absent)
    return replace(asked, plans=found)
