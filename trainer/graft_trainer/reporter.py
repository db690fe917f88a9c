"""Progress, out of band: a thread reads what the stages left in a file, logs it and posts it. Training never waits for it."""

import logging
import os
import threading
import time
from pathlib import Path

from graft_api.finetunejob import Progress
from graft_api.reports import ProgressReport, TerminalResult
from graft_trainer import termination
from graft_trainer.errors import FencedError
from graft_trainer.operator_client import OperatorClient
from graft_trainer.records import load

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
POST_EVERY_SECONDS = 2.0


class Reporter(threading.Thread):
    """Coalesces: only the newest progress is ever posted. A refusal ends the process at once, for another pod works now."""

    def __init__(self, client: OperatorClient | None, attempt: int, progress: Path, termination_log: Path) -> None:
        super().__init__(name="reporter", daemon=True)
        self._client = client
        self._attempt = attempt
        self._path = progress
        self._termination_log = termination_log
        self._seen: Progress | None = None

    def run(self) -> None:
        """Watch the file until the process ends."""
        while True:
            progress = load(Progress, self._path)
            if progress is not None and progress != self._seen:
                self._seen = progress
                logger.info("%s", describe(progress))
                self._post(progress)
                time.sleep(POST_EVERY_SECONDS - LOOK_EVERY_SECONDS)
            time.sleep(LOOK_EVERY_SECONDS)

    def _post(self, progress: Progress) -> None:
        if self._client is None:
            return
        try:
            self._client.progress(ProgressReport(attempt=self._attempt, progress=progress))
        except FencedError as error:
            logger.error("%s", error)
            termination.write(self._termination_log, TerminalResult(attempt=self._attempt, failed=error.failed()))
            os._exit(error.exit_code)
        except Exception as error:  # noqa: BLE001 - losing a progress report is harmless, whatever the cause
            logger.debug("progress was not reported: %s", error)


def describe(progress: Progress) -> str:
    """Return one line for people."""
    parts: list[str] = [progress.stage]
    if progress.step is not None:
        parts.append(f"step {progress.step}/{progress.total_steps}")
    for name, value, form in (
        ("epoch", progress.epoch, ".2f"),
        ("loss", progress.loss, ".4f"),
        ("eval loss", progress.eval_loss, ".4f"),
        ("tokens/s", progress.tokens_per_second, ".0f"),
    ):
        if value is not None:
            parts.append(f"{name} {value:{form}}")
    if progress.percent is not None:
        parts.append(f"{progress.percent} %")
    if progress.eta_seconds is not None:
        parts.append(f"{progress.eta_seconds} s left")
    return ", ".join(parts)
