"""
Pure: what is decided for one domain.

    every reason not to launch, in the order in which they are said   Refused, NotMet, Unknown, Disabled, Cooldown, Busy, CandidateInGate,
                                                                      AwaitingApproval
    else                                                              Launched
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from graft_api.fitting import no_domain
from graft_api.launches import Launch, LaunchedDomain, job_name
from graft_api.schema import seconds_of
from graft_api.tuningpolicy import CriterionStatus, PolicyDomain, TuningPolicySpec, Verdict
from graft_operator.engine.clock import parse_rfc3339, rfc3339, rfc3339_micro
from graft_operator.tuningpolicy.observed import Observed
from graft_operator.tuningpolicy.reading import Evaluation, Measured, judge


@dataclass(frozen=True)
class Judged:
    """A domain, as it stands."""

    domain: PolicyDomain
    launched: LaunchedDomain
    verdict: Verdict
    message: str
    criteria: Sequence[CriterionStatus] = ()
    faults: Sequence[str] = ()
    """Criteria that cannot be read until somebody acts, or something is back."""
    launch: Launch | None = None
    """To be recorded: it is due, and nothing keeps it."""
    ordinal: int | None = None
    """Of the launch that is spoken of."""
    not_before: datetime | None = None
    stalled: bool = False
    """The user must act."""

    @property
    def awaiting(self) -> int | None:
        """Return the launch that waits for approval."""
        return self.ordinal if self.verdict == "AwaitingApproval" else None


def judged(observed: Observed, spec: TuningPolicySpec, domain: PolicyDomain, evaluation: Evaluation, now: datetime) -> Judged:
    """Return what is decided for a domain, by the last reading of its criteria."""
    launched = observed.known_launches().domain(domain.name)
    measured = {criterion.name: evaluation.measured[domain.name, criterion.name] for criterion in domain.judged_by()}
    criteria = [judge(criterion, measured[criterion.name]) for criterion in domain.judged_by()]
    last = launched.last()
    ends = parse_rfc3339(last.at) + timedelta(seconds=seconds_of(domain.cooldown)) if last else None
    stand = Judged(
        domain=domain,
        launched=launched,
        verdict="NotMet",
        message="",
        criteria=criteria,
        faults=[f"{domain.name}/{one.name}: {one.sentence}" for one in criteria if _at_fault(one, measured[one.name])],
        not_before=ends if ends and ends > now else None,
    )
    verdict, message, stalled = _verdict(observed, spec, stand, evaluation)
    ordinal = launched.next_ordinal()
    launch = None
    if verdict == "Launched" and last is not None and _just_launched(observed, last, evaluation):
        ordinal = last.ordinal
    elif verdict == "Launched":
        launch = _launch(observed, stand, evaluation, now)
    spoken = ordinal if verdict in {"Launched", "AwaitingApproval"} else None
    return replace(stand, verdict=verdict, message=message, launch=launch, ordinal=spoken, stalled=stalled)


def met(criteria: Sequence[CriterionStatus]) -> str:
    """Return the criteria that are met, in words; nothing if none is."""
    return "; ".join(f"{one.name}: {one.sentence}" for one in criteria if one.result == "Met")


def said(criteria: Sequence[CriterionStatus]) -> str:
    """Return all criteria, in words."""
    return "; ".join(f"{one.name}: {one.sentence}" for one in criteria)


def told_of(launch: Launch) -> str:
    """Return what is said of a launch."""
    return f"launch {launch.ordinal}, FineTuneJob {launch.job}: {launch.why}"


def _at_fault(status: CriterionStatus, measured: Measured) -> bool:
    return status.result == "Unknown" and measured.fault


def _just_launched(observed: Observed, last: Launch, evaluation: Evaluation) -> bool:
    """Whether it was this very reading that launched: then that is what was decided, not the cooldown that began with it."""
    return (last.policy, last.read_at) == (observed.name, rfc3339_micro(evaluation.at))


def _called(observed: Observed, launch: Launch) -> str:
    """Say which launch is spoken of, and whose it is if not this policy's."""
    return f"launch {launch.ordinal}" if launch.policy == observed.name else f"launch {launch.ordinal} of TuningPolicy {launch.policy}"


