"""How the result of a FineTuneJob is judged."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.dataset import Uri
from graft_api.schema import Decimal, DnsLabel, Model, Rule
from graft_api.scorers import Scorer


class Accept(Model):
    """The bound a suite is held against."""

    metric: Literal["error_rate", "accuracy"] = "error_rate"
    max: Annotated[str, Decimal(ge=0, le=1)] | None = None
    min: Annotated[str, Decimal(ge=0, le=1)] | None = None
    max_regression: Annotated[str, Decimal(ge=0, le=1)] | None = None
    """How much worse than the base model the adapter may be, on this metric."""
    min_examples: Annotated[int, Field(ge=1)] | None = None
    test: Literal["Point", "Bound"] | None = None
    """Hold the point estimate against the bound, or the worse end of its 95 % interval. Default Point."""

    rules: ClassVar = (
        Rule(
            cel="has(self.max) || has(self.min) || has(self.maxRegression)",
            message="set at least one of max, min, maxRegression",
            check=lambda self: any(v is not None for v in (self.max, self.min, self.max_regression)),
        ),
    )


class Suite(Model):
    """One question asked of base and adapter on the same rows."""

    name: DnsLabel
    scorer: Scorer
    accept: Accept | None = None
    """Default: the domain's threshold for a suite of this name; else the suite informs and decides nothing."""
    uri: Uri | None = None
    """Rows of its own, another domain's for instance. Default: the hold-out."""
    max_examples: Annotated[int, Field(ge=1)] | None = None


class Generation(Model):
    """How answers are generated for evaluation."""

    max_new_tokens: Annotated[int, Field(ge=1, le=131072)] | None = None
    """Default 256."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Default 32."""


class Evaluation(Model):
    """Acceptance on the hold-out, at the precision that will serve."""

    suites: Annotated[list[Suite], Field(min_length=1, max_length=16)]
    generation: Generation | None = None
    precision: Literal["bfloat16", "float16", "float32", "nf4"] | None = None
    """Default bfloat16: what vLLM serves by default. nf4 only if it is served so."""

    rules: ClassVar = (
        Rule(
            cel="self.suites.all(s, self.suites.exists_one(t, t.name == s.name))",
            message="every suite needs a name of its own",
            check=lambda self: len({suite.name for suite in self.suites}) == len(self.suites),
            field=".suites",
        ),
    )
