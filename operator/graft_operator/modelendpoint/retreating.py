"""
Pure: what happens while admission policies are missing, and what is seen may be forged by others than those it is from.

Nothing begins, goes on or is confirmed. What is shown to do harm is taken out all the same, and what serves if it is rejected: whoever
forges that keeps a version out, which they could in other ways, and brings none in.
"""

from datetime import datetime

from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.routes import Routes
from graft_operator.engine.conditions import shorten
from graft_operator.modelendpoint import ledgers, routing
from graft_operator.modelendpoint.observed import Observed
from graft_operator.modelendpoint.summarize import View, summarize

HELD = "until then nothing begins or is confirmed, and only what does harm or is rejected is taken out"


def decide(observed: Observed, epoch: int, now: datetime) -> tuple[ModelEndpointStatus, Ledger, Routes] | None:
    """Return status, ledger and routes without what must not serve on; None: there is no such thing, or it cannot be read."""
    spec, ledger, before = observed.spec, observed.ledger, observed.routes
    if not isinstance(spec, ModelEndpointSpec) or spec.shadow is not None or ledger is None or before is None:
        return None
    ledger = ledgers.retreated(observed, spec, ledger, now)
    routes = routing.retreated(observed, before, ledger, epoch)
    if (ledger, routes) == (observed.ledger, before):
        return None
    ledger = ledger.model_copy(update={"epoch": max(ledger.epoch, routes.epoch), "revision": max(ledger.revision, routes.revision)})
    return summarize(observed, policy_missing(observed), (spec, ledger, routes), now), ledger, routes


def policy_missing(observed: Observed) -> View:
    """Return how the endpoint is meanwhile."""
    return View("Failed", "PolicyMissing", shorten(f"{'; '.join(observed.policies_missing)}; {HELD}"))
