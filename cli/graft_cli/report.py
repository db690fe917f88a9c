"""
`graft report`: the verdict of a ShadowTest, and its report in a browser.

The ShadowTest comes from kubectl, with kubectl's own context and rights; the report from S3, with the user's own credentials. The
cluster's are never asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import webbrowser
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft_api.comparison import Outcome, Verdict, spoken
from graft_api.schema import Invalid, parse
from graft_api.shadowtest import EVIDENCE_KEY, ReportReference, ShadowTestStatus, VerdictStatus, evidence_record
from graft_cli.kubectl import Kubectl
from graft_cli.verdicts import UNDECIDED, exit_code, printable, said

if TYPE_CHECKING:
    from graft_runtime.store import Problem

RESOURCE = "shadowtests.graft.dev"
SIGN_IN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of somebody who may read it, AWS_ENDPOINT_URL where the store is not Amazon's"
    " and AWS_REGION where it is not us-east-1; or read the verdict alone, with --no-open"
)
IDENTITIES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


@dataclass(frozen=True)
class Seen:
    """What is read of a ShadowTest. The rest may be of a newer version."""

    name: str
    uid: str
    duration: str
    status: ShadowTestStatus


def report(options: Namespace) -> int:
    """
    Print the verdict; write and open the report.

    Returns 0 Passed, 1 Failed, 3 Inconclusive, Error, not over yet, or no report where one is wanted. Raises `Invalid`.
    """
    kubectl = Kubectl.of(options)
    test = seen(kubectl.told(RESOURCE, options.test))
    verdict, reported = test.status.verdict, test.status.report
    if verdict is None:
        print(progress(test))
        return UNDECIDED
    print(said(_verdict(verdict)))
    print(printable(f"read at {verdict.read_at}, after {spoken(verdict.observed_hours)} of observed time"), file=sys.stderr)
    if verdict.attempt is not None:
        print(printable(counted(verdict.attempt, test.status)), file=sys.stderr)
    if test.uid:
        print(printable(checked(test, verdict, kubectl)), file=sys.stderr)
    if options.no_open and options.out is None:
        return exit_code(Outcome(verdict.outcome))
    if reported is None:
        print(printable("\n".join(["the report is not written yet", *_conditions(test.status)])), file=sys.stderr)
        return UNDECIDED
    show(written(fetched(reported, os.environ), test.name, options.out), options)
    return exit_code(Outcome(verdict.outcome))


def checked(test: Seen, verdict: VerdictStatus, kubectl: Kubectl) -> str:
    """Return that the record of what the verdict was read from is the one that it names, or why that is not known. Raises `Invalid`."""
    name = evidence_record(test.name, test.uid)
    try:
        content = kubectl.get("configmaps", name)["data"][EVIDENCE_KEY].encode()
    except Invalid as invalid:
        return f"evidence: not checked, ConfigMap {name} could not be read: {'; '.join(invalid.problems)}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"evidence: not checked, ConfigMap {name} has no {EVIDENCE_KEY}"
    if (digest := f"sha256:{hashlib.sha256(content).hexdigest()}") != verdict.evidence_digest:
        problem = f"ConfigMap {name}: {EVIDENCE_KEY} is not what the verdict was read from"
        raise Invalid([f"{problem} ({digest}, status.verdict.evidenceDigest is {verdict.evidence_digest}); do not approve by this verdict"])
    return f"evidence: {EVIDENCE_KEY} of ConfigMap {name} is what the verdict was read from ({digest})"


def seen(told: bytes) -> Seen:
    """Return the ShadowTest. Raises `Invalid`."""
    try:
        found = json.loads(told)
        name, duration, status = found["metadata"]["name"], found["spec"]["duration"], found.get("status", {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(["kubectl: its answer is no ShadowTest; try: kubectl get shadowtest -o json"]) from error
    return Seen(str(name), str(found["metadata"].get("uid", "")), str(duration), parse(ShadowTestStatus, status, from_newer=True))


def counted(attempt: int, status: ShadowTestStatus) -> str:
    """Return how often the artifact was tested: of many tests one passes by chance."""
    domain = f" for domain {status.resolved.domain}" if status.resolved else ""
    first = "the first test" if attempt == 1 else f"test {attempt}"
    return f"{first} of this digest{domain}, deleted ones included"


def progress(test: Seen) -> str:
    """Return where a test stands that has no verdict. It has no metric's numbers: one that is shown early is read early."""
    status = test.status
    facts = [f"{test.name}: {status.phase or 'not seen by the operator yet'}"]
    if status.elapsed is not None:
        facts.append(f"observed {status.elapsed} of {test.duration}, {status.pairs or 0} pairs, {status.conversations or 0} conversations")
    if status.hours_to_detect is not None:
        facts.append(f"forecast: every effect in question is found with 80 % power after {spoken(status.hours_to_detect)}")
    facts += [counted(status.attempt, status)] if status.attempt is not None else []
    facts += [f"shadow server: {status.shadow}"] if status.shadow else []
    facts += [f"not compared: {count} by {cause}" for cause, count in sorted((status.lost or {}).items())]
    return printable("\n".join([*facts, *_conditions(status)]))


