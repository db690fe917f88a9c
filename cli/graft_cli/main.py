"""`graft`, also as `kubectl graft`: what runs on the machine of whoever asks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from graft_api.schema import Invalid
from graft_cli.deciding import approve, reject, rollback
from graft_cli.inject import DEFAULT_REPORTS_URL, default_image, inject
from graft_cli.kubectl import add_place
from graft_cli.launching import launch
from graft_cli.policy import import_policy
from graft_cli.run import run
from graft_cli.steering import pause, pin, resume, unpin
from graft_cli.validate import validate
from graft_cli.verdicts import BAD_INPUT, VERDICT_EXITS

RUN = "Fine-tune, evaluate, sign and publish as a FineTuneJob says, with the trainer that the cluster runs. Exit code: the trainer's."
VALIDATE = (
    "Check FineTuneJobs, ModelEndpoints, Adapters, ShadowTests, AdapterApprovals and TuningPolicies as the API server does, without one; of"
    " a FineTuneJob, print what follows from it. A TuningPolicy is held against its ModelEndpoint, and the principles that are asked for"
    " drift are read, if these are there, too. Other kinds are skipped. Exit code 0: valid, 1: not."
)

REPORT_EXITS = f"{VERDICT_EXITS} Of --drift, 0: nothing stops the newest candidate, 1: its answers do, 3: nothing was checked yet."
ROLLBACK = (
    "Take out what serves a domain, at once: rejects its digest in your own name, which stays rejected until a quorum that is newer"
    " approves it. What served before serves again, else the base model."
)


def main() -> int:
    """Run one command. 0: done, 1: the user must act (the message says how), 2: wrong usage, else the command's own exit code."""
    options = _parser().parse_args()
    try:
        code: int = options.command(options)
    except Invalid as invalid:
        return _refused(invalid, 1)
    return code


