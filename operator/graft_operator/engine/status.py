"""Writing a status: once per pass, only what changed, and only on top of what was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import Object, Resource


async def write_status(kube: Kube, resource: Resource, observed: Object, status: Mapping[str, Any]) -> bool:
    """
    Make the status of `observed` exactly `status`. True if something had to be written.

    Raises Conflict if the object has changed since it was read: what was decided may be wrong by now, so the pass
    starts over. Fields that are None count as absent.
    """
    change = difference(observed.get("status") or {}, status)
    if not change:
        return False
    metadata = observed["metadata"]
    # resourceVersions are never used twice, so this also tells an object from its successor of the same name
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": change}
    await kube.merge_patch(resource, metadata.get("namespace"), metadata["name"], patch, subresource="status")
    return True


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that turns `before` into `after`. Lists are replaced as a whole."""
    patch: dict[str, Any] = {name: None for name in before if after.get(name) is None}
    for name, value in after.items():
        if value is None:
            continue
        old = before.get(name)
        if isinstance(value, Mapping):
            nested = difference(old if isinstance(old, Mapping) else {}, value)
            if nested or not isinstance(old, Mapping):
                patch[name] = nested
        elif old != (present := _without_none(value)):
            patch[name] = present
    return patch


def _without_none(value: object) -> object:
    """Absent fields of objects in lists: the API server drops them, so they would differ for ever."""
    if isinstance(value, Mapping):
        return {name: _without_none(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_without_none(entry) for entry in value]
    return value
