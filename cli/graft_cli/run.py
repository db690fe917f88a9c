"""`graft run`: the whole of a FineTuneJob on this machine, with the trainer that the cluster runs."""

import contextlib
import importlib.util
import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from graft_api import resolve
from graft_api.artifact import SIGNATURE
from graft_api.finetunejob import FineTuneJob, Interval
from graft_api.reports import Failed, Result, TerminalResult
from graft_api.run import RunIdentity, RunManifest
from graft_api.schema import Invalid, parse

TRAINER = "graft_trainer"
MAKE_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def run(job_file: Path, *, signing_key: Path | None = None, work: Path | None = None) -> int:
    """Run a job file; return the trainer's exit code. Raises `Invalid` with the paths of what must change."""
    manifest = manifest_of(read_job(job_file))
    if signing_key is None or not signing_key.is_file():
        raise Invalid([f"--signing-key: name the private key that signs the result; make one with: {MAKE_KEY}"])
    if importlib.util.find_spec(TRAINER) is None:
        raise Invalid(["the trainer is not installed here; from a checkout: pip install '.[trainer]'"])
    with _work_folder(work, manifest) as folder:
        code = _train(manifest, signing_key.absolute(), folder)
        print(summary(manifest, _terminal_result(folder), signing_key))
    return code


def read_job(path: Path) -> FineTuneJob:
    """Read and check a job file as the API server does."""
    try:
        return job_of(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise Invalid([f"{path}: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise Invalid([f"{path}: not YAML: {error}"]) from error


def job_of(document: object) -> FineTuneJob:
    """Return the job of a manifest. Raises `Invalid`."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if isinstance(metadata, dict) and not isinstance(metadata.get("name", ""), str):
        raise Invalid(["metadata.name: must be a string; put a number in quotes"])
    return parse(FineTuneJob, document)


def manifest_of(job: FineTuneJob) -> RunManifest:
    """Return the run manifest that the operator would freeze; without reporting, since there is nobody to report to."""
    if problems := resolve.unsupported(job.spec):
        raise Invalid(problems)
    spec = resolve.resolve(job.spec)
    namespace, name = str(job.metadata.get("namespace", "default")), str(job.metadata.get("name", "job"))
    return RunManifest(
        # Of this very run: its attempts write to no other run's folders, and what it finds committed is an earlier run's.
        job=RunIdentity(namespace=namespace, name=name, uid=f"local-{secrets.token_hex(8)}"),
        spec_hash=resolve.spec_hash(spec),
        run_uri=resolve.run_uri(spec, namespace, name),
        spec=spec,
    )


@contextlib.contextmanager
def _work_folder(given: Path | None, manifest: RunManifest) -> Iterator[Path]:
    """Yield a folder for this run alone: what lies in another run's must not be taken for its own."""
    if given is not None:
        folder = given.absolute() / manifest.spec_hash
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="graft-") as temporary:
        yield Path(temporary)


def _train(manifest: RunManifest, signing_key: Path, work: Path) -> int:
    run_file = work / "run.json"
    run_file.write_text(json.dumps(manifest.to_json(), indent=2))
    command = [
        sys.executable,
        "-m",
        f"{TRAINER}.main",
        "run",
        "--run",
        str(run_file),
        "--work",
        str(work),
        "--signing-key",
        str(signing_key),
    ]
    return subprocess.run(command, check=False).returncode


def _terminal_result(work: Path) -> TerminalResult | None:
    try:
        return TerminalResult.model_validate_json((work / "termination.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def summary(manifest: RunManifest, ended: TerminalResult | None, signing_key: Path) -> str:
    """Return what a person wants to know at the end."""
    if ended is None:
        return "\nThe run ended without a result."
    if ended.failed is not None:
        return _failed(ended.failed)
    assert ended.result is not None  # noqa: S101 - one of the two
    return _succeeded(manifest, ended.result, signing_key)


def _failed(failed: Failed) -> str:
    return f"\nFailed ({failed.reason}): {failed.message}"


def _succeeded(manifest: RunManifest, result: Result, signing_key: Path) -> str:
    thresholds = {suite.name: resolve.describe(suite.accept) for suite in manifest.spec.evaluation.suites}
    header = ("suite", "base", "adapter", "difference (95 %)", "examples", "threshold", "")
    rows = [
        (s.suite, _share(s.base), _share(s.adapter), _share(s.difference, "+"), str(s.examples), thresholds[s.suite], _verdict(s.accepted))
        for s in result.evaluation
    ]
    seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in result.stage_seconds.items())
    return "\n".join(
        [
            "",
            *table([header, *rows]),
            "",
            "The result was committed by an earlier run; nothing was trained." if result.earlier_run else f"Took: {seconds}",
            f"{'Accepted' if result.accepted else 'Not accepted'}: {result.artifact.uri}",
            f"adapter@{result.artifact.digest}, {result.artifact.size_bytes / 1e6:.1f} MB",
            "",
            "Verify its signature:",
            *(f"  {command}" for command in verification(result.artifact.uri, signing_key)),
        ]
    )


def verification(uri: str, signing_key: Path) -> list[str]:
    """Return the commands that check a published folder's signature; the tool reads local files only."""
    folder = uri.removeprefix("file://") if uri.startswith("file://") else "adapter"
    download = [] if uri.startswith("file://") else [f"aws s3 cp --recursive {uri} {folder}    # or: mc, rclone"]
    return [
        *download,
        f"openssl ec -in {signing_key} -pubout -out public.pem",
        f"python -m model_signing verify key --public_key public.pem --signature {folder}/{SIGNATURE} {folder}",
    ]


def table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _share(interval: Interval, sign: str = "") -> str:
    return f"{interval.estimate:{sign}.2%} [{interval.low:{sign}.2%}, {interval.high:{sign}.2%}]"


def _verdict(accepted: bool | None) -> str:
    return "" if accepted is None else "met" if accepted else "missed"
