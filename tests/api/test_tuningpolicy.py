"""
TuningPolicies against the real API server: the operator crashes after any of its writes, a status is lost, a namespace is restored;
and against a real Prometheus (Debian's 2.42) with a week of data.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from datetime import timedelta

import pytest
from killing import Crash, Everything, Killable
from prometheus_client import CollectorRegistry

from graft_api.collect import OBSERVED_HOURS, CollectorReport, Mode, ObservedCounts, ObservedReading
from graft_api.launches import LAUNCHES_KEY, launches_name
from graft_api.ledger import Ledger
from graft_api.schema import parse
from graft_devcluster import prometheus as prometheus_program
from graft_devcluster.settings import cache_root
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.errors import Conflict, Unavailable
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import CONFIG_MAPS, EVENTS, FINE_TUNE_JOBS, MODEL_ENDPOINTS, NAMESPACES, TUNING_POLICIES
from graft_operator.modelendpoint.children import Parent, ledger_config_map
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.sink import FleetCaller
from graft_operator.tuningpolicy.evaluating import Evaluations
from graft_operator.tuningpolicy.metrics import PolicyMetrics
from graft_operator.tuningpolicy.prometheus import Prometheus, Server
from graft_operator.tuningpolicy.reconcile import TuningPolicies

ENDPOINT = {"baseModel": {"uri": "s3://models/base"}, "gateway": {"anonymous": True}, "domains": [{"name": "dsl"}]}
JOB = {
    "baseModel": {"uri": "s3://models/base"},
    "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
    "evaluation": {"suites": [{"name": "compile", "scorer": {"cel": {}}}]},
    "output": {"uri": "s3://adapters"},
    "signing": {"secretRef": {"name": "signing-key"}},
}


METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
POLICY = {"shadow": {"duration": "24h", "metrics": [{"measure": "ServerError", "metric": METRIC}]}, "approval": {"users": ["anna"]}}


class MovedClock(SystemClock):
    """The machine's, some time later."""

    def __init__(self):
        self.ahead = timedelta()

    def now(self):
        return super().now() + self.ahead

    def monotonic(self):
        return super().monotonic() + self.ahead.total_seconds()


class Interrupted(Kube):
    """The operator's client; something happens just before its next write of a record."""

    meanwhile = None

    async def create(self, resource, body):
        await self._interrupted(resource)
        return await super().create(resource, body)

    async def merge_patch(self, resource, *rest, **more):
        await self._interrupted(resource)
        return await super().merge_patch(resource, *rest, **more)

    async def _interrupted(self, resource):
        if resource is CONFIG_MAPS and self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            await happens()


