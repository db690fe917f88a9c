"""The Jobs that measure drift: what they are built of, which are made and which go, and what is read of them."""

import json
from dataclasses import replace

import pytest
from lettered import BASE, METRIC, NOW, PARENT, PLATFORM, digest, kept, version

from graft_api import serverpod
from graft_api.adapter import AdapterSpec
from graft_api.drift import Drifted, DriftTask, Moment, drift_account
from graft_api.ledger import Gate, Ledger, LedgerDomain
from graft_api.modelendpoint import DomainStatus, ModelEndpointSpec, ModelEndpointStatus
from graft_api.schema import Invalid, parse
from graft_operator.modelendpoint import audit, children, decide, drift, gates, templates
from graft_operator.modelendpoint.observed import AdapterView, Observed, read_drift_job
from graft_operator.promotion import transitions
from graft_operator.promotion.naming import drift_job_name
from graft_operator.promotion.seen import DriftJob
from graft_serving.agent.settings import settings_from as agent_settings
from graft_serving.drift.settings import settings_from as drift_settings

DRIFT = {"principles": "principles", "embeddings": {"url": "http://embeddings:8000/v1", "model": "small"}, "deadline": "10m"}
TOKEN = {"name": "EMBEDDINGS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "embeddings", "key": "token"}}}
WITH_TOKEN = {"drift": DRIFT | {"embeddings": DRIFT["embeddings"] | {"tokenEnv": "EMBEDDINGS_TOKEN"}}}
AT = "2026-11-21T11:59:00Z"
NAME = drift_job_name("prod", "dsl", 3, Moment.BEFORE, 1)
AFTER = drift_job_name("prod", "dsl", 3, Moment.AFTER, 1)


POLICY = {
    "shadow": {"duration": "24h", "metrics": [{"measure": "ServerError", "metric": METRIC}]},
    "approval": {"required": 0},
    "watch": {"window": "24h", "minClusters": 20},
}


def spec(policy=None, **changes):
    domain = {"name": "dsl", "promotion": policy or POLICY}
    body = {"baseModel": {"uri": "s3://models/base", "digest": BASE}, "gateway": {"anonymous": True}, "domains": [domain]}
    return parse(ModelEndpointSpec, body | {"collector": {"store": "s3://measured"}} | changes)


def adapter(letter):
    artifact = {"uri": f"s3://adapters/{letter}", "digest": digest(letter), "sizeBytes": 10}
    body = {"artifact": artifact, "domain": "dsl", "baseModelDigest": BASE, "endpointRef": {"name": "prod"}}
    return AdapterView(f"adapter-{letter}", f"uid-{letter}", parse(AdapterSpec, body), AT, deleting=False, failed=False)


def wanted(policy=None, collector=None, **changes):
    return spec(POLICY | {"drift": DRIFT} | (policy or {}), collector={"store": "s3://measured/"} | (collector or {}), **changes)


def gate(state="Checking", policy=None, **record):
    body = {
        "number": 3,
        "version": kept("c").to_json(),
        "adapterUid": "uid-c",
        "policy": POLICY | {"drift": DRIFT} | (policy or {}),
        "state": state,
        "since": AT,
        "began": AT,
        "test": "t",
        "drift": record or {"before": {"begun": AT}},
    }
    return parse(Gate, body | ({"watch": {"began": AT}} if state not in {"Testing", "Checking"} else {}))


def ledger(gate=None, active="a", previous=None):
    entry = LedgerDomain(name="dsl", salt="s", active=active and kept(active), previous=previous and kept(previous), gate=gate)
    return Ledger(endpoint="prod", epoch=1, base_digest=BASE, domains=[entry])


def observed(*jobs):
    return Observed(PARENT, 1, wanted(), ModelEndpointStatus(), adapters=[adapter("a"), adapter("c")], drift_jobs=jobs)


def passed(said=None, *jobs, known=None):
    """Return what one pass decides."""
    seen = replace(observed(*jobs), spec=said or wanted(), ledger=known or ledger(gate()))
    return decide.decide(seen, PLATFORM, 1, lambda domain: domain, NOW)


def built(said=None, known=None):
    (job,) = drift.jobs_wanted(observed(), said or wanted(), known or ledger(gate()), PLATFORM)
    return job


def pod_of(job):
    return job["spec"]["template"]["spec"]


def told(job):
    return parse(
        DriftTask, json.loads(next(item["value"] for item in pod_of(job)["containers"][0]["env"] if item["name"] == "GRAFT_DRIFT_TASK"))
    )


def test_it_is_restricted_and_what_it_mounts_is_there():
    pod = pod_of(built())
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"].items() >= serverpod.RESTRICTED.items()
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert len(set(paths)) == len(paths)
    assert "cpu" not in container["resources"].get("limits", {})


def test_the_jobs_process_understands_what_it_is_given(tmp_path):
    job = built()
    environ = {item["name"]: item.get("value", "x") for item in pod_of(job)["containers"][0]["env"]}
    assert drift_settings(environ).task == told(job)


def test_before_activation_it_asks_what_serves_and_the_candidate():
    task = told(built())
    assert (task.incumbent, task.candidate, task.moment, task.gate, task.attempt) == (version("a"), version("c"), "Before", 3, 1)
    assert (task.store, task.server, task.before) == ("s3://measured/drift/dsl", "prod-server.shop.svc:8000", None)


def test_where_nothing_served_it_asks_the_base_model():
    assert told(built(known=ledger(gate(), active=None))).incumbent == "base"


def test_after_it_asks_what_is_held_back_and_knows_the_document_of_before():
    measured = parse(Drifted, {"at": AT, "principlesDigest": digest("5"), "document": digest("6"), "readings": []})
    watched = gate("Watching", before={"measured": measured.to_json()}, after={"begun": AT, "failed": 2})
    task = told(built(known=ledger(watched, active="c", previous="a")))
    assert (task.moment, task.incumbent, task.candidate) == ("After", version("a"), version("c"))
    assert (task.before, task.attempt) == (digest("6"), 3)


def test_the_one_token_it_needs_is_copied_by_its_reference():
    said = wanted(WITH_TOKEN, {"env": [{"name": "OTHER", "value": "x"}, TOKEN]})
    env = pod_of(built(said, ledger(gate(policy=WITH_TOKEN))))["containers"][0]["env"]
    assert TOKEN in env
    assert "OTHER" not in {item["name"] for item in env}


def test_a_token_that_the_collector_does_not_have_is_refused():
    with pytest.raises(Invalid, match=r"tokenEnv must be the name of one of spec.collector.env"):
        wanted(WITH_TOKEN)
    assert wanted(WITH_TOKEN, {"env": [TOKEN]}).token_variables() == {"EMBEDDINGS_TOKEN"}


OURS = DriftJob(NAME, "job-1")


@pytest.mark.parametrize(
    ("known", "jobs", "made", "gone"),
    [
        pytest.param(gate(), [], [NAME], [], id="an attempt has begun"),
        pytest.param(gate(), [OURS], [], [], id="its Job is made and not written down yet"),
        pytest.param(gate(before={"begun": AT, "job": "job-1"}), [OURS], [], [], id="its Job is known"),
        pytest.param(gate(before={"begun": AT, "job": "job-1"}), [], [], [], id="its Job has vanished: it is not made again"),
        pytest.param(gate(before={"begun": AT, "job": "job-2"}), [OURS], [], [NAME], id="another one has its name"),
        pytest.param(gate(before={"failed": 1, "failedAt": AT}), [OURS], [], [NAME], id="the attempt is over"),
        pytest.param(gate("Watching", before={"begun": AT}), [OURS], [], [NAME], id="its moment is over"),
        pytest.param(gate("Watching", after={"begun": AT}), [OURS], [AFTER], [NAME], id="it is asked again"),
        pytest.param(gate("AwaitingApproval", before={"begun": AT}), [OURS], [], [NAME], id="it awaits approval again"),
        pytest.param(None, [OURS], [], [NAME], id="its gate is over"),
        pytest.param(None, [replace(OURS, deleting=True)], [], [], id="and it goes"),
    ],
)
def test_which_jobs_are_made_and_which_go(known, jobs, made, gone):
    seen, document = observed(*jobs), ledger(known, active="c" if known and known.watch else "a")
    assert [job["metadata"]["name"] for job in drift.jobs_wanted(seen, wanted(), document, PLATFORM)] == made
    assert [job.name for job in drift.jobs_over(seen, wanted(), document)] == gone


def test_of_a_domain_that_is_named_no_more_the_job_goes():
    elsewhere = parse(ModelEndpointSpec, wanted().to_json() | {"domains": [{"name": "other"}]})
    assert drift.jobs_over(observed(OURS), elsewhere, ledger(gate())) == [OURS]


def test_a_pass_makes_it_with_its_account_and_ends_it():
    made = passed()
    assert [job["metadata"]["name"] for job in made.measure] == [NAME]
    assert {"graft-drift-prod", "prod-drift"} <= {one["metadata"]["name"] for one in made.apply}
    next_one = passed(None, OURS, DriftJob("prod-drift-0", "job-0"))
    assert (next_one.measure, next_one.measured) == ([], [DriftJob("prod-drift-0", "job-0")])
    assert next_one.ledger.domains[0].gate.drift.before.job == "job-1"


def test_without_drift_nothing_of_it_is_made():
    names = {one["metadata"]["name"] for one in passed(spec(), known=ledger()).apply}
    assert not [name for name in names if "drift" in name]


@pytest.mark.parametrize("credentials", [None, {"secretRef": {"name": "s3"}}])
def test_with_grafts_own_account_no_server_rolls(credentials):
    said = {"credentials": credentials} if credentials else {}
    plain, drifts = spec(collector={"store": "s3://m"} | said), wanted(collector=said)
    assert templates.server_spec_hash(plain) == templates.server_spec_hash(drifts)
    assert children.server_deployment(PARENT, plain, PLATFORM) == children.server_deployment(PARENT, drifts, PLATFORM)
    assert pod_of(built(drifts))["serviceAccountName"] == drift_account("prod")


def test_with_an_account_of_the_users_own_doors_are_told():
    said = {"credentials": {"serviceAccountName": "s3-writer"}}
    plain, drifts = spec(collector={"store": "s3://m"} | said), wanted(collector=said)
    assert templates.server_spec_hash(plain) != templates.server_spec_hash(drifts)
    (agent,) = [one for one in pod_of(children.server_deployment(PARENT, drifts, PLATFORM))["containers"] if one["name"] == "agent"]
    environ = {item["name"]: item.get("value", "x") for item in agent["env"]}
    assert agent_settings(environ).drift_account == "s3-writer" == pod_of(built(drifts))["serviceAccountName"]
    around = drift.drift_children(PARENT, drifts)
    assert [one["kind"] for one in around.wanted] == ["NetworkPolicy"]
    assert [one["metadata"]["name"] for one in around.unwanted] == ["graft-drift-prod"]


def test_servers_are_reached_for_as_long_as_a_version_is_watched_that_came_so():
    document = ledger(gate("Watching", after={}), active="c", previous="a")
    assert drift.concerns(spec(), document)
    assert not drift.concerns(spec(), ledger())
    assert not drift.concerns(spec(), ledger(gate("Watching", policy={"drift": None}, after={}), active="c"))


def job_object(**status):
    body = built()
    body["metadata"]["uid"] = "job-1"
    return body | {"status": status}


def pod_object(state):
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"name": "drift", "state": state}]}}


