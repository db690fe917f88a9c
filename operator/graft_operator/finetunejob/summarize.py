"""Pure: project a view onto phase and conditions by the truth table of `graft_api.health`."""

from datetime import datetime

from graft_api import health, resolve
from graft_api.finetunejob import Condition as ConditionStatus
from graft_api.finetunejob import FineTuneJobStatus
from graft_api.schema import Invalid
from graft_operator.engine.conditions import Condition, set_condition
from graft_operator.engine.events import Happening
from graft_operator.engine.summary import of_phase, phase_changed, tell
from graft_operator.finetunejob.observed import Observed, View


def summarize(observed: Observed, view: View, now: datetime) -> FineTuneJobStatus:
    """Return the status as the user should see it now."""
    row = health.FINETUNEJOB[view.phase]
    told = (
        of_phase(row, view.reason, view.message)
        | {
            "Succeeded": (row.succeeded, view.reason, ""),
            "Accepted": ("Unknown", "NotEvaluated", ""),
            "SpecChangedAfterStart": _spec_changed(observed),
        }
        | view.extra
    )
    return observed.status.model_copy(
        update={
            "phase": view.phase,
            "observed_generation": observed.generation,
            "conditions": tell(observed.status.conditions, told, observed.generation, now),
        }
    )


def restate(observed: Observed, now: datetime) -> FineTuneJobStatus:
    """Return the status of a job that has ended, for a spec that was edited since: the same words about the new generation."""
    status = observed.status
    if status.observed_generation == observed.generation:
        return status
    told = [c.model_copy(update={"observed_generation": observed.generation}) for c in status.conditions or []]
    changed = Condition("SpecChangedAfterStart", *_spec_changed(observed), observed.generation)
    conditions = set_condition([condition.to_json() for condition in told], changed, now)
    stated = [ConditionStatus.model_validate(condition) for condition in conditions]
    return status.model_copy(update={"observed_generation": observed.generation, "conditions": stated})


def happenings(before: FineTuneJobStatus, after: FineTuneJobStatus) -> list[Happening]:
    """Return the Events that a change of status deserves: transitions, never repetitions."""
    found = []
    if (before.job is None or before.job != after.job) and after.job is not None:
        found.append(Happening("Normal", "Launched", "CreateJob", f"created Job {after.job.name}"))
    if before.adapter_ref is None and after.adapter_ref is not None:
        found.append(Happening("Normal", "AdapterCreated", "CreateAdapter", f"created Adapter {after.adapter_ref.name}"))
    return found + phase_changed(before.phase, after.phase, after.conditions, {"Failed"})


def _spec_changed(observed: Observed) -> tuple[str, str, str]:
    run = observed.status.run
    if run is None:
        return "False", "NotStarted", ""
    if isinstance(observed.spec, Invalid):
        return "True", "InvalidSpec", f"the run uses the spec of generation {run.generation}; {observed.spec}"[:1000]
    if resolve.source_hash(observed.spec) == run.source_hash:
        return "False", "Unchanged", ""
    return "True", "SpecChanged", f"the run uses the spec of generation {run.generation}; create a new FineTuneJob for the new one"