class World(Killable):
    """A namespace with an endpoint and a policy; the collector's part is played by hand."""

    def __init__(self, kube, prometheus=None):
        self.kube, self.prometheus = kube, prometheus
        self.namespace = f"tp-{uuid.uuid4().hex[:8]}"
        self.clock = MovedClock()
        self.wrong = 500
        self.start()

    def start(self):
        """A new operator process: it knows nothing but what is in the API server."""
        self.operator = operator = Interrupted(self.kube.credentials, before_write=self.count_write, session=self.kube._session)
        self.fleet = Fleet(self.clock, lambda _: None)
        evaluations = Evaluations(operator, self.clock, Prometheus(seconds=5), self.prometheus)
        events = EventRecorder(operator, self.clock, "test")
        hearsay = Hearsay(self.fleet, self.clock)
        self.policies = TuningPolicies(operator, self.clock, events, Everything(), hearsay, evaluations, PolicyMetrics(CollectorRegistry()))

    async def begin(self, **spec):
        await self.kube.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        await self.kube.create(MODEL_ENDPOINTS, {"metadata": self.named("prod"), "spec": ENDPOINT})
        await self.add_policy(**spec)

    async def add_policy(self, name="tuning", **spec):
        domain = {"name": "dsl", "jobTemplate": {"spec": JOB}} | spec.pop("dsl", {})
        body = {"endpointRef": {"name": "prod"}, "enabled": True, "interval": "10s", "domains": [domain]} | spec
        await self.kube.create(TUNING_POLICIES, {"metadata": self.named(name), "spec": body})

    def named(self, name):
        return {"name": name, "namespace": self.namespace}

    def hear(self):
        """A report of the collector: 5 % of 10,000 answers are wrong."""
        many = len(OBSERVED_HOURS)
        counts = ObservedCounts(domain="dsl", score="compile", answers=[10_000] * many, wrong=[self.wrong] * many, broken=[0] * many)
        reading = ObservedReading(at=int(self.clock.now().timestamp()), covered=[1.0] * many, counts=[counts])
        caller = FleetCaller(
            "collector-0", "uid-c", "2026-11-21T00:00:00Z", self.namespace, "graft-collector-prod", "collector", "prod", "uid"
        )
        self.fleet.heard_collector(
            caller, CollectorReport(boot="b", sequence=int(time.monotonic_ns()), mode=Mode.OBSERVE, observed=reading)
        )

    async def a_pass(self, name="tuning"):
        """Once; a server whose definitions are new asks to come again, as the work queue does."""
        async with asyncio.timeout(20):
            while True:
                self.hear()
                with contextlib.suppress(Unavailable):
                    return await self.policies.reconcile(Key(self.namespace, name))
                await asyncio.sleep(0.2)

    async def until_done(self, name="tuning"):
        for _ in range(12):
            await self.a_pass(name)

    async def crash_after(self, writes):
        """Pass until the operator has died. True if it did."""
        self.writes_left = writes
        try:
            for _ in range(4):
                await self.a_pass()
        except Crash:
            return True
        finally:
            self.writes_left = None
            self.start()
        return False

    async def jobs(self):
        return await self.kube.list(FINE_TUNE_JOBS, Selection(self.namespace))

    async def status(self, name="tuning"):
        return (await self.kube.get(TUNING_POLICIES, self.namespace, name))["status"]

    async def rename(self, name, **spec):
        """As a GitOps controller does: the policy is deleted, and made anew."""
        await self.kube.delete(TUNING_POLICIES, self.namespace, "tuning")
        await self.add_policy(name, **spec)
        await self.a_pass("tuning")

    async def end(self, job):
        finished = {"status": {"phase": "Succeeded"}}
        await self.kube.merge_patch(FINE_TUNE_JOBS, self.namespace, job["metadata"]["name"], finished, subresource="status")

    async def record(self, endpoint="prod"):
        found = await self.kube.get(CONFIG_MAPS, self.namespace, launches_name(endpoint))
        return None if found is None else json.loads(found["data"][LAUNCHES_KEY])


@pytest.fixture
def world(kube, definitions):
    return World(kube)


async def test_a_launch_with_everything_that_is_said_of_it(world):
    await world.begin()
    await world.until_done()
    (job,) = await world.jobs()
    assert job["spec"]["domain"] == "dsl"
    assert job["spec"]["dataset"]["minExamples"] == 5000
    assert job["spec"]["adapter"] == {"endpointRef": {"name": "prod"}, "promote": True}
    assert "ownerReferences" not in job["metadata"]
    (domain,) = (await world.record())["domains"]
    assert [(one["ordinal"], one["state"], one["job"]) for one in domain["launches"]] == [(1, "Created", job["metadata"]["name"])]
    status = await world.status()
    assert (status["phase"], status["running"], status["launches"]) == ("Watching", 1, 1)
    told = status["domains"][0]
    assert told["decisions"][0]["decision"] == "Launched"
    assert "5 % [4.59 %, 5.44 %] of 10,000 over 168h" in told["decisions"][0]["message"]
    assert told["resolved"]["lora"]["rank"] == 64
    events = await world.kube.list(EVENTS, Selection(world.namespace))
    assert sorted(event["reason"] for event in events) == ["Launched", "Watching"]


