"""What is wrong between manifests that are checked together: each may be valid, and nothing come of them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graft_api import fitting
from graft_api.drift import PRINCIPLES_KEY, DriftPolicy
from graft_api.modelendpoint import ModelEndpoint
from graft_api.schema import Invalid, Model
from graft_api.tuningpolicy import TuningPolicy
from graft_cli.documents import Document
from graft_evaluation.principles import principles_of


@dataclass(frozen=True)
class Checked:
    """A manifest of graft that is valid for itself."""

    document: Document
    model: Model


@dataclass(frozen=True)
class Principles:
    """A ConfigMap, and the policy that has its principles asked."""

    config_map: Document
    policy: DriftPolicy


def principles_in(checked: Sequence[Checked], foreign: Sequence[Document]) -> list[Principles]:
    """Return what a ModelEndpoint has asked for drift, of the ConfigMaps that are there."""
    maps = {(document.namespace, document.name): document for document in foreign if document.called() == f"v1 ConfigMap {document.name}"}
    endpoints = [(one.document.namespace, one.model) for one in checked if isinstance(one.model, ModelEndpoint)]
    policies = [
        (namespace, domain.promotion.drift)
        for namespace, endpoint in endpoints
        for domain in endpoint.spec.domains
        if domain.promotion is not None and domain.promotion.drift is not None
    ]
    return [
        Principles(maps[namespace, policy.principles], policy) for namespace, policy in policies if (namespace, policy.principles) in maps
    ]


def problems(checked: Sequence[Checked], principles: Sequence[Principles]) -> list[str]:
    """Return what does not fit, in sentences."""
    wrong = [problem for one in principles if (problem := _unreadable(one))]
    return [*_unfit(checked), *_rivals(checked), *dict.fromkeys(wrong)]


def _unfit(checked: Sequence[Checked]) -> Iterator[str]:
    """Hold policies against the endpoints that they name, where these are there."""
    endpoints = {(one.document.namespace, one.document.name): one.model for one in checked if isinstance(one.model, ModelEndpoint)}
    for one in checked:
        if not isinstance(one.model, TuningPolicy):
            continue
        endpoint = endpoints.get((one.document.namespace, one.model.spec.endpoint_ref.name))
        for problem in fitting.problems(one.model.spec, endpoint.spec) if endpoint is not None else ():
            yield f"{one.document.where}{problem}"


def _rivals(checked: Sequence[Checked]) -> Iterator[str]:
    """Find domains for which two policies would launch: the operator lets the older one alone do so."""
    launching: dict[tuple[str, str, str], str] = {}
    for one in checked:
        if not isinstance(one.model, TuningPolicy) or not one.model.spec.enabled:
            continue
        endpoint = one.model.spec.endpoint_ref.name
        for place, domain in enumerate(one.model.spec.domains):
            first = launching.setdefault((one.document.namespace, endpoint, domain.name), one.document.name)
            if first != one.document.name:
                told = f"TuningPolicy {first} launches for domain {domain.name} of ModelEndpoint {endpoint}, too"
                yield f"{one.document.where}spec.domains[{place}].name: {told}; leave it to one of them"


def _unreadable(principles: Principles) -> str:
    """Return why what measures drift could not read them."""
    document, policy = principles.config_map, principles.policy
    try:
        principles_of(_content(document, policy), policy)
    except Invalid as invalid:
        return f"{document.where}{invalid.problems[0]}"
    return ""


def _content(document: Document, policy: DriftPolicy) -> bytes:
    """Return the bytes that would be mounted. Raises `Invalid`."""
    body = document.content if isinstance(document.content, dict) else {}
    for field in ("data", "binaryData"):
        values = body.get(field)
        found = values.get(PRINCIPLES_KEY) if isinstance(values, dict) else None
        if isinstance(found, str):
            return _bytes(found, policy) if field == "binaryData" else found.encode()
    told = f"begin it with `{PRINCIPLES_KEY}: |`, and indent what follows"
    raise Invalid([f"ConfigMap {policy.principles} has no text under the key {PRINCIPLES_KEY} of its data: {told}"])


def _bytes(text: str, policy: DriftPolicy) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Invalid([f"ConfigMap {policy.principles}: {PRINCIPLES_KEY} in binaryData is no base64"]) from error
