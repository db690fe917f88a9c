"""`graft approve`, `reject`, `rollback`, `pin`, `pause` and so on, with a kubectl that is a real process and says what the test wants."""

import copy
import hashlib
import json
import os
from pathlib import Path

import pytest

from graft_api.approval import AdapterApproval
from graft_api.schema import parse

AT = "2026-11-21T10:00:00Z"
DIGEST, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
EVIDENCE = '{"comparison":{},"outcome":"Passed"}'
EVIDENCE_DIGEST = f"sha256:{hashlib.sha256(EVIDENCE.encode()).hexdigest()}"
SENTENCE = "Passed: compile errors fell by 18.2 points [15.4, 20.8], more than the 2.0 it had to"

ADAPTER = {
    "metadata": {"name": "dsl-7"},
    "spec": {
        "artifact": {"uri": "s3://adapters/7", "digest": DIGEST, "sizeBytes": 1},
        "domain": "dsl",
        "baseModelDigest": OTHER,
        "endpointRef": {"name": "prod"},
    },
    "status": {
        "promotion": {
            "state": "AwaitingApproval",
            "since": AT,
            "number": 3,
            "adapter": "dsl-7",
            "digest": DIGEST,
            "test": "dsl-7-0a1b2c3d",
            "evidenceDigest": EVIDENCE_DIGEST,
            "verdict": SENTENCE,
            "approvalsNeeded": 2,
            "message": "0 of 2 approvals",
            "newerField": 1,
        }
    },
}
TEST = {
    "metadata": {"name": "dsl-7-0a1b2c3d", "uid": "12345678-uid"},
    "spec": {"duration": "168h"},
    "status": {
        "phase": "Passed",
        "verdict": {
            "outcome": "Passed",
            "sentence": SENTENCE,
            "readAt": AT,
            "observedHours": 168.2,
            "commit": 7,
            "attempt": 2,
            "evidenceDigest": EVIDENCE_DIGEST,
        },
    },
}
METRIC = {"metric": {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}, "measure": "Refusal"}
PROMOTION = {
    "shadow": {"metrics": [METRIC]},
    "approval": {"required": 2, "users": ["alice", "system:serviceaccount:flux:sync"], "groups": ["leads", "reviewers"]},
}
ENDPOINT = {
    "metadata": {"name": "prod"},
    "spec": {
        "baseModel": {"uri": "s3://models/base"},
        "gateway": {"anonymous": True},
        "collector": {"store": "s3://measured/prod"},
        "domains": [{"name": "other"}, {"name": "dsl", "promotion": PROMOTION}],
    },
    "status": {
        "domains": [
            {"name": "other", "arms": [{"weight": 100, "replicas": 1}]},
            {
                "name": "dsl",
                "arms": [
                    {"adapter": "dsl-6", "digest": OTHER, "weight": 5, "replicas": 2},
                    {"adapter": "dsl-7", "digest": DIGEST, "weight": 95, "replicas": 2},
                ],
                "lastSwitch": {"before": "dsl-6", "after": "dsl-7", "at": AT, "reason": "Promoted"},
            },
        ]
    },
}
KUBECTL = """#!/bin/sh
cd {folder}
echo "$@" >>asked
for last; do :; done
case "$1" in
auth) cat me.json ;;
create) cat >created.json; if [ -e refusal ]; then cat refusal >&2; exit 1; fi; echo '{{"metadata": {{"name": "dsl-7-x7k2p"}}}}' ;;
patch) for given; do case "$given" in "["*) echo "$given" >patched.json ;; esac; done ;;
get)
  if [ "$last" = json ]; then cat "$2.json"; exit; fi
  if [ -e "$2.$last.json" ]; then cat "$2.$last.json"; else echo "Error from server (NotFound): $2 \\"$last\\" not found" >&2; exit 1; fi ;;
esac
"""


