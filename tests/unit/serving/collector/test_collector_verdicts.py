# ruff: noqa: S311 -- simulations
"""From exchanges to a verdict: the traps that a comparison must not step into."""

import random

import pytest
from collector_world import NEW, Does, FakeGateway

from graft_api.collect import CollectorReport
from graft_api.comparison import Clock, Outcome
from graft_api.reports import MAX_BODY_BYTES
from graft_api.schema import canonical_json, parse
from graft_evaluation.pairs import scoring as scorings
from graft_evaluation.scorers import Broken, Score, ScorerInvalidError
from graft_evaluation.verdict import verdict

AT_THE_END = Clock(elapsed=200, duration=168, max_duration=200)
PRIMARY = {
    "metric": {"name": "wrong", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"},
    "scorer": {"regex": {"pattern": "yes.*"}},
}
ERRORS = {
    "metric": {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Guardrail", "margin": 0.05},
    "measure": "ServerError",
}
REFUSALS = {
    "metric": {"name": "refusals", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Guardrail", "margin": 0.05},
    "measure": "Refusal",
}


async def compared(world, session, exchanges, seconds=30.0):
    gateway = exchanges[0]
    await gateway.deliver(session, world.url, exchanges[1])
    await world.idle(seconds)
    world.reporter._read_at = float("-inf")
    await world.commit()
    report = world.reporter.picture(1)
    return report, verdict(report.comparison, world.compare.limits, AT_THE_END)


async def test_a_candidate_that_times_out_on_hard_prompts_does_not_look_better(shadow, session, start):
    """It is right whenever it answers; left out, its timeouts would make it perfect."""
    world = await start(metrics=[PRIMARY], controlShare="0", shadow={"concurrency": 64})
    shadow.does = lambda version, prompt: Does("yes", seconds=5 if "hard" in prompt else 0)
    gateway = FakeGateway()
    batch = [gateway.exchange("hard" if i % 4 == 0 else "easy", "no" if i % 8 == 0 else "yes") for i in range(200)]
    report, found = await compared(world, session, (gateway, batch))
    reading = report.comparison.contrasts[0].metrics[0]
    assert (reading.overall.incumbent, reading.overall.candidate) == (0.125, 0.25)
    assert reading.missing_candidate == 50
    assert found.outcome is Outcome.FAILED


async def test_the_same_version_twice_passes_its_guardrails_and_shows_no_improvement(shadow, session, start):
    chance = random.Random(11)
    world = await start(metrics=[PRIMARY, ERRORS, REFUSALS], controlShare="1", shadow={"concurrency": 32})
    shadow.does = lambda version, prompt: Does("yes" if chance.random() < 0.8 else "no")
    gateway = FakeGateway()
    batch = [gateway.exchange("q", "yes" if chance.random() < 0.8 else "no") for _ in range(250)]
    _, found = await compared(world, session, (gateway, batch))
    outcomes = {metric.name: metric.outcome for metric in found.metrics}
    assert outcomes == {"wrong": Outcome.INCONCLUSIVE, "errors": Outcome.PASSED, "refusals": Outcome.PASSED}
    assert found.outcome is Outcome.INCONCLUSIVE


async def test_a_better_candidate_passes_and_a_slow_shadow_is_not_its_fault(shadow, session, start):
    """Production took 0.1 ms; the shadow takes 100 times as long for both versions alike."""
    latency = {
        "metric": {"name": "latency", "kind": "Quantile", "quantile": 0.5, "unit": "s", "direction": "LowerIsBetter", "role": "Guardrail",
                   "margin": 1.0, "scale": "Relative"},
        "measure": "Latency",
    }  # fmt: skip
    world = await start(metrics=[PRIMARY, latency], controlShare="1", shadow={"concurrency": 16})
    shadow.does = lambda version, prompt: Does("yes" if version == NEW or int(prompt) % 3 else "no", seconds=0.01)
    gateway = FakeGateway()
    batch = [gateway.exchange(str(i), "yes" if i % 3 else "no", seconds=0.0001) for i in range(160)]
    _, found = await compared(world, session, (gateway, batch))
    assert found.outcome is Outcome.PASSED, found.reasons


async def test_a_scorer_that_breaks_is_an_error_and_never_a_wrong_answer(shadow, session, start):
    broken = {"metric": PRIMARY["metric"], "scorer": {"command": {"argv": ["/bin/sh", "-c", "exit 2"]}}}
    world = await start(metrics=[broken], controlShare="0", shadow={"concurrency": 16})
    gateway = FakeGateway()
    report, found = await compared(world, session, (gateway, [gateway.exchange("q") for _ in range(120)]))
    reading = report.comparison.contrasts[0].metrics[0]
    assert reading.scorer_failures == 120
    assert reading.overall is None
    assert found.outcome is Outcome.ERROR


@pytest.mark.parametrize(("cause", "at_once"), [("Unreachable", False), ("Status503", False), ("Timeout", True), ("BadScore", True)])
async def test_what_network_or_machine_are_at_fault_for_ends_a_test_at_its_end_alone(cause, at_once, session, start, monkeypatch):
    async def away(judge, case):
        return Broken(cause, "") if "odd" in case.question else Score(1.0, True, "Right")

    monkeypatch.setattr(scorings, "score", away)
    world = await start(metrics=[PRIMARY], controlShare="0", shadow={"concurrency": 16})
    gateway = FakeGateway()
    report, found = await compared(world, session, (gateway, [gateway.exchange("odd" if i < 12 else "q") for i in range(120)]))
    early = verdict(report.comparison, world.compare.limits, Clock(elapsed=24, duration=168, max_duration=168))
    reading = report.comparison.contrasts[0].metrics[0]
    assert (reading.pairs, reading.scorer_failures, reading.transient_failures) == (108, 12 * at_once, 12 * (not at_once))
    assert (early.outcome, found.outcome) == (Outcome.ERROR if at_once else Outcome.PENDING, Outcome.ERROR)
    assert report.comparison.broken == []


@pytest.mark.parametrize("odd", [3, 12])
@pytest.mark.parametrize("what", ["internal", "invalid"])
async def test_a_few_odd_requests_do_not_end_a_test(what, odd, session, start, monkeypatch):
    ends = odd > 6  # of 120

    async def judged(judge, case):
        if "odd" in case.question:
            if what == "internal":
                raise KeyError
            raise ScorerInvalidError("a pattern that cannot be meant")
        return Score(1.0, True, "Right")

    monkeypatch.setattr(scorings, "score", judged)
    world = await start(metrics=[PRIMARY], controlShare="0", shadow={"concurrency": 16})
    gateway = FakeGateway()
    asked = [gateway.exchange("odd" if i < odd else "q") for i in range(120)]
    report, found = await compared(world, session, (gateway, asked))
    assert bool(report.comparison.broken) is ends
    assert (found.outcome is Outcome.ERROR) is ends
    assert report.comparison.contrasts[0].metrics[0].scorer_failures + report.comparison.lost_pairs == odd, "none is forgotten"


async def test_a_report_is_small_and_can_be_read_again(shadow, session, start):
    """The most metrics that a test may have, all contrasts, all numbers."""
    many = [{**PRIMARY, "metric": {**PRIMARY["metric"], "name": f"m{i}"}} for i in range(8)]
    many += [{**ERRORS, "metric": {**ERRORS["metric"], "name": f"e{i}"}} for i in range(8)]
    world = await start(metrics=many, controlShare="1", shadow={"concurrency": 32})
    shadow.does = lambda version, prompt: Does("yes" if int(prompt) % 3 else "no")
    gateway = FakeGateway()
    report, _ = await compared(world, session, (gateway, [gateway.exchange(str(i)) for i in range(150)]))
    told = canonical_json(report.to_json())
    assert len(told) < MAX_BODY_BYTES
    assert parse(CollectorReport, report.to_json()) == report
    assert report.comparison.instrument.metrics[0].overall is not None
    assert report.commit == 1


async def test_a_budget_of_a_scorer_holds_over_both_sides(shadow, session, start):
    metric = {"metric": PRIMARY["metric"], "scorer": {"regex": {"pattern": "yes"}, "sample": {"share": "0.5", "maxRequests": 31}}}
    world = await start(metrics=[metric], controlShare="0", shadow={"concurrency": 16}, durationSeconds=1)
    world.journal.observed.restart(3600.0)  # beyond the horizon
    gateway = FakeGateway()
    await compared(world, session, (gateway, [gateway.exchange("q") for _ in range(100)]))
    summary = world.journal.chain.total.sums["production"].summary
    scored, spent = summary.sums[0, :, :, 0].sum(), world.journal.chain.total.progress.spent
    assert 0 < scored <= 15
    assert spent == {"wrong": 2 * scored}, "two requests a pair"
    assert summary.pairs.sum() == 100


@pytest.mark.parametrize("share", ["0.3"])
async def test_a_sample_is_drawn_without_a_look_at_the_answers(share, shadow, session, start):
    metric = {"metric": PRIMARY["metric"], "scorer": {"regex": {"pattern": "yes"}, "sample": {"share": share}}}
    world = await start(metrics=[metric], controlShare="0", shadow={"concurrency": 32})
    shadow.does = lambda version, prompt: Does("no" if int(prompt) % 2 else "yes")
    gateway = FakeGateway()
    await compared(world, session, (gateway, [gateway.exchange(str(i)) for i in range(300)]))
    pairs, _, wrong, _ = world.journal.chain.total.sums["production"].summary.sums[0].sum(axis=(0, 1))
    assert pairs / 300 == pytest.approx(float(share), abs=0.09)
    assert wrong / pairs == pytest.approx(0.5, abs=0.2)
