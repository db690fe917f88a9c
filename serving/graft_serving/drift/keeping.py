"""
What is kept of drift, below `<collector store>/drift/<domain>`.

    <gate>-before.json, <gate>-after.json   vectors and readings of one moment, the newest `MOST_DOCUMENTS`
    history.json                            all moments' readings, the newest `MOST_MOMENTS`
    drift.html                              their chart

They are written in this order: what a chart shows is kept, and what the operator is told is all three. Then documents go that the history
names no more: a document has megabytes, and who looks back for years looks at readings.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from typing import TypeVar

from pydantic import ValidationError

from graft_api.drift import DRIFT_HTML, HISTORY_JSON, DriftDocument, Drifted, DriftHistory, DriftTask, Held, Moment
from graft_evaluation.report.drift_page import drift_page
from graft_serving.backoff import Backoff
from graft_serving.collector.store import Store, StoreAwayError
from graft_serving.drift.problem import NotMeasuredError
from graft_serving.drift.trying import Sleep, Trying

logger = logging.getLogger(__name__)

MOST_MOMENTS = 512
MOST_DOCUMENTS = 20
TRIES = 3
HTML, JSON = "text/html; charset=utf-8", "application/json"

T = TypeVar("T")


def document_path(gate: int, moment: Moment) -> str:
    """Return where a moment's document lies."""
    return f"{gate:06d}-{moment.value.lower()}.json"


class Keeping:
    """The folder of one domain. Its methods raise `NotMeasuredError`."""

    def __init__(self, store: Store, task: DriftTask, backoff: Callable[[], Backoff], sleep: Sleep = asyncio.sleep) -> None:
        self._store = store
        self._task = task
        self._trying = Trying(TRIES, StoreAwayError, backoff, sleep)

    async def before(self, principles_digest: str) -> DriftDocument | None:
        """Return what was measured before activation, for a check after it; it is of the same versions, prompts and vectors."""
        if self._task.moment is not Moment.AFTER:
            return None
        path = document_path(self._task.gate, Moment.BEFORE)
        content = await self._done(lambda: self._store.read(path))
        if content is None:
            raise NotMeasuredError(f"{path} is not in the store any more, so nothing can be held against it")
        if self._task.before not in {None, _digest(content)}:
            raise NotMeasuredError(f"{path} in the store is not what was measured before activation")
        found = _read(DriftDocument, path, content)
        self._check(found, path, principles_digest)
        return found

    async def history(self) -> DriftHistory:
        """Return what was kept so far."""
        content = await self._done(lambda: self._store.read(HISTORY_JSON))
        if content is None:
            return DriftHistory(endpoint=self._task.endpoint, domain=self._task.domain, moments=[])
        return _read(DriftHistory, HISTORY_JSON, content)

    async def keep(self, document: DriftDocument) -> Drifted:
        """Write it all; return what the operator is told of it."""
        content = document.model_dump_json(by_alias=True, exclude_none=True).encode()
        path, digest = document_path(self._task.gate, self._task.moment), _digest(content)
        await self._done(lambda: self._store.write(path, content, JSON))
        history = added(await self.history(), document, digest)
        told = history.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode() + b"\n"
        await self._done(lambda: self._store.write(HISTORY_JSON, told, JSON))
        await self._done(lambda: self._store.write(DRIFT_HTML, drift_page(history).encode(), HTML))
        await self._delete_old(history)
        return Drifted(at=document.at, principles_digest=document.principles_digest, readings=document.readings, document=digest)

    def _check(self, found: DriftDocument, path: str, principles_digest: str) -> None:
        task, then = self._task, found.task
        mine = (task.endpoint, task.domain, task.gate, task.adapter_uid, task.candidate)
        if mine != (then.endpoint, then.domain, then.gate, then.adapter_uid, then.candidate) or then.moment is not Moment.BEFORE:
            raise NotMeasuredError(f"{path} in the store is of another candidate")
        if found.principles_digest != principles_digest:
            raise NotMeasuredError(f"ConfigMap {task.policy.principles} has changed since activation: the same prompts must be asked")
        if found.embedding_model != task.policy.embeddings.model:
            raise NotMeasuredError(f"before activation the embeddings were of {found.embedding_model[:64]}")

    async def _delete_old(self, history: DriftHistory) -> None:
        """What was measured counts, whether or not this store lets anything be deleted."""
        try:
            for path in old_documents(await self._done(lambda: self._store.list("")), history, self._task.gate):
                await self._done(partial(self._store.delete, path))
        except NotMeasuredError as error:
            logger.warning("old documents stay in the store: %s", error)

    async def _done(self, what: Callable[[], T]) -> T:
        return await self._trying.do(lambda: asyncio.to_thread(what), "the collector's store did not do it")


def added(history: DriftHistory, document: DriftDocument, digest: str) -> DriftHistory:
    """Return the history with one more moment, in place of an earlier attempt at it."""
    task = document.task
    held = Held(
        at=document.at,
        gate=task.gate,
        adapter_uid=task.adapter_uid,
        moment=task.moment,
        incumbent=task.incumbent,
        candidate=task.candidate,
        limit=task.policy.limit,
        embedding_model=document.embedding_model,
        principles_digest=document.principles_digest,
        document=digest,
        readings=document.readings,
    )
    others = [moment for moment in history.moments if _which(moment) != _which(held)]
    moments = [*others, held][-MOST_MOMENTS:]
    old = [moment if moment.gate == task.gate else moment.model_copy(update={"document": None}) for moment in moments[:-MOST_DOCUMENTS]]
    return history.model_copy(update={"moments": [*old, *moments[-MOST_DOCUMENTS:]]})


def old_documents(paths: Iterable[str], history: DriftHistory, gate: int) -> list[str]:
    """Return the documents of gates before `gate` that a history does not name: the ledger has the digests of none but the present one."""
    named = {document_path(held.gate, held.moment) for held in history.moments if held.document is not None}
    found = ((path, _DOCUMENT.fullmatch(path)) for path in paths)
    return [path for path, known in found if known is not None and int(known["gate"]) < gate and path not in named]


_DOCUMENT = re.compile(r"(?P<gate>\d{6,})-(before|after)\.json")


def _which(held: Held) -> tuple[int, str, Moment]:
    return held.gate, held.adapter_uid, held.moment


M = TypeVar("M", DriftDocument, DriftHistory)


def _read(model: type[M], path: str, content: bytes) -> M:
    try:
        return model.model_validate_json(content, by_alias=True, by_name=False, extra="ignore")
    except ValidationError as error:
        raise NotMeasuredError(f"{path} in the collector's store is not what was written there; move it away") from error


def _digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"
