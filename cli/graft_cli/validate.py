"""`graft validate`: manifests checked as the API server checks them, without one."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from graft_api import resolve
from graft_api.adapter import Adapter
from graft_api.approval import AdapterApproval
from graft_api.finetunejob import FineTuneJob
from graft_api.modelendpoint import ModelEndpoint
from graft_api.schema import DNS_SUBDOMAIN_PATTERN, Invalid, Model, parse
from graft_api.shadowtest import ShadowTest
from graft_api.tuningpolicy import TuningPolicy
from graft_cli import together
from graft_cli.documents import Document, read_documents
from graft_cli.run import job_of
from graft_cli.together import Checked, Principles
from graft_cli.verdicts import printable

KINDS: dict[str, type[Model]] = {
    model.__name__: model for model in (FineTuneJob, ModelEndpoint, Adapter, ShadowTest, AdapterApproval, TuningPolicy)
}
NOT_CHECKED = "not checked here: Secrets, buckets, data, scorers' own texts and extraArgs"
NOT_IN_CLUSTER = "not checked here: what is named, and whether it is there; Secrets, buckets, and scorers' own texts"


def validate(paths: Sequence[Path]) -> int:
    """Check every document of the files, also against each other, and print what follows from jobs. Raises `Invalid` with all problems."""
    documents = read_documents(paths, list(KINDS))
    foreign = [document for document in documents if document.is_foreign() and document.kind not in KINDS]
    checked: list[Checked] = []
    problems: list[str] = []
    for document in documents:
        if document in foreign:
            continue
        try:
            checked.append(Checked(document, _checked(document.content)))
        except Invalid as invalid:
            problems += [f"{document.where}{problem}" for problem in invalid.problems]
    principles = together.principles_in(checked, foreign)
    _skip([document for document in foreign if document not in [one.config_map for one in principles]])
    problems += together.problems(checked, principles)
    if problems:
        raise Invalid(problems)
    _say([one.model for one in checked], principles)
    return 0


def _skip(foreign: Sequence[Document]) -> None:
    for document in foreign:
        print(printable(f"skipped: {document.called()}: not a graft kind"), file=sys.stderr)


def _checked(document: object) -> Model:
    kind = document.get("kind") if isinstance(document, dict) else None
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise Invalid([f"kind: must be one of {', '.join(KINDS)}" + (f", and is {kind}" if isinstance(kind, str) else "")])
    if model is FineTuneJob:
        return _job(document)
    if problem := _name_problem(document):
        raise Invalid([problem])
    found = parse(model, document)
    if isinstance(found, TuningPolicy) and (problems := _template_problems(found)):
        raise Invalid(problems)
    return found


def _template_problems(policy: TuningPolicy) -> list[str]:
    """Return why the operator would refuse to launch: each job would end before it began."""
    named = ((f"spec.domains[{place}]", domain) for place, domain in enumerate(policy.spec.domains))
    return [f"{where}.{problem}" for where, domain in named for problem in domain.template_problems(policy.spec.endpoint_ref.name)]


def _job(document: object) -> FineTuneJob:
    job = job_of(document)
    resolve.resolve(job.spec)
    if problems := resolve.unsupported(job.spec) + resolve.unsupported_in_cluster(job.spec):
        raise Invalid(problems)
    return job


def _name_problem(document: object) -> str | None:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None:
        return "metadata.name: Field required"
    if not isinstance(name, str) or not re.fullmatch(DNS_SUBDOMAIN_PATTERN, name) or len(name) > 253:
        return "metadata.name: must be a string of at most 253 lower-case letters, digits, '-' and '.', as names of Kubernetes are"
    return None


def _say(checked: Sequence[Model], principles: Sequence[Principles]) -> None:
    jobs = [found for found in checked if isinstance(found, FineTuneJob)]
    resolved = [resolve.resolve(job.spec) for job in jobs]
    yaml.safe_dump_all([spec.to_json() for spec in resolved], sys.stdout, sort_keys=False)
    for suite in (suite for spec in resolved for suite in spec.evaluation.suites):
        verdict = "decides nothing: it has no threshold" if suite.accept is None else f"accepts {resolve.describe(suite.accept)}"
        print(f"suite {suite.name} {verdict}", file=sys.stderr)
    others = [found for found in checked if isinstance(found, ModelEndpoint | Adapter | ShadowTest | AdapterApproval | TuningPolicy)]
    for found in others:
        print(f"{found.kind} {found.metadata['name']} is valid", file=sys.stderr)
    for name in dict.fromkeys(one.config_map.name for one in principles):
        print(f"ConfigMap {name} has principles that can be asked", file=sys.stderr)
    notes = ([NOT_CHECKED] if jobs else []) + ([NOT_IN_CLUSTER] if others else [])
    for note in notes:
        print(note, file=sys.stderr)
