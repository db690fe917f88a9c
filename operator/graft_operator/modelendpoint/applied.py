"""What was applied last at each place: a pass that changes nothing writes nothing, and what somebody changes by hand does not stay."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from graft_api.schema import canonical_json
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import DEPLOYMENTS, Object
from graft_operator.engine.watch import owner_key

Manifest = dict[str, Any]
Place = tuple[str, str, str]
"""Namespace, kind, name."""

AGAIN = timedelta(minutes=10).total_seconds()
"""Heals what a watch has missed."""
REMEMBERED = 8192

_endpoint_of = owner_key("ModelEndpoint")


@dataclass(frozen=True)
class Entry:
    """One object as it was applied."""

    owner_uid: str
    digest: bytes
    """Of the manifest."""
    mark: str
    """What the API server changes with every change that counts."""
    until: float
    """On the monotonic clock; so long it is believed to be still there."""


@dataclass
class Applied:
    """By place. Its watches forget what is not any more as it was applied, and wake the endpoint, which applies it again."""

    entries: OrderedDict[Place, Entry] = field(default_factory=OrderedDict)

    def is_fresh(self, owner_uid: str, manifest: Manifest, now: float) -> bool:
        """Whether this was applied for this owner within the last ten minutes, and nothing else for it since."""
        entry = self.entries.get(_place(manifest))
        return entry is not None and now < entry.until and (entry.owner_uid, entry.digest) == (owner_uid, _digest(manifest))

    def remember(self, owner_uid: str, manifest: Manifest, now: float, found: Object | None = None) -> None:
        """Note that this is what the API server has now, or that it has none."""
        place = _place(manifest)
        self.entries[place] = Entry(owner_uid, _digest(manifest), _mark(found, manifest["kind"]) if found else "", now + AGAIN)
        self.entries.move_to_end(place)
        while len(self.entries) > REMEMBERED:
            self.entries.popitem(last=False)

    def strayed(self, kind: str, body: Object) -> Key | None:
        """Forget an object of which a watch tells, if it is another one than was applied; then return its endpoint."""
        metadata = body["metadata"]
        place = (metadata["namespace"], kind, metadata["name"])
        entry = self.entries.get(place)
        if entry is None or entry.mark == _mark(body, kind):
            return None
        del self.entries[place]
        return _endpoint_of(body)


def _mark(found: Object, kind: str) -> str:
    """A Deployment's status changes all the time, so its generation. A deletion changes only the version."""
    metadata = found["metadata"]
    return f"{metadata['uid']}/{metadata['generation' if kind == DEPLOYMENTS.kind else 'resourceVersion']}"


def _place(manifest: Manifest) -> Place:
    return manifest["metadata"]["namespace"], manifest["kind"], manifest["metadata"]["name"]


def _digest(manifest: Manifest) -> bytes:
    return hashlib.sha256(canonical_json(manifest)).digest()
