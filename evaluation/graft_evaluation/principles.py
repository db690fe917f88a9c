"""The principle prompts of a team, as a ConfigMap holds them: read by what measures drift, and by `graft validate` beforehand."""

from __future__ import annotations

import json
from hashlib import sha256

import yaml

from graft_api.drift import PRINCIPLES_KEY, DriftPolicy, Principles
from graft_api.schema import Invalid, parse

LARGEST = 1024 * 1024
"""Of a ConfigMap."""


def principles_of(content: bytes, policy: DriftPolicy) -> tuple[Principles, str]:
    """
    Return the principles, and the digest of the key's bytes. `content`: of the key principles.yaml of the ConfigMap that `policy` names.

    Raises `Invalid` with one sentence.
    """
    where, digest = f"ConfigMap {policy.principles}: {PRINCIPLES_KEY}", f"sha256:{sha256(content).hexdigest()}"
    if policy.principles_digest not in {None, digest}:
        raise Invalid([f"{where} is not what promotion.drift.principlesDigest names; it has {digest}"])
    return _parsed(content, where), digest


def _parsed(content: bytes, where: str) -> Principles:
    found, size = _loaded(content, where)
    if size > LARGEST:
        raise Invalid([f"{where} is larger than {LARGEST} bytes with its aliases written out"])
    try:
        principles = parse(Principles, found)
    except Invalid as invalid:
        raise Invalid([f"{where}: {invalid.problems[0]}"]) from invalid
    for principle in principles.principles:
        if len(set(principle.prompts)) < len(principle.prompts):
            # The interval would be as narrow as if there were more of them.
            raise Invalid([f"{where}: two prompts of principle {principle.name} are the same; ask in other words"])
    return principles


def _loaded(content: bytes, where: str) -> tuple[object, int]:
    try:
        found: object = yaml.safe_load(content)
        return found, _size(found)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Invalid([f"{where} is no YAML{f' (line {mark.line + 1})' if mark else ''}"]) from error
    except (ValueError, TypeError, RecursionError, UnicodeError) as error:
        raise Invalid([f"{where} is no plain YAML of strings, lists and mappings"]) from error


def _size(found: object) -> int:
    """Return how large it is as JSON; no more than just beyond the bound, before aliases of aliases, a few lines, come to gigabytes."""
    size = 0
    for part in json.JSONEncoder().iterencode(found):
        size += len(part)
        if size > LARGEST:
            break
    return size
