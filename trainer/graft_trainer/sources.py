"""Where base model and data lie, and whether they are there: asked before anything is copied."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from graft_api.finetunejob import BaseModelSource, FineTuneJobSpec
from graft_api.reports import Reason
from graft_runtime.store import Entry
from graft_trainer.errors import BadInputError
from graft_trainer.layout import Mounts
from graft_trainer.store import Store, open_store, split_object


@dataclass(frozen=True)
class DataFile:
    """One JSON-lines file, found but not read."""

    field: str
    """Its place in the spec, for messages."""
    uri: str
    store: Store
    entry: Entry

    def local(self) -> Path | None:
        """Return where it lies, if that is on this machine."""
        return self.store.local(self.entry.path)

    def bring(self, folder: Path, number: int) -> Path:
        """Return where it lies on this machine, after copying it into `folder` as the `number`th source if it has to be."""
        here = self.local()
        if here is not None:
            return here
        target = folder / f"source-{number}.jsonl"
        self.store.download(self.entry.path, target)
        return target


@dataclass(frozen=True)
class DataFiles:
    """Every file that a run reads rows from."""

    sources: tuple[DataFile, ...]
    holdout: DataFile | None
    suites: dict[str, DataFile]
    """By suite, for those that bring rows of their own."""

    def all(self) -> list[DataFile]:
        """Return them in a fixed order."""
        return [*self.sources, *([self.holdout] if self.holdout else []), *(self.suites[name] for name in sorted(self.suites))]


def find_data(spec: FineTuneJobSpec, mounts: Mounts) -> DataFiles:
    """Find every source, or say which one is not there."""
    holdout = spec.dataset.holdout.uri if spec.dataset.holdout else None
    return DataFiles(
        sources=tuple(_find(f"spec.dataset.sources[{i}].uri", source.uri, mounts) for i, source in enumerate(spec.dataset.sources)),
        holdout=_find("spec.dataset.holdout.uri", holdout, mounts) if holdout else None,
        suites={
            suite.name: _find(f"spec.evaluation.suites[{i}].uri", suite.uri, mounts)
            for i, suite in enumerate(spec.evaluation.suites)
            if suite.uri
        },
    )


def _find(field: str, uri: str, mounts: Mounts) -> DataFile:
    folder, name = split_object(uri)
    store = open_store(folder, mounts.credentials)
    try:
        entry = store.stat(name)
    except BadInputError as error:
        raise BadInputError(error.reason, f"{field}: {error.message}") from error
    if entry is None:
        raise BadInputError(Reason.SOURCE_NOT_FOUND, f"{field}: there is no file {uri}")
    return DataFile(field, uri, store, entry)


def model_store(source: BaseModelSource, mounts: Mounts) -> Store:
    """Return the folder of the base model as a store. A claim is a folder that is mounted already."""
    assert source.uri is not None  # noqa: S101 - preflight refuses chaining
    parts = urlsplit(source.uri)
    if parts.scheme == "pvc":
        return open_store((mounts.volumes / parts.netloc / unquote(parts.path).lstrip("/")).as_uri(), mounts.credentials)
    return open_store(source.uri, mounts.credentials)


def find_base_model(source: BaseModelSource, mounts: Mounts) -> Store:
    """Find the base model, or say that it is not there."""
    store = model_store(source, mounts)
    if store.stat("config.json") is None:
        raise BadInputError(
            Reason.BASE_MODEL_NOT_FOUND, f"spec.baseModel.uri: {source.uri} holds no config.json; give a folder in the Hugging Face layout"
        )
    return store