async def test_a_domain_whose_candidate_is_on_its_way_waits_for_its_end(world):
    await world.begin()
    version = {"adapter": "a", "digest": "sha256:" + "a" * 64, "uri": "s3://a", "sizeBytes": 1}
    gate = {"number": 1, "version": version, "adapterUid": "u", "policy": POLICY, "state": "Testing", "test": "t", "switch": 0}
    at = {"since": "2026-11-21T12:00:00Z", "began": "2026-11-21T12:00:00Z"}
    known = {"endpoint": "prod", "domains": [{"name": "dsl", "salt": "s", "gate": gate | at}]}
    record = ledger_config_map(Parent(world.namespace, "prod", "uid"), parse(Ledger, known))
    await world.kube.create(CONFIG_MAPS, record)
    await world.until_done()
    told = (await world.status())["domains"][0]
    assert (await world.jobs(), told["decision"]) == ([], "CandidateInGate")
    assert "Adapter a is Testing since" in told["decisions"][-1]["message"]
    del known["domains"][0]["gate"]
    over = ledger_config_map(Parent(world.namespace, "prod", "uid"), parse(Ledger, known))
    await world.kube.merge_patch(CONFIG_MAPS, world.namespace, "prod-ledger", {"data": over["data"]})
    await world.until_done()
    assert len(await world.jobs()) == 1


@pytest.mark.parametrize("writes", range(6))
async def test_an_operator_that_dies_after_any_write_launches_once(world, writes, caplog):
    """Record, job, record, two Events, status: there are six writes, and it may die before each. It says what it did for all that."""
    caplog.set_level(logging.INFO, logger="graft_operator.tuningpolicy")
    await world.begin()
    died = await world.crash_after(writes)
    assert died is (writes < 6)
    await world.until_done()
    (job,) = await world.jobs()
    (domain,) = (await world.record())["domains"]
    assert [(one["ordinal"], one["state"]) for one in domain["launches"]] == [(1, "Created")]
    told = (await world.status())["domains"][0]
    assert told["lastLaunch"]["job"] == job["metadata"]["name"]
    launched = [one for one in told["decisions"] if one["decision"] == "Launched"]
    assert [one["ordinal"] for one in launched] == [1]
    assert job["metadata"]["name"] in launched[0]["message"]
    events = [event["reason"] for event in await world.kube.list(EVENTS, Selection(world.namespace))]
    assert (events.count("Launched"), "Watching" in events) == (1, True)
    lines = [(record.domain, record.ordinal, record.job) for record in caplog.records if record.message == "launched"]
    assert set(lines) == {("dsl", 1, job["metadata"]["name"])}


async def test_sixty_days_hold_without_a_status_and_for_an_operator_that_was_away(world):
    await world.begin()
    await world.until_done()
    (job,) = await world.jobs()
    await world.end(job)
    for ahead, jobs in ((timedelta(days=1), 1), (timedelta(days=59, hours=23), 1), (timedelta(days=200), 2)):
        world.clock.ahead = ahead
        world.start()
        cleared = {"status": {"domains": None, "evaluatedAt": None, "phase": None}}
        await world.kube.merge_patch(TUNING_POLICIES, world.namespace, "tuning", cleared, subresource="status")
        await world.until_done()
        assert len(await world.jobs()) == jobs
    assert [one["ordinal"] for one in (await world.record())["domains"][0]["launches"]] == [1, 2]


async def test_a_restored_namespace_goes_on_from_its_record_and_without_it_from_its_jobs(world, kube):
    await world.begin()
    await world.until_done()
    record = await kube.get(CONFIG_MAPS, world.namespace, launches_name("prod"))
    (job,) = await world.jobs()
    for what in ("record", "jobs"):
        restored = World(kube)
        await restored.begin()
        if what == "record":
            body = {"metadata": restored.named(launches_name("prod")) | {"labels": record["metadata"]["labels"]}, "data": record["data"]}
            await kube.create(CONFIG_MAPS, body)
        else:
            kept = {name: job["metadata"][name] for name in ("labels", "annotations")}
            await kube.create(FINE_TUNE_JOBS, {"metadata": restored.named(job["metadata"]["name"]) | kept, "spec": job["spec"]})
        await restored.until_done()
        assert len(await restored.jobs()) == (0 if what == "record" else 1)
        assert (await restored.status())["domains"][0]["decision"] == "Cooldown"
        assert (await restored.record())["domains"][0]["launches"][-1]["ordinal"] == 1


