"""
The newest routes: from the mounted file until the API server has answered, from its watch afterwards.

What is lower than what is known, broken, of another endpoint, or not written by the operator changes nothing: the last good routes stay.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from graft_api.dataplane import ROUTES_KEY, ROUTES_RECORD, routes_name
from graft_api.routes import Routes
from graft_api.schema import Invalid, parse
from graft_serving.cluster import ApiServer
from graft_serving.record_source import POLL_SECONDS, RecordPlace, RecordSource

logger = logging.getLogger(__name__)

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
        place = RecordPlace("routes", namespace, routes_name(endpoint), ROUTES_KEY, ROUTES_RECORD, directory / ROUTES_KEY)
        self._source = RecordSource(place, api, poll_seconds=poll_seconds)

    @property
    def watched(self) -> bool:
        """Whether the API server has said what the routes are; until then they are the file's, which may be old."""
        return self._source.watched

    async def run(self, apply: Apply) -> None:
        """Run until cancelled."""
        await self._source.run(partial(self._offer, apply))

    def _offer(self, apply: Apply, text: str) -> None:
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
