"""Pure: what a TuningPolicy's status says, by the truth table of `graft_api.health`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from graft_api import health
from graft_api.launches import Launch
from graft_api.resolve import resolve, summary
from graft_api.schema import Invalid
from graft_api.tuningpolicy import (
    DECISIONS,
    DecisionStatus,
    LaunchStatus,
    PolicyDomainStatus,
    PolicyPhase,
    ResolvedTemplate,
    TuningPolicySpec,
    TuningPolicyStatus,
)
from graft_operator.engine.clock import rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.engine.events import Happening
from graft_operator.engine.summary import of_phase, phase_changed, tell
from graft_operator.tuningpolicy.domains import Judged, told_of
from graft_operator.tuningpolicy.observed import Observed


@dataclass(frozen=True)
class View:
    """Phase with the sentence that explains it."""

    phase: PolicyPhase
    reason: str
    message: str


def summarize(observed: Observed, view: View, found: Sequence[Judged], now: datetime) -> TuningPolicyStatus:
    """Return the status as the user should see it now. Without anything judged, what was judged before stays."""
    message = shorten(view.message, 1000)
    told = of_phase(health.TUNINGPOLICY[view.phase], view.reason, message) | _standing(view, found)
    facts: dict[str, object] = {
        "phase": view.phase,
        "observed_generation": observed.generation,
        "running": observed.running(),
        "launches": _count(observed),
        "conditions": tell(observed.status.conditions, told, observed.generation, now),
    }
    if found and observed.evaluation is not None:
        facts["evaluated_at"] = rfc3339(observed.evaluation.at)
        facts["domains"] = [_domain(observed, one, now) for one in found]
    return observed.status.model_copy(update=facts)


def happenings(policy: str, before: TuningPolicyStatus, after: TuningPolicyStatus) -> list[Happening]:
    """Return the Events that a change of status deserves: its own launches and transitions, never repetitions."""
    known = {domain.name: domain.last_launch for domain in before.domains or []}
    found = []
    for domain in after.domains or []:
        launch, was = domain.last_launch, known.get(domain.name)
        if (
            launch is not None
            and launch.policy == policy
            and launch.created
            and (was is None or was.ordinal < launch.ordinal or not was.created)
        ):
            why = next((one.message for one in reversed(domain.decisions) if one.ordinal == launch.ordinal), "")
            found.append(Happening("Normal", "Launched", "CreateJob", f"{domain.name}: {why or f'created FineTuneJob {launch.job}'}"))
    return found + phase_changed(before.phase, after.phase, after.conditions, {"Failed", "Degraded"})


def _standing(view: View, found: Sequence[Judged]) -> dict[str, tuple[str, str, str]]:
    """Return the kind's own conditions; of what could not be judged they say nothing new."""
    if not found:
        return {"Readable": ("Unknown", view.reason, "")}
    faults = "; ".join(fault for one in found for fault in one.faults)
    waiting = "; ".join(f"{one.domain.name}: {one.message}" for one in found if one.awaiting)
    return {
        "Readable": ("False", "CannotRead", faults) if faults else ("True", "Readable", ""),
        "AwaitingLaunchApproval": ("True", "AwaitingApproval", waiting) if waiting else ("False", "NothingWaits", ""),
    }


def _count(observed: Observed) -> int | None:
    """Return the launches of the policy's domains, by their ordinals; those that were withdrawn were none."""
    if isinstance(observed.spec, Invalid):
        return observed.status.launches
    domains = [observed.known_launches().domain(domain.name) for domain in observed.spec.domains]
    return sum(domain.next_ordinal() - 1 - sum(one.state == "Withdrawn" for one in domain.launches) for domain in domains)


def _domain(observed: Observed, one: Judged, now: datetime) -> PolicyDomainStatus:
    name, last = one.domain.name, one.launched.last()
    before = next((domain for domain in observed.status.domains or [] if domain.name == name), None)
    evaluated = observed.evaluation is not None and observed.status.evaluated_at != rfc3339(observed.evaluation.at)
    return PolicyDomainStatus(
        name=name,
        decision=one.verdict,
        criteria=list(one.criteria),
        last_launch=_launch(last) if last else None,
        not_before=rfc3339(one.not_before) if one.not_before else None,
        awaiting=one.awaiting,
        decisions=decisions(_told(observed.name, before, one), one, now, read_anew=evaluated or before is None),
        resolved=_resolved(observed, one),
    )


def _launch(launch: Launch) -> LaunchStatus:
    return LaunchStatus(ordinal=launch.ordinal, policy=launch.policy, at=launch.at, job=launch.job, created=launch.state == "Created")


def _told(policy: str, before: PolicyDomainStatus | None, one: Judged) -> list[DecisionStatus]:
    """
    Return what was told of a domain, with the policy's own launches that the record has and nobody was told of.

    Their jobs were made by an operator that died before it said so, or by a later reading than the one that they were decided by.
    """
    known = before.last_launch if before else None
    said = 0 if known is None else known.ordinal if known.created else known.ordinal - 1
    told_now = one.ordinal if one.verdict == "Launched" else None
    unsaid = [launch for launch in one.launched.launches if launch.state == "Created" and launch.ordinal > said]
    missing = [_launched(launch) for launch in unsaid if launch.policy == policy and launch.ordinal != told_now]
    return [*(before.decisions if before else []), *missing][-DECISIONS:]


def _launched(launch: Launch) -> DecisionStatus:
    message = shorten(told_of(launch), 1000)
    return DecisionStatus(decision="Launched", message=message, since=launch.at, at=launch.at, count=1, ordinal=launch.ordinal)


def decisions(before: Sequence[DecisionStatus], one: Judged, now: datetime, *, read_anew: bool) -> list[DecisionStatus]:
    """Return the list with this decision in it. The same one as before, of the same reading, was told already."""
    message = shorten(one.message, 1000)
    last = before[-1] if before else None
    if last is None or (last.decision, last.ordinal) != (one.verdict, one.ordinal):
        first = DecisionStatus(decision=one.verdict, message=message, since=rfc3339(now), at=rfc3339(now), count=1, ordinal=one.ordinal)
        return [*before, first][-DECISIONS:]
    if not read_anew:
        return list(before)
    again = last.model_copy(update={"message": message, "at": rfc3339(now), "count": last.count + 1})
    return [*before[:-1], again]


def _resolved(observed: Observed, one: Judged) -> ResolvedTemplate | None:
    """Return what a job would use; nothing of a template that cannot be used."""
    if not isinstance(observed.spec, TuningPolicySpec):
        return None
    try:
        job = one.domain.job(observed.spec.endpoint_ref.name)
    except Invalid:
        return None
    shown = summary(resolve(job), image="")
    return ResolvedTemplate(**{name: getattr(shown, name) for name in ResolvedTemplate.model_fields})
