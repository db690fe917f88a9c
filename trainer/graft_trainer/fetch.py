"""The base model: found, copied where it has to be, and proven to be the one that was asked for."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from graft_api.artifact import BaseModelIdentity, BaseModelLock, FileEntry
from graft_api.finetunejob import BaseModelSource
from graft_api.reports import Reason
from graft_api.schema import canonical_json
from graft_runtime.digests import PICKLES, folder_digest, list_files
from graft_runtime.store import Entry
from graft_trainer.errors import BadInputError, EnvironmentFailureError
from graft_trainer.folder import PARALLEL
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.sources import find_base_model
from graft_trainer.store import Store

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class BaseModel:
    """The base model on this machine."""

    path: Path
    lock: BaseModelLock

    @property
    def identity(self) -> BaseModelIdentity:
        """What the adapter will belong to."""
        return self.lock.identity

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be rendered."""
        return self.identity.chat_template_digest is not None


def fetch(source: BaseModelSource, mounts: Mounts) -> BaseModel:
    """Bring the base model here and check it. A folder that is on this machine already is used where it is."""
    store = find_base_model(source, mounts)
    listed = listing(store.list(""))  # before the copy: what changes meanwhile is read again next time
    path = store.local("") or _copy(store, WorkFolder(mounts.work).model)
    files = list_files(path)
    check_files(files, str(source.uri))
    digest = folder_digest(files)
    if source.digest is not None and digest != source.digest:
        message = f"spec.baseModel.digest: {source.uri} has {digest}, but {source.digest} is expected; correct the digest or the folder"
        raise BadInputError(Reason.DIGEST_MISMATCH, message)
    logger.info("base model %s: %d files, %s", source.uri, len(files), digest)
    return BaseModel(path, BaseModelLock(identity=identity(path, files, str(source.uri), digest), listing=listed))


def listing(entries: list[Entry]) -> str | None:
    """Return a digest over what a store says of its objects, or None if it gives them no versions."""
    if not all(entry.version for entry in entries):
        return None
    return _text_digest("".join(f"{entry.version}  {entry.size_bytes}  {entry.path}\n" for entry in entries))


def check_files(files: list[FileEntry], uri: str) -> None:
    """Refuse weights that are code: a pickle runs whatever it likes when it is read."""
    names = [file.path for file in files]
    if not any(name.endswith(".safetensors") for name in names):
        pickled = next((name for name in names if name.endswith(PICKLES)), None)
        found = f"only {pickled}, a pickle" if pickled else "no weights"
        raise BadInputError(Reason.BASE_MODEL_INVALID, f"spec.baseModel.uri: {uri} holds {found}; convert the weights to safetensors")
    if not any(name in names for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise BadInputError(Reason.BASE_MODEL_INVALID, f"spec.baseModel.uri: {uri} holds no tokenizer (tokenizer.json)")


def identity(path: Path, files: list[FileEntry], uri: str, digest: str) -> BaseModelIdentity:
    """Return what the adapter will belong to."""
    template = chat_template(path)
    return BaseModelIdentity(
        uri=uri,
        digest=digest,
        tokenizer_digest=folder_digest(file for file in files if file.path in TOKENIZER_FILES),
        chat_template_digest=None if template is None else _text_digest(template),
    )


def chat_template(path: Path) -> str | None:
    """Return the model's default chat template, from where transformers looks for it."""
    if (path / TEMPLATE_FILE).is_file():
        return (path / TEMPLATE_FILE).read_text(encoding="utf-8")
    try:
        found = json.loads((path / "tokenizer_config.json").read_bytes()).get("chat_template")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BadInputError(Reason.BASE_MODEL_INVALID, "spec.baseModel.uri: tokenizer_config.json is not JSON") from error
    return canonical_json(found).decode() if isinstance(found, list) else found


def _text_digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _copy(store: Store, target: Path) -> Path:
    entries = [entry for entry in store.list("") if not entry.path.endswith(PICKLES)]
    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(_copy_one, store, entry.path, entry.size_bytes, target / entry.path) for entry in entries]:
            done.result()
    return target


def _copy_one(store: Store, path: str, size: int, target: Path) -> None:
    if not (target.is_file() and target.stat().st_size == size):  # an earlier try left it; the digest decides what it is worth
        store.download(path, target)
    if target.stat().st_size != size:
        raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{store.uri}/{path}: {target.stat().st_size} of {size} bytes arrived")