class World:
    """What the cluster has, as files; and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.has("adapters.graft.dev.dsl-7", ADAPTER)
        self.has("shadowtests.graft.dev.dsl-7-0a1b2c3d", TEST)
        self.has("configmaps.dsl-7-0a1b2c3d-evidence-12345678", {"data": {"evidence.json": EVIDENCE}})
        self.has_endpoint(ENDPOINT)
        self.is_user("alice", "reviewers", "system:authenticated")

    def has(self, name, value):
        (self.folder / f"{name}.json").write_text(json.dumps(value))

    def has_endpoint(self, *resources):
        for resource in resources:
            self.has(f"modelendpoints.graft.dev.{resource['metadata']['name']}", resource)
        self.has("modelendpoints.graft.dev", {"items": resources})

    def lacks(self, name):
        (self.folder / f"{name}.json").unlink()

    def is_user(self, name, *groups):
        self.has("me", {"status": {"userInfo": {"username": name, "groups": list(groups)}}})

    def promoted(self, **changes):
        adapter = copy.deepcopy(ADAPTER)
        adapter["status"]["promotion"] |= changes
        self.has("adapters.graft.dev.dsl-7", adapter)

    def serves(self, **changes):
        endpoint = copy.deepcopy(ENDPOINT)
        endpoint["spec"]["domains"][1] |= changes
        self.has_endpoint(endpoint)

    @property
    def asked(self):
        return (self.folder / "asked").read_text().splitlines()

    @property
    def created(self):
        path = self.folder / "created.json"
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def patched(self):
        path = self.folder / "patched.json"
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def world(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").write_text(KUBECTL.format(folder=tmp_path))
    (programs / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return World(tmp_path)


def test_an_approval_names_artifact_evidence_and_author(world, graft):
    code, out, err = graft("approve", "dsl-7", "-n", "ml", "--context", "prod", "--reason", "read the report")
    assert code == 0, err
    assert out.splitlines() == [
        f"dsl-7-0a1b2c3d: {SENTENCE}",
        f"adapterapproval dsl-7-x7k2p: alice approves dsl-7 at {DIGEST}",
    ]
    assert err.splitlines()[0] == "test 2 of this digest, deleted ones included"
    assert "is what the verdict was read from" in err
    assert "needed: 2; asked are users alice, system:serviceaccount:flux:sync and members of leads, reviewers" in err
    assert world.created == {
        "apiVersion": "graft.dev/v1alpha1",
        "kind": "AdapterApproval",
        "metadata": {"generateName": "dsl-7-approve-"},
        "spec": {
            "adapterRef": {"name": "dsl-7"},
            "digest": DIGEST,
            "evidenceDigest": EVIDENCE_DIGEST,
            "decision": "Approve",
            "reason": "read the report",
            "author": {"username": "alice", "groups": ["reviewers"]},
        },
    }
    assert parse(AdapterApproval, world.created).spec.author.username == "alice"
    assert all("--context prod" in line for line in world.asked)
    assert all("--namespace ml" in line for line in world.asked if not line.startswith("auth"))


@pytest.mark.parametrize(
    ("name", "groups", "counted"),
    [
        pytest.param("alice", (), [], id="a listed user"),
        pytest.param(
            "bob", ("leads", "others", "reviewers"), ["leads", "reviewers"], id="a member of listed groups, which alone are named"
        ),
        pytest.param("system:serviceaccount:flux:sync", ("leads",), [], id="a listed service account, without groups"),
    ],
)
def test_who_is_asked_may_say_so(name, groups, counted, world, graft):
    world.is_user(name, *groups)
    assert graft("approve", "dsl-7")[0] == 0
    assert world.created["spec"]["author"] == {"username": name, "groups": counted}


@pytest.mark.parametrize("command", ["approve", "reject", "rollback"])
@pytest.mark.parametrize(
    ("name", "groups"),
    [
        pytest.param("eve", ("others",), id="a stranger"),
        pytest.param("system:serviceaccount:ml:sync", ("leads", "system:serviceaccounts"), id="a service account by its groups"),
    ],
)
def test_who_is_not_asked_is_told_who_is_and_nothing_is_written(command, name, groups, world, graft):
    world.is_user(name, *groups)
    code, _, err = graft(command, "dsl-7")
    assert (code, world.created) == (1, None)
    assert f"you are {name}, whose word does not count for domain dsl of ModelEndpoint prod: asked are users alice, " in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"state": "Testing", "evidenceDigest": None, "message": "12 of 168 hours"}, "is Testing, and there is nothing", id="not yet"
        ),
        pytest.param({"state": "NotProven", "message": "Failed: harm"}, "there is nothing to approve: Failed: harm", id="not proven"),
        pytest.param({"state": "Confirmed"}, "is Confirmed, and there is nothing", id="long ago"),
        pytest.param({"state": "Watching"}, "is Watching, and there is nothing", id="approved already"),
        pytest.param({"digest": OTHER}, "it is another one by now", id="another artifact"),
    ],
)
def test_what_cannot_be_approved_is_not(changes, said, world, graft):
    world.promoted(**changes)
    code, _, err = graft("approve", "dsl-7")
    assert (code, world.created) == (1, None)
    assert said in err


@pytest.mark.parametrize("state", ["Unconfirmed", "Rejected", "RolledBack"])
def test_what_a_newer_quorum_may_lift_can_be_approved(state, world, graft):
    world.promoted(state=state)
    assert graft("approve", "dsl-7")[0] == 0


def test_what_was_never_a_candidate_is_said_so(world, graft):
    world.has("adapters.graft.dev.dsl-7", {**ADAPTER, "status": {}})
    code, _, err = graft("approve", "dsl-7")
    assert (code, world.created) == (1, None)
    assert "is no candidate (yet)" in err


def test_a_test_that_says_otherwise_than_the_adapter_is_not_approved(world, graft):
    world.promoted(evidenceDigest=OTHER)
    code, _, err = graft("approve", "dsl-7")
    assert (code, world.created) == (1, None)
    assert f"ShadowTest dsl-7-0a1b2c3d has {EVIDENCE_DIGEST}, and what is to be approved is {OTHER}: do not approve this" in err


def test_nor_is_a_verdict_whose_evidence_was_replaced(world, graft):
    world.has("configmaps.dsl-7-0a1b2c3d-evidence-12345678", {"data": {"evidence.json": EVIDENCE + " "}})
    code, _, err = graft("approve", "dsl-7")
    assert (code, world.created) == (1, None)
    assert "do not approve by this verdict" in err


def test_what_cannot_be_read_is_not_approved(world, graft):
    world.lacks("shadowtests.graft.dev.dsl-7-0a1b2c3d")
    code, out, err = graft("approve", "dsl-7")
    assert (code, world.created) == (2, None)
    assert out == f"dsl-7-0a1b2c3d: {SENTENCE}\n", "the Adapter's word"
    assert "nothing is approved, for ShadowTest dsl-7-0a1b2c3d could not be read: kubectl: Error from server (NotFound)" in err
    assert "with --unchecked" in err


def test_a_test_that_is_gone_leaves_the_adapters_word_to_who_says_so(world, graft):
    world.lacks("shadowtests.graft.dev.dsl-7-0a1b2c3d")
    code, out, _ = graft("approve", "dsl-7", "--unchecked")
    assert code == 0
    assert out.splitlines()[0] == f"dsl-7-0a1b2c3d: {SENTENCE}"
    assert world.created["spec"]["evidenceDigest"] == EVIDENCE_DIGEST


@pytest.mark.parametrize("unchecked", [(), ("--unchecked",)])
def test_what_was_read_and_says_otherwise_is_approved_by_no_flag(unchecked, world, graft):
    world.promoted(evidenceDigest=OTHER)
    assert graft("approve", "dsl-7", *unchecked)[0] == 1
    assert world.created is None


@pytest.mark.parametrize(
    ("status", "evidence"),
    [(ADAPTER["status"], EVIDENCE_DIGEST), ({}, None), ({"promotion": ADAPTER["status"]["promotion"] | {"digest": OTHER}}, None)],
    ids=["with what was found", "before anything was", "of another artifact"],
)
def test_a_rejection_needs_no_evidence(status, evidence, world, graft):
    world.has("adapters.graft.dev.dsl-7", {**ADAPTER, "status": status})
    code, out, err = graft("reject", "dsl-7")
    assert code == 0
    assert out == f"adapterapproval dsl-7-x7k2p: alice rejects dsl-7 at {DIGEST}\n"
    assert "one rejection takes out what serves, one rejection a candidate on its way" in err
    assert (world.created["spec"]["decision"], world.created["spec"].get("evidenceDigest")) == ("Reject", evidence)
    assert world.created["metadata"] == {"generateName": "dsl-7-reject-"}


@pytest.mark.parametrize("what", ["dsl", "dsl-7"])
@pytest.mark.parametrize("endpoint", [(), ("--endpoint", "prod")], ids=["found", "named"])
def test_a_rollback_rejects_what_the_domain_was_switched_to(what, endpoint, world, graft):
    code, out, _ = graft("rollback", what, *endpoint)
    assert (code, out) == (0, f"adapterapproval dsl-7-x7k2p: alice rejects dsl-7 at {DIGEST}\n")
    assert world.created["spec"] | {"author": None} == {
        "adapterRef": {"name": "dsl-7"},
        "digest": DIGEST,
        "decision": "Reject",
        "reason": "rollback of domain dsl",
        "author": None,
    }


def test_what_cannot_be_rolled_back_is_said(world, graft):
    assert "served by the base model: there is nothing to take out" in graft("rollback", "other")[2]
    assert "no ModelEndpoint here has a domain sql" in graft("rollback", "sql")[2]
    assert "no ModelEndpoint here has a domain dsl-6" in graft("rollback", "dsl-6")[2]
    assert "ModelEndpoint prod has no domain sql" in graft("rollback", "sql", "--endpoint", "prod")[2]
    stage = copy.deepcopy(ENDPOINT)
    stage["metadata"]["name"] = "stage"
    shadow = {"metadata": {"name": "t-shadow"}, "spec": {**ENDPOINT["spec"], "shadow": {"endpoint": "prod", "versions": []}}}
    world.has_endpoint(ENDPOINT, stage, shadow)
    assert "prod, stage have a domain dsl, or one that Adapter dsl serves: name one of them with --endpoint" in graft("rollback", "dsl")[2]
    assert world.created is None
    assert graft("rollback", "dsl", "--endpoint", "stage")[0] == 0


def test_without_a_policy_nobodys_word_counts(world, graft):
    world.serves(promotion=None)
    for command in (("approve", "dsl-7"), ("reject", "dsl-7"), ("rollback", "dsl")):
        code, _, err = graft(*command)
        assert (code, world.created) == (1, None)
        assert "domain dsl of ModelEndpoint prod has no promotion policy, so nobody's word counts" in err


def test_what_is_refused_is_said_in_kubectls_words(world, graft):
    (world.folder / "refusal").write_text("error: adapterapprovals.graft.dev is forbidden: an approval is written in its author's own name")
    code, out, err = graft("approve", "dsl-7")
    assert code == 1
    assert "approves" not in out
    assert (
        err.splitlines()[-1] == "error: kubectl: adapterapprovals.graft.dev is forbidden: an approval is written in its author's own name"
    )
    assert 'kubectl: Error from server (NotFound): adapters.graft.dev "x" not found' in graft("reject", "x")[2]


def test_a_reason_that_is_too_long_is_named(world, graft):
    code, _, err = graft("reject", "dsl-7", "--reason", "x" * 513)
    assert (code, world.created) == (1, None)
    assert err.startswith("error: reason: ")


def test_a_long_name_makes_a_name_that_kubernetes_takes(world, graft):
    name = f"{'a' * 39}.b"
    world.has(f"adapters.graft.dev.{name}", ADAPTER)
    assert graft("reject", name)[0] == 0
    assert world.created["metadata"] == {"generateName": f"{'a' * 39}-reject-"}
    assert world.created["spec"]["adapterRef"] == {"name": name}


PLACE = {"op": "test", "path": "/spec/domains/1/name", "value": "dsl"}


@pytest.mark.parametrize(
    ("before", "command", "change", "said"),
    [
        pytest.param(
            {}, ("pin", "dsl", "dsl-7"), {"op": "add", "path": "pin", "value": {"adapter": "dsl-7"}}, "is pinned to dsl-7", id="pin"
        ),
        pytest.param(
            {"pin": {"base": True}},
            ("pin", "dsl", "dsl-7"),
            {"op": "add", "path": "pin", "value": {"adapter": "dsl-7"}},
            "is pinned to dsl-7",
            id="another pin",
        ),
        pytest.param(
            {}, ("pin", "dsl", "--base"), {"op": "add", "path": "pin", "value": {"base": True}}, "is pinned to the base model", id="base"
        ),
        pytest.param({"pin": {"base": True}}, ("pin", "dsl", "--base"), None, "is pinned to the base model already", id="pinned already"),
        pytest.param(
            {"pin": {"adapter": "dsl-7"}}, ("unpin", "dsl"), {"op": "remove", "path": "pin"}, "is not pinned to dsl-7 any more", id="unpin"
        ),
        pytest.param({}, ("unpin", "dsl"), None, "has no pin", id="no pin"),
        pytest.param({}, ("pause", "dsl"), {"op": "add", "path": "paused", "value": True}, "is paused", id="pause"),
        pytest.param({"paused": True}, ("pause", "dsl"), None, "is paused", id="paused already"),
        pytest.param({"paused": True}, ("resume", "dsl"), {"op": "add", "path": "paused", "value": False}, "is not paused", id="resume"),
        pytest.param({}, ("resume", "dsl"), None, "is not paused", id="not paused"),
    ],
)
def test_one_field_of_one_domain_is_changed_where_it_was_found(before, command, change, said, world, graft):
    world.serves(**before)
    code, out, err = graft(*command)
    assert (code, err) == (0, "")
    assert out.startswith(f"modelendpoint prod: domain dsl {said}")
    expected = None if change is None else [PLACE, change | {"path": f"/spec/domains/1/{change['path']}"}]
    assert world.patched == expected
    if expected is not None:
        assert world.asked[-1].startswith("patch modelendpoints.graft.dev --type=json -p ")
        assert world.asked[-1].endswith("-o name -- prod")


def test_an_adapter_of_another_domain_is_not_pinned(world, graft):
    code, _, err = graft("pin", "other", "dsl-7")
    assert (code, world.patched) == (1, None)
    assert "Adapter dsl-7 is for domain dsl of ModelEndpoint prod, not for other of prod" in err


def test_a_pin_says_to_what(world, graft, capsys):
    for arguments in (("pin", "dsl"), ("pin", "dsl", "dsl-7", "--base")):
        with pytest.raises(SystemExit) as ended:
            graft(*arguments)
        assert ended.value.code == 2


def test_who_kubectl_cannot_tell_is_nobody(world, graft):
    world.has("me", {"status": {}})
    code, _, err = graft("approve", "dsl-7")
    assert (code, world.created) == (1, None)
    assert "its answer to auth whoami names nobody" in err
