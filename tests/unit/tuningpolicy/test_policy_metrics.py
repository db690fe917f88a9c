"""What Prometheus sees of policies, and what wakes them."""

from dataclasses import replace
from datetime import timedelta

from prometheus_client import CollectorRegistry

from graft_operator.engine.clock import rfc3339
from graft_operator.engine.queue import Key
from graft_operator.tuningpolicy.decide import decide
from graft_operator.tuningpolicy.index import LaunchedJobs
from graft_operator.tuningpolicy.metrics import PolicyMetrics

KEY = Key("team", "policy")


def test_decisions_are_counted_once_a_reading_and_readings_go_with_their_policy(build):
    registry = CollectorRegistry()
    metrics = PolicyMetrics(registry)
    labels = {"namespace": "team", "policy": "policy", "domain": "dsl", "decision": "NotMet"}
    judged = decide(build.observed(measured=build.good), build.now).judged
    for _ in range(3):
        metrics.judged(KEY, rfc3339(build.now), judged)
    assert registry.get_sample_value("graft_policy_decisions_total", labels) == 1
    assert registry.get_sample_value("graft_policy_decisions_total", labels | {"decision": "Launched"}) == 0, "so that its growth is seen"
    metrics.judged(KEY, rfc3339(build.now + timedelta(minutes=5)), judged)
    metrics.judged(KEY, rfc3339(build.now + timedelta(minutes=5)), [replace(judged[0], verdict="Busy")])
    assert registry.get_sample_value("graft_policy_decisions_total", labels) == 2
    assert registry.get_sample_value("graft_policy_decisions_total", labels | {"decision": "Busy"}) == 1
    reading = {"namespace": "team", "policy": "policy", "domain": "dsl", "criterion": "compile-errors"}
    assert registry.get_sample_value("graft_policy_reading", reading | {"of": "value"}) == 0.031
    assert 0.02 < registry.get_sample_value("graft_policy_reading", reading | {"of": "low"}) < 0.03
    assert registry.get_sample_value("graft_policy_reading", reading | {"of": "samples"}) == 10_000
    metrics.forget(KEY)
    assert registry.get_sample_value("graft_policy_reading", reading | {"of": "value"}) is None
    assert registry.get_sample_value("graft_policy_decisions_total", labels) == 2


def test_a_policy_is_woken_by_the_phases_of_its_jobs_and_not_by_their_steps():
    def job(phase, uid="u1", labels={"graft.dev/tuningpolicy": "policy"}):  # noqa: B006 - never changed
        status = {"phase": phase, "progress": {"step": id(phase)}} if phase else {}
        return {"metadata": {"name": "j", "namespace": "team", "uid": uid, "labels": labels}, "status": status}

    jobs = LaunchedJobs()
    told = [
        jobs.changed(body)
        for body in (job(None), job("Running"), job("Running"), job("Succeeded"), job("Running", "u2"), job("x", "u3", None))
    ]
    assert told == [KEY, KEY, None, KEY, KEY, None]
