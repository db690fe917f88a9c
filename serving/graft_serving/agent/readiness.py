"""When the kubelet, and gateways after a start of vLLM, may send a server pod traffic. Pure."""

from collections.abc import Collection, Sequence

from graft_api.fleet import ATTEMPT_SECONDS
from graft_serving.agent.plan import Progress


def ready(serving: bool, routed: Collection[str], versions: Sequence[Progress], waited: float | None) -> bool:
    """
    Whether the pod is Ready.

    `serving`: vLLM answers and the pod is not going. `waited`: seconds since routes and vLLM were first both there; None: there
    are no routes yet, and nobody knows what should be loaded. A version that no arm sends requests to, a candidate for instance,
    never counts; one that failed, whatever the reason, has had its attempt.
    """
    if not serving or waited is None:
        return False
    return waited >= ATTEMPT_SECONDS or all(item.attempted for item in versions if item.name in routed)
