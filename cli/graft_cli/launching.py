"""`graft policy launch`: let a launch be done that a TuningPolicy has found due and that waits for approval."""

from __future__ import annotations

from argparse import Namespace

from graft_api.schema import Invalid, parse
from graft_api.tuningpolicy import TuningPolicyStatus
from graft_cli.kubectl import Kubectl, Manifest
from graft_cli.verdicts import printable

POLICIES = "tuningpolicies.graft.dev"


def launch(options: Namespace) -> int:
    """Approve the launch that waits, and no other. Raises `Invalid`."""
    kubectl = Kubectl.of(options)
    resource = kubectl.get(POLICIES, options.policy)
    status = parse(TuningPolicyStatus, resource.get("status") or {}, from_newer=True)
    told = next((domain for domain in status.domains or () if domain.name == options.domain), None)
    if told is None or told.awaiting is None:
        raise Invalid([f"no launch of domain {options.domain} waits for approval: {_stands(status, options.domain)}"])
    place = _place(resource, options.domain)
    named = {"op": "test", "path": f"/spec/domains/{place}/name", "value": options.domain}
    kubectl.patch(POLICIES, options.policy, [named, {"op": "add", "path": f"/spec/domains/{place}/launchApproved", "value": told.awaiting}])
    why = "; ".join(f"{one.name}: {one.sentence}" for one in told.criteria if one.result == "Met")
    print(printable(f"tuningpolicy {options.policy}: launch {told.awaiting} of domain {options.domain} may be done: {why}"))
    return 0


def _place(resource: Manifest, domain: str) -> int:
    """Return where the domain stands in the spec. Raises `Invalid`."""
    domains = (resource.get("spec") or {}).get("domains") or []
    found = next((place for place, one in enumerate(domains) if one.get("name") == domain), None)
    if found is None:
        raise Invalid([f"spec.domains has no {domain}"])
    return found


def _stands(status: TuningPolicyStatus, domain: str) -> str:
    """Say how a domain stands."""
    told = next((one for one in status.domains or () if one.name == domain), None)
    if told is None or not told.decisions:
        known = ", ".join(one.name for one in status.domains or ()) or "none yet"
        return f"there are decisions for {known}"
    return f"{told.decisions[-1].decision}: {told.decisions[-1].message}"
