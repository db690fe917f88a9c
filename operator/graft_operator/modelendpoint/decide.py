"""
What to do about one ModelEndpoint. Pure: `decide(observed, platform, epoch, salt, now) -> Decision`.

The ledger is decided first and written first; routes, workloads and status follow from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from graft_api.dataplane import ledger_name, routes_name
from graft_api.fleet import REPORT_SECONDS
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.routes import Routes
from graft_api.schema import Invalid
from graft_operator.modelendpoint import children, collector, drift, gates, ledgers, measuring, retreating, routing
from graft_operator.modelendpoint.children import Platform
from graft_operator.modelendpoint.measuring import Plan
from graft_operator.modelendpoint.observed import Manifest, Observed
from graft_operator.modelendpoint.summarize import View, measured, summarize, view_of
from graft_operator.promotion.seen import DriftJob

LOOK_AGAIN = timedelta(seconds=REPORT_SECONDS)
"""While something is awaited: silence is no event, so that a silent pod is only noticed by looking."""

LISTEN_AGAIN = timedelta(minutes=1)
"""While production is measured: a collector that falls silent, or a report that is not written in time."""

POLICY_PATIENCE = timedelta(minutes=3)


@dataclass(frozen=True)
class Decision:
    """What the pass shall bring about, in this order."""

    status: ModelEndpointStatus
    ledger: Ledger | None = None
    """To be written if it is not what was read. Absent: there is none to be."""
    routes: Routes | None = None
    apply: Sequence[Manifest] = ()
    create: Sequence[Manifest] = ()
    """ShadowTests that are not there. Last, for nothing that serves waits for them."""
    measure: Sequence[Manifest] = ()
    """Jobs of drift that are not there, which are made once."""
    measured: Sequence[DriftJob] = ()
    """Those of which nothing is awaited any more: they go."""
    scale: tuple[str, int] | None = None
    """Of a Deployment that is otherwise left as it is: its name, and how many replicas."""
    remove: Sequence[Manifest] = ()
    requeue_after: timedelta | None = None
    view: View | None = None
    """Of the status. Absent: nothing is brought about."""


@dataclass(frozen=True)
class Refusal:
    """Why the API server, or somebody else's object, did not let a pass end."""

    reason: str
    message: str


@dataclass(frozen=True)
class Rollout:
    """What happens to one Deployment."""

    apply: Manifest | None = None
    scale: tuple[str, int] | None = None
    held_back: bool = False
    """Today's operator would build it differently, and the user has not asked for that yet."""


def decide(observed: Observed, platform: Platform, epoch: int, salt: Callable[[str], str], now: datetime) -> Decision:
    """Return what to do and what to say."""
    if observed.policies_missing and (retreat := retreating.decide(observed, epoch, now)) is not None:
        return Decision(*retreat, requeue_after=LOOK_AGAIN)
    if observed.policies_missing and observed.routes and observed.policies_missing_seconds < POLICY_PATIENCE.total_seconds():
        return Decision(observed.status, requeue_after=LOOK_AGAIN)  # an upgrade of the chart replaces them one by one
    if (stop := _cannot(observed)) is not None:
        return Decision(summarize(observed, stop, None, now), requeue_after=LOOK_AGAIN)
    assert isinstance(observed.spec, ModelEndpointSpec)  # noqa: S101 - _cannot() has seen to it
    spec = observed.spec
    ledger = ledgers.of_shadow(observed, spec) if spec.shadow else ledgers.advance(observed, spec, salt, now)
    plan = measuring.plan(observed, spec, ledger, now)
    routes = routing.build(observed, spec, ledger, epoch, plan.tee)
    counted = {"epoch": max(ledger.epoch, routes.epoch), "revision": max(ledger.revision, routes.revision)}
    ledger = ledger.model_copy(update=counted)
    workloads = _workloads(observed, spec, ledger, plan, platform)
    view = view_of(observed, spec, ledger, routes, held_back=any(rollout.held_back for rollout in workloads.rollouts))
    view = measured(observed, spec, plan, view)
    return Decision(
        status=summarize(observed, view, (spec, ledger, routes), now),
        ledger=None if spec.shadow else ledger,
        routes=routes,
        apply=workloads.apply,
        create=[] if spec.shadow else gates.tests_wanted(observed, spec, ledger),
        measure=[] if spec.shadow else drift.jobs_wanted(observed, spec, ledger, platform),
        measured=drift.jobs_over(observed, spec, ledger),
        scale=next((rollout.scale for rollout in workloads.rollouts if rollout.scale), None),
        remove=workloads.remove,
        requeue_after=_again(view, plan, None if spec.shadow else gates.pace(spec, ledger)),
        view=view,
    )


@dataclass(frozen=True)
class Workloads:
    """Children: what is applied and removed, and what happens to Deployments."""

    apply: Sequence[Manifest]
    remove: Sequence[Manifest]
    rollouts: Sequence[Rollout]


