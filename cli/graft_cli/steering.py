"""`graft pin`, `unpin`, `pause` and `resume`: one field of a domain in a ModelEndpoint's spec."""

from __future__ import annotations

from argparse import Namespace

from graft_api.modelendpoint import Pin
from graft_api.schema import Invalid
from graft_cli.domains import ENDPOINTS, Served, by_name, read_adapter
from graft_cli.kubectl import Kubectl, Manifest
from graft_cli.verdicts import printable


def pin(options: Namespace) -> int:
    """Have a domain served by one adapter, or by the base model, whatever promotion says. Raises `Invalid`."""
    kubectl, served = _found(options)
    wanted = Pin(base=True) if options.base else Pin(adapter=_fitting(kubectl, served, options.adapter))
    if served.wanted.pin == wanted:
        return _said(served, f"is pinned to {_named(wanted)} already")
    _change(kubectl, served, {"op": "add", "path": f"{served.path}/pin", "value": wanted.to_json()})
    return _said(served, f"is pinned to {_named(wanted)}")


def unpin(options: Namespace) -> int:
    """Take a pin away: what serves goes on serving. Raises `Invalid`."""
    kubectl, served = _found(options)
    if served.wanted.pin is None:
        return _said(served, "has no pin")
    _change(kubectl, served, {"op": "remove", "path": f"{served.path}/pin"})
    return _said(served, f"is not pinned to {_named(served.wanted.pin)} any more; what serves goes on serving")


def pause(options: Namespace) -> int:
    """Let no candidate go on; what is watched goes on being watched, and rolled back. Raises `Invalid`."""
    return _pause(options, paused=True)


def resume(options: Namespace) -> int:
    """Let candidates go on. Raises `Invalid`."""
    return _pause(options, paused=False)


def _pause(options: Namespace, *, paused: bool) -> int:
    kubectl, served = _found(options)
    state = "is paused: no candidate goes on, and what is watched is still rolled back" if paused else "is not paused"
    if served.wanted.paused != paused:
        _change(kubectl, served, {"op": "add", "path": f"{served.path}/paused", "value": paused})
    return _said(served, state)


def _found(options: Namespace) -> tuple[Kubectl, Served]:
    kubectl = Kubectl.of(options)
    return kubectl, by_name(kubectl, options.domain, options.endpoint)


def _fitting(kubectl: Kubectl, served: Served, name: str) -> str:
    """Return the adapter's name, if it is for this domain. Raises `Invalid`."""
    spec = read_adapter(kubectl, name).spec
    if (spec.endpoint_ref.name, spec.domain) != (served.endpoint, served.wanted.name):
        raise Invalid(
            [
                f"Adapter {name} is for domain {spec.domain} of ModelEndpoint {spec.endpoint_ref.name},"
                f" not for {served.wanted.name} of {served.endpoint}"
            ]
        )
    return name


def _change(kubectl: Kubectl, served: Served, operation: Manifest) -> None:
    """Change it where it was found, or not at all: domains may have moved since."""
    kubectl.patch(ENDPOINTS, served.endpoint, [{"op": "test", "path": f"{served.path}/name", "value": served.wanted.name}, operation])


def _named(pinned: Pin) -> str:
    return pinned.adapter or "the base model"


def _said(served: Served, what: str) -> int:
    print(printable(f"modelendpoint {served.endpoint}: domain {served.wanted.name} {what}"))
    return 0
