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
from graft_trainer.layout import WorkFolder
from graft_trainer.operator_client import OperatorClient
from graft_trainer.records import load

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
POST_EVERY_SECONDS = 2.0
SIGTERM_WITHIN_SECONDS = 5.0
"""A pod that is being deleted is refused from the first moment; its SIGTERM comes by way of the kubelet, a little later."""


class Reporter(threading.Thread):
    """
    Coalesces: only the newest progress is ever posted.

    A refusal ends the process, for another pod works now. Unless this pod was asked to go (`stop` exists): it is saving a checkpoint.
    """

    def __init__(self, client: OperatorClient | None, attempt: int, work: WorkFolder, termination_log: Path) -> None:
        super().__init__(name="reporter", daemon=True)
        self._client = client
        self._attempt = attempt
        self._work = work
        self._termination_log = termination_log
        self._seen: Progress | None = None

    def run(self) -> None:
        """Watch the file until the process ends."""
        while True:
            progress = load(Progress, self._work.progress)
            if progress is not None and progress != self._seen:
                self._seen = progress
                logger.info("%s", describe(progress))
                self._post(progress)
                time.sleep(POST_EVERY_SECONDS - LOOK_EVERY_SECONDS)
            time.sleep(LOOK_EVERY_SECONDS)

    def _post(self, progress: Progress) -> None:
        try:
            post(self._client, self._attempt, progress)
        except FencedError as error:
            if self._asked_to_go():
                logger.info("this pod was asked to go: nothing more is reported")
                self._client = None
                return
            logger.error("%s", error)
            termination.write(self._termination_log, TerminalResult(attempt=self._attempt, failed=error.failed()))
            os._exit(error.exit_code)

    def _asked_to_go(self) -> bool:
        deadline = time.monotonic() + SIGTERM_WITHIN_SECONDS
        while not self._work.stop.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def post(client: OperatorClient | None, attempt: int, progress: Progress) -> None:
    """Report once, if there is somebody to report to. Raises `FencedError`; losing a report is harmless, whatever the cause."""
    if client is None:
        return
    try:
        client.progress(ProgressReport(attempt=attempt, progress=progress))
    except FencedError:
        raise
    except Exception as error:  # noqa: BLE001 - the next report says more than this one did
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
