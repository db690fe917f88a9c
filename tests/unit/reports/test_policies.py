from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from graft_operator.engine.errors import Unavailable
from graft_operator.reports.policies import PolicyGuard, load_expected, missing

SPEC: dict[str, Any] = {
    "failurePolicy": "Fail",
    "matchConstraints": {
        "namespaceSelector": {},
        "objectSelector": {"matchExpressions": [{"key": "graft.dev/record", "operator": "Exists"}]},
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"], "scope": "*"}],
    },
    "matchConditions": [{"name": "mine", "expression": "true"}],
    "validations": [{"expression": "false", "message": "no"}],
}
POLICY = {"metadata": {"name": "graft-records"}, "spec": SPEC}
BINDING = {"metadata": {"name": "graft-records"}, "spec": {"policyName": "graft-records", "validationActions": ["Deny"]}}


def judge(policy: Any = POLICY, binding: Any = BINDING) -> list[str]:
    return missing({"graft-records": SPEC}, {"graft-records": policy}, {"graft-records": binding})


def spec(**changes: Any) -> Any:
    return {**POLICY, "spec": {key: value for key, value in {**copy.deepcopy(SPEC), **changes}.items() if value is not None}}


def bound(**changes: Any) -> Any:
    return {**BINDING, "spec": {**BINDING["spec"], **changes}}  # type: ignore[dict-item]


NARROWED = {**SPEC["matchConstraints"], "namespaceSelector": {"matchLabels": {"a": "b"}}}
EXCLUDED = {**SPEC["matchConstraints"], "excludeResourceRules": [{"resources": ["*"]}]}
FILLED_IN = {**SPEC["matchConstraints"], "matchPolicy": "Equivalent"}
FEWER = {**SPEC["matchConstraints"], "resourceRules": []}


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        pytest.param(None, "it is absent", id="absent"),
        pytest.param({**POLICY, "metadata": {"deletionTimestamp": "now"}}, "being deleted", id="being deleted"),
        pytest.param(spec(failurePolicy="Ignore"), "failurePolicy", id="fails open"),
        pytest.param(spec(failurePolicy=None), "failurePolicy", id="no failure policy"),
        pytest.param(spec(matchConditions=None), "matchConditions", id="conditions emptied"),
        pytest.param(spec(matchConditions=[{"name": "mine", "expression": "false"}]), "matchConditions", id="a condition that never holds"),
        pytest.param(spec(validations=[{"expression": "true", "message": "no"}]), "validations", id="a rule that always holds"),
        pytest.param(spec(validations=[]), "validations", id="no rules"),
        pytest.param(spec(variables=[{"name": "a", "expression": "true"}]), "variables", id="a variable more"),
        pytest.param(spec(matchConstraints=NARROWED), "matchConstraints", id="only some namespaces"),
        pytest.param(spec(matchConstraints=EXCLUDED), "matchConstraints", id="an exclusion"),
        pytest.param(spec(matchConstraints=FEWER), "matchConstraints", id="no resources"),
        pytest.param(spec(paramKind={"apiVersion": "v1", "kind": "ConfigMap"}), "paramKind", id="depends on a parameter"),
    ],
)
def test_a_policy_that_is_not_in_force(policy: Any, words: str) -> None:
    (sentence,) = judge(policy=policy)
    assert sentence.startswith("ValidatingAdmissionPolicy graft-records: ")
    assert words in sentence


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        pytest.param(None, "its binding is absent", id="absent"),
        pytest.param({**BINDING, "metadata": {"deletionTimestamp": "now"}}, "being deleted", id="being deleted"),
        pytest.param(bound(validationActions=["Audit", "Warn"]), "does not deny", id="only audits"),
        pytest.param(bound(policyName="other"), "another policy", id="of another policy"),
        pytest.param(bound(matchResources={"namespaceSelector": {"matchLabels": {"a": "b"}}}), "narrowed", id="only some namespaces"),
        pytest.param(bound(paramRef={"name": "x"}), "paramRef", id="depends on a parameter"),
    ],
)
def test_a_binding_that_does_not_bind(binding: Any, words: str) -> None:
    (sentence,) = judge(binding=binding)
    assert words in sentence


@pytest.mark.parametrize(
    ("policy", "binding"),
    [
        pytest.param(POLICY, BINDING, id="as the chart has them"),
        pytest.param(spec(matchConstraints=FILLED_IN), BINDING, id="with defaults filled in"),
        pytest.param(spec(auditAnnotations=[{"key": "a", "valueExpression": "'b'"}]), BINDING, id="with an audit annotation"),
        pytest.param(POLICY, bound(validationActions=["Deny", "Audit"]), id="audits as well"),
        pytest.param(POLICY, bound(matchResources={"matchPolicy": "Equivalent", "objectSelector": {}}), id="empty match resources"),
    ],
)
def test_in_force(policy: Any, binding: Any) -> None:
    assert judge(policy, binding) == []


async def test_the_guard_asks_at_most_every_thirty_seconds(api: Any, kube: Any, clock: Any) -> None:
    root = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
    guard = PolicyGuard(kube, clock, {"graft-records": SPEC})
    assert guard.known_missing == []
    assert await guard.missing() == ["ValidatingAdmissionPolicy graft-records: it is absent; run helm upgrade"]
    assert len(guard.known_missing) == 1
    api.objects[f"{root}ies/graft-records"] = POLICY
    api.objects[f"{root}ybindings/graft-records"] = BINDING
    assert await guard.missing() != []
    assert len(api.asked) == 2
    await clock.advance(31)
    assert await guard.missing() == guard.known_missing == []


async def test_what_could_not_be_read_is_not_in_force(api: Any, kube: Any, clock: Any) -> None:
    api.broken = True
    guard = PolicyGuard(kube, clock, {"graft-records": SPEC})
    for _ in range(2):
        with pytest.raises(Unavailable):
            await guard.missing()


def test_an_empty_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "policies.yaml").write_text("")
    with pytest.raises(ValueError, match="holds no policies"):
        load_expected(tmp_path / "policies.yaml")
