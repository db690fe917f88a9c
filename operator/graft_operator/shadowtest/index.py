"""Which ShadowTests are about which Adapter and have which shadow server, as the watch has seen them: whom to wake when those change."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graft_api.health import SHADOW_TERMINAL
from graft_api.shadowtest import shadow_endpoint
from graft_operator.engine.queue import Key

Manifest = dict[str, Any]


@dataclass
class ShadowIndex:
    """
    By adapter and by shadow server. Neither of a test ever changes, and an adapter's endpoint does not either: `AdapterIndex` leads here.

    A test that was deleted is woken once more for nothing; one whose report is there is not woken any more.
    """

    by_adapter: dict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))
    by_shadow: dict[Key, Key] = field(default_factory=dict)

    def seen(self, body: Manifest) -> Key:
        """Note a ShadowTest that the watch has brought; its key."""
        metadata = body["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        shadow, adapter = Key(key.namespace, shadow_endpoint(key.name)), adapter_of(body)
        if _is_done(body):
            self.by_shadow.pop(shadow, None)
            if adapter:
                self.by_adapter[adapter].discard(key)
        elif adapter:
            self.by_shadow[shadow] = key
            self.by_adapter[adapter].add(key)
        return key

    def wake_of_adapter(self, adapter: Key, enqueue: Callable[[Key], None]) -> None:
        """Queue all tests of an adapter."""
        for key in self.by_adapter.get(adapter, ()):
            enqueue(key)

    def wake_of_shadow(self, endpoint: Key, enqueue: Callable[[Key], None]) -> None:
        """Queue the test whose shadow server this endpoint is."""
        if (key := self.by_shadow.get(endpoint)) is not None:
            enqueue(key)


def adapter_of(body: Manifest) -> Key | None:
    """Return the Adapter that a ShadowTest names."""
    name = (body.get("spec") or {}).get("adapterRef", {}).get("name")
    return Key(body["metadata"]["namespace"], name) if name else None


def production_of(body: Manifest) -> Key | None:
    """Return the ModelEndpoint whose collector a ShadowTest has, or waits for."""
    name = ((body.get("status") or {}).get("resolved") or {}).get("endpoint")
    return Key(body["metadata"]["namespace"], name) if name else None


def _is_done(body: Manifest) -> bool:
    status = body.get("status") or {}
    return status.get("phase") in SHADOW_TERMINAL and ("report" in status or "verdict" not in status)