def _verdict(observed: Observed, spec: TuningPolicySpec, stand: Judged, evaluation: Evaluation) -> tuple[Verdict, str, bool]:
    """Return verdict and words, and whether the user must act."""
    last = stand.launched.last()
    if last is not None and _just_launched(observed, last, evaluation):
        return "Launched", told_of(last), False
    if lacks := _lacks(observed, spec, stand.domain):
        return "Refused", lacks, False
    if refusal := _refusal(observed, spec, stand):
        return "Refused", refusal, True
    if reason := met(stand.criteria):
        return *_kept(observed, spec, stand, reason), False
    unknown = any(one.result == "Unknown" for one in stand.criteria)
    return ("Unknown" if unknown else "NotMet"), said(stand.criteria), False


def _kept(observed: Observed, spec: TuningPolicySpec, stand: Judged, reason: str) -> tuple[Verdict, str]:
    """Return what keeps a launch for which there is reason; else that it is launched."""
    domain, last = stand.domain, stand.launched.last()
    if not spec.enabled:
        return "Disabled", f"spec.enabled is false; there would be reason: {reason}"
    if stand.not_before is not None:
        assert last is not None  # noqa: S101 - a cooldown is of a launch
        since = f"{_called(observed, last)} at {last.at}"
        return "Cooldown", f"the cooldown of {domain.cooldown} since {since} ends at {rfc3339(stand.not_before)}; {reason}"
    if (running := observed.running()) >= spec.max_concurrent:
        return "Busy", f"{running} jobs of this policy have not ended, spec.maxConcurrent is {spec.max_concurrent}; {reason}"
    if candidate := observed.candidates.get(domain.name):
        return "CandidateInGate", f"{candidate}: what is trained now would wait behind it; {reason}"
    ordinal = stand.launched.next_ordinal()
    if domain.approval == "Manual" and domain.launch_approved != ordinal:
        how = f"kubectl graft policy launch {observed.name} {domain.name} --namespace {observed.namespace}"
        return "AwaitingApproval", f"launch {ordinal} waits for approval ({how}): {reason}"
    return "Launched", f"launch {ordinal}: {reason}"


def _lacks(observed: Observed, spec: TuningPolicySpec, domain: PolicyDomain) -> str:
    """Return what is not there (yet) that a launch is for."""
    endpoint = spec.endpoint_ref.name
    if observed.endpoint is None:
        return f"there is no ModelEndpoint {endpoint} whose spec can be read, so nothing would serve the result"
    if domain.name not in observed.endpoint:
        return no_domain(endpoint, domain.name)
    return ""


def _refusal(observed: Observed, spec: TuningPolicySpec, stand: Judged) -> str:
    """Return what the user must change before anything can be launched for a domain."""
    domain, last = stand.domain, stand.launched.last()
    if rival := (observed.rivals or {}).get(domain.name):
        told = f"TuningPolicy {rival}, which is older, launches for domain {domain.name} of ModelEndpoint {spec.endpoint_ref.name}"
        launched = f"; the last one is {_called(observed, last)} at {last.at}" if last else ""
        return f"{told}; leave it to one of them{launched}"
    return "; ".join(domain.template_problems(spec.endpoint_ref.name))


def _launch(observed: Observed, stand: Judged, evaluation: Evaluation, now: datetime) -> Launch:
    ordinal, endpoint = stand.launched.next_ordinal(), observed.known_launches().endpoint
    return Launch(
        ordinal=ordinal,
        policy=observed.name,
        at=rfc3339(now),
        job=job_name(endpoint, observed.name, stand.domain.name, ordinal),
        why=met(stand.criteria)[:512],
        read_at=rfc3339_micro(evaluation.at),
        state="Intended",
    )
