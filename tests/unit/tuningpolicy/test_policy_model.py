"""
The launching of policies as a state machine: random readings, edits, crashes after any write, lost statuses, restored records, clocks; two
policies of one endpoint, whose passes meet, and that are deleted and made anew, or under the other's name.

The world keeps what an API server would: record with its version, jobs, statuses. An operator decides until it is done, dies between two
writes, or is refused because the record has changed since.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from graft_api.launches import Launches
from graft_api.schema import parse
from graft_api.tuningpolicy import TuningPolicySpec, TuningPolicyStatus
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.modelendpoint.observed import Record as Written
from graft_operator.tuningpolicy.decide import Create, Record, decide
from graft_operator.tuningpolicy.observed import JobView, Observed
from graft_operator.tuningpolicy.reading import Evaluation, Measured

COOLDOWN = timedelta(hours=24)
DOMAINS = ("dsl", "governance")
POLICIES = ("old", "young")
UNKNOWN = TuningPolicyStatus(observed_generation=-1)
JOB = {
    "baseModel": {"uri": "s3://m/b"},
    "dataset": {"sources": [{"uri": "s3://d/r"}]},
    "evaluation": {"suites": [{"name": "s", "scorer": {"cel": {}}, "accept": {"max": "0.1"}}]},
    "output": {"uri": "s3://a"},
    "signing": {"secretRef": {"name": "k"}},
}
READINGS = {
    "bad": Measured(events=9_000, total=10_000, coverage=1.0),
    "good": Measured(events=10, total=10_000, coverage=1.0),
    "few": Measured(events=9, total=10, coverage=1.0),
    "away": Measured(trouble="away", fault=True),
}


class Launching(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.read = dict.fromkeys(DOMAINS, "good")
        self.read_at = self.now
        self.there, self.enabled, self.most, self.manual, self.approved = {"old"}, dict.fromkeys(POLICIES, True), 1, False, {}
        self.record, self.version, self.jobs, self.status = None, 0, {}, dict.fromkeys(POLICIES, UNKNOWN)
        self.created = []
        """Every job that was ever made: domain, ordinal, when it was decided."""

    def spec(self, policy):
        listed = [
            {
                "name": name,
                "cooldown": "24h",
                "approval": "Manual" if self.manual else "Auto",
                "jobTemplate": {"spec": JOB},
                **({"launchApproved": self.approved[name]} if name in self.approved else {}),
            }
            for name in DOMAINS
        ]
        body = {"endpointRef": {"name": "prod"}, "enabled": self.enabled[policy], "maxConcurrent": self.most, "domains": listed}
        return parse(TuningPolicySpec, body)

    def seen(self, policy):
        spec, jobs = self.spec(policy), self.jobs.values()
        rival = policy == "young" and "old" in self.there and self.enabled["old"]
        read = {(one.name, criterion.name): READINGS[self.read[one.name]] for one in spec.domains for criterion in one.judged_by()}
        return Observed(
            namespace="n",
            name=policy,
            generation=1,
            spec=spec,
            status=self.status[policy],
            launches=self.record,
            record=Written("u", str(self.version)) if self.record else None,
            jobs=tuple(job for job in jobs if job.policy == policy),
            others=tuple(job for job in jobs if job.policy != policy),
            beside=frozenset(self.there - {policy}),
            rivals=dict.fromkeys(DOMAINS, "old") if rival else {},
            endpoint=frozenset(DOMAINS),
            evaluation=Evaluation(self.read_at, read),
        )

    def act(self, policy, writes=99):
        """One pass. It dies when its writes are used up."""
        for _ in zip(range(1 + writes), self.steps(policy), strict=False):
            pass

    def steps(self, policy):
        """A pass that stops when it has looked, and after each of its writes."""
        known = self.seen(policy)
        yield
        for _ in range(40):
            decision = decide(known, self.now)
            match decision.step:
                case None:
                    self.status[policy] = decision.status
                    for job in decision.remove:
                        assert job.ended
                        del self.jobs[job.name]
                    yield
                    return
                case Record(launches=launches):
                    if known.record != (Written("u", str(self.version)) if self.record else None):
                        return  # Conflict
                    self.version += 1
                    self.record = Launches.model_validate_json(launches.model_dump_json())
                    known = known.with_record(self.record, Written("u", str(self.version)))
                case Create(launch=launch, domain=domain):
                    assert launch.job not in self.jobs
                    assert self.enabled[policy]
                    made = rfc3339(self.now)
                    view = JobView(launch.job, f"u{len(self.created)}", policy, "prod", domain.name, launch.ordinal, made, ended=False)
                    self.jobs[launch.job] = view
                    self.created.append((domain.name, launch.ordinal, parse_rfc3339(launch.at)))
                    known = known.with_job(view)
            yield
        raise AssertionError("it never ends")

    @rule(reading=st.fixed_dictionaries(dict.fromkeys(DOMAINS, st.sampled_from(sorted(READINGS)))))
    def criteria_are_read(self, reading):
        self.read, self.read_at = reading, self.now

    @rule()
    def a_pass_of_each(self):
        for policy in sorted(self.there):
            self.act(policy)

    @rule(policy=st.sampled_from(POLICIES), writes=st.integers(0, 6))
    def a_pass_that_dies(self, policy, writes):
        if policy in self.there:
            self.act(policy, writes)

    @rule(turns=st.lists(st.sampled_from(POLICIES), min_size=4, max_size=12), hours=st.sampled_from([0, 25]))
    def two_passes_meet(self, turns, hours):
        """The older policy is switched on just when the younger one has looked: neither knows of the other."""
        self.there = set(POLICIES)
        self.time_passes(hours)
        self.criteria_are_read(dict.fromkeys(DOMAINS, "bad"))
        self.enabled = {"old": False, "young": True}
        passes = {"young": self.steps("young")}
        next(passes["young"])
        self.enabled["old"] = True
        passes["old"] = self.steps("old")
        next(passes["old"])
        for policy in turns:
            next(passes[policy], None)

    @rule(writes=st.integers(1, 2), minutes=st.sampled_from([1, 20]), policy=st.sampled_from(POLICIES))
    def a_policy_is_deleted_while_it_launches(self, writes, minutes, policy):
        """Before its job is made, or just after."""
        self.there = {policy}
        self.time_passes(25)
        self.criteria_are_read(dict.fromkeys(DOMAINS, "bad"))
        self.act(policy, writes)
        self.the_policy_is_renamed()
        self.now += timedelta(minutes=minutes)
        self.a_pass_of_each()

    @rule(policy=st.sampled_from(POLICIES))
    def a_policy_is_made(self, policy):
        self.there.add(policy)

    @rule(policy=st.sampled_from(POLICIES))
    def a_policy_is_deleted(self, policy):
        self.there.discard(policy)
        self.status[policy] = UNKNOWN

    @rule()
    def the_policy_is_renamed(self):
        self.there = set(POLICIES) - self.there or {"old"}

    @rule(hours=st.sampled_from([0, 1, 23, 24, 25, 24 * 90]))
    def time_passes(self, hours):
        self.now += timedelta(hours=hours, seconds=1)

    @rule(minutes=st.integers(-5, 5))
    def a_clock_is_off_by_minutes(self, minutes):
        self.now += timedelta(minutes=minutes)

    @rule()
    def the_status_is_lost(self):
        self.status = dict.fromkeys(POLICIES, UNKNOWN)

    @rule()
    def a_backup_is_made_and_restored_at_once(self):
        self.record = self.record and Launches.model_validate_json(self.record.model_dump_json())
        self.the_status_is_lost()

    @precondition(lambda self: any(not job.ended for job in self.jobs.values()))
    @rule()
    def a_job_ends(self):
        name = next(name for name, job in self.jobs.items() if not job.ended)
        self.jobs[name] = replace(self.jobs[name], ended=True)

    @rule(enabled=st.booleans(), most=st.integers(1, 2), manual=st.booleans(), policy=st.sampled_from(POLICIES))
    def the_policy_is_edited(self, enabled, most, manual, policy):
        self.enabled[policy], self.most, self.manual = enabled, most, manual

    @rule(domain=st.sampled_from(DOMAINS))
    def the_launch_that_waits_is_approved(self, domain):
        told = [one for status in self.status.values() for one in status.domains or [] if one.name == domain and one.awaiting]
        if told:
            self.approved[domain] = told[0].awaiting

    @invariant()
    def no_launch_is_done_twice(self):
        assert len({(domain, ordinal) for domain, ordinal, _ in self.created}) == len(self.created)

    @invariant()
    def between_two_launches_of_a_domain_lies_the_cooldown(self):
        for name in DOMAINS:
            decided = [at for domain, _, at in self.created if domain == name]
            for before, after in pairwise(decided):
                assert after - before >= COOLDOWN

    @invariant()
    def no_more_jobs_run_than_were_ever_allowed(self):
        for policy in POLICIES:
            assert sum(not job.ended for job in self.jobs.values() if job.policy == policy) <= 2

    @invariant()
    def every_job_is_in_the_record(self):
        known = self.record.names() if self.record else set()
        assert set(self.jobs) <= known

    def teardown(self):
        """From every state a launch is reachable: nothing is stuck."""
        self.there = self.there or {"young"}
        self.enabled, self.most, self.manual = dict.fromkeys(POLICIES, True), 2, False
        self.jobs = {name: replace(job, ended=True) for name, job in self.jobs.items()}
        self.now += timedelta(days=400)
        self.read, self.read_at = dict.fromkeys(DOMAINS, "bad"), self.now
        before = len(self.created)
        self.a_pass_of_each()
        assert len(self.created) > before


TestLaunching = Launching.TestCase
TestLaunching.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
