"""
A report is written by a process of its own: it takes minutes of CPU, and what listens to gateways must not wait for a turn.

    collector --task--> python -m graft_serving.collector.reporting_process <credentials> --what became of it--> collector

It runs at the lowest priority, is tried once, and ends with its collector.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import orjson

from graft_api.collect import Reported, ReportTask
from graft_api.schema import Invalid, canonical_json, parse
from graft_runtime.environment import log_level
from graft_runtime.logs import configure_logging
from graft_serving.collector.commits import DamagedError
from graft_serving.collector.reading_ahead import AT_A_TIME
from graft_serving.collector.reporting import write_report
from graft_serving.collector.store import BYTES, Store, StoreAwayError, open_store

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 25 * 60.0
"""Less than the operator waits for a report."""
PATIENCE_SECONDS = 300.0
"""For a store that is away, each time."""
PAUSE_SECONDS = 5.0
LOWEST_PRIORITY = 19
LONGEST_PROBLEM = 256

T = TypeVar("T")


class Reporting:
    """Has one report written, as a service of the collector."""

    def __init__(self, task: ReportTask, credentials: Path, done: Callable[[Reported], None]) -> None:
        self._task = task
        self._credentials = credentials
        self._done = done

    async def run(self) -> None:
        """Until cancelled: the collector goes on when the report is written."""
        reported = await self.write()
        if reported.problem:
            logger.error("no report: %s", reported.problem)
        self._done(reported)
        await asyncio.Event().wait()

    async def write(self) -> Reported:
        """Return what became of it."""
        command = (sys.executable, "-m", __name__, str(self._credentials))
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                told, _ = await process.communicate(canonical_json(self._task.to_json()))
        except TimeoutError:
            return self._problem(
                f"it was not written within {LONGEST_SECONDS / 60:.0f} minutes; there are too many pairs, or the store is slow"
            )
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        try:
            return parse(Reported, orjson.loads(told))
        except (ValueError, Invalid):
            code = process.returncode or 0
            how = f"by signal {-code}; is there too little memory?" if code < 0 else f"with {code}"
            return self._problem(f"the process that writes it ended {how}")

    def _problem(self, words: str) -> Reported:
        return Reported(test_uid=self._task.compare.uid, problem=words[:LONGEST_PROBLEM])


class Patient:
    """A store that is waited for while it is away, for some minutes. See `Store`."""

    def __init__(self, store: Store, seconds: float = PATIENCE_SECONDS, pause: float = PAUSE_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._pause = pause

    def list(self, prefix: str) -> list[str]:
        """See `Store`."""
        return self._insist(lambda: self._store.list(prefix))

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        return self._insist(lambda: self._store.read(path))

    def write(self, path: str, content: bytes, content_type: str = BYTES) -> None:
        """See `Store`."""
        self._insist(lambda: self._store.write(path, content, content_type))

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """See `Store`. Once: whether the object is one's own is the caller's question."""
        return self._store.put_if_absent(path, content)

    def delete(self, path: str) -> None:
        """See `Store`."""
        self._insist(lambda: self._store.delete(path))

    def _insist(self, act: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return act()
            except StoreAwayError as error:
                if time.monotonic() + self._pause > deadline:
                    raise
                logger.warning("the store is away: %s; it is tried again", error)
                time.sleep(self._pause)


def attempt(task: ReportTask, opened: Callable[[], Store]) -> Reported:
    """Return what became of a task, in words if nothing did."""
    try:
        return write_report(task, Patient(opened()))
    except Invalid as invalid:
        problem = invalid.problems[0]
    except (StoreAwayError, DamagedError) as error:
        problem = str(error)
    except Exception as error:
        logger.exception("the report could not be built")
        problem = f"{type(error).__name__}; the collector's log says where"
    return Reported(test_uid=task.compare.uid, problem=problem[:LONGEST_PROBLEM])


def main(arguments: list[str]) -> int:
    """Do the task of stdin. Returns the exit code."""
    configure_logging(log_level(os.environ), words=False)
    os.nice(LOWEST_PRIORITY)
    task = parse(ReportTask, orjson.loads(sys.stdin.buffer.read()))
    reported = attempt(task, lambda: open_store(task.compare.store, Path(arguments[0]), AT_A_TIME))
    sys.stdout.write(reported.model_dump_json(by_alias=True, exclude_none=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
