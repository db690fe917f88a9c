"""
The newest routes: from the mounted file until the API server has answered, from its watch afterwards.

What is lower than what is known, broken, of another endpoint, or not written by the operator changes nothing: the last good routes stay.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

from graft_api.dataplane import RECORD_LABEL, ROUTES_KEY, ROUTES_RECORD, routes_name
from graft_api.routes import Routes
from graft_api.schema import Invalid, parse
from graft_serving.cluster import ApiServer, Changed, Listed, Object
from graft_serving.rotated_file import RotatedFile

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Apply = Callable[[Routes], None]
"""Takes over at once and does not wait: when it returns, the new routes hold."""


class RoutesSource:
    """`run(apply)` calls `apply` with every document that is newer than the one before. `current` is the last of them."""

    def __init__(
        self, namespace: str, endpoint: str, directory: Path, api: ApiServer | None, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self.current: Routes | None = None
        self._namespace = namespace
        self._endpoint = endpoint
        self._file = RotatedFile(directory / ROUTES_KEY, bytes.decode)
        self._api = api
        self._poll_seconds = poll_seconds
        self.watched = False
        """Whether the API server has said what the routes are; until then they are the file's, which may be old."""
        self._foreign = False
        """What lies under the name is somebody else's, and so is the mounted file, which has no labels to tell it by."""
        self._offered: str | None = None

    async def run(self, apply: Apply) -> None:
        """Run until cancelled."""
        self._look(apply)  # before anything that could wait: a restarted container comes up with the API server away
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll(apply), name="routes file")
            if self._api:
                group.create_task(self._watch(self._api, apply), name="routes watch")

    async def _poll(self, apply: Apply) -> None:
        """
        Ends when the watch has spoken: the kubelet is up to a minute late, and after an endpoint was made anew the file may
        still hold routes of the old one, which would count as newer.
        """
        while not self.watched:
            if not self._foreign:
                self._look(apply)
            await asyncio.sleep(self._poll_seconds)

    def _look(self, apply: Apply) -> None:
        try:
            text = self._file.read()
        except (OSError, ValueError):
            return  # an optional mount of a ConfigMap that is not there yet
        self._offer(text, apply)

    async def _watch(self, api: ApiServer, apply: Apply) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/configmaps"
        async for event in api.watch(path, {"fieldSelector": f"metadata.name={routes_name(self._endpoint)}"}):
            for item in _present(event):
                self._foreign = not _is_record(item)
                if self._foreign:
                    logger.error("the routes are ignored: ConfigMap %s is not the operator's", routes_name(self._endpoint))
                    continue
                self.watched = True
                self._offer((item.get("data") or {}).get(ROUTES_KEY, ""), apply)

    def _offer(self, text: str, apply: Apply) -> None:
        if text == self._offered:  # comes again with every list, and what was wrong with it was said
            return
        self._offered = text
        try:
            routes = self._parsed(text)
            if routes.newer_than(self.current):
                apply(routes)
                self.current = routes
                logger.info("routes accepted", extra={"epoch": routes.epoch, "revision": routes.revision})
        except Invalid as invalid:
            logger.error("the routes are ignored, the last good ones stay: %s", "; ".join(invalid.problems[:5]))
        except Exception:
            # The edge of one document: it reaches every replica, and none of them may end because of it.
            logger.exception("the routes could not be applied, the last good ones stay")

    def _parsed(self, text: str) -> Routes:
        """Raises `Invalid`."""
        try:
            routes = parse(Routes, json.loads(text), from_newer=True)
        except json.JSONDecodeError as error:
            raise Invalid([f"not JSON at character {error.pos}"]) from error
        if (routes.endpoint.namespace, routes.endpoint.name) != (self._namespace, self._endpoint):
            raise Invalid([f"endpoint: must be {self._namespace}/{self._endpoint}"])
        return routes


def _is_record(item: Object) -> bool:
    """Whether the operator wrote it: nobody else may set the label (policy graft-records), and anybody may take the name."""
    return bool((item["metadata"].get("labels") or {}).get(RECORD_LABEL) == ROUTES_RECORD)


def _present(event: Listed | Changed) -> tuple[Object, ...]:
    """Return what is there. A ConfigMap that was deleted says nothing: the operator writes it again."""
    if isinstance(event, Listed):
        return event.items
    return () if event.kind == "DELETED" else (event.object,)