FAILED = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "Job was active longer"}


@pytest.mark.parametrize(
    ("conditions", "pods", "over", "problem"),
    [
        pytest.param([], [], None, "", id="it is young"),
        pytest.param([], [{"running": {}}], None, "", id="it runs"),
        pytest.param([FAILED], [], "its Job has failed: DeadlineExceeded Job was active longer", "", id="its time is over"),
        pytest.param([FAILED | {"status": "False"}], [], None, "", id="it has not failed"),
        pytest.param([FAILED | {"type": "FailureTarget"}], [], None, "", id="its pods end"),
        pytest.param([FAILED | {"type": "Complete"}], [], "its Job has ended without a result", "", id="it ended by itself"),
        pytest.param(
            [],
            [{"waiting": {"reason": "ContainerCreating"}}],
            None,
            "ContainerCreating; the Events of pod p say what it waits for",
            id="its pod waits for what it mounts",
        ),
        pytest.param(
            [], [{"waiting": {"reason": "ErrImagePull", "message": "no such"}}], None, "ErrImagePull: drift: no such", id="for its image"
        ),
        pytest.param(
            [FAILED],
            [{"terminated": {"exitCode": 2, "reason": "Error", "message": "bad task"}}],
            "its Job has failed: DeadlineExceeded Job was active longer (exit code 2: bad task)",
            "exit code 2: bad task",
            id="it crashed",
        ),
    ],
)
def test_what_is_read_of_a_job(conditions, pods, over, problem):
    read = read_drift_job(job_object(conditions=conditions), [pod_object(state) for state in pods], [])
    assert (read.name, read.uid, read.over, read.problem) == (NAME, "job-1", over, problem)


