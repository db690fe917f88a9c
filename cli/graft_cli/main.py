"""`graft`, also as `kubectl graft`: the parts of graft that need no cluster."""

import argparse
import sys
from pathlib import Path

import yaml

from graft_api import resolve
from graft_api.schema import Invalid
from graft_cli.inject import DEFAULT_REPORTS_URL, default_image, inject
from graft_cli.run import read_job, run


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
    running = commands.add_parser("run", help="run a FineTuneJob here, without a cluster")
    running.add_argument("-f", "--file", type=Path, required=True, metavar="JOB.yaml")
    running.add_argument("--signing-key", type=Path, help="EC private key (PEM); stands for spec.signing.secretRef")
    running.add_argument("--work", type=Path, help="folder for model, data and checkpoints; default: a temporary one")
    running.set_defaults(command=lambda options: run(options.file, signing_key=options.signing_key, work=options.work))
    checking = commands.add_parser("validate", help="check a FineTuneJob as the API server does, and show what follows from it")
    checking.add_argument("-f", "--file", type=Path, required=True, metavar="JOB.yaml")
    checking.set_defaults(command=_validate)
    _add_inject(commands.add_parser("inject", help="add agent and door to a vLLM Deployment of your own, for spec.server.existing"))
    _add_shadow(commands.add_parser("shadow", help="read the verdict from a ShadowTest's pairs", epilog=SHADOW_EXITS))
    return parser


SHADOW_EXITS = "Exit code 0: Passed, 1: Failed, 2: bad input or usage, 3: Inconclusive or Error."


def _add_shadow(reading: argparse.ArgumentParser) -> None:
    reading.add_argument(
        "--pairs", type=Path, required=True, metavar="FILE|FOLDER", help="JSON lines, plain or zstd; or a collector's store"
    )
    reading.add_argument("--metrics", type=Path, metavar="FILE.yaml", help="which way each points; default: metrics.yaml beside the pairs")
    reading.add_argument("--html", type=Path, metavar="REPORT.html", help="write the report as one page")
    reading.add_argument("--json", type=Path, metavar="REPORT.json", help="write the report's numbers")
    reading.set_defaults(command=_shadow)


def _shadow(options: argparse.Namespace) -> int:
    try:
        from graft_cli.shadow import shadow  # noqa: PLC0415 - the other commands do without numpy
    except ModuleNotFoundError as missing:
        print(f"error: {missing.name} is not installed here; run: pip install 'graft[evaluation]'", file=sys.stderr)
        return 2
    try:
        return shadow(options)
    except Invalid as invalid:
        # Exit code 1 is a verdict here.
        return _refused(invalid, 2)


def _add_inject(injecting: argparse.ArgumentParser) -> None:
    injecting.add_argument("-f", "--file", type=Path, required=True, metavar="DEPLOYMENT.yaml")
    injecting.add_argument("--endpoint", type=Path, required=True, metavar="ENDPOINT.yaml", help="the ModelEndpoint that names it")
    injecting.add_argument("--container", help="which one is vLLM; default: the only one, or the one called vllm")
    injecting.add_argument("--serving-image", metavar="IMAGE", help=f"of agent and door; default: {default_image()}")
    injecting.add_argument("--reports-url", default=DEFAULT_REPORTS_URL, metavar="URL", help="of the operator; default: %(default)s")
    injecting.add_argument("-o", "--output", choices=("yaml", "patch"), default="yaml", help="patch: for kubectl patch --patch-file")
    injecting.set_defaults(command=inject)


def _validate(options: argparse.Namespace) -> int:
    job = read_job(options.file)
    resolved = resolve.resolve(job.spec)
    if problems := resolve.unsupported(job.spec) + resolve.unsupported_in_cluster(job.spec):
        raise Invalid(problems)
    yaml.safe_dump(resolved.to_json(), sys.stdout, sort_keys=False)
    for suite in resolved.evaluation.suites:
        verdict = "decides nothing: it has no threshold" if suite.accept is None else f"accepts {resolve.describe(suite.accept)}"
        print(f"suite {suite.name} {verdict}", file=sys.stderr)
    print("not checked here: Secrets, buckets, data, scorers' own texts and extraArgs", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
