"""
Who changed what serves, and by which evidence: an Event and one line of JSON for each transition that the ledger has noted, and metrics.

    noted     `promotion.transitions`, in the same write as what it is of; it has a number
    told      by a later pass, once what was written has been brought about: nothing that serves waits for it
    marked    in the ledger, as told

An operator that dies in between tells it again: the Event is the same object then, and the line has the same `id`.
"""

import hashlib
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client import CollectorRegistry

from graft_api.ledger import GateState, Ledger, LedgerDomain, Transition
from graft_operator.engine.clock import parse_rfc3339
from graft_operator.engine.events import EventRecorder, Happening
from graft_operator.engine.queue import Key
from graft_operator.modelendpoint.metrics import PromotionMetrics
from graft_operator.promotion.choosing import NOT_YET_SERVING
from graft_operator.promotion.endings import GRAFT
from graft_operator.promotion.transitions import SWITCHED

Manifest = dict[str, Any]

LOG = logging.getLogger(__name__)

WARNINGS = frozenset({"Unconfirmed", "RolledBack", "NotProven", "Drifted", "Rejected"})
SERVING = frozenset(state.value for state in GateState if state not in NOT_YET_SERVING)
REMEMBERED = 1024


@dataclass(frozen=True)
class Audit:
    """Tells of what was written."""

    metrics: PromotionMetrics = field(default_factory=lambda: PromotionMetrics(CollectorRegistry()))
    said: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Lines of this process, by id: one whose Event or mark has to wait is not written, nor counted, a second time."""

    async def tell(self, endpoint: Manifest, ledger: Ledger, events: EventRecorder) -> Ledger:
        """
        Tell what nobody was told of, and return the ledger with that marked as told. `endpoint`: its ModelEndpoint.

        Lines first, for they cannot fail. An Event that the API server cannot take now, and all after it, are left for another pass: of
        many that each wait for a server that does not answer, the next decision would wait.
        """
        for entry in ledger.domains:
            for step in entry.untold():
                self._say_once(endpoint, entry.name, step)
        domains, left = [], False
        for entry in ledger.domains:
            told = entry if left else await self._posted(endpoint, entry, events)
            left = left or bool(told.untold())
            domains.append(told)
        return ledger.model_copy(update={"domains": domains})

    async def _posted(self, endpoint: Manifest, entry: LedgerDomain, events: EventRecorder) -> LedgerDomain:
        for step in entry.untold():
            known, happening = identity(endpoint["metadata"]["uid"], entry.name, step), happening_of(entry.name, step)
            if happening is not None and not await events.emit_once(endpoint, happening, known, parse_rfc3339(step.at)):
                return entry
            entry = entry.model_copy(update={"told": step.ordinal})
        return entry

    def _say_once(self, endpoint: Manifest, domain: str, step: Transition) -> None:
        known = identity(endpoint["metadata"]["uid"], domain, step)
        if known in self.said:
            return
        self.said.append(known)
        self._say(endpoint, domain, step, known)

    def _say(self, endpoint: Manifest, domain: str, step: Transition, known: str) -> None:
        namespace, name = endpoint["metadata"]["namespace"], endpoint["metadata"]["name"]
        said = {"endpoint": f"{namespace}/{name}", "domain": domain, "ordinal": step.ordinal, "id": known, "digest": step.digest}
        said |= {"adapter": step.adapter, "before": step.before, "state": step.after, "who": _who(step), "evidence": step.evidence}
        LOG.info("%s: %s -> %s: %s", _subject(step), step.before, step.after, step.message, extra=said)
        self.metrics.count(Key(namespace, name), domain, step)


def untold(ledger: Ledger | None) -> bool:
    """Whether there is something to tell."""
    return ledger is not None and any(entry.untold() for entry in ledger.domains)


def identity(uid: str, domain: str, step: Transition) -> str:
    """Return by what a transition is known, whoever tells of it. Its time tells it from one of a ledger that was restored since."""
    return hashlib.sha256("\0".join((uid, domain, str(step.ordinal), step.at)).encode()).hexdigest()[:16]


def happening_of(domain: str, step: Transition) -> Happening | None:
    """Return the Event of a transition; None: the state is the same, of which there is only the line."""
    if step.after == step.before:
        return None
    if step.after == SWITCHED:
        return Happening("Normal", SWITCHED, step.before, f"domain {domain}: {step.message}")
    kind: Literal["Normal", "Warning"] = "Warning" if step.after in WARNINGS else "Normal"
    begins = step.after in SERVING and step.before not in SERVING
    by = f", by {_who(step)}" if step.who else ""
    words = f": {step.message}" if step.message else ""
    return Happening(kind, "Promoted" if begins else step.after, "Promote", f"domain {domain}: {_subject(step)} is {step.after}{by}{words}")


def _subject(step: Transition) -> str:
    named = f"Adapter {step.adapter}" if step.adapter else "the base model" if step.after == SWITCHED else "an artifact"
    return f"{named} ({step.digest[:19]})" if step.digest else named


def _who(step: Transition) -> str:
    return ", ".join(step.who) or GRAFT
