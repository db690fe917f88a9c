"""Pure: the one ShadowTest that counts for a gate, of all that there may be of its adapter."""

from graft_api.ledger import Gate, GateState, LedgerDomain
from graft_api.podtemplate import LocalObjectReference
from graft_api.shadowtest import ShadowTestSpec
from graft_operator.promotion.seen import Seen
from graft_operator.shadowtest.turns import TestView


def spec_of(gate: Gate) -> ShadowTestSpec:
    """Return the spec of a gate's ShadowTest, from the policy as it was frozen."""
    policy = gate.policy.shadow
    return ShadowTestSpec(
        adapter_ref=LocalObjectReference(name=gate.version.adapter), **{name: getattr(policy, name) for name in type(policy).model_fields}
    )


def wanted(seen: Seen, entry: LedgerDomain) -> Gate | None:
    """
    Return the gate whose ShadowTest is to be made now.

    None: there is none, its test is there, somebody else's has the name, or there is no Adapter that could own it.
    """
    gate = entry.gate
    if gate is None or gate.state is not GateState.TESTING or seen.own(gate) is None:
        return None
    if conflict(seen, gate) is not None or named(seen, gate) is not None:
        return None
    return gate


def counted(seen: Seen, gate: Gate) -> TestView | None:
    """
    Return the test that counts: of the gate's name, its Adapter's, and asking exactly what the frozen policy asks.

    Whoever may write ShadowTests could make one of that name beforehand, with an Adapter as its controller and with wide margins.
    """
    test = named(seen, gate)
    return test if test is not None and not test.deleting and test.spec == spec_of(gate) else None


def named(seen: Seen, gate: Gate) -> TestView | None:
    """Return what has the name of a gate's test, among those of the domain's adapters."""
    return next((test for test in seen.tests if test.name == gate.test), None)


def conflict(seen: Seen, gate: Gate) -> str | None:
    """Return why the test of a gate can neither be made nor taken; None: nothing stands against it."""
    test = named(seen, gate)
    if gate.test in seen.taken:
        return f"NameConflict: there is a ShadowTest {gate.test} that is not of Adapter {gate.version.adapter}; delete it"
    if test is not None and not test.deleting and test.spec != spec_of(gate):
        return f"NameConflict: ShadowTest {gate.test} is not what promotion.shadow asks; delete it"
    return None
