"""What a replay measures: a file of its own, or the ShadowTest that would measure the same in a cluster."""

from __future__ import annotations

import math
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import Field

from graft_api.collect import Content, MeasuredMetric
from graft_api.comparison import Exclusion, Limits
from graft_api.measures import HARDWARE
from graft_api.schema import Count, Decimal, Invalid, Model, Rule, parse
from graft_api.shadowtest import ShadowTest
from graft_evaluation.pairs.contrasts import planned
from graft_evaluation.pairs.question import Question


class ReplaySettings(Model):
    """A file of metrics with their scorers."""

    test: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """What the report is called. Default: the name of the file of pairs."""
    metrics: Annotated[list[MeasuredMetric], Field(min_length=1, max_length=20)]
    control_share: Annotated[str, Decimal(gt=0, le=1)] = "0.2"
    """Of conversations: the incumbent is asked once more, which shows by how much the same model differs from itself."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the order in which servers are asked, of the control share, and of the intervals."""
    limits: Limits = Field(default_factory=Limits)
    content: Content = Content.FULL
    """What is kept of requests and answers."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests of the log that are asked at the same time."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    """Of one answer. A later one is the version's outcome, as an error is."""
    warm_up_requests: Count = 20
    """After each start: requests whose times are not compared."""

    rules: ClassVar = (
        Rule(
            cel="self.metrics.all(m, self.metrics.exists_one(n, n.metric.name == m.metric.name))",
            message="every metric needs a name of its own",
            check=lambda self: len({measured.metric.name for measured in self.metrics}) == len(self.metrics),
            field=".metrics",
        ),
    )

    def place(self, purpose: str, key: str) -> float:
        """Return where in [0, 1) the seed puts a request or conversation for one purpose."""
        salt = blake2b(f"{purpose}:{self.seed}".encode(), digest_size=32).digest()
        return (int.from_bytes(blake2b(key.encode(), digest_size=8, key=salt).digest(), "big") >> 11) / (1 << 53)

    def controlled(self, conversation: str) -> bool:
        """Whether the incumbent is asked once more in this conversation."""
        return self.place("control", conversation) < float(self.control_share)

    def too_little(self, conversations: Collection[str]) -> str | None:
        """Return why a log with these conversations cannot pass, whatever is answered; None if it can."""
        needed, there = self.limits.min_clusters, len(conversations)
        if there < needed:
            return f"the log has {there} conversations, limits.minClusters is {needed}: this cannot pass; use a longer log"
        checked = sum(map(self.controlled, conversations))
        if checked >= needed:
            return None
        return (
            f"controlShare {self.control_share} of {there} conversations measures the same model {checked} times, limits.minClusters is"
            f' {needed}: this cannot pass; use controlShare: "{self._enough(conversations):g}" or more'
        )

    def _enough(self, conversations: Collection[str]) -> float:
        """Return a share, in steps of 0.1, that draws enough; where times are compared, also without those of the warm-up."""
        cold = self.warm_up_requests if any(measured.measure in HARDWARE for measured in self.metrics) else 0
        least = min(self.limits.min_clusters + cold, len(conversations))
        last = sorted(self.place("control", conversation) for conversation in conversations)[least - 1]
        return min(1.0, math.floor(10 * last + 1) / 10)

    def question(self, source: Path, pairs: Path, exclusions: tuple[Exclusion, ...] = ()) -> Question:
        """Return what the pairs are asked."""
        hardware = tuple(measured.metric for measured in self.metrics if measured.measure in HARDWARE)
        quality = tuple(measured.metric for measured in self.metrics if measured.measure not in HARDWARE)
        plans = planned(quality, hardware, self.seed, control=True)
        return Question(self.test or pairs.name, str(source), plans, self.limits, exclusions, replayed=True)


def read_settings(path: Path) -> ReplaySettings | None:
    """Return the settings in a file, None if it is another kind of file. Raises `Invalid`."""
    content = _content(path)
    if not isinstance(content, dict) or not ("metrics" in content or content.get("kind") == "ShadowTest"):
        return None
    try:
        return _of_test(parse(ShadowTest, content)) if "kind" in content else parse(ReplaySettings, content)
    except Invalid as invalid:
        raise Invalid([f"{path}: {problem}" for problem in invalid.problems]) from invalid


def unmeasured(path: Path) -> list[str]:
    """Return notes on what a cluster would measure of the same file, and a replay does not."""
    content = _content(path)
    test = isinstance(content, dict) and content.get("kind") == "ShadowTest"
    if not test or content["spec"].get("standardGuardrails") is False:
        return []
    return ["the ShadowTest's standard guardrails are measured in a cluster alone; write those that count here into spec.metrics"]


def _content(path: Path) -> Any:  # noqa: ANN401 - YAML
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid([f"{path}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Invalid([f"{path}: not YAML: {error}"]) from error


def _of_test(test: ShadowTest) -> ReplaySettings:
    spec = test.spec
    if float(spec.control_share) == 0:
        raise Invalid(["spec.controlShare: must be greater than 0 in a replay; it is what shows that the instrument works"])
    return ReplaySettings(
        test=str(test.metadata.get("name", "")) or None,
        metrics=spec.metrics,
        control_share=spec.control_share,
        seed=spec.seed or 0,
        limits=spec.limits,
        content=spec.content,
        concurrency=spec.shadow.concurrency,
        timeout_seconds=spec.shadow.timeout_seconds,
        warm_up_requests=spec.shadow.warm_up_requests,
    )