def test_attempts_are_noted_as_no_transition():
    before, after = (ledger(one).domains[0] for one in (gate(), gate(before={"failed": 1, "failedAt": AT, "problem": "503"})))
    (step,) = transitions.noted(before, after, NOW, {}).transitions
    assert (step.before, step.after, step.message) == ("Checking", "Checking", "drift before activation: attempt 1 failed: 503")
    assert audit.happening_of("dsl", step) is None
    assert transitions.noted(after, after, NOW, {}).transitions == []


def test_a_problem_of_a_trial_is_an_event_until_it_is_another_or_another_candidates():
    failing = {"trial": {"failed": 1, "failedAt": AT, "problem": "tokenEnv: the service answered 401"}}
    document = ledger(gate("Testing", **failing))
    told = shown(document)
    (event,) = gates.problems(None, told)
    assert (event.reason, event.type) == ("DriftNotMeasured", "Warning")
    assert event.note.endswith(": trial of drift: tokenEnv: the service answered 401")
    assert gates.problems(told, shown(ledger(gate("Testing", trial=failing["trial"] | {"failed": 2, "begun": AT})))) == []
    assert len(gates.problems(told, shown(ledger(gate("Testing", trial=failing["trial"] | {"problem": "url: 404"}))))) == 1
    newer = [told[0].model_copy(update={"promotion": told[0].promotion.model_copy(update={"number": 2})})]
    assert len(gates.problems(newer, told)) == 1


