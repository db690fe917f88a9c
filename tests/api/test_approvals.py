"""
The chart on a real API server with its controllers: who tries to bring an adapter into production without being asked, and what stops them.

`ATTEMPTS` is the table of docs/threats.md: each is made here, by a user, a group or a service account with all the rights that RBAC can
give them (but where RBAC itself is what stops them), is refused or changes nothing, and leaves everything else as it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft_api.drift import DriftReport, DriftTask, Moment
from graft_api.ledger import DriftMoment, DriftRecord, Gate, GateState, LedgerVersion
from graft_api.modelendpoint import ModelEndpoint
from graft_api.schema import parse
from graft_devcluster.apitier import ApiServer
from graft_operator.engine.clock import SystemClock, parse_rfc3339
from graft_operator.engine.credentials import Credentials, FixedToken, load_credentials
from graft_operator.engine.errors import Forbidden, Invalid, KubeError
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.ownership import controller_reference, is_controlled_by
from graft_operator.engine.resources import (
    ADAPTERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    FINE_TUNE_JOBS,
    JOBS,
    MODEL_ENDPOINTS,
    NAMESPACES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SHADOW_TESTS,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    Object,
    Resource,
)
from graft_operator.modelendpoint import children, drift
from graft_operator.modelendpoint.children import Parent, Platform
from graft_operator.promotion import drifting, testing
from graft_operator.promotion.naming import drift_job_name
from graft_operator.promotion.seen import DriftJob, Seen
from graft_operator.reports.chains import Foreign, Unauthenticated
from graft_operator.reports.identity import Identities
from graft_operator.shadowtest.turns import TestView

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "graft"
THREATS = ROOT / "docs" / "threats.md"
APPROVALS = Resource("graft.dev", "v1alpha1", "adapterapprovals", "AdapterApproval")
NAMESPACE = "team"
OPERATOR = "system:serviceaccount:graft-system:graft-operator"
GARBAGE = "system:serviceaccount:kube-system:generic-garbage-collector"
SYNC = "system:serviceaccount:flux-system:sync"
"""The service account that the policy lists by name."""

DIGEST, OTHER, EVIDENCE = (f"sha256:{digit * 64}" for digit in "123")

PEOPLE = {
    "an approver who is not listed": ("mallory", ()),
    "an approver who is listed": ("alice", ()),
    "a member of a listed group": ("lou", ("leads",)),
    "an editor": ("eve", ()),
    "an editor who serves code": ("sven", ()),
    "a policy administrator": ("paula", ()),
    "a policy administrator of another endpoint": ("otto", ()),
    "a namespace administrator": ("nora", ()),
    "a cluster administrator": ("root", ("system:masters",)),
    "a service account": (f"system:serviceaccount:{NAMESPACE}:ci", ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}")),
    "the operator": (OPERATOR, ("system:serviceaccounts",)),
}
GRANTS = {
    # Every verb on approvals, so that nothing but the policy stands in their way.
    "mallory": ("graft-view", "tampers"),
    "alice": ("view", "tampers"),
    "eve": ("edit",),
    "sven": ("edit", "graft-serving-admin"),
    "paula": ("edit", "graft-policy-admin"),
    "otto": ("edit", "setpolicy-elsewhere"),
    "nora": ("admin",),
}


@dataclass(frozen=True)
class Scene:
    """A namespace in the middle of a promotion, seen by one person."""

    me: Kube
    """Whoever makes the attempt."""
    admin: Kube
    operator: Kube
    adapter_uid: str
    test_uid: str
    api_server: ApiServer


Try = Callable[[Scene], Awaitable[Any]]


@dataclass(frozen=True)
class Attempt:
    """One row of the table."""

    who: str
    what: str
    by: str
    """What stops them: an admission policy, RBAC, the definition of the kind, the reports server; or `no effect`."""
    act: Try


def approval(author: str, *, name: str = "forged", decision: str = "Approve", **changes: Any) -> Object:
    groups = changes.pop("groups", [])
    spec = {"adapterRef": {"name": "dsl-7"}, "digest": DIGEST, "evidenceDigest": EVIDENCE, "decision": decision} | changes
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"metadata": metadata, "spec": spec | {"author": {"username": author, "groups": groups}}}


METRIC = {
    "metric": {"name": "refusals", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary", "margin": 0.01},
    "measure": "Refusal",
}
LESS = {**METRIC, "metric": METRIC["metric"] | {"margin": 0.0}}
PROGRAM = {
    "metric": METRIC["metric"] | {"name": "compiles"},
    "scorer": {"command": {"argv": ["/usr/bin/compile"]}},
}
OBSERVED = [{"domain": "dsl", "scores": [{"name": "refusals", "measure": "Refusal"}]}]


DRIFT = {"principles": "principles", "embeddings": {"url": "http://embeddings:8000/v1", "model": "small"}}


def promotion(**approving: Any) -> Object:
    return {
        "drift": DRIFT,
        "shadow": {"metrics": [METRIC]},
        "approval": {"required": 2, "users": ["alice", "bob", SYNC], "groups": ["leads"]} | approving,
    }


def endpoint(name: str = "prod", policy: Object | None = None) -> Object:
    spec = {
        "baseModel": {"uri": "s3://models/base", "digest": f"sha256:{'0' * 64}"},
        "gateway": {"anonymous": True},
        "collector": {"store": "s3://measured", "observe": OBSERVED},
        "domains": [{"name": "other"}, {"name": "dsl"} | ({"promotion": policy} if policy else {})],
    }
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def read(body: Object) -> ModelEndpoint:
    return parse(ModelEndpoint, {"apiVersion": "graft.dev/v1alpha1", "kind": "ModelEndpoint"} | body)


def question(*metrics: Object) -> Object:
    return {"adapterRef": {"name": "dsl-7"}, "metrics": list(metrics) or [METRIC]}


def shadow_test(name: str, owner: Object | None = None, *metrics: Object) -> Object:
    metadata: Object = {"name": name, "namespace": NAMESPACE} | ({"ownerReferences": [owner]} if owner else {})
    return {"metadata": metadata, "spec": question(*metrics)}


def record(name: str, value: str) -> Object:
    return {"metadata": {"name": name, "namespace": NAMESPACE, "labels": {"graft.dev/record": value}}, "data": {"content": "{}"}}


def owner(kind: str, name: str, uid: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}


def pod_spec(account: str, audience: str | None = None) -> Object:
    token = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"audience": audience, "path": "token"}}]}}
    container = {"name": "main", "image": "registry.k8s.io/pause:3.10"}
    return {"serviceAccountName": account, "containers": [container]} | ({"volumes": [token]} if audience else {})


def pod(name: str, spec: Object, labels: dict[str, str] | None = None) -> Object:
    return {"metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {}}, "spec": spec}


def job(name: str, spec: Object, **metadata: Any) -> Object:
    template = {"spec": spec | {"restartPolicy": "Never"}}
    return {"metadata": {"name": name, "namespace": NAMESPACE} | metadata, "spec": {"template": template}}


def deployment(name: str, spec: Object) -> Object:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


class CoreToken(Resource):
    """A kind of one group that is served below the path of another."""

    @property
    def root(self) -> str:
        return "/api/v1"


async def token_of(kube: Kube, account: str, *audiences: str, namespace: str = NAMESPACE) -> str:
    requests = CoreToken("authentication.k8s.io", "v1", f"serviceaccounts/{account}/token", "TokenRequest")
    spec = {"audiences": list(audiences), "expirationSeconds": 600}
    answer = await kube.create(requests, {"metadata": {"namespace": namespace}, "spec": spec})
    return str(answer["status"]["token"])


def with_token(api_server: ApiServer, token: str, **headers: str) -> Kube:
    """A client that has nothing but a service account's own token."""
    tls = ssl.create_default_context(cafile=str(api_server.certificate_authority))
    credentials = Credentials(api_server.url, NAMESPACE, tls, FixedToken(token))
    session = credentials.open_session()
    session.headers.update(headers)
    return Kube(credentials, session=session)


def creates(resource: Resource, body: Object) -> Try:
    return lambda scene: scene.me.create(resource, body)


def applies(resource: Resource, body: Object) -> Try:
    return lambda scene: scene.me.apply(resource, body)