def _conditions(status: ShadowTestStatus) -> list[str]:
    return [f"{found.type} is {found.status}, {found.reason}: {found.message}" for found in status.conditions or () if found.message]


def _verdict(read: VerdictStatus) -> Verdict:
    return Verdict(
        outcome=Outcome(read.outcome), sentence=read.sentence, reasons=read.reasons, metrics=read.metrics, exclusions=read.exclusions
    )


def fetched(reported: ReportReference, environment: Mapping[str, str]) -> bytes:
    """Return the page, which is the one that the collector wrote. Raises `Invalid`."""
    folder, _, name = reported.html.rpartition("/")
    if not folder.startswith("s3://"):
        raise Invalid([f"{reported.html}: is not in S3, and can be read only where it was written"])
    content = stored(folder, name, environment)
    if content is None:
        raise Invalid([f"{reported.html}: is not there any more; with its pairs and commits, graft shadow makes it again"])
    if (digest := f"sha256:{hashlib.sha256(content).hexdigest()}") != reported.html_digest:
        problem = f"{reported.html}: is not what the collector wrote ({digest}, status.report.htmlDigest is {reported.html_digest})"
        raise Invalid([f"{problem}; it is neither kept nor opened"])
    return content


def stored(folder: str, name: str, environment: Mapping[str, str]) -> bytes | None:
    """Return an object of an S3 folder, with the credentials of whoever asks; None: there is none. Raises `Invalid`."""
    try:
        # Only here, for the other commands do without a client of S3.
        from graft_runtime.s3 import S3Folder, S3Limits  # noqa: PLC0415
        from graft_runtime.store import read_credentials  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise Invalid([f"{missing.name} is not installed here; from a checkout: pip install '.[cli]', or add --no-open"]) from missing
    if not any(environment.get(name) for name in IDENTITIES):
        # Else the client would look for the metadata service of a cloud's machine, which takes a minute where there is none.
        raise Invalid([f"{folder}/{name}: nothing here says who asks; {SIGN_IN}"])
    limits = S3Limits(retries=2, pause=0.2, longest_pause=1, obey_retry_after=False, connect=5, read=60, connections=1)
    # No such folder: of the places where a pod finds its credentials the environment is left.
    signed_in = read_credentials(Path(os.devnull), _away, environment)
    return S3Folder(folder, signed_in, limits, _away).read(name)


def _away(_: Problem, message: str) -> Exception:
    said_of_pods = ("; check the credentials Secret and its rights", "the credentials Secret has no key ")
    for words, ours in zip(said_of_pods, ("", "not set: "), strict=True):
        message = message.replace(words, ours)
    return Invalid([printable(f"{message}; {SIGN_IN}")])


def written(content: bytes, name: str, out: Path | None) -> Path:
    """Write a page to `out`, else to a folder of its own. Raises `Invalid`."""
    # It may hold what users wrote: nobody else on this machine reads it.
    path = out or Path(tempfile.mkdtemp(prefix="graft-report-")) / f"{name}.html"
    try:
        path.touch(mode=0o600)
        path.write_bytes(content)
    except OSError as error:
        raise Invalid([f"--out: {path}: {error.strerror}"]) from error
    return path


def show(path: Path, options: Namespace) -> None:
    """Say where it is, and open it unless that is not wanted."""
    print(path, file=sys.stderr)
    if not options.no_open and not webbrowser.open(path.absolute().as_uri()):
        print("there is no browser here that could show it", file=sys.stderr)
