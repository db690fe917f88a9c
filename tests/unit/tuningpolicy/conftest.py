"""Policies of one or several domains, and what is observed of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from graft_api.launches import Launch, LaunchedDomain, Launches, job_name
from graft_api.schema import parse
from graft_api.tuningpolicy import TuningPolicySpec, TuningPolicyStatus
from graft_operator.engine.clock import rfc3339
from graft_operator.modelendpoint.observed import Record
from graft_operator.tuningpolicy.observed import JobView, Observed
from graft_operator.tuningpolicy.reading import Evaluation, Measured

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)

JOB = {
    "baseModel": {"uri": "s3://models/base"},
    "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
    "evaluation": {"suites": [{"name": "compile", "scorer": {"cel": {}}}, {"name": "tautologies", "scorer": {"cel": {}}}]},
    "output": {"uri": "s3://adapters"},
    "signing": {"secretRef": {"name": "signing-key"}},
}
MANY_BAD = Measured(events=500, total=10_000, coverage=1.0)
"""5 % [4.6, 5.4]."""
FEW_BAD = Measured(events=310, total=10_000, coverage=1.0)
"""3.1 % [2.8, 3.5]: above 3 % but for the interval."""


class Build:
    """What tests are made of."""

    now = NOW
    bad = MANY_BAD
    good = FEW_BAD
    template = JOB

    def spec(self, *domains, **more):
        listed = [{"name": name, "jobTemplate": {"spec": JOB}} | more.pop(name, {}) for name in domains or ("dsl",)]
        return parse(TuningPolicySpec, {"endpointRef": {"name": "prod"}, "enabled": True, "domains": listed} | more)

    def observed(self, spec=None, measured=MANY_BAD, at=NOW, **more):
        """`measured`: of all criteria, or by domain."""
        spec = spec or self.spec()
        of = measured if isinstance(measured, dict) else {domain.name: measured for domain in spec.domains}
        read = {(domain.name, criterion.name): of[domain.name] for domain in spec.domains for criterion in domain.judged_by()}
        known = Observed(
            namespace="team",
            name="policy",
            generation=1,
            spec=spec,
            status=TuningPolicyStatus(observed_generation=-1),
            endpoint=frozenset({"dsl", "governance", "multimodal"}),
            evaluation=Evaluation(at, read),
        )
        return replace(known, **more)

    def launches(self, *launches, domain="dsl"):
        return Launches(endpoint="prod", domains=[LaunchedDomain(name=domain, launches=list(launches))])

    def launch(self, ordinal=1, state="Created", ago=timedelta(days=1), domain="dsl", policy="policy"):
        at, job = rfc3339(NOW - ago), job_name("prod", policy, domain, ordinal)
        return Launch(ordinal=ordinal, policy=policy, at=at, job=job, state=state, read_at=at, why="it was bad")

    def recorded(self, *launches, domain="dsl"):
        return {"launches": self.launches(*launches, domain=domain), "record": Record("uid", "7")}

    def job(self, ordinal=1, ended=False, domain="dsl", created=NOW - timedelta(days=1), policy="policy", endpoint="prod"):
        name = job_name(endpoint, policy, domain, ordinal)
        return JobView(name, f"uid-{name}", policy, endpoint, domain, ordinal, rfc3339(created), ended)


@pytest.fixture
def build():
    return Build()