def changes(resource: Resource, name: str, change: Object, subresource: str | None = None) -> Try:
    return lambda scene: scene.me.merge_patch(resource, NAMESPACE, name, change, subresource=subresource)


def deletes(resource: Resource, name: str) -> Try:
    return lambda scene: scene.me.delete(resource, NAMESPACE, name)


def domain(path: str, value: Any, op: str = "replace") -> Try:
    """Change a field of domain dsl of prod."""
    operations = [{"op": op, "path": f"/spec/domains/1/{path}"} | ({} if op == "remove" else {"value": value})]
    return lambda scene: scene.me.json_patch(MODEL_ENDPOINTS, NAMESPACE, "prod", operations)


def spec(path: str, value: Any, op: str = "replace") -> Try:
    """Change a field of prod."""
    operations = [{"op": op, "path": f"/spec/{path}"} | ({} if op == "remove" else {"value": value})]
    return lambda scene: scene.me.json_patch(MODEL_ENDPOINTS, NAMESPACE, "prod", operations)


def unobserved(operation: Object) -> Try:
    """Change domain dsl of prod, of which nothing may be observed then."""
    operations = [{"op": "replace", "path": "/spec/collector/observe", "value": []}, operation]
    return lambda scene: scene.me.json_patch(MODEL_ENDPOINTS, NAMESPACE, "prod", operations)


def owned(resource: Resource, name: str) -> Try:
    """Give an object an owner that one may delete oneself, so that the garbage collector takes the object along."""

    async def act(scene: Scene) -> None:
        mine = await scene.admin.get(CONFIG_MAPS, NAMESPACE, "mine")
        assert mine is not None
        change = {"metadata": {"ownerReferences": [owner("ConfigMap", "mine", mine["metadata"]["uid"])]}}
        await scene.me.merge_patch(resource, NAMESPACE, name, change)

    return act


async def generated(scene: Scene) -> None:
    body = approval("alice")
    body["metadata"] = {"generateName": "alice-", "namespace": NAMESPACE}
    await scene.me.create(APPROVALS, body)


async def delete_all(scene: Scene) -> None:
    await scene.me._write("DELETE", APPROVALS.path(NAMESPACE), body={"propagationPolicy": "Background"})


async def backdates(scene: Scene) -> None:
    """The API server keeps its own time of creation, by which approvals expire and the newer word counts."""
    change = {"metadata": {"creationTimestamp": "2031-01-01T00:00:00Z"}}
    await scene.me.merge_patch(APPROVALS, NAMESPACE, "alice-says", change)


async def dates_ahead(scene: Scene) -> None:
    """Likewise of a new one."""
    body = approval("root", name="ahead")
    body["metadata"]["creationTimestamp"] = "2031-01-01T00:00:00Z"
    made = await scene.me.create(APPROVALS, body)
    await scene.me.delete(APPROVALS, NAMESPACE, "ahead")
    assert made["metadata"]["creationTimestamp"] < "2031"


async def takes_the_name(scene: Scene) -> None:
    """The test that counts is known by its controller: the operator waits and says NameConflict."""
    name = "dsl-8-0a1b2c3d"
    made = await scene.me.create(SHADOW_TESTS, shadow_test(name, None, LESS))
    await scene.me.delete(SHADOW_TESTS, NAMESPACE, name)
    assert not is_controlled_by(made, scene.adapter_uid)


async def passed_from_the_start(scene: Scene) -> None:
    """What is sent as status with a new object is not taken."""
    body = shadow_test("passed") | {"status": {"observedGeneration": 1, "phase": "Passed"}}
    made = await scene.me.create(SHADOW_TESTS, body)
    await scene.me.delete(SHADOW_TESTS, NAMESPACE, "passed")
    assert made["status"] == {"observedGeneration": -1}


async def controls_by_another_kind(scene: Scene) -> None:
    """The garbage collector does not find such an owner, and leaves the object."""
    reference = {"apiVersion": "example.com/v1", "kind": "Nothing", "name": "dsl-7", "uid": scene.adapter_uid, "controller": True}
    await scene.me.create(SHADOW_TESTS, shadow_test("forged", reference, LESS))


async def controls(scene: Scene) -> None:
    await scene.me.create(SHADOW_TESTS, shadow_test("forged", controller_reference("Adapter", "dsl-7", scene.adapter_uid), LESS))


async def controls_later(scene: Scene) -> None:
    change = {"metadata": {"ownerReferences": [controller_reference("Adapter", "dsl-7", scene.adapter_uid)]}}
    await scene.me.merge_patch(SHADOW_TESTS, NAMESPACE, "own", change)


async def speaks_with(scene: Scene, token: str) -> None:
    await Identities(scene.operator, SystemClock()).fleet_caller(f"Bearer {token}", NAMESPACE, "prod")


async def speaks_as_itself(scene: Scene) -> None:
    await speaks_with(scene, await token_of(scene.me, "ci"))


async def speaks_as_a_collector(scene: Scene) -> None:
    """The built-in edit may ask for tokens of every service account of the namespace, but for no audience of graft's."""
    await speaks_with(scene, await token_of(scene.me, "graft-collector-prod"))


async def speaks_as_what_measures_drift(scene: Scene) -> None:
    await speaks_with(scene, await token_of(scene.me, "graft-drift-prod"))


def about_drift(scene: Scene, policy: Object, **said: Any) -> Gate:
    """Return what a candidate's gate becomes of a result: of the very Job of its first attempt, but for what is `said`."""
    promotes = read(endpoint("prod", promotion() | {"drift": DRIFT | policy})).spec.domains[1]
    assert promotes.promotion is not None
    known = DriftMoment(begun=VERDICT["readAt"], job="job-uid")
    gate = Gate(
        number=1,
        version=LedgerVersion(adapter="dsl-7", digest=DIGEST, uri="s3://adapters/7", size_bytes=1),
        adapter_uid=scene.adapter_uid,
        policy=promotes.promotion,
        state=GateState.CHECKING,
        since=VERDICT["readAt"],
        began=VERDICT["readAt"],
        test="counts",
        drift=DriftRecord(before=known),
    )
    near = {"principle": "honest", "contrast": "Versions", "prompts": 8, "mean": 0.01, "low": 0.0, "high": 0.02}
    found = {"at": VERDICT["readAt"], "principlesDigest": OTHER, "document": EVIDENCE, "readings": [near]}
    body = {"boot": "a", "sequence": 1, "domain": "dsl", "gate": 1, "adapterUid": scene.adapter_uid, "moment": "Before", "attempt": 1}
    report = parse(DriftReport, body | {"measured": found} | said)
    name = drift_job_name("prod", "dsl", 1, Moment.BEFORE, 1)
    seen = Seen(endpoint="prod", wanted=promotes, drift_jobs=[DriftJob(name, "job-uid", reports=[report])])
    return drifting.move(seen, gate, parse_rfc3339(VERDICT["readAt"])) or gate


async def brings_other_principles(scene: Scene) -> None:
    """The ConfigMap is anybody's who may write ConfigMaps; what it said is in the result, and the policy says what it must have said."""
    body = {"metadata": {"name": "principles", "namespace": NAMESPACE}, "data": {"principles.yaml": "principles: []"}}
    made = await scene.me.create(CONFIG_MAPS, body)
    await scene.me.delete(CONFIG_MAPS, NAMESPACE, "principles")
    digest = f"sha256:{hashlib.sha256(made['data']['principles.yaml'].encode()).hexdigest()}"
    after = about_drift(scene, {"principlesDigest": digest}).drift
    assert after is not None
    assert (after.before.measured, after.before.failed) == (None, 1)
    accepted = about_drift(scene, {"principlesDigest": OTHER}).drift
    assert accepted is not None
    assert accepted.before.measured is not None


def speaks_of(**another: Any) -> Try:
    """Who has `pods/exec` speaks with the token of a Job that measures drift; of that Job's own attempt alone."""

    async def act(scene: Scene) -> None:
        after = about_drift(scene, {}, **another).drift
        assert after is not None
        assert (after.before.measured, after.before.failed) == (None, 0)

    return act


async def acts_as_alice(scene: Scene) -> None:
    async with with_token(scene.api_server, await token_of(scene.admin, "ci"), **{"Impersonate-User": "alice"}) as me:
        await me.create(APPROVALS, approval("alice"))


