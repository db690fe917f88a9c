"""One check of drift, from its prompts to what the operator is told again and again until it deletes the Job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import aiohttp

from graft_api.drift import Asked, Drifted, DriftReport, Moment, Principles
from graft_api.schema import seconds_of
from graft_evaluation.scorers.poster import Poster
from graft_serving.backoff import Backoff
from graft_serving.collector.store import Store, StoreAwayError
from graft_serving.drift.embedding import poster
from graft_serving.drift.keeping import Keeping
from graft_serving.drift.measuring import Taken, answers, document, measured, prompts, try_embeddings
from graft_serving.drift.principles import read_principles
from graft_serving.drift.problem import FIELD, LONGEST, NotMeasuredError
from graft_serving.drift.settings import Settings
from graft_serving.drift.versions import Versions
from graft_serving.rotated_file import token_file

logger = logging.getLogger(__name__)

WORKING_SHARE = 0.9
"""Of the deadline, which the Job's own clock began with before this pod was there: what is left is for the word that it was not enough."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds between two tries of one question, or of the store."""


@dataclass(frozen=True)
class Surroundings:
    """What a check is given by its process."""

    boot: str
    environ: Mapping[str, str]
    now: Callable[[], float]
    """Seconds since 1970."""
    random: Random
    open_store: Callable[[str, Path], Store]
    """Returns the store of a URI, signed in to by the files of a folder. Raises `StoreAwayError`."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Between two tries of anything."""


class Check:
    """Measures once, and knows what is to be reported."""

    def __init__(self, settings: Settings, around: Surroundings, changed: Callable[[], None]) -> None:
        """`changed` is called when there is something new to report."""
        self._settings = settings
        self._around = around
        self._changed = changed
        self.measured: Drifted | None = None
        self.problem: str | None = None

    def picture(self, sequence: int) -> DriftReport:
        """Return the report of this moment."""
        task = self._settings.task
        return DriftReport(
            boot=self._around.boot,
            sequence=sequence,
            domain=task.domain,
            gate=task.gate,
            adapter_uid=task.adapter_uid,
            moment=task.moment,
            attempt=task.attempt,
            measured=self.measured,
            problem=self.problem,
        )

    async def run(self) -> None:
        """Measure within the deadline; then wait until the process is told to end. Raises nothing."""
        deadline = self._settings.task.policy.deadline
        try:
            async with asyncio.timeout(WORKING_SHARE * seconds_of(deadline)):
                self.measured = await self._measure()
            logger.info("the answers are compared", extra={"readings": len(self.measured.readings)})
        except NotMeasuredError as error:
            self._ended(str(error))
        except TimeoutError:
            self._ended(f"it was not done in time for {FIELD}.deadline, {deadline}; ask fewer prompts, or give it longer")
        except Exception as error:
            logger.exception("the check ends")
            self._ended(f"it ended with {type(error).__name__}; the Job's log says where")
        self._changed()
        await asyncio.Event().wait()

    def _ended(self, problem: str) -> None:
        self.problem = problem if len(problem) <= LONGEST else f"{problem[: LONGEST - 3]}..."
        logger.warning("drift cannot be measured: %s", self.problem)

    async def _measure(self) -> Drifted:
        """Return what was measured and kept. What needs no model comes first, so that nobody is asked in vain."""
        settings, task = self._settings, self._settings.task
        principles, digest = read_principles(settings.principles, task.policy)
        keeping = self._keeping()
        before = await keeping.before(digest)
        await keeping.history()
        embeddings = poster(task.policy.embeddings, self._around.environ, self._around.sleep)
        try:
            await try_embeddings(embeddings, task, principles)
            if task.moment is Moment.TRIAL:
                return Drifted(at=self._at(), principles_digest=digest, readings=[])
            asked = await self._asked(embeddings, principles)
        finally:
            await embeddings.aclose()
        return await keeping.keep(await asyncio.to_thread(document, task, Taken(self._at(), digest), asked, before))

    async def _asked(self, embeddings: Poster, principles: Principles) -> list[Asked]:
        task = self._settings.task
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            answered = await answers(self._versions(session).ask, task, prompts(principles))
        return await measured(embeddings, task, answered)

    def _keeping(self) -> Keeping:
        task = self._settings.task
        try:
            return Keeping(self._around.open_store(task.store, self._settings.credentials), task, self._backoff, self._around.sleep)
        except StoreAwayError as away:
            raise NotMeasuredError(f"the collector's store: {away}") from away

    def _versions(self, session: aiohttp.ClientSession) -> Versions:
        task = self._settings.task
        token = token_file(Path(task.token_file)).read if task.token_file else None
        return Versions(session, task, token, self._backoff, self._around.sleep)

    def _backoff(self) -> Backoff:
        return Backoff(FIRST_PAUSE, LONGEST_PAUSE, self._around.random)

    def _at(self) -> str:
        return datetime.fromtimestamp(self._around.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
