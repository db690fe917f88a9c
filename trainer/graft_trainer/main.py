"""
The training pod, container by container.

    preflight   claim the attempt and check everything that would only fail later      no torch, sees the signing key
    train       fetch -> prepare -> train -> evaluate -> package                        user's data and model, no key
    publish     verify, sign, upload, commit, report                                    no torch, sees the signing key
    report      read a committed result and report it, for a Job that could not

`run` does the first three on this machine, each in a process of its own.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from graft_api.reports import ExitCode, Failed, Reason, TerminalResult
from graft_trainer import termination
from graft_trainer.errors import FencedError, RunEndedError
from graft_trainer.layout import Mounts, WorkFolder, add_options, mounts_from
from graft_trainer.records import Admission, load

logger = logging.getLogger("graft_trainer")

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",  # waiting threads that spin cost as much as those that compute
    "TRANSFORMERS_VERBOSITY": "error",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""Set before anything is imported that reads them; the user's podTemplate.env wins."""


def main() -> None:
    """Run one container, and end with the exit code that says who must act."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format=f"%(asctime)s {options.command}: %(message)s", datefmt="%H:%M:%S")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    mounts = mounts_from(options)
    code = COMMANDS[options.command](mounts)
    logging.shutdown()
    sys.stdout.flush()
    # Not sys.exit(): threads of libraries must not hold up a pod whose work is done.
    os._exit(code)


def preflight(mounts: Mounts) -> None:
    """See `graft_trainer.preflight`."""
    from graft_trainer.preflight import preflight as run  # noqa: PLC0415 - each container imports what it needs

    run(mounts)


def train(mounts: Mounts) -> None:
    """See `graft_trainer.stages`."""
    from graft_trainer.stages import run_stages  # noqa: PLC0415

    run_stages(mounts)


def publish(mounts: Mounts) -> None:
    """See `graft_trainer.publish`."""
    from graft_trainer.publish import clear_up  # noqa: PLC0415
    from graft_trainer.publish import publish as run  # noqa: PLC0415

    _tell(mounts, run(mounts))
    clear_up(mounts)


def report(mounts: Mounts) -> None:
    """See `graft_trainer.publish`."""
    from graft_trainer.publish import report as run  # noqa: PLC0415

    _tell(mounts, run(mounts))


def _tell(mounts: Mounts, result: TerminalResult) -> None:
    from graft_trainer.publish import report_result  # noqa: PLC0415
    from graft_trainer.records import read_manifest  # noqa: PLC0415

    termination.write(mounts.termination_log, result)  # first: it needs nobody to be there
    report_result(read_manifest(mounts.run), mounts, result)


def _container(work: Callable[[Mounts], None]) -> Callable[[Mounts], int]:
    """Return `work` with its failures turned into a termination message, a report and an exit code."""

    def run(mounts: Mounts) -> int:
        try:
            work(mounts)
        except RunEndedError as error:
            logger.error("%s: %s", error.reason.value, error.message)
            return _fail(mounts, error.failed(), report=not isinstance(error, FencedError))
        except Exception as error:
            logger.exception("unexpected")
            message = f"{type(error).__name__} in the trainer; its log has the trace"
            return _fail(mounts, Failed(exit_code=int(ExitCode.UNEXPECTED), reason=Reason.UNEXPECTED.value, message=message), report=True)
        return ExitCode.OK

    return run


def _fail(mounts: Mounts, failed: Failed, *, report: bool) -> int:
    admission = load(Admission, WorkFolder(mounts.work).claim)
    result = TerminalResult(attempt=admission.attempt if admission else 0, failed=failed)
    try:
        termination.write(mounts.termination_log, result)
        if report and admission:
            _report_failure(mounts, result)
    except (OSError, RunEndedError) as error:
        logger.warning("the failure was not reported: %s", error)
    return failed.exit_code


def _report_failure(mounts: Mounts, result: TerminalResult) -> None:
    from graft_trainer.publish import report_result  # noqa: PLC0415
    from graft_trainer.records import read_manifest  # noqa: PLC0415

    report_result(read_manifest(mounts.run), mounts, result)


def run(mounts: Mounts) -> int:
    """See `graft_trainer.local`."""
    from graft_trainer.local import run as run_here  # noqa: PLC0415

    return run_here(mounts)


COMMANDS: dict[str, Callable[[Mounts], int]] = {
    "preflight": _container(preflight),
    "train": _container(train),
    "publish": _container(publish),
    "report": _container(report),
    "run": run,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graft-trainer", description="The containers of a training pod.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        add_options(commands.add_parser(name))
    return parser


if __name__ == "__main__":
    main()