async def acts_as_the_listed_account(scene: Scene) -> None:
    """The built-in edit may act as service accounts of its own namespace, and of no other."""
    async with with_token(scene.api_server, await token_of(scene.admin, "ci"), **{"Impersonate-User": SYNC}) as me:
        await me.create(APPROVALS, approval(SYNC))


def binds(role: str) -> Try:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nora"}
    return creates(ROLE_BINDINGS, {"metadata": {"name": "mine", "namespace": NAMESPACE}, "roleRef": reference, "subjects": [subject]})


VERDICT = {
    "outcome": "Passed",
    "sentence": "Passed",
    "readAt": "2026-11-21T12:00:00Z",
    "observedHours": 1.0,
    "commit": 1,
    "evidenceDigest": EVIDENCE,
}
PROMOTED = {
    "state": "AwaitingApproval",
    "since": "2026-11-21T12:00:00Z",
    "number": 1,
    "adapter": "dsl-7",
    "digest": DIGEST,
    "evidenceDigest": EVIDENCE,
}
STRANGER, LISTED, MEMBER = "an approver who is not listed", "an approver who is listed", "a member of a listed group"
EDITOR, CODER = "an editor", "an editor who serves code"
POLICY, ELSEWHERE = "a policy administrator", "a policy administrator of another endpoint"
ADMIN, ROOT_USER, ACCOUNT, GRAFT = "a namespace administrator", "a cluster administrator", "a service account", "the operator"
RBAC, KIND, REPORTS, NO_EFFECT = "RBAC", "definition of the kind", "reports server", "no effect"

