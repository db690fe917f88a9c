"""
Events (events.k8s.io/v1) for people who run `kubectl describe`: on transitions only, each once.

The name follows from what is said about which object, so an event that is emitted again after a crash between the event
and the status is the same object, not a second one.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from graft_operator.engine.clock import Clock, parse_rfc3339, rfc3339_micro
from graft_operator.engine.conditions import shorten
from graft_operator.engine.errors import AlreadyExists, KubeError, NotFound
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import EVENTS, Object

logger = logging.getLogger(__name__)

REPORTING_CONTROLLER = "graft.dev/operator"

_REPLAY = timedelta(minutes=5)
"""The same words about the same object within this time are a replay after a crash; later ones are a new occurrence."""


@dataclass(frozen=True)
class Happening:
    """What happened, in CamelCase `reason`; what the operator did about it, `action`; and a sentence for people, `note`."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str


class EventRecorder:
    """Posts events. An event that cannot be posted is logged and counted as said: no work waits for it."""

    def __init__(self, kube: Kube, clock: Clock, instance: str) -> None:
        self._kube = kube
        self._clock = clock
        self._instance = instance

    async def emit(self, regarding: Object, happening: Happening) -> None:
        """Say once that this happened to `regarding`; if it is said to have happened before, count it there."""
        event = event_of(regarding, happening, rfc3339_micro(self._clock.now()), self._instance)
        try:
            await self._kube.create(EVENTS, event)
        except AlreadyExists:
            await self._count_again(event)
        except KubeError as error:
            logger.warning("cannot post event %s: %s", happening.reason, error)

    async def _count_again(self, event: Object) -> None:
        namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
        try:
            before = await self._kube.get(EVENTS, namespace, name)
            if before is None or self._clock.now() - _last_seen(before) < _REPLAY:
                return
            count = (before.get("series") or {}).get("count", 1) + 1
            series = {"count": count, "lastObservedTime": rfc3339_micro(self._clock.now())}
            patch = {"metadata": {"resourceVersion": before["metadata"]["resourceVersion"]}, "series": series}
            await self._kube.merge_patch(EVENTS, namespace, name, patch)
        except NotFound:
            return  # expired in between, after an hour
        except KubeError as error:
            logger.warning("cannot count event %s: %s", event["reason"], error)


def event_of(regarding: Object, happening: Happening, event_time: str, instance: str) -> Object:
    """The event. Pure."""
    metadata = regarding["metadata"]
    note = shorten(happening.note)
    digest = hashlib.sha256("\0".join((metadata["uid"], happening.reason, note)).encode()).hexdigest()[:16]
    return {
        "metadata": {"name": f"{metadata['name'][:200]}.{digest}", "namespace": metadata["namespace"]},
        "eventTime": event_time,
        "type": happening.type,
        "reason": happening.reason,
        "action": happening.action,
        "note": note,
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }


def _last_seen(event: Object) -> datetime:
    series = event.get("series") or {}
    return parse_rfc3339(series.get("lastObservedTime") or event["eventTime"])
