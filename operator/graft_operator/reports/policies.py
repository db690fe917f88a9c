"""
The guard: what graft decides is worth something only while the admission policies that keep others from forging it are in force.

The chart renders each policy twice from one template: for the API server, and into a ConfigMap that is mounted here. So a policy
that was removed, narrowed or reworded is noticed, whoever did it, and the sentence that says so can name the field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from graft_operator.engine.clock import Clock
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import VALIDATING_ADMISSION_POLICIES, VALIDATING_ADMISSION_POLICY_BINDINGS, Object, Resource

BELIEVED = timedelta(seconds=30)

_DECIDING = ("failurePolicy", "matchConstraints", "matchConditions", "variables", "validations", "paramKind")
"""Fields of a policy's spec that decide what is refused. `auditAnnotations` do not."""


def load_expected(file: Path) -> Mapping[str, Object]:
    """Read the policies as the chart rendered them, by name: a YAML object `{name: spec}`."""
    expected = yaml.safe_load(file.read_text())
    if not isinstance(expected, dict) or not expected:
        raise ValueError(f"{file} holds no policies: it must be the key of the chart's ConfigMap")
    return expected


def missing(expected: Mapping[str, Object], policies: Mapping[str, Object | None], bindings: Mapping[str, Object | None]) -> list[str]:
    """
    Return one sentence for each policy that is not in force as expected; empty means all is well.

    `expected` maps names to specs. A binding has the name of its policy.
    """
    sentences = []
    for name, spec in sorted(expected.items()):
        policy, binding = policies.get(name), bindings.get(name)
        if problem := _policy_problem(policy, spec) or _binding_problem(binding, name):
            sentences.append(f"ValidatingAdmissionPolicy {name}: {problem}; run helm upgrade")
    return sentences


def _policy_problem(policy: Object | None, expected: Object) -> str | None:
    if policy is None:
        return "it is absent"
    if policy["metadata"].get("deletionTimestamp"):
        return "it is being deleted"
    spec = policy.get("spec") or {}
    for field in _DECIDING:
        if _normal(spec.get(field)) != _normal(expected.get(field)):
            return f"{field} is not what this version of graft needs"
    return None


def _binding_problem(binding: Object | None, name: str) -> str | None:
    if binding is None:
        return "its binding is absent"
    spec = binding.get("spec") or {}
    problems = {
        "its binding is being deleted": binding["metadata"].get("deletionTimestamp") is not None,
        "its binding names another policy": spec.get("policyName") != name,
        "its binding does not deny": "Deny" not in (spec.get("validationActions") or []),
        "its binding is narrowed by matchResources": _normal(spec.get("matchResources")) is not None,
        "its binding has a paramRef": bool(spec.get("paramRef")),
    }
    return next((problem for problem, holds in problems.items() if holds), None)


# What the API server fills in. A later version may fill in more: a mapping is compared without its empty and default members.
_DEFAULTS = {"matchPolicy": "Equivalent", "scope": "*"}


def _normal(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A value without what means nothing: empty mappings and lists, defaults, and white space around expressions."""
    if isinstance(value, Mapping):
        members = {key: _normal(member) for key, member in value.items() if _DEFAULTS.get(key) != member}
        return {key: member for key, member in members.items() if member is not None} or None
    if isinstance(value, list):
        return [_normal(member) for member in value] or None
    return value.strip() if isinstance(value, str) else value


class PolicyGuard:
    """Reads policies and bindings by name, at most every thirty seconds, and only when asked."""

    def __init__(self, kube: Kube, clock: Clock, expected: Mapping[str, Object]) -> None:
        self._kube = kube
        self._clock = clock
        self._expected = expected
        self._asking = asyncio.Lock()
        self._until = 0.0
        self._answer: list[str] = []
        self._missing_since: float | None = None

    async def missing(self) -> list[str]:
        """What is not in force, one sentence each. Raises a `KubeError` when the API server could not be asked."""
        async with self._asking:
            if self._clock.monotonic() >= self._until:
                self._answer = await self._ask()
                if not self._answer:
                    self._missing_since = None
                elif self._missing_since is None:
                    self._missing_since = self._clock.monotonic()
                self._until = self._clock.monotonic() + BELIEVED.total_seconds()
            return list(self._answer)

    @property
    def known_missing(self) -> list[str]:
        """The last answer."""
        return list(self._answer)

    @property
    def missing_seconds(self) -> float:
        """For how long the answer has not been "nothing"."""
        return 0.0 if self._missing_since is None else self._clock.monotonic() - self._missing_since

    async def _ask(self) -> list[str]:
        policies, bindings = await asyncio.gather(
            self._by_name(VALIDATING_ADMISSION_POLICIES), self._by_name(VALIDATING_ADMISSION_POLICY_BINDINGS)
        )
        return missing(self._expected, policies, bindings)

    async def _by_name(self, resource: Resource) -> dict[str, Object | None]:
        found = await asyncio.gather(*(self._kube.get(resource, None, name) for name in self._expected))
        return dict(zip(self._expected, found, strict=True))
