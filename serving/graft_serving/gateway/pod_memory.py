"""The server pods that a gateway knows, in a file that outlives its container: it may be restarted while the API server is away."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from graft_serving.gateway.endpoint_slices import PodAddress

logger = logging.getLogger(__name__)


class PodMemory:
    """What is remembered is only where to ask: whether a pod serves, its agent says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: bytes | None = None

    def recall(self) -> dict[str, PodAddress]:
        """Return what was kept before the restart; nothing on a new pod, or if the file is not whole."""
        try:
            return pods_in(self._path.read_bytes())
        except (OSError, ValueError):
            return {}

    def keep(self, pods: Mapping[str, PodAddress]) -> None:
        """Replace the file if the pods have changed. Those that are about to go are left out."""
        content = json.dumps([{"name": name, "address": pod.address} for name, pod in sorted(pods.items()) if not pod.terminating]).encode()
        if content == self._kept:
            return
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(content)
            new.replace(self._path)
            self._kept = content
        except OSError as error:
            logger.warning("the server pods cannot be remembered for a restart: %s", error.strerror)


def pods_in(content: bytes) -> dict[str, PodAddress]:
    """Read `[{"name": "a", "address": "127.0.0.1:8000"}]`. Raises ValueError."""
    entries = json.loads(content)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.keys() >= {"name", "address"} for entry in entries):
        raise ValueError("the file of pods must be a list of {name, address}")
    return {str(entry["name"]): PodAddress(str(entry["address"])) for entry in entries}