ATTEMPTS = [
    # Words of others.
    Attempt(STRANGER, "approves in the name of somebody who is listed", "graft-approvals", creates(APPROVALS, approval("alice"))),
    Attempt(ROOT_USER, "approves in the name of somebody who is listed", "graft-approvals", creates(APPROVALS, approval("alice"))),
    Attempt(ACCOUNT, "approves in the name of somebody who is listed", "graft-approvals", creates(APPROVALS, approval("alice"))),
    Attempt(ACCOUNT, "approves in the name of the service account that is listed", "graft-approvals", creates(APPROVALS, approval(SYNC))),
    Attempt(LISTED, "approves a second time, in the name of another who is listed", "graft-approvals", creates(APPROVALS, approval("bob"))),
    Attempt(GRAFT, "approves in the name of somebody who is listed", RBAC, creates(APPROVALS, approval("alice"))),
    Attempt(STRANGER, "approves in another's name under a generated name", "graft-approvals", generated),
    Attempt(STRANGER, "applies an approval in another's name", "graft-approvals", applies(APPROVALS, approval("alice"))),
    Attempt(STRANGER, "spells their own name in another way", "graft-approvals", creates(APPROVALS, approval("Mallory"))),
    Attempt(STRANGER, "rejects in another's name", "graft-approvals", creates(APPROVALS, approval("bob", decision="Reject"))),
    Attempt(STRANGER, "claims to be in a listed group", "graft-approvals", creates(APPROVALS, approval("mallory", groups=["leads"]))),
    Attempt(
        ACCOUNT, "claims to be in a listed group", "graft-approvals", creates(APPROVALS, approval(PEOPLE[ACCOUNT][0], groups=["leads"]))
    ),
    Attempt(
        MEMBER,
        "claims another group beside their own",
        "graft-approvals",
        creates(APPROVALS, approval("lou", groups=["leads", "reviewers"])),
    ),
    Attempt(EDITOR, "approves without the right to", RBAC, creates(APPROVALS, approval("eve"))),
    Attempt(ACCOUNT, "acts as somebody who is listed", RBAC, acts_as_alice),
    Attempt(ACCOUNT, "acts as the listed service account of another namespace", RBAC, acts_as_the_listed_account),
    # Words that were said.
    Attempt(
        ROOT_USER,
        "turns a rejection into an approval",
        KIND,
        changes(APPROVALS, "bob-says", {"spec": {"decision": "Approve", "evidenceDigest": EVIDENCE}}),
    ),
    Attempt(ROOT_USER, "has an approval mean another artifact", KIND, changes(APPROVALS, "alice-says", {"spec": {"digest": OTHER}})),
    Attempt(
        LISTED, "has their own approval mean other evidence", KIND, changes(APPROVALS, "alice-says", {"spec": {"evidenceDigest": OTHER}})
    ),
    Attempt(
        STRANGER,
        "takes over an approval as its author",
        KIND,
        changes(APPROVALS, "alice-says", {"spec": {"author": {"username": "mallory"}}}),
    ),
    Attempt(STRANGER, "withdraws another's rejection", "graft-approvals", deletes(APPROVALS, "bob-says")),
    Attempt(ROOT_USER, "withdraws another's rejection", "graft-approvals", deletes(APPROVALS, "bob-says")),
    Attempt(ACCOUNT, "withdraws another's approval", "graft-approvals", deletes(APPROVALS, "alice-says")),
    Attempt(STRANGER, "withdraws all at once", "graft-approvals", delete_all),
    Attempt(STRANGER, "gives another's rejection an owner, and deletes that", "graft-approvals", owned(APPROVALS, "bob-says")),
    Attempt(ROOT_USER, "gives another's rejection an owner, and deletes that", "graft-approvals", owned(APPROVALS, "bob-says")),
    Attempt(
        STRANGER,
        "holds another's approval back with a finalizer",
        "graft-approvals",
        changes(APPROVALS, "alice-says", {"metadata": {"finalizers": ["a.b/c"]}}),
    ),
    Attempt(
        STRANGER, "labels another's approval", "graft-approvals", changes(APPROVALS, "alice-says", {"metadata": {"labels": {"a": "b"}}})
    ),
    Attempt(ROOT_USER, "makes an old approval young", NO_EFFECT, backdates),
    Attempt(ROOT_USER, "makes a new approval newer than it is", NO_EFFECT, dates_ahead),
    # Records.
    Attempt(
        EDITOR,
        "writes counted approvals into the ledger",
        "graft-records",
        changes(CONFIG_MAPS, "prod-ledger", {"data": {"content": "{1}"}}),
    ),
    Attempt(
        ROOT_USER,
        "writes counted approvals into the ledger",
        "graft-records",
        changes(CONFIG_MAPS, "prod-ledger", {"data": {"content": "{1}"}}),
    ),
    Attempt(EDITOR, "deletes the ledger, so that rejections are forgotten", "graft-records", deletes(CONFIG_MAPS, "prod-ledger")),
    Attempt(
        EDITOR,
        "takes the ledger's label away, to change it then",
        "graft-records",
        changes(CONFIG_MAPS, "prod-ledger", {"metadata": {"labels": {"graft.dev/record": None}}}),
    ),
    Attempt(
        EDITOR, "deletes the record of launches, so that a cooldown is forgotten", "graft-records", deletes(CONFIG_MAPS, "prod-launches")
    ),
    Attempt(
        ROOT_USER,
        "makes the last launch older than it is",
        "graft-records",
        changes(CONFIG_MAPS, "prod-launches", {"data": {"content": "{1}"}}),
    ),
    Attempt(
        EDITOR,
        "gives the record of launches an owner, and deletes that",
        "graft-records",
        owned(CONFIG_MAPS, "prod-launches"),
    ),
    Attempt(
        ACCOUNT,
        "writes a ledger for an endpoint that is yet to come",
        "graft-records",
        creates(CONFIG_MAPS, record("next-ledger", "ledger")),
    ),
    Attempt(
        EDITOR,
        "routes production to a version of their own",
        "graft-records",
        changes(CONFIG_MAPS, "prod-routes", {"data": {"content": "{1}"}}),
    ),
    Attempt(
        EDITOR, "replaces the evidence of a verdict", "graft-records", changes(CONFIG_MAPS, "dsl-7-evidence", {"data": {"content": "{1}"}})
    ),
    Attempt(
        EDITOR,
        "tells the collector to compare something else",
        "graft-records",
        changes(CONFIG_MAPS, "prod-collector", {"data": {"content": "{1}"}}),
    ),
    Attempt(EDITOR, "changes a run's manifest", "graft-records", changes(CONFIG_MAPS, "run-manifest", {"data": {"content": "{1}"}})),
    # Who speaks to the operator.
    Attempt(
        EDITOR,
        "runs a pod as the collector's service account",
        "graft-pods",
        creates(PODS, pod("forged", pod_spec("graft-collector-prod"))),
    ),
    Attempt(
        EDITOR,
        "runs a pod that is labelled as the collector",
        "graft-pods",
        creates(PODS, pod("forged", pod_spec("default"), {"graft.dev/component": "collector"})),
    ),
    Attempt(
        ROOT_USER, "runs a pod with a token for the operator", "graft-pods", creates(PODS, pod("forged", pod_spec("default", "graft.dev")))
    ),
    Attempt(
        EDITOR,
        "has a Deployment run such pods",
        "graft-deployments",
        creates(DEPLOYMENTS, deployment("forged", pod_spec("graft-collector-prod", "graft.dev"))),
    ),
    Attempt(
        EDITOR,
        "asks for a collector's token for the operator",
        "graft-tokens",
        lambda scene: token_of(scene.me, "graft-collector-prod", "graft.dev"),
    ),
    Attempt(
        ROOT_USER,
        "asks for a gateway's token for the collector",
        "graft-tokens",
        lambda scene: token_of(scene.me, "graft-gateway-prod", "graft.dev/collector/prod"),
    ),
    Attempt(EDITOR, "reports with the token of a service account of their own", REPORTS, speaks_as_itself),
    Attempt(EDITOR, "reports with a token of the collector's account for another audience", REPORTS, speaks_as_a_collector),
    # Who measures drift.
    Attempt(
        EDITOR,
        "runs a pod as the service account of what measures drift",
        "graft-pods",
        creates(PODS, pod("forged", pod_spec("graft-drift-prod"))),
    ),
    Attempt(
        EDITOR,
        "runs a pod that is labelled as what measures drift",
        "graft-pods",
        creates(PODS, pod("forged", pod_spec("default"), {"graft.dev/component": "drift", "graft.dev/modelendpoint": "prod"})),
    ),
    Attempt(
        ROOT_USER,
        "runs a pod as the service account of what measures drift",
        "graft-pods",
        creates(PODS, pod("forged", pod_spec("graft-drift-prod", "graft.dev"))),
    ),
    Attempt(
        EDITOR,
        "has a Job run as the service account of what measures drift",
        "graft-jobs",
        creates(JOBS, job("forged", pod_spec("graft-drift-prod", "graft.dev"))),
    ),
    Attempt(
        EDITOR,
        "has a Job of their own belong to the endpoint",
        "graft-jobs",
        creates(JOBS, job("forged", pod_spec("default"), ownerReferences=[controller_reference("ModelEndpoint", "prod", "uid-1")])),
    ),
    Attempt(
        EDITOR,
        "labels a Job of their own as what measures drift",
        "graft-jobs",
        changes(JOBS, "theirs", {"metadata": {"labels": {"graft.dev/component": "drift", "graft.dev/modelendpoint": "prod"}}}),
    ),
    Attempt(
        EDITOR,
        "asks for the token of what measures drift for the operator",
        "graft-tokens",
        lambda scene: token_of(scene.me, "graft-drift-prod", "graft.dev"),
    ),
    Attempt(
        ROOT_USER,
        "asks for the token of what measures drift for the servers",
        "graft-tokens",
        lambda scene: token_of(scene.me, "graft-drift-prod", "graft.dev/door/prod"),
    ),
    Attempt(EDITOR, "reports with a token of the drift account for another audience", REPORTS, speaks_as_what_measures_drift),
    Attempt(EDITOR, "has other principles asked than the policy says", NO_EFFECT, brings_other_principles),
    Attempt(EDITOR, "has what measures drift speak of another candidate", NO_EFFECT, speaks_of(gate=2)),
    Attempt(EDITOR, "has what measures drift speak of another adapter", NO_EFFECT, speaks_of(adapterUid="uid-of-mine")),
    Attempt(EDITOR, "has what measures drift speak of another moment", NO_EFFECT, speaks_of(moment="After")),
    Attempt(EDITOR, "has what measures drift speak of another attempt", NO_EFFECT, speaks_of(attempt=2)),
    Attempt(EDITOR, "allows more drift", "graft-promotion", domain("promotion/drift/limit", "1.9")),
    Attempt(
        EDITOR, "has drift measured by a model of their own", "graft-promotion", domain("promotion/drift/embeddings/url", "http://mine/v1")
    ),
    Attempt(EDITOR, "has nobody look for drift", "graft-promotion", domain("promotion/drift", None, "remove")),
    # The test that counts.
    Attempt(EDITOR, "has an easy test of their own count", "graft-tests", controls),
    Attempt(ROOT_USER, "has an easy test of their own count", "graft-tests", controls),
    Attempt(EDITOR, "has one count by the Adapter's uid under another kind", "graft-tests", controls_by_another_kind),
    Attempt(EDITOR, "has a test that has passed already count afterwards", "graft-tests", controls_later),
    Attempt(
        EDITOR,
        "takes the Adapter away from the test that counts",
        "graft-tests",
        changes(SHADOW_TESTS, "counts", {"metadata": {"ownerReferences": None}}),
    ),
    Attempt(EDITOR, "makes a test of their own under the name that the next one will have", NO_EFFECT, takes_the_name),
    Attempt(EDITOR, "has the test that counts ask for less", KIND, changes(SHADOW_TESTS, "counts", {"spec": {"metrics": [LESS]}})),
    Attempt(EDITOR, "creates a test that has passed from the start", NO_EFFECT, passed_from_the_start),
    Attempt(EDITOR, "writes a verdict", RBAC, changes(SHADOW_TESTS, "counts", {"status": {"verdict": VERDICT}}, "status")),
    Attempt(ROOT_USER, "writes a verdict", "graft-status", changes(SHADOW_TESTS, "counts", {"status": {"verdict": VERDICT}}, "status")),
    Attempt(
        ROOT_USER,
        "writes into an Adapter's status that it awaits approval",
        "graft-status",
        changes(ADAPTERS, "dsl-7", {"status": {"promotion": PROMOTED}}, "status"),
    ),
    Attempt(
        ROOT_USER,
        "writes into a ModelEndpoint's status what serves",
        "graft-status",
        changes(MODEL_ENDPOINTS, "prod", {"status": {"revision": 9}}, "status"),
    ),
    Attempt(
        ROOT_USER,
        "writes into a FineTuneJob's status what it made",
        "graft-status",
        changes(FINE_TUNE_JOBS, "run", {"status": {"phase": "Succeeded"}}, "status"),
    ),
    Attempt(GRAFT, "makes a test that no Adapter controls", "graft-operator-writes", creates(SHADOW_TESTS, shadow_test("forged"))),
    # The policy.
    Attempt(EDITOR, "lowers the quorum", "graft-promotion", domain("promotion/approval/required", 0)),
    Attempt(
        ACCOUNT,
        "lowers the quorum by applying the whole object",
        "graft-promotion",
        applies(MODEL_ENDPOINTS, endpoint("prod", promotion(required=1))),
    ),
    Attempt(CODER, "lowers the quorum", "graft-promotion", domain("promotion/approval/required", 0)),
    Attempt(ELSEWHERE, "lowers the quorum here", "graft-promotion", domain("promotion/approval/required", 0)),
    Attempt(ADMIN, "lowers the quorum", "graft-promotion", domain("promotion/approval/required", 0)),
    Attempt(EDITOR, "lists themselves", "graft-promotion", domain("promotion/approval/users/-", "eve", "add")),
    Attempt(EDITOR, "takes the veto away", "graft-promotion", domain("promotion/approval/veto", False)),
    Attempt(EDITOR, "has the policy's test ask for less", "graft-promotion", domain("promotion/shadow/metrics/0/metric/margin", 0.0)),
    Attempt(EDITOR, "ends the watch before it has seen anything", "graft-promotion", domain("promotion/watch", {"window": "10s"}, "add")),
    Attempt(EDITOR, "removes the policy", "graft-promotion", domain("promotion", None, "remove")),
    Attempt(
        EDITOR,
        "removes the domain with its policy, to add it again without",
        "graft-promotion",
        unobserved({"op": "remove", "path": "/spec/domains/1"}),
    ),
    Attempt(
        EDITOR,
        "renames the domain with its policy",
        "graft-promotion",
        unobserved({"op": "replace", "path": "/spec/domains/1/name", "value": "dsl-old"}),
    ),
    Attempt(EDITOR, "deletes the endpoint, to create it again without the policy", "graft-promotion", deletes(MODEL_ENDPOINTS, "prod")),
    Attempt(EDITOR, "gives the endpoint an owner, and deletes that", "graft-promotion", owned(MODEL_ENDPOINTS, "prod")),
    Attempt(
        EDITOR,
        "creates an endpoint whose policy asks nobody",
        "graft-promotion",
        creates(MODEL_ENDPOINTS, endpoint("next", promotion(required=0))),
    ),
    Attempt(
        EDITOR,
        "gives another endpoint such a policy",
        "graft-promotion",
        changes(MODEL_ENDPOINTS, "free", {"spec": {"domains": [{"name": "dsl", "promotion": promotion(required=0)}]}}),
    ),
    Attempt(EDITOR, "pins an adapter that nobody approved", "graft-promotion", domain("pin", {"adapter": "dsl-7"}, "add")),
    Attempt(EDITOR, "has the watched score mean something else", "graft-promotion", spec("collector/observe/0/scores/0/measure", "Length")),
    Attempt(EDITOR, "takes the watched score away", "graft-promotion", spec("collector/observe", [])),
    Attempt(EDITOR, "has pairs written where they can change them", "graft-promotion", spec("collector/store", "s3://mine")),
    Attempt(
        EDITOR,
        "has scorers ask through a proxy of theirs",
        "graft-promotion",
        spec("collector/env", [{"name": "HTTPS_PROXY", "value": "http://mine"}], "add"),
    ),
    Attempt(POLICY, "has an image of theirs measure", "graft-commands", spec("collector/image", "mine", "add")),
    Attempt(CODER, "has an image of theirs measure", "graft-promotion", spec("collector/image", "mine", "add")),
    Attempt(POLICY, "brings a program into the policy's test", "graft-commands", domain("promotion/shadow/metrics/-", PROGRAM, "add")),
    # Rights.
    Attempt(
        ADMIN,
        "gives themselves the verb setpolicy",
        RBAC,
        creates(
            ROLES,
            {
                "metadata": {"name": "mine", "namespace": NAMESPACE},
                "rules": [{"apiGroups": ["graft.dev"], "resources": ["modelendpoints"], "verbs": ["setpolicy"]}],
            },
        ),
    ),
    Attempt(ADMIN, "binds themselves to graft-policy-admin", RBAC, binds("graft-policy-admin")),
    Attempt(ADMIN, "binds themselves to graft-approver", RBAC, binds("graft-approver")),
    Attempt(
        ADMIN,
        "takes an admission policy away",
        RBAC,
        lambda scene: scene.me.delete(VALIDATING_ADMISSION_POLICY_BINDINGS, None, "graft-approvals"),
    ),
]


