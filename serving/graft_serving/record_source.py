"""
The text of a record that the operator writes: from the mounted file until the API server has answered, from its watch afterwards.

What lies under the record's name and is not the operator's says nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graft_api.dataplane import RECORD_LABEL
from graft_serving.cluster import ApiServer, Changed, Listed, Object
from graft_serving.rotated_file import RotatedFile

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Offer = Callable[[str], None]
"""Takes a text, whatever it is worth, at once: does not wait, and raises nothing."""


@dataclass(frozen=True)
class RecordPlace:
    """Where a record lies."""

    what: str
    """For logs: routes, settings."""
    namespace: str
    name: str
    """Of the ConfigMap."""
    key: str
    kind: str
    """Value of the record label: nobody else may set it (policy graft-records), and anybody may take the name."""
    file: Path
    """The key's file, where the ConfigMap is mounted."""


class RecordSource:
    """`run(offer)` calls `offer` with every text that differs from the one before."""

    def __init__(self, place: RecordPlace, api: ApiServer | None, *, poll_seconds: float = POLL_SECONDS) -> None:
        self.watched = False
        """Whether the API server has said what the record is; until then it is the file's, which may be a minute old."""
        self._place = place
        self._file = RotatedFile(place.file, bytes.decode)
        self._api = api
        self._poll_seconds = poll_seconds
        self._foreign = False
        """What lies under the name is somebody else's, and so is the mounted file, which has no labels to tell it by."""
        self._offered: str | None = None

    async def run(self, offer: Offer) -> None:
        """Run until cancelled."""
        self._look(offer)  # before anything that could wait: a restarted container comes up with the API server away
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll(offer), name=f"{self._place.what} file")
            if self._api:
                group.create_task(self._watch(self._api, offer), name=f"{self._place.what} watch")

    async def _poll(self, offer: Offer) -> None:
        """
        Ends when the watch has spoken: the kubelet is up to a minute late, and after an endpoint was made anew the file may
        still hold a record of the old one.
        """
        while not self.watched:
            if not self._foreign:
                self._look(offer)
            await asyncio.sleep(self._poll_seconds)

    def _look(self, offer: Offer) -> None:
        try:
            text = self._file.read()
        except (OSError, ValueError):
            return  # an optional mount of a ConfigMap that is not there yet
        self._told(text, offer)

    async def _watch(self, api: ApiServer, offer: Offer) -> None:
        place = self._place
        path = f"/api/v1/namespaces/{place.namespace}/configmaps"
        async for event in api.watch(path, {"fieldSelector": f"metadata.name={place.name}"}):
            for item in _present(event):
                self._foreign = (item["metadata"].get("labels") or {}).get(RECORD_LABEL) != place.kind
                if self._foreign:
                    logger.error("the %s are ignored: ConfigMap %s is not the operator's", place.what, place.name)
                    continue
                self.watched = True
                self._told((item.get("data") or {}).get(place.key, ""), offer)

    def _told(self, text: str, offer: Offer) -> None:
        if text != self._offered:  # else it comes again with every list, and what was wrong with it was said
            self._offered = text
            offer(text)


def _present(event: Listed | Changed) -> tuple[Object, ...]:
    """Return what is there. A ConfigMap that was deleted says nothing: the operator writes it again."""
    if isinstance(event, Listed):
        return event.items
    return () if event.kind == "DELETED" else (event.object,)
