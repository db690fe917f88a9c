"""
The watches that the settings ask for, while the collector runs: from the mounted file until the API server has answered, from its watch
afterwards. An operator that is older grants no watch; then it stays with the file.

All else of the settings is read once, at the start: another store, test or score is another pod. Settings that are broken, away, or not
the operator's change nothing: what is watched goes on being watched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from graft_api.collect import SETTINGS_KEY, collector_service
from graft_api.dataplane import COLLECTOR_RECORD
from graft_api.schema import Invalid
from graft_api.watch import WatchTask
from graft_serving.cluster import ApiServer
from graft_serving.collector.settings import parsed
from graft_serving.record_source import POLL_SECONDS, RecordPlace, RecordSource

logger = logging.getLogger(__name__)

Follow = Callable[[Sequence[WatchTask]], None]
"""Takes over at once and does not wait."""


class SettingsSource:
    """`run(follow)` calls `follow` with the watches of every document that differs from the one before."""

    def __init__(self, namespace: str, endpoint: str, file: Path, api: ApiServer, *, poll_seconds: float = POLL_SECONDS) -> None:
        place = RecordPlace("settings", namespace, collector_service(endpoint), SETTINGS_KEY, COLLECTOR_RECORD, file)
        self._source = RecordSource(place, api, poll_seconds=poll_seconds)

    @property
    def watched(self) -> bool:
        """Whether the API server has said what the settings are; until then they are the file's, which may be a minute old."""
        return self._source.watched

    async def run(self, follow: Follow) -> None:
        """Run until cancelled."""
        await self._source.run(partial(_offer, follow))


def _offer(follow: Follow, text: str) -> None:
    try:
        follow(parsed(text).watches)
    except Invalid as invalid:
        logger.error("the settings are ignored, what is watched stays: %s", "; ".join(invalid.problems[:5]))
    except ValueError:
        logger.error("the settings are ignored, what is watched stays: no JSON")
    except Exception:
        # The edge of one document: nothing that is watched may end because of it.
        logger.exception("the settings could not be taken over, what is watched stays")