@pytest.fixture(scope="module")
def api_server() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        yield server


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer) -> Path:
    """The chart, as a user installs it."""
    module = importlib.util.spec_from_file_location("generate", CHART / "generate.py")
    assert module is not None
    assert module.loader is not None
    generate = importlib.util.module_from_spec(module)
    module.loader.exec_module(generate)
    flags = ("--kubeconfig", str(api_server.kubeconfig), "--namespace", "graft-system", "--create-namespace")
    done = subprocess.run([str(generate.helm()), "install", "graft", str(CHART), *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return api_server.kubeconfig


@dataclass(frozen=True)
class Uids:
    adapter: str
    test: str


@pytest.fixture(scope="module")
def promoting(kubeconfig: Path) -> Uids:
    """A namespace in the middle of a promotion, once: no attempt changes it."""
    return asyncio.run(built(kubeconfig))


def act_as(kubeconfig: Path, user: str, *groups: str) -> Kube:
    credentials = load_credentials(kubeconfig)
    session = credentials.open_session()
    session.headers["Impersonate-User"] = user
    for group in (*groups, "system:authenticated"):
        session.headers.add("Impersonate-Group", group)
    return Kube(credentials, session=session)


async def built(kubeconfig: Path) -> Uids:
    async with (
        Kube(load_credentials(kubeconfig)) as kube,
        act_as(kubeconfig, OPERATOR, "system:serviceaccounts") as operator,
        act_as(kubeconfig, "alice") as alice,
        act_as(kubeconfig, "bob") as bob,
    ):
        await prepared(kube)
        await in_force(kube)
        await granted(kube)
        adapter = await kube.create(ADAPTERS, {"metadata": {"name": "dsl-7", "namespace": NAMESPACE}, "spec": adapter_spec()})
        uid = str(adapter["metadata"]["uid"])
        await kube.create(MODEL_ENDPOINTS, endpoint("prod", promotion()))
        await kube.create(MODEL_ENDPOINTS, endpoint("free"))
        await kube.create(FINE_TUNE_JOBS, {"metadata": {"name": "run", "namespace": NAMESPACE}, "spec": job_spec()})
        made = await operator.create(SHADOW_TESTS, shadow_test("counts", controller_reference("Adapter", "dsl-7", uid)))
        await kube.create(SHADOW_TESTS, shadow_test("own", None, LESS))
        for name, value in (
            ("prod-ledger", "ledger"),
            ("prod-launches", "launches"),
            ("prod-routes", "routes"),
            ("prod-collector", "collector"),
            ("dsl-7-evidence", "evidence"),
            ("run-manifest", "manifest"),
        ):
            await operator.create(CONFIG_MAPS, record(name, value))
        await eventually(lambda: alice.create(APPROVALS, approval("alice", name="alice-says")))
        await eventually(lambda: bob.create(APPROVALS, approval("bob", name="bob-says", decision="Reject")))
        await eventually(lambda: present(kube, SERVICE_ACCOUNTS, "default"))
        await warmed(kubeconfig)
        return Uids(uid, str(made["metadata"]["uid"]))


async def present(kube: Kube, resource: Resource, name: str) -> Object:
    found = await kube.get(resource, NAMESPACE, name)
    if found is None:
        raise NotYetError
    return found


def adapter_spec() -> Object:
    artifact = {"uri": "s3://adapters/7", "digest": DIGEST, "sizeBytes": 1}
    return {"artifact": artifact, "domain": "dsl", "baseModelDigest": f"sha256:{'0' * 64}", "endpointRef": {"name": "prod"}}


def job_spec() -> Object:
    return dict(yaml.safe_load((ROOT / "tests" / "data" / "finetunejob" / "good" / "minimal.yaml").read_text())["spec"])


async def prepared(kube: Kube) -> None:
    for name in (NAMESPACE, "flux-system"):
        await kube.create(NAMESPACES, {"metadata": {"name": name}})
    await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": "sync", "namespace": "flux-system"}})
    for account in ("ci", "graft-collector-prod", "graft-gateway-prod", "graft-drift-prod"):
        await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": account, "namespace": NAMESPACE}})
    await kube.create(CONFIG_MAPS, {"metadata": {"name": "mine", "namespace": NAMESPACE}})
    theirs = job("theirs", pod_spec("default"))
    await kube.create(JOBS, theirs | {"spec": theirs["spec"] | {"suspend": True}})


async def granted(kube: Kube) -> None:
    """Roles beside those of the chart: one with every verb on approvals, and `setpolicy` on another endpoint alone."""
    tampers = {"apiGroups": ["graft.dev"], "resources": ["adapterapprovals", "adapterapprovals/status"], "verbs": ["*"]}
    elsewhere = {"apiGroups": ["graft.dev"], "resources": ["modelendpoints"], "resourceNames": ["free"], "verbs": ["setpolicy"]}
    for name, rule in (("tampers", tampers), ("setpolicy-elsewhere", elsewhere)):
        await kube.create(ROLES, {"metadata": {"name": name, "namespace": NAMESPACE}, "rules": [rule]})
    for user, roles in GRANTS.items():
        for role in roles:
            await bind(kube, role, {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user})
    await bind(kube, "graft-approver", {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"})
    await bind(kube, "graft-approver", {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "leads"})
    await bind(kube, "graft-approver", {"kind": "ServiceAccount", "name": "sync", "namespace": "flux-system"})
    for role in ("edit", "tampers"):
        await bind(kube, role, {"kind": "ServiceAccount", "name": "ci", "namespace": NAMESPACE})


async def bind(kube: Kube, role: str, subject: Object) -> None:
    kind = "Role" if role in {"tampers", "setpolicy-elsewhere"} else "ClusterRole"
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
    name = f"{subject['name']}-{role}"
    await kube.create(ROLE_BINDINGS, {"metadata": {"name": name, "namespace": NAMESPACE}, "roleRef": reference, "subjects": [subject]})


async def in_force(kube: Kube) -> None:
    """The API server takes a moment to heed a new policy, and to serve a new kind."""
    elsewhere = {"generateName": "probe-", "namespace": "flux-system"}
    controlled = {"metadata": elsewhere | {"ownerReferences": [controller_reference("Adapter", "a", "b")]}, "spec": question()}
    await eventually(lambda: refused(kube.create(CONFIG_MAPS, {"metadata": elsewhere | {"labels": {"graft.dev/record": "ledger"}}})))
    await eventually(lambda: refused(kube.create(APPROVALS, approval("nobody") | {"metadata": elsewhere})))
    await eventually(lambda: refused(kube.create(SHADOW_TESTS, controlled)))


async def warmed(kubeconfig: Path) -> None:
    """Roles that are put together of others, such as edit, take a moment, too."""
    label = {"metadata": {"labels": {"seen": "yes"}}}
    for who in (EDITOR, CODER, POLICY, ELSEWHERE, ADMIN, ACCOUNT):
        async with act_as(kubeconfig, PEOPLE[who][0], *PEOPLE[who][1]) as somebody:
            await eventually(lambda me=somebody: me.merge_patch(MODEL_ENDPOINTS, NAMESPACE, "free", label))
    for who in (STRANGER, LISTED, MEMBER, ACCOUNT):
        async with act_as(kubeconfig, PEOPLE[who][0], *PEOPLE[who][1]) as somebody:
            body = approval(PEOPLE[who][0], name="warm")
            await eventually(lambda me=somebody, body=body: me.create(APPROVALS, body))
            await somebody.delete(APPROVALS, NAMESPACE, "warm")


class NotYetError(Exception):
    """It was let through."""


async def refused(call: Awaitable[Any]) -> None:
    try:
        await call
    except Forbidden:
        return
    raise NotYetError


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    """Try until it is done."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except (KubeError, NotYetError):
                await asyncio.sleep(0.1)


@pytest.fixture
async def scene(kubeconfig: Path, promoting: Uids, api_server: ApiServer) -> AsyncIterator[Scene]:
    async with (
        Kube(load_credentials(kubeconfig)) as admin,
        act_as(kubeconfig, OPERATOR, "system:serviceaccounts") as operator,
    ):
        yield Scene(admin, admin, operator, promoting.adapter, promoting.test, api_server)


@pytest.fixture
async def acting(kubeconfig: Path) -> AsyncIterator[Callable[..., Kube]]:
    """A client that is somebody else, for as long as the test runs."""
    async with AsyncExitStack() as stack:

        def act(user: str, *groups: str) -> Kube:
            client = act_as(kubeconfig, user, *groups)
            stack.push_async_callback(client.close)
            return client

        yield act


async def everything(kube: Kube) -> dict[str, str]:
    """All that an attempt could have changed, with its version."""
    found = {}
    for resource in (
        APPROVALS,
        SHADOW_TESTS,
        ADAPTERS,
        MODEL_ENDPOINTS,
        FINE_TUNE_JOBS,
        CONFIG_MAPS,
        PODS,
        JOBS,
        DEPLOYMENTS,
        ROLES,
        ROLE_BINDINGS,
    ):
        for item in await kube.list(resource, Selection(NAMESPACE)):
            found[f"{resource.plural}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
    return found


async def stopped(call: Awaitable[Any]) -> str:
    """Who stopped it; `no effect`: nobody did."""
    try:
        await call
    except (Unauthenticated, Foreign):
        return REPORTS
    except Invalid as error:
        return KIND if "immutable" in str(error) else str(error)
    except Forbidden as error:
        words = str(error)
        if "ValidatingAdmissionPolicy '" in words:
            return words.partition("ValidatingAdmissionPolicy '")[2].partition("'")[0]
        return RBAC if "cannot " in words or "attempting to grant RBAC permissions" in words else words
    return NO_EFFECT


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[f"{attempt.who} {attempt.what}" for attempt in ATTEMPTS])
async def test_nobody_forges(attempt: Attempt, scene: Scene, acting: Callable[..., Kube]) -> None:
    user, groups = PEOPLE[attempt.who]
    before = await everything(scene.admin)
    assert await stopped(attempt.act(replace(scene, me=acting(user, *groups)))) == attempt.by
    assert await everything(scene.admin) == before


def cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("|").split("|"))


def test_the_table_of_threats_is_this_list() -> None:
    lines = THREATS.read_text().partition("<!-- attempts -->")[2].partition("<!-- end -->")[0].strip().splitlines()
    assert cells(lines[0]) == ("who", "tries", "stopped by")
    assert [cells(line) for line in lines[2:]] == [(attempt.who, attempt.what, attempt.by) for attempt in ATTEMPTS]
    assert len({(attempt.who, attempt.what) for attempt in ATTEMPTS}) == len(ATTEMPTS) >= 40


class TestPermitted:
    """What the same policies let through."""

    async def test_an_author_says_marks_and_withdraws(self, scene: Scene, acting: Callable[..., Kube]) -> None:
        alice = acting("alice")
        await alice.create(APPROVALS, approval("alice", name="mine"))
        mine = await present(scene.admin, CONFIG_MAPS, "mine")
        owners = [owner("ConfigMap", "mine", mine["metadata"]["uid"])]
        for change in ({"labels": {"a": "b"}}, {"finalizers": ["a.b/c"]}, {"finalizers": None}, {"ownerReferences": owners}):
            await alice.merge_patch(APPROVALS, NAMESPACE, "mine", {"metadata": change})
        assert await alice.delete(APPROVALS, NAMESPACE, "mine")

    async def test_a_member_names_the_groups_that_they_are_in(self, acting: Callable[..., Kube]) -> None:
        lou = acting("lou", "leads", "others")
        await lou.create(APPROVALS, approval("lou", name="lou-says", groups=["leads", "others"]))
        assert await lou.delete(APPROVALS, NAMESPACE, "lou-says")

    async def test_the_listed_service_account_says_it_with_its_own_token(self, scene: Scene) -> None:
        token = await token_of(scene.admin, "sync", namespace="flux-system")
        async with with_token(scene.api_server, token) as sync:
            await sync.create(APPROVALS, approval(SYNC, name="sync-says", groups=["system:serviceaccounts:flux-system"]))
            assert await sync.delete(APPROVALS, NAMESPACE, "sync-says")

    async def test_the_garbage_collector_collects_and_a_migration_changes_nothing(self, scene: Scene, acting: Callable[..., Kube]) -> None:
        await acting("alice").create(APPROVALS, approval("alice", name="old"))
        stored = await present(scene.admin, APPROVALS, "old")
        again = await scene.admin._write("PUT", APPROVALS.path(NAMESPACE, "old"), body=stored)
        assert again["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]
        garbage = acting(GARBAGE, "system:masters")
        await garbage.merge_patch(APPROVALS, NAMESPACE, "old", {"metadata": {"finalizers": ["foregroundDeletion"]}})
        await garbage.merge_patch(APPROVALS, NAMESPACE, "old", {"metadata": {"finalizers": None}})
        assert await garbage.delete(APPROVALS, NAMESPACE, "old")

    async def test_approvals_go_with_their_namespace(self, scene: Scene, acting: Callable[..., Kube], until: Callable[..., Any]) -> None:
        await scene.admin.create(NAMESPACES, {"metadata": {"name": "gone"}})
        body = approval("root")
        await acting("root", "system:masters").create(APPROVALS, body | {"metadata": {"name": "forgotten", "namespace": "gone"}})
        policed = endpoint("prod", promotion())
        await scene.admin.create(MODEL_ENDPOINTS, policed | {"metadata": {"name": "prod", "namespace": "gone"}})
        await scene.admin.delete(NAMESPACES, None, "gone")

        async def absent() -> bool:
            return await scene.admin.get(NAMESPACES, None, "gone") is None

        await until(absent, 60)

    async def test_who_may_set_the_policy_does_all_of_it(self, acting: Callable[..., Kube]) -> None:
        paula = acting("paula")
        await paula.create(MODEL_ENDPOINTS, endpoint("hers", promotion()))
        await paula.merge_patch(MODEL_ENDPOINTS, NAMESPACE, "hers", {"spec": {"collector": {"store": "s3://elsewhere"}}})
        operations = [
            {"op": "replace", "path": "/spec/domains/1/promotion/approval/required", "value": 1},
            {"op": "add", "path": "/spec/domains/1/pin", "value": {"adapter": "dsl-7"}},
        ]
        await paula.json_patch(MODEL_ENDPOINTS, NAMESPACE, "hers", operations)
        await paula.json_patch(MODEL_ENDPOINTS, NAMESPACE, "hers", [{"op": "remove", "path": "/spec/domains/1/promotion"}])
        await paula.json_patch(
            MODEL_ENDPOINTS, NAMESPACE, "hers", [{"op": "add", "path": "/spec/domains/1/promotion", "value": promotion(required=0)}]
        )
        assert await paula.delete(MODEL_ENDPOINTS, NAMESPACE, "hers")

    async def test_who_may_set_one_sets_that_one(self, acting: Callable[..., Kube]) -> None:
        otto = acting("otto")
        policy = {"op": "add", "path": "/spec/domains/1/promotion", "value": promotion()}
        await otto.json_patch(MODEL_ENDPOINTS, NAMESPACE, "free", [policy])
        await otto.json_patch(MODEL_ENDPOINTS, NAMESPACE, "free", [{"op": "remove", "path": "/spec/domains/1/promotion"}])

    async def test_an_editor_changes_the_rest_beside_a_policy(self, scene: Scene, acting: Callable[..., Kube]) -> None:
        eve, place = acting("eve"), "/spec/domains/1"
        await scene.admin.json_patch(
            MODEL_ENDPOINTS, NAMESPACE, "prod", [{"op": "add", "path": f"{place}/pin", "value": {"adapter": "dsl-7"}}]
        )
        scores = [{"name": "tokens", "measure": "Tokens"}]
        for operation in (
            {"op": "add", "path": f"{place}/limits", "value": {"concurrent": 5}},  # beside a pin that stays as it is
            {"op": "replace", "path": f"{place}/pin", "value": {"base": True}},
            {"op": "remove", "path": f"{place}/pin"},
            {"op": "add", "path": f"{place}/paused", "value": True},
            {"op": "replace", "path": f"{place}/paused", "value": False},
            {"op": "add", "path": "/spec/domains/0/pin", "value": {"adapter": "any"}},
            {"op": "add", "path": "/spec/domains/-", "value": {"name": "third"}},
            {"op": "add", "path": "/spec/collector/observe/-", "value": {"domain": "other", "scores": scores}},
            {"op": "replace", "path": "/spec/collector/queueBytes", "value": 2_000_000},
            {"op": "replace", "path": "/spec/replicas", "value": 2},
            {"op": "add", "path": "/metadata/labels", "value": {"team": "rules"}},
        ):
            await eve.json_patch(MODEL_ENDPOINTS, NAMESPACE, "prod", [operation])
        await eve.merge_patch(MODEL_ENDPOINTS, NAMESPACE, "prod", {"spec": {"replicas": 3}}, subresource="scale")

    async def test_without_a_policy_an_editor_does_as_before(self, acting: Callable[..., Kube]) -> None:
        eve = acting("eve")
        await eve.create(MODEL_ENDPOINTS, endpoint("eves"))
        await eve.json_patch(
            MODEL_ENDPOINTS, NAMESPACE, "eves", [{"op": "add", "path": "/spec/domains/1/pin", "value": {"adapter": "dsl-7"}}]
        )
        await eve.merge_patch(MODEL_ENDPOINTS, NAMESPACE, "eves", {"spec": {"collector": None}})
        assert await eve.delete(MODEL_ENDPOINTS, NAMESPACE, "eves")
        await eve.create(SHADOW_TESTS, shadow_test("eves", None, LESS))
        await eve.merge_patch(SHADOW_TESTS, NAMESPACE, "eves", {"metadata": {"labels": {"a": "b"}}})
        assert await eve.delete(SHADOW_TESTS, NAMESPACE, "eves")

    async def test_who_may_bring_programs_and_set_policies_does_both(self, acting: Callable[..., Kube]) -> None:
        root, eve = acting("root", "system:masters"), acting("eve")
        policy = promotion()
        policy["shadow"]["metrics"] = [METRIC, PROGRAM]
        await root.create(MODEL_ENDPOINTS, endpoint("programs", policy))
        await eve.merge_patch(MODEL_ENDPOINTS, NAMESPACE, "programs", {"spec": {"replicas": 2}})
        operations = [{"op": "add", "path": "/spec/domains/-", "value": {"name": "third"}}]
        await eve.json_patch(MODEL_ENDPOINTS, NAMESPACE, "programs", operations)
        await root.delete(MODEL_ENDPOINTS, NAMESPACE, "programs")

    async def test_the_operator_makes_the_test_and_writes_what_it_found(self, scene: Scene, acting: Callable[..., Kube]) -> None:
        reference = controller_reference("Adapter", "dsl-7", scene.adapter_uid)
        await scene.operator.create(SHADOW_TESTS, shadow_test("next", reference))
        await scene.operator.merge_patch(SHADOW_TESTS, NAMESPACE, "next", {"status": {"verdict": VERDICT}}, subresource="status")
        for resource, name in ((ADAPTERS, "dsl-7"), (MODEL_ENDPOINTS, "prod"), (FINE_TUNE_JOBS, "run")):
            await scene.operator.merge_patch(resource, NAMESPACE, name, {"status": {"observedGeneration": 1}}, subresource="status")
        assert await scene.operator.list(APPROVALS, Selection(NAMESPACE))
        # A deletion ends nothing: the operator makes it anew, and counts it.
        await acting("eve").merge_patch(SHADOW_TESTS, NAMESPACE, "next", {"metadata": {"labels": {"a": "b"}}})
        assert await acting("eve").delete(SHADOW_TESTS, NAMESPACE, "next")

    @pytest.mark.parametrize("account", ["graft-drift-prod", "ci"])
    async def test_what_measures_drift_comes_from_the_operators_job(self, scene: Scene, acting: Callable[..., Kube], account: str) -> None:
        """With the policies in force, Kubernetes' own Job controller brings its pod; nobody else takes the Job away."""
        prod = read(endpoint("prod", promotion()))
        if account == "ci":
            asked = endpoint("prod", promotion())
            asked["spec"]["collector"]["credentials"] = {"serviceAccountName": "ci"}
            prod = read(asked)
        parent = Parent.of(await present(scene.admin, MODEL_ENDPOINTS, "prod"))
        task = parse(DriftTask, TASK | {"adapterUid": scene.adapter_uid})
        body = drift.drift_job(
            parent, prod.spec, f"prod-drift-{account[-4:]}", task, Platform("serving:1", "vllm:1", "https://reports:8443")
        )
        name = body["metadata"]["name"]
        await scene.operator.create(JOBS, body)

        async def brought() -> Object:
            pods = await scene.admin.list(PODS, Selection(NAMESPACE, labels="graft.dev/component=drift"))
            found = [one for one in pods if one["metadata"]["labels"].get("batch.kubernetes.io/job-name") == name]
            if not found:
                raise NotYetError
            return found[0]

        made = await eventually(brought)
        assert made["spec"]["serviceAccountName"] == account
        assert await stopped(acting("eve").delete(JOBS, NAMESPACE, name)) == "graft-jobs"
        assert await scene.operator.delete(JOBS, NAMESPACE, name)
        await scene.admin.delete(PODS, NAMESPACE, made["metadata"]["name"])


TASK = {
    "endpoint": "prod",
    "domain": "dsl",
    "gate": 1,
    "moment": "Before",
    "attempt": 1,
    "server": "prod-server.team.svc:8000",
    "incumbent": "base",
    "candidate": "dsl-0a1b2c3d4e5f6a7b",
    "policy": DRIFT,
    "store": "s3://measured/drift/dsl",
}
SAMPLES = {path.stem: path.read_text() for path in sorted((ROOT / "tests" / "data" / "modelendpoint" / "good").glob("promotion-*.yaml"))}


@pytest.mark.parametrize("name", SAMPLES)
async def test_of_every_policy_the_operator_makes_a_test_and_knows_it_again(name: str, scene: Scene) -> None:
    """As it builds it, with its own rights: what the API server takes as a policy, it takes as a test."""
    promotes = parse(ModelEndpoint, yaml.safe_load(SAMPLES[name])).spec.domains[0].promotion
    assert promotes is not None
    gate = Gate(
        number=1,
        version=LedgerVersion(adapter="dsl-7", digest=DIGEST, uri="s3://adapters/7", size_bytes=1),
        adapter_uid=scene.adapter_uid,
        policy=promotes,
        state=GateState.TESTING,
        since=VERDICT["readAt"],
        began=VERDICT["readAt"],
        test=name,
    )
    parent = Parent.of(await present(scene.admin, MODEL_ENDPOINTS, "prod"))
    made = TestView.of(await scene.operator.create(SHADOW_TESTS, children.shadow_test(parent, gate, scene.adapter_uid)))
    await scene.admin.delete(SHADOW_TESTS, NAMESPACE, name)
    assert made is not None
    assert made.spec == testing.spec_of(gate)


class TestRoles:
    @pytest.mark.parametrize(
        ("user", "may", "may_not"),
        [
            pytest.param(
                "bob", "create delete list adapterapprovals, get shadowtests", "patch adapterapprovals, patch adapters", id="graft-approver"
            ),
            pytest.param(
                "eve", "list adapterapprovals, patch modelendpoints", "create delete adapterapprovals, setpolicy modelendpoints", id="edit"
            ),
            pytest.param(
                "sven", "inject command modelendpoints", "setpolicy modelendpoints, create adapterapprovals", id="graft-serving-admin"
            ),
            pytest.param(
                "paula", "setpolicy modelendpoints", "command inject modelendpoints, create adapterapprovals", id="graft-policy-admin"
            ),
            pytest.param("nora", "list adapterapprovals", "create adapterapprovals, setpolicy modelendpoints", id="admin"),
            pytest.param(
                OPERATOR,
                "list watch adapterapprovals, create shadowtests",
                "create patch delete adapterapprovals, patch shadowtests",
                id="operator",
            ),
        ],
    )
    async def test_each_has_what_it_is_for_and_no_more(self, acting: Callable[..., Kube], user: str, may: str, may_not: str) -> None:
        reviews = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)
        me = acting(user)
        for rules, expected in ((may, True), (may_not, False)):
            for rule in rules.split(", "):
                *verbs, resource = rule.split()
                for verb in verbs:
                    asked = {"verb": verb, "group": "graft.dev", "resource": resource, "namespace": NAMESPACE}
                    answer = await me.create(reviews, {"spec": {"resourceAttributes": asked}, "metadata": {}})
                    assert answer["status"]["allowed"] is expected, (user, verb, resource)


EVIDENCE_JSON = '{"outcome":"Passed"}'
EVIDENCE_DIGEST = f"sha256:{hashlib.sha256(EVIDENCE_JSON.encode()).hexdigest()}"
Graft = Callable[..., tuple[int, str, str]]


class TestCommands:
    """`kubectl graft` with the real kubectl, as whoever its kubeconfig says."""

    @pytest.fixture
    def graft(self, kubeconfig: Path, tmp_path: Path) -> Graft:
        def run(user: str, *arguments: str, groups: tuple[str, ...] = ()) -> tuple[int, str, str]:
            config = yaml.safe_load(kubeconfig.read_text())
            for entry in config["users"]:
                entry["user"] |= {"as": user, "as-groups": ["system:authenticated", *groups]}
            # Beside the other, which may name its files by relative paths.
            path = kubeconfig.with_name(f"as-{user}")
            path.write_text(yaml.safe_dump(config))
            environment = {**os.environ, "KUBECONFIG": str(path), "HOME": str(tmp_path)}
            command = [sys.executable, "-m", "graft_cli.main", *arguments, "-n", NAMESPACE]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        return run

    @pytest.fixture
    async def tested(self, scene: Scene) -> None:
        """The test has passed, and the adapter awaits approval."""
        status = {"phase": "Passed", "verdict": VERDICT | {"evidenceDigest": EVIDENCE_DIGEST, "sentence": "Passed: 9 points better"}}
        await scene.operator.merge_patch(SHADOW_TESTS, NAMESPACE, "counts", {"status": status}, subresource="status")
        awaiting = {"promotion": PROMOTED | {"test": "counts", "evidenceDigest": EVIDENCE_DIGEST}}
        await scene.operator.merge_patch(ADAPTERS, NAMESPACE, "dsl-7", {"status": awaiting}, subresource="status")
        body = record(f"counts-evidence-{scene.test_uid[:8]}", "evidence") | {"data": {"evidence.json": EVIDENCE_JSON}}
        await scene.operator.apply(CONFIG_MAPS, body)

    async def test_who_is_listed_approves_what_was_found(self, scene: Scene, tested: None, graft: Graft) -> None:
        code, out, err = graft("alice", "approve", "dsl-7", "--reason", "read it")
        assert code == 0, err
        assert out.splitlines()[0] == "counts: Passed: 9 points better"
        assert "is what the verdict was read from" in err
        name = out.splitlines()[1].removeprefix("adapterapproval ").partition(":")[0]
        made = await present(scene.admin, APPROVALS, name)
        assert made["spec"] == approval("alice", evidenceDigest=EVIDENCE_DIGEST, reason="read it")["spec"]

    async def test_a_member_rejects_in_the_name_of_their_group(self, scene: Scene, tested: None, graft: Graft) -> None:
        code, out, err = graft("lou", "reject", "dsl-7", groups=("leads", "others"))
        assert code == 0, err
        name = out.removeprefix("adapterapproval ").partition(":")[0]
        made = await present(scene.admin, APPROVALS, name)
        assert (made["spec"]["decision"], made["spec"]["author"]) == ("Reject", {"username": "lou", "groups": ["leads"]})

    async def test_who_is_not_listed_is_told_so(self, scene: Scene, tested: None, graft: Graft) -> None:
        before = await everything(scene.admin)
        code, _, err = graft("mallory", "approve", "dsl-7")
        assert code == 1
        assert "you are mallory, whose word does not count for domain dsl of ModelEndpoint prod: asked are users alice, bob, " in err
        assert await everything(scene.admin) == before

    async def test_a_rollback_rejects_what_serves(self, scene: Scene, graft: Graft) -> None:
        switch = {"before": "base", "after": "dsl-7", "at": VERDICT["readAt"], "reason": "Promoted"}
        arms = [{"adapter": "dsl-7", "digest": DIGEST, "weight": 95, "replicas": 1}, {"weight": 5, "replicas": 1}]
        status = {"status": {"domains": [{"name": "dsl", "arms": arms, "lastSwitch": switch}]}}
        await scene.operator.merge_patch(MODEL_ENDPOINTS, NAMESPACE, "prod", status, subresource="status")
        code, out, err = graft("bob", "rollback", "dsl", "--endpoint", "prod")
        assert code == 0, err
        made = await present(scene.admin, APPROVALS, out.removeprefix("adapterapproval ").partition(":")[0])
        assert (made["spec"]["decision"], made["spec"]["digest"]) == ("Reject", DIGEST)

    async def test_domains_are_steered_by_who_may(self, scene: Scene, graft: Graft) -> None:
        async def wanted() -> Object:
            found = await present(scene.admin, MODEL_ENDPOINTS, "prod")
            return next(dict(domain) for domain in found["spec"]["domains"] if domain["name"] == "dsl")

        here = ("dsl", "--endpoint", "prod")
        code, _, err = graft("eve", "pin", "dsl", "dsl-7", "--endpoint", "prod")
        assert code == 1
        assert "you need the verb setpolicy on the ModelEndpoint" in err
        assert graft("paula", "pin", "dsl", "dsl-7", "--endpoint", "prod")[0] == 0
        assert (await wanted())["pin"] == {"adapter": "dsl-7"}
        assert graft("eve", "pin", "--base", *here)[0] == 0
        assert (await wanted())["pin"] == {"base": True}
        assert graft("eve", "unpin", *here)[0] == 0
        assert "pin" not in await wanted()
        assert graft("eve", "pause", *here)[0] == 0
        assert (await wanted())["paused"] is True
        assert graft("eve", "resume", *here)[0] == 0
        assert (await wanted())["paused"] is False
        assert "free, prod have a domain dsl" in graft("eve", "pause", "dsl")[2]
