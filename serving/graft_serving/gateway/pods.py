"""
The pods of the endpoint: what each has loaded, how much this gateway has under way on it, and which one comes next.

Discovery tells what there is (`update`, `remove`); requests choose (`pick`) and say how it went.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from random import Random

from graft_api.dataplane import BASE_NAME
from graft_api.routes import Balancing
from graft_serving.gateway.breaker import Breaker

OVERLOAD = 1.25
"""A conversation's own pod is passed over when it has more than this times the mean under way."""
OVERLOAD_FLOOR = 4
"""So many under way are never too many."""
_MASK = (1 << 64) - 1


class Pod:
    """One server pod, as this gateway sees it."""

    __slots__ = ("address", "breaker", "name", "outstanding", "seed", "serving", "under_way", "versions")

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        """`host:port` of its door."""
        self.serving = False
        self.versions: frozenset[str] = frozenset()
        self.outstanding: dict[str, int] = {}
        """Requests under way, by version. Absent: none."""
        self.under_way = 0
        self.breaker = Breaker()
        self.seed = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")

    def load(self, version: str) -> tuple[int, int]:
        """Return what orders pods: all that is under way there, then what is of this version."""
        return self.under_way, self.outstanding.get(version, 0)

    def started(self, version: str, now: float) -> None:
        """A request goes there."""
        self.under_way += 1
        self.outstanding[version] = self.outstanding.get(version, 0) + 1
        self.breaker.started(now)

    def finished(self, version: str) -> None:
        """It ended, however."""
        self.under_way -= 1
        left = self.outstanding[version] - 1
        if left:
            self.outstanding[version] = left
        else:
            del self.outstanding[version]


class Pods:
    """Not for threads: everything happens between two awaits."""

    def __init__(self, clock: Callable[[], float], random: Random, *, removed: Callable[[str], None] | None = None) -> None:
        self._pods: dict[str, Pod] = {}
        self._having: dict[str, tuple[Pod, ...]] = {}
        self._choose: Callable[[Sequence[Pod], str, bytes], Pod] = self._affine
        self._clock = clock
        self._random = random
        self._removed = removed

    def balance(self, balancing: Balancing) -> None:
        """Choose by this from now on."""
        if balancing == "PrefixAffine":
            self._choose = self._affine
        else:
            self._choose = self._least

    def update(self, name: str, address: str, serving: bool, versions: Iterable[str]) -> None:
        """Take over what is known of one pod. What is under way there goes on."""
        pod = self._pods.get(name)
        if pod is None or pod.address != address:
            self._forget_connections(pod)
            pod = self._pods[name] = Pod(name, address)
        pod.serving, pod.versions = serving, frozenset(versions)
        self._index()

    def remove(self, name: str) -> None:
        """Forget a pod. What is under way there goes on."""
        self._forget_connections(self._pods.pop(name, None))
        self._index()

    def missing(self, pod: Pod, version: str) -> None:
        """The pod says that it does not have the version: do not ask it again until its agent has spoken."""
        pod.versions -= {version}
        self._index()

    def pick(self, version: str, key: bytes, avoid: Pod | None = None, *, open_too: bool = False) -> Pod | None:
        """Return the pod for one request, or None. With `open_too` pods that keep failing count, too: better than nobody."""
        now = self._clock()
        having = self._having.get(version, ())
        usable = [pod for pod in having if pod is not avoid and (open_too or pod.breaker.allows(now))]
        if len(usable) < 2:
            return usable[0] if usable else None
        return self._choose(usable, version, key)

    def reach(self) -> dict[str, int]:
        """Return on how many pods each version is, `base` included."""
        return {version: len(pods) for version, pods in self._having.items()}

    def all(self) -> Sequence[Pod]:
        """Return every known pod."""
        return tuple(self._pods.values())

    def _least(self, usable: Sequence[Pod], version: str, _: bytes) -> Pod:
        loads = [pod.load(version) for pod in usable]
        least = min(loads)
        return self._random.choice([pod for pod, load in zip(usable, loads, strict=True) if load == least])

    def _affine(self, usable: Sequence[Pod], _: str, key: bytes) -> Pod:
        bound = max(OVERLOAD * (sum([pod.under_way for pod in usable]) + 1) / len(usable), OVERLOAD_FLOOR)
        number = int.from_bytes(key[:8], "big")
        roomy = [pod for pod in usable if pod.under_way < bound]
        return max(roomy, key=lambda pod: _mixed(number ^ pod.seed))

    def _index(self) -> None:
        having: dict[str, list[Pod]] = {}
        for pod in self._pods.values():
            if pod.serving:
                for version in pod.versions | {BASE_NAME}:
                    having.setdefault(version, []).append(pod)
        self._having = {version: tuple(pods) for version, pods in having.items()}

    def _forget_connections(self, pod: Pod | None) -> None:
        if pod is not None and self._removed is not None:
            self._removed(pod.address)


def _mixed(number: int) -> int:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): rendezvous hashing needs every bit of the key in every bit of the score."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
