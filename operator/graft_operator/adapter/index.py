"""Which Adapters name which ModelEndpoint, as the watch has seen them: whom to wake when one of them, or what is said of it, changes."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graft_operator.engine.queue import Key

Manifest = dict[str, Any]


@dataclass
class AdapterIndex:
    """By endpoint. An adapter's endpoint never changes, so an entry is only ever added; one that is gone is woken for nothing."""

    by_endpoint: dict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))
    endpoints: dict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))
    """By adapter. One that was made anew under its name may be another endpoint's."""

    def seen(self, body: Manifest) -> Key:
        """Note an Adapter that the watch has brought; its key."""
        metadata = body["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        if endpoint := endpoint_of(body):
            self.by_endpoint[endpoint].add(key)
            self.endpoints[key].add(endpoint)
        return key

    def wake(self, endpoint: Key, enqueue: Callable[[Key], None]) -> None:
        """Queue all adapters of an endpoint."""
        for key in self.by_endpoint.get(endpoint, ()):
            enqueue(key)

    def wake_endpoints(self, adapter: Key, enqueue: Callable[[Key], None]) -> None:
        """Queue the endpoints of an adapter. One that was not seen yet wakes its endpoint itself when it is."""
        for key in self.endpoints.get(adapter, ()):
            enqueue(key)


def adapter_of(body: Manifest) -> Key | None:
    """Return the Adapter that an AdapterApproval is about."""
    name = (body.get("spec") or {}).get("adapterRef", {}).get("name")
    return Key(body["metadata"]["namespace"], name) if name else None


def endpoint_of(body: Manifest) -> Key | None:
    """Return the ModelEndpoint that an Adapter names."""
    name = (body.get("spec") or {}).get("endpointRef", {}).get("name")
    return Key(body["metadata"]["namespace"], name) if name else None