def _workloads(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger, plan: Plan, platform: Platform) -> Workloads:
    """Return what becomes of all children. The collector comes last: what is wrong with it must not stand in the way of what serves."""
    server, gateway = _server_rollout(observed, spec, platform), _gateway_rollout(observed, spec, platform)
    drifts = drift.concerns(spec, ledger)
    companions = children.companions(observed.parent, spec, drift=drifts)
    apply = [*companions.wanted, *(made for made in (server.apply, gateway.apply) if made)]
    unwanted = companions.unwanted
    if drifts:
        around_jobs = drift.drift_children(observed.parent, spec)
        apply, unwanted = [*apply, *around_jobs.wanted], [*unwanted, *around_jobs.unwanted]
    if plan.settings is None:
        former = collector.former_children(observed.parent) if observed.collector else []
        return Workloads(apply, [*unwanted, *former], (server, gateway))
    around = collector.collector_children(observed.parent, spec, plan.settings)
    built = collector.collector_deployment(observed.parent, spec, plan.settings, platform, observed.upgrade, observed.collector)
    one = rollout(observed.collector, built, spec.upgrade_policy)
    apply += [*around.wanted, *([one.apply] if one.apply else [])]
    return Workloads(apply, [*unwanted, *around.unwanted], (server, gateway, one))


def _again(view: View, plan: Plan, pace: timedelta | None) -> timedelta | None:
    """Return after how long to look again. What is measured is heard of, but a silence is not, nor is a moment that comes."""
    awaited = not view.settled or view.extra.get("Measuring", ("",))[0] == "Unknown"
    reasons = [LOOK_AGAIN if awaited else None, LISTEN_AGAIN if plan.settings else None, pace]
    return min((reason for reason in reasons if reason is not None), default=None)


def refused(observed: Observed, decision: Decision, refusal: Refusal, now: datetime, *, recorded: bool) -> Decision:
    """
    Return what to say then, and nothing more to do: the refusal, and beside it all that is true nevertheless.

    `recorded`: ledger and routes of the decision are written. It is tried again: a quota may be raised, an object deleted.
    """
    if decision.view is None:
        return decision  # nothing was to be done, and that has a reason of its own
    extra = decision.view.extra if recorded else {}
    view = View("Failed", refusal.reason, refusal.message, extra, collector=decision.view.collector)
    ledger, routes = (decision.ledger, decision.routes) if recorded else (observed.ledger, observed.routes)
    assert isinstance(observed.spec, ModelEndpointSpec)  # noqa: S101 - something was to be done
    ledger = ledgers.of_shadow(observed, observed.spec) if observed.spec.shadow else ledger
    serving = (observed.spec, ledger, routes) if ledger and routes else None
    return Decision(summarize(observed, view, serving, now), ledger=decision.ledger if recorded else None, requeue_after=LOOK_AGAIN)


def rollout(existing: Manifest | None, built: Manifest, policy: str) -> Rollout:
    """
    Return what to do about a Deployment whose template is built by today's operator.

    A change of the spec always rolls the pods. A newer operator that would build the same spec differently rolls them only with
    policy Auto, or when the user changes the annotation graft.dev/upgrade: an upgrade of the chart must not restart every model.
    """
    if existing is None:
        return Rollout(apply=built)
    was, would_be = (manifest["metadata"].get("annotations") or {} for manifest in (existing, built))
    same_platform = was.get(children.PLATFORM) == would_be[children.PLATFORM]
    asked = any(was.get(key) != would_be.get(key) for key in (children.SPEC_HASH, children.UPGRADE))
    if same_platform or asked or policy == "Auto":
        return Rollout(apply=built)
    replicas = built["spec"].get("replicas")
    differs = replicas is not None and existing["spec"].get("replicas") != replicas
    return Rollout(scale=(built["metadata"]["name"], replicas) if differs else None, held_back=True)


def _gateway_rollout(observed: Observed, spec: ModelEndpointSpec, platform: Platform) -> Rollout:
    if spec.shadow is not None:
        return Rollout()
    return rollout(observed.gateway, children.gateway_deployment(observed.parent, spec, platform, observed.upgrade), spec.upgrade_policy)


def _server_rollout(observed: Observed, spec: ModelEndpointSpec, platform: Platform) -> Rollout:
    if spec.server.existing is not None:
        return Rollout()
    return rollout(observed.server, children.server_deployment(observed.parent, spec, platform, observed.upgrade), spec.upgrade_policy)


def _cannot(observed: Observed) -> View | None:
    """Return what stands against doing anything; what serves goes on serving."""
    if isinstance(observed.spec, Invalid):
        return View("Failed", "InvalidSpec", str(observed.spec))
    name = observed.parent.name
    for config_map, taken in ((ledger_name(name), observed.ledger_record), (routes_name(name), observed.routes_record)):
        if taken is not None and taken.foreign:
            return View("Failed", "NameConflict", f"ConfigMap {config_map} exists and belongs to somebody else; delete or rename it")
    for name, record in (("ledger", observed.ledger_record), ("routes", observed.routes_record)):
        if record is not None and record.problem:
            return View("Failed", f"{name.title()}Invalid", f"the {name} cannot be read, restore it from a backup: {record.problem}")
    if observed.policies_missing:
        return retreating.policy_missing(observed)
    return None