async def test_names_that_others_have_are_not_touched(world, kube):
    await world.begin()
    await kube.create(CONFIG_MAPS, {"metadata": world.named(launches_name("prod")), "data": {LAUNCHES_KEY: "mine"}})
    await world.until_done()
    assert await world.jobs() == []
    stalled = next(one for one in (await world.status())["conditions"] if one["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "NameConflict")
    await kube.delete(CONFIG_MAPS, world.namespace, launches_name("prod"))
    await world.until_done()
    assert len(await world.jobs()) == 1


async def test_approval_of_one_launch(world, kube):
    await world.begin(dsl={"approval": "Manual"})
    await world.until_done()
    status = await world.status()
    assert (status["phase"], status["domains"][0]["awaiting"], await world.jobs()) == ("AwaitingApproval", 1, [])
    approve = [
        {"op": "test", "path": "/spec/domains/0/name", "value": "dsl"},
        {"op": "add", "path": "/spec/domains/0/launchApproved", "value": 1},
    ]
    await kube.json_patch(TUNING_POLICIES, world.namespace, "tuning", approve)
    await world.until_done()
    assert len(await world.jobs()) == 1


async def test_of_two_policies_for_one_domain_the_older_launches(world):
    await world.begin(enabled=False)
    await asyncio.sleep(1.1)  # creation times are whole seconds
    await world.add_policy("younger")
    world.wrong = 0
    await world.a_pass("younger")
    assert (await world.status("younger"))["phase"] == "Watching"
    await world.kube.merge_patch(TUNING_POLICIES, world.namespace, "tuning", {"spec": {"enabled": True}})
    world.wrong = 500
    world.start()
    await world.a_pass("younger")
    status = await world.status("younger")
    assert (status["phase"], status["domains"][0]["decision"]) == ("Failed", "Refused")
    await world.until_done()
    assert {job["metadata"]["labels"]["graft.dev/tuningpolicy"] for job in await world.jobs()} == {"tuning"}


async def test_a_policy_of_another_name_goes_on_where_the_first_one_was(world):
    await world.begin()
    await world.until_done()
    (job,) = await world.jobs()
    await world.end(job)
    launched = (await world.record())["domains"][0]["launches"][0]
    await world.rename("renamed")
    await world.until_done("renamed")
    (told,) = (await world.status("renamed"))["domains"]
    assert (len(await world.jobs()), told["decision"]) == (1, "Cooldown")
    assert f"since launch 1 of TuningPolicy tuning at {launched['at']}" in told["decisions"][-1]["message"]
    assert told["lastLaunch"] == {"ordinal": 1, "policy": "tuning", "at": launched["at"], "job": job["metadata"]["name"], "created": True}
    events = await world.kube.list(EVENTS, Selection(world.namespace))
    assert [event["regarding"]["name"] for event in events if event["reason"] == "Launched"] == ["tuning"]
    world.clock.ahead = timedelta(days=60, minutes=1)
    world.start()
    await world.until_done("renamed")
    assert [(one["ordinal"], one["policy"]) for one in (await world.record())["domains"][0]["launches"]] == [(1, "tuning"), (2, "renamed")]
    assert len(await world.jobs()) == 2


async def test_a_policy_that_is_renamed_between_record_and_job_launches_once(world):
    await world.begin()
    assert await world.crash_after(1)
    assert ((await world.record())["domains"][0]["launches"][0]["state"], await world.jobs()) == ("Intended", [])
    await world.rename("renamed")
    await world.until_done("renamed")
    assert (await world.jobs(), (await world.status("renamed"))["domains"][0]["decision"]) == ([], "Cooldown")
    world.clock.ahead = timedelta(hours=1)
    await world.until_done("renamed")
    (job,) = await world.jobs()
    (domain,) = (await world.record())["domains"]
    assert [(one["ordinal"], one["policy"], one["state"]) for one in domain["launches"]] == [
        (1, "tuning", "Withdrawn"),
        (2, "renamed", "Created"),
    ]
    assert job["metadata"]["labels"]["graft.dev/tuningpolicy"] == "renamed"


async def test_of_two_policies_that_decide_at_the_same_moment_one_launches(world):
    """The older one is switched on when the younger one has looked, and launches first."""
    await world.begin(enabled=False)
    await asyncio.sleep(1.1)  # creation times are whole seconds
    await world.add_policy("younger")

    async def older():
        await world.kube.merge_patch(TUNING_POLICIES, world.namespace, "tuning", {"spec": {"enabled": True}})
        await world.a_pass("tuning")

    world.operator.meanwhile = older
    with pytest.raises(Conflict):
        await world.a_pass("younger")
    await world.until_done("younger")
    await world.until_done()
    (job,) = await world.jobs()
    assert job["metadata"]["labels"]["graft.dev/tuningpolicy"] == "tuning"
    (told,) = (await world.status("younger"))["domains"]
    assert (told["decision"], told["lastLaunch"]["policy"]) == ("Refused", "tuning")
    assert f"the last one is launch 1 of TuningPolicy tuning at {told['lastLaunch']['at']}" in told["decisions"][-1]["message"]


async def test_an_endpoint_that_is_made_anew_begins_no_cooldown(world):
    await world.begin()
    await world.until_done()
    await world.end((await world.jobs())[0])
    await world.kube.delete(MODEL_ENDPOINTS, world.namespace, "prod")
    await world.kube.create(MODEL_ENDPOINTS, {"metadata": world.named("prod"), "spec": ENDPOINT})
    world.start()  # it reads anew
    await world.until_done()
    assert (len(await world.jobs()), (await world.status())["domains"][0]["decision"]) == (1, "Cooldown")


async def test_jobs_that_have_ended_go_beyond_the_limit(world, kube):
    await world.begin(historyLimit=1, dsl={"cooldown": "1m"})
    for day in range(1, 4):
        await world.until_done()
        for job in await world.jobs():
            await world.end(job)
        world.clock.ahead = timedelta(days=day)
    world.wrong = 0
    await world.until_done()
    (left,) = await world.jobs()
    assert left["metadata"]["annotations"]["graft.dev/launch-ordinal"] == "3"
    assert len((await world.record())["domains"][0]["launches"]) == 3


WEEK = 7 * 24 * 3600
STEP = 300


def exposition(now):
    """A week of two gateways: one was away for a day, in which the other went on; and a counter that began yesterday."""
    lines = []
    series = [
        ("graft_answers", 'pod="a"', 0, WEEK, 1.0),
        ("graft_answers", 'pod="b"', 3 * 86400, WEEK, 1.0),
        ("graft_errors", 'pod="a"', 0, WEEK, 0.05),
        ("graft_errors", 'pod="b"', 3 * 86400, WEEK, 0.05),
        ("graft_late", 'pod="a"', WEEK - 86400, WEEK, 1.0),
    ]
    for name in ("graft_answers", "graft_errors", "graft_late"):
        lines.append(f"# TYPE {name} counter")
        for called, labels, begin, end, rate in series:
            if called == name:
                times = range(begin, end + 1, STEP)
                lines += [f"{name}_total{{{labels}}} {rate * (at - begin):.3f} {now - WEEK + at}" for at in times]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "week.om").write_text(exposition(int(time.time()) - 60))
    binaries = prometheus_program.ensure(cache_root())
    made = subprocess.run(
        [binaries / "promtool", "tsdb", "create-blocks-from", "openmetrics", "week.om", "data"], cwd=folder, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        binaries / "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    consoles = ["--web.console.templates=.", "--web.console.libraries=."]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([*command, *consoles], cwd=folder, stdout=log, stderr=log, env=os.environ | {"GOMAXPROCS": "1"}) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{url}/-/ready", timeout=1).close()  # noqa: S310 - of this test
                break
            except OSError:
                time.sleep(0.1)
        yield Server(url, anywhere=True)
        process.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def share(bad="graft_errors_total", total="graft_answers_total", present="graft_answers_total", **more):
    promql = {"bad": f"sum(increase({bad}[$window]))", "total": f"sum(increase({total}[$window]))", "present": present}
    return {"name": "errors", "promql": promql, "window": "168h", "above": "0.03"} | more


async def test_a_real_prometheus_is_asked_for_a_week_and_a_job_is_launched(kube, definitions, prometheus):
    world = World(kube, prometheus)
    await world.begin(dsl={"criteria": [share()]})
    await world.until_done()
    (told,) = (await world.status())["domains"]
    assert told["decision"] == "Launched", told
    (read,) = told["criteria"]
    # 7 days of one gateway and 4 of the other, one answer a second.
    assert read["samples"] == pytest.approx(11 * 86400, rel=0.01)
    assert read["value"] == pytest.approx(0.05, rel=0.01)
    assert read["coverage"] == pytest.approx(1.0, abs=0.02)
    half = 1.96 * math.sqrt(0.05 * 0.95 / (11 * 86400))
    assert (read["low"], read["high"]) == (pytest.approx(0.05 - half, abs=2e-4), pytest.approx(0.05 + half, abs=2e-4))
    assert len(await world.jobs()) == 1


@pytest.mark.parametrize(
    ("criterion", "decision", "words"),
    [
        (share(above="0.06"), "NotMet", "not above 6 %"),
        (share(present="graft_late_total"), "Unknown", "of the 168h, at least 90 % are needed"),
        (share(present="graft_misspelt_total"), "Unknown", "present was there at no moment"),
        (share(bad="graft_misspelt_total"), "Unknown", "or vector(0)"),
        (share(bad="graft_errors_total{"), "Unknown", "refused (400)"),
        (
            {
                "name": "plain",
                "promql": {
                    "query": "sum(rate(graft_errors_total[$window])) / sum(rate(graft_answers_total[$window]))",
                    "bound": "None",
                    "present": "graft_answers_total",
                },
                "window": "24h",
                "above": "0.2",
            },
            "NotMet",
            "a plain number without an interval: it is not above 0.2",
        ),
        (
            {
                "name": "several",
                "promql": {"query": "rate(graft_errors_total[$window])", "bound": "None", "present": "graft_answers_total"},
                "window": "24h",
                "above": "0.2",
            },
            "Unknown",
            "gives 2 series",
        ),
    ],
    ids=["below the threshold", "a day of seven", "never there", "no such counter", "bad PromQL", "a plain number", "two series"],
)
async def test_what_a_real_prometheus_answers_is_understood(kube, definitions, prometheus, criterion, decision, words):
    world = World(kube, prometheus)
    await world.begin(dsl={"criteria": [criterion]})
    await world.a_pass()
    (told,) = (await world.status())["domains"]
    assert told["decision"] == decision, told
    assert words in told["decisions"][0]["message"], told
    assert await world.jobs() == []


async def test_a_day_of_seven_is_a_seventh_of_the_window(kube, definitions, prometheus):
    world = World(kube, prometheus)
    await world.begin(dsl={"criteria": [share(present="graft_late_total")]})
    await world.a_pass()
    (told,) = (await world.status())["domains"]
    (read,) = told["criteria"]
    # 60 looks, at times that Prometheus chooses: 8 or 9 of them fall into the last day.
    assert read["coverage"] == pytest.approx(1 / 7, abs=0.02), told


async def test_a_prometheus_that_is_not_there_launches_nothing_and_says_so(kube, definitions):
    world = World(kube, Server("http://127.0.0.1:9", anywhere=True))
    await world.begin(dsl={"criteria": [share()]})
    await world.a_pass()
    status = await world.status()
    assert (status["phase"], status["domains"][0]["decision"]) == ("Degraded", "Unknown")
    assert "cannot be asked" in next(one for one in status["conditions"] if one["type"] == "Readable")["message"]
