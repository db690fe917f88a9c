"""
Events (events.k8s.io/v1) for people who run `kubectl describe`: on transitions only, each once.

The name follows from what is said about which object, so an event that is emitted again after a crash between the event
and the status is the same object, not a second one: it is emitted before the status that it announces, for one that was to come
after it would be lost by such a crash. What is written down with a number is said under that, and exactly once.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from graft_operator.engine.clock import Clock, parse_rfc3339, rfc3339_micro
from graft_operator.engine.conditions import shorten
from graft_operator.engine.errors import AlreadyExists, KubeError, NotFound, Unauthorized, Unavailable
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

    async def emit_once(self, regarding: Object, happening: Happening, identity: str, at: datetime) -> bool:
        """
        Say what happened at a time that is written down, under a name of its own: whoever says it again says nothing new.

        False: the API server cannot take it now, so it is to be said again. One that it will never take is logged and counts as said.
        """
        event = event_of(regarding, happening, rfc3339_micro(at), self._instance)
        event["metadata"]["name"] = _name(regarding, identity)
        try:
            await self._kube.create(EVENTS, event)
        except AlreadyExists:
            return True
        except (Unavailable, Unauthorized) as error:
            logger.warning("event %s is posted later: %s", happening.reason, error)
            return False
        except KubeError as error:
            logger.warning("cannot post event %s: %s", happening.reason, error)
        return True

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
        "metadata": {"name": _name(regarding, digest), "namespace": metadata["namespace"]},
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


def _name(regarding: Object, digest: str) -> str:
    return f"{regarding['metadata']['name'][:200]}.{digest}"


def _last_seen(event: Object) -> datetime:
    series = event.get("series") or {}
    return parse_rfc3339(series.get("lastObservedTime") or event["eventTime"])
