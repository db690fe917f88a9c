"""The prompts of a team, as they are mounted."""

from __future__ import annotations

from pathlib import Path

from graft_api.drift import PRINCIPLES_KEY, DriftPolicy, Principles
from graft_api.schema import Invalid
from graft_evaluation.principles import principles_of
from graft_serving.drift.problem import NotMeasuredError


def read_principles(file: Path, policy: DriftPolicy) -> tuple[Principles, str]:
    """Return them, and the digest of the file. Raises `NotMeasuredError`."""
    try:
        return principles_of(file.read_bytes(), policy)
    except OSError as error:
        told = f"ConfigMap {policy.principles} has no key {PRINCIPLES_KEY} that can be read ({error.strerror})"
        raise NotMeasuredError(told) from error
    except Invalid as invalid:
        raise NotMeasuredError(invalid.problems[0]) from invalid
