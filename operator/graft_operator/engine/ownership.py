"""Whose child an object is. Labels and names can be copied by anybody; the controller's uid is set by who made it."""

from graft_operator.engine.resources import Object


def is_controlled_by(child: Object, uid: str) -> bool:
    """Whether the controller of an object is the one with this uid."""
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)


def controller_kind(child: Object) -> str:
    """Return the kind of an object's controller; nothing where it has none."""
    return str(_controller(child).get("kind", ""))


def controller_uid(child: Object) -> str:
    """Return the uid of an object's controller; nothing where it has none."""
    return str(_controller(child).get("uid", ""))


def _controller(child: Object) -> Object:
    owners = child["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def controller_reference(kind: str, name: str, uid: str) -> Object:
    """Return the owner reference that makes an object of ours the controller of a child."""
    return {
        "apiVersion": "graft.dev/v1alpha1",
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