def shown(document):
    return [DomainStatus(name="dsl", arms=[], promotion=gates.of_gate(document.domains[0].gate))]


def test_a_trial_is_told_what_serves_and_has_a_job_of_its_own():
    job = built(known=ledger(gate("Testing", trial={"begun": AT})))
    task = told(job)
    assert (job["metadata"]["name"], task.moment, task.attempt) == (drift_job_name("prod", "dsl", 3, Moment.TRIAL, 1), "Trial", 1)
    assert (task.incumbent, task.candidate, task.before) == (version("a"), version("c"), None)


def test_a_pod_does_not_wait_for_principles_that_are_not_there():
    (volume,) = [volume for volume in pod_of(built())["volumes"] if volume["name"] == "graft-principles"]
    assert volume["configMap"]["optional"] is True


def test_what_was_blocked_is_a_warning():
    blocked = parse(LedgerDomain, {"name": "dsl", "salt": "s", "ended": [ENDED]})
    (step,) = transitions.noted(ledger().domains[0], blocked, NOW, {}).transitions
    told = audit.happening_of("dsl", step)
    assert (told.type, told.reason) == ("Warning", "Drifted")


ENDED = {"number": 3, "adapter": "adapter-c", "adapterUid": "uid-c", "digest": digest("c"), "reason": "Drifted", "at": AT}