def _refused(invalid: Invalid, code: int) -> int:
    print(*(f"error: {problem}" for problem in invalid.problems), sep="\n", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graft", description="Fine-tune language models, and check what would be done.")
    commands = parser.add_subparsers(required=True, metavar="command")
    parser.add_argument("--version", action="version", version=f"graft {metadata.version('graft')}")
    running = commands.add_parser("run", help="run a FineTuneJob here, without a cluster", description=RUN)
    running.add_argument("-f", "--file", type=Path, required=True, metavar="JOB.yaml", help="a FineTuneJob; its URIs are s3:// or file://")
    running.add_argument("--signing-key", type=Path, help="EC private key (PEM); stands for spec.signing.secretRef")
    running.add_argument("--work", type=Path, help="folder for model, data and checkpoints; default: a temporary one")
    running.set_defaults(command=lambda options: run(options.file, signing_key=options.signing_key, work=options.work))
    checking = commands.add_parser("validate", help="check manifests as the API server does", description=VALIDATE)
    said = "files of one or several documents, which are checked together; -: standard input"
    checking.add_argument("-f", "--file", type=Path, required=True, nargs="+", action="extend", metavar="FILE.yaml", help=said)
    checking.set_defaults(command=lambda options: validate(options.file))
    _add_inject(commands.add_parser("inject", help="add agent and door to a vLLM Deployment of your own, for spec.server.existing"))
    showing = "show a ShadowTest's verdict, or how far a domain's candidates drifted, and open the report"
    _add_report(commands.add_parser("report", help=showing, description=f"{showing.capitalize()}.", epilog=REPORT_EXITS))
    _add_deciding(commands.add_parser)
    _add_steering(commands.add_parser)
    _add_policy(commands.add_parser("policy", help="make a TuningPolicy of a policy file, or approve a launch"))
    judging = "judge recorded pairs, or replay a log against two servers"
    _add_shadow(commands.add_parser("shadow", help=judging, description=f"{judging.capitalize()}.", epilog=VERDICT_EXITS))
    return parser


def _add_report(showing: argparse.ArgumentParser) -> None:
    what = showing.add_mutually_exclusive_group(required=True)
    what.add_argument("test", metavar="TEST", nargs="?", help="name of the ShadowTest")
    what.add_argument("--drift", metavar="DOMAIN", help="the history of this domain's drift instead")
    showing.add_argument("--endpoint", metavar="ENDPOINT", help="of --drift; default: the only one that has the domain")
    add_place(showing)
    showing.add_argument("--out", type=Path, metavar="REPORT.html", help="where to write the report; default: a folder for temporary files")
    showing.add_argument("--no-open", action="store_true", help="open no browser; without --out, write no report at all")
    showing.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from graft_cli.drift import drift_report  # noqa: PLC0415 - the other commands need no reports
    from graft_cli.report import report  # noqa: PLC0415

    try:
        return drift_report(options) if options.drift is not None else report(options)
    except Invalid as invalid:
        # Exit code 1 is a verdict here.
        return _refused(invalid, BAD_INPUT)


Add = Callable[..., argparse.ArgumentParser]
"""As `add_parser` of the commands."""


def _add_deciding(add: Add) -> None:
    """Add what is said in the name of whoever asks."""
    named = (
        ("approve", approve, "approve an adapter by the verdict of its test"),
        ("reject", reject, "reject an adapter until a newer quorum approves it"),
    )
    for name, command, what in named:
        exits = " Exit code 2: the test's verdict could not be read, and nothing is approved." if command is approve else ""
        deciding = add(name, help=what, description=f"{what.capitalize()}, in your own name: an AdapterApproval.{exits}")
        deciding.add_argument("adapter", metavar="ADAPTER")
        if command is approve:
            deciding.add_argument("--unchecked", action="store_true", help="approve by the Adapter's word where the test cannot be read")
        _end_deciding(deciding, command)
    back = add("rollback", help="take out what serves a domain, at once", description=ROLLBACK)
    back.add_argument("what", metavar="DOMAIN|ADAPTER", help="a domain, or the adapter that serves it")
    back.add_argument("--endpoint", metavar="ENDPOINT", help="default: the only one that has it")
    _end_deciding(back, rollback)


def _end_deciding(deciding: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    deciding.add_argument("--reason", default="", help="for those who read it later")
    add_place(deciding)
    deciding.set_defaults(command=command)


def _add_steering(add: Add) -> None:
    """Add what changes a ModelEndpoint's spec."""
    named = (
        ("pin", pin, "serve a domain by one adapter, whatever promotion says"),
        ("unpin", unpin, "let promotion decide again"),
        ("pause", pause, "let no candidate of a domain go on"),
        ("resume", resume, "let candidates go on"),
    )
    for name, command, what in named:
        steering = add(name, help=what, description=f"{what.capitalize()}: spec.domains[] of its ModelEndpoint.")
        steering.add_argument("domain", metavar="DOMAIN")
        if command is pin:
            to = steering.add_mutually_exclusive_group(required=True)
            to.add_argument("adapter", metavar="ADAPTER", nargs="?", help="of this endpoint and domain")
            to.add_argument("--base", action="store_true", help="the base model")
        steering.add_argument("--endpoint", metavar="ENDPOINT", help="default: the only one that has the domain")
        add_place(steering)
        steering.set_defaults(command=command)


def _add_policy(policies: argparse.ArgumentParser) -> None:
    """Add what is about TuningPolicies."""
    add = policies.add_subparsers(required=True, metavar="command").add_parser
    what = "print the TuningPolicy of a policy file (global_policy.json)"
    importing = add("import", help=what, description=f"{what.capitalize()}, and what of it belongs into the ModelEndpoint.")
    importing.add_argument("file", type=Path, metavar="global_policy.json")
    said = "a FineTuneJob for each domain: model, data, evaluation, output"
    importing.add_argument("--job", type=Path, action="append", required=True, metavar="JOB.yaml", help=said)
    importing.add_argument("--endpoint", metavar="ENDPOINT", help="default: of the jobs' spec.adapter")
    importing.add_argument("--name", metavar="NAME", help="of the TuningPolicy; default: of the file")
    importing.set_defaults(command=import_policy)
    what = "let a launch be done that is due and waits for approval"
    launching = add("launch", help=what, description=f"{what.capitalize()}: spec.domains[].launchApproved.")
    launching.add_argument("policy", metavar="POLICY")
    launching.add_argument("domain", metavar="DOMAIN")
    add_place(launching)
    launching.set_defaults(command=launch)


def _add_shadow(reading: argparse.ArgumentParser) -> None:
    source = reading.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path, metavar="FILE|FOLDER", help="JSON lines, plain or zstd; or a collector's store")
    source.add_argument("--requests", type=Path, metavar="LOG.jsonl", help="requests, to be asked of two servers")
    reading.add_argument("--incumbent", metavar="URL[#model]", help="of --requests: what is held against; key in INCUMBENT_API_KEY")
    reading.add_argument("--candidate", metavar="URL[#model]", help="of --requests: what is tested; key in CANDIDATE_API_KEY")
    reading.add_argument(
        "--out", type=Path, metavar="PAIRS.jsonl.zst", help="of --requests: what was answered; a new start goes on with it"
    )
    reading.add_argument(
        "--concurrency", type=_positive, metavar="N", help="of --requests: asked at the same time; default: the metrics file's"
    )
    reading.add_argument("--patience", type=_positive, metavar="SECONDS", help="of --requests: for which a server may be away; default: 60")
    reading.add_argument(
        "--metrics", type=Path, metavar="FILE.yaml", help="what is measured, or a ShadowTest; default: metrics.yaml beside the pairs"
    )
    reading.add_argument("--html", type=Path, metavar="REPORT.html", help="write the report as one page")
    reading.add_argument("--json", type=Path, metavar="REPORT.json", help="write the report's numbers")
    reading.set_defaults(command=_shadow)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 1024")
    return int(text)


def _shadow(options: argparse.Namespace) -> int:
    try:
        from graft_cli.shadow import shadow  # noqa: PLC0415 - the other commands do without numpy
    except ModuleNotFoundError as missing:
        print(f"error: {missing.name} is not installed here; from a checkout: pip install '.[evaluation]'", file=sys.stderr)
        return BAD_INPUT
    try:
        return shadow(options)
    except Invalid as invalid:
        # Exit code 1 is a verdict here.
        return _refused(invalid, BAD_INPUT)


def _add_inject(injecting: argparse.ArgumentParser) -> None:
    injecting.add_argument("-f", "--file", type=Path, required=True, metavar="DEPLOYMENT.yaml")
    injecting.add_argument("--endpoint", type=Path, required=True, metavar="ENDPOINT.yaml", help="the ModelEndpoint that names it")
    injecting.add_argument("--container", help="which one is vLLM; default: the only one, or the one called vllm")
    injecting.add_argument("--serving-image", metavar="IMAGE", help=f"of agent and door; default: {default_image()}")
    injecting.add_argument("--reports-url", default=DEFAULT_REPORTS_URL, metavar="URL", help="of the operator; default: %(default)s")
    injecting.add_argument("-o", "--output", choices=("yaml", "patch"), default="yaml", help="patch: for kubectl patch --patch-file")
    injecting.set_defaults(command=inject)


if __name__ == "__main__":
    sys.exit(main())
