"""What a FineTuneJob trains on, and what it keeps apart."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.schema import Decimal, Digest, Model, Rule

Uri = Annotated[str, Field(max_length=1024, min_length=1)]


class DataSource(Model):
    """One source of training rows."""

    uri: Uri
    """s3:// of a JSON-lines file; file:// for `graft run`."""
    format: Literal["auto", "messages", "instruction", "promptCompletion"] = "auto"
    weight: Annotated[str, Decimal(gt=0, le=1)] | None = None
    """Share of this source in the mixture; either all sources have one or none."""
    digest: Digest | None = None
    """sha256 of the file."""


class Negatives(Model):
    """Rows with `"label": false`: known wrong answers. They count and are split with their positives, but are never imitated."""

    min_fraction: Annotated[str, Decimal(ge=0, lt=1)] | None = None


class InvalidRows(Model):
    """The schema gate."""

    max_fraction: Annotated[str, Decimal(ge=0, lt=1)] | None = None
    """Default 0: one broken row stops the job and names its line. Above 0, broken rows are dropped up to this share."""


class Gates(Model):
    """What data must pass before it is trained on."""

    invalid_rows: InvalidRows | None = None
    duplicates: Literal["Drop", "Keep", "Fail"] | None = None
    """Rows whose prompt and completion are equal after normalisation. Default Drop."""
    contamination: Literal["Drop", "Fail"] | None = None
    """Training rows whose group occurs in the hold-out of `holdout.uri`. Default Drop."""


class Holdout(Model):
    """Rows that are read once, for acceptance, and never trained on."""

    fraction: Annotated[str, Decimal(gt=0, le=0.5)] | None = None
    """Of the sources' rows. Default 0.1, unless `uri` is given."""
    uri: Uri | None = None
    """Rows of their own."""
    group_by: Annotated[str, Field(max_length=128, min_length=1)] | None = None
    """Field whose equal values stay on one side. Default: the normalised prompt."""
    min_examples: Annotated[int, Field(ge=1)] | None = None

    rules: ClassVar = (
        Rule(
            cel="!(has(self.fraction) && has(self.uri))",
            message="set fraction or uri, not both",
            check=lambda self: self.fraction is None or self.uri is None,
        ),
    )


class Validation(Model):
    """Rows for early stopping and the choice of the best checkpoint."""

    fraction: Annotated[str, Decimal(ge=0, le=0.5)] | None = None
    """Of what is left without the hold-out. Default 0.05."""


class Curriculum(Model):
    """Order of the training rows: ascending, no shuffling."""

    order_by: Literal["Length", "Field"]
    field: Annotated[str, Field(max_length=128, min_length=1)] | None = None

    rules: ClassVar = (
        Rule(
            cel="(self.orderBy == 'Field') == has(self.field)",
            message="field goes with orderBy: Field",
            check=lambda self: (self.order_by == "Field") == (self.field is not None),
        ),
    )


class Dataset(Model):
    """What is trained on, and what is kept apart."""

    sources: Annotated[list[DataSource], Field(min_length=1, max_length=16)]
    min_examples: Annotated[int, Field(ge=1)] | None = None
    """Rows for training, without hold-out and validation. Default by domain: dsl 5000, governance 1000, multimodal 10000, others 100."""
    negatives: Negatives | None = None
    gates: Gates | None = None
    holdout: Holdout | None = None
    validation: Validation | None = None
    curriculum: Curriculum | None = None

    rules: ClassVar = (
        Rule(
            cel="self.sources.all(s, has(s.weight)) || self.sources.all(s, !has(s.weight))",
            message="give every source a weight, or none",
            check=lambda self: len({source.weight is None for source in self.sources}) == 1,
            field=".sources",
        ),
    )
