"""
What to do next on one pod. Pure: desired versions, what vLLM has, what the disk has, and what was tried -> the next action.

Fetches go on side by side; what touches vLLM goes one at a time, unloads first, for they free slots, then in the routes' order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from graft_api.fleet import RETRIED, LoadFailure, ProbeReading, VersionState
from graft_api.routes import Version


@dataclass(frozen=True)
class Progress:
    """How far one version is on this pod."""

    version: Version
    state: VersionState = VersionState.WAITING
    fetched: bool = False
    """Verified, under its name on the disk."""
    loaded: bool = False
    """In vLLM, from our path."""
    reason: LoadFailure | None = None
    message: str = ""
    failures: int = 0
    retry_at: float = 0.0
    """On the monotonic clock."""
    probe: ProbeReading | None = None
    weak: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The version's name."""
        return self.version.name

    @property
    def attempted(self) -> bool:
        """Whether one attempt has come to an end, well or not."""
        return self.state is VersionState.READY or self.failures > 0

    def may_be_tried(self, now: float) -> bool:
        """Whether nothing speaks against another step."""
        if self.state is not VersionState.FAILED:
            return True
        return self.reason in RETRIED and now >= self.retry_at

    def failed(self, reason: LoadFailure, message: str, retry_at: float) -> "Progress":
        """Return this with a failure; what retries later goes on where it was."""
        return replace(self, state=VersionState.FAILED, reason=reason, message=message, failures=self.failures + 1, retry_at=retry_at)

    def at(self, state: VersionState) -> "Progress":
        """Return this in another state, without what an earlier attempt left."""
        return replace(self, state=state, reason=None, message="")

    def took(self, step: str, seconds: float) -> "Progress":
        """Return this with the duration of one step."""
        return replace(self, seconds={**self.seconds, step: round(seconds, 3)})


class Step(Enum):
    """What can be done to vLLM or the disk."""

    UNLOAD = "unload"
    DELETE = "delete"
    """The files of what is neither wanted nor loaded."""
    LOAD = "load"
    PROBE = "probe"


@dataclass(frozen=True)
class Action:
    """One step for one version."""

    step: Step
    name: str


@dataclass(frozen=True)
class Pod:
    """What is."""

    desired: Sequence[Progress]
    """In the routes' order, at most as many as there are slots."""
    loaded: Mapping[str, str]
    """By name the path, as vLLM says. Empty while vLLM is away."""
    serving: bool
    """vLLM answers."""
    on_disk: frozenset[str]
    adapters: str
    """Folder of the adapters, as vLLM sees it."""
    certain: bool
    """`desired` is known, and no old word: by no other may anything be taken away."""

    def ours(self, name: str) -> bool:
        """Whether vLLM has the name from where we put it."""
        return self.loaded.get(name) == f"{self.adapters}/{name}"


def fetches(pod: Pod, busy: frozenset[str], now: float) -> list[str]:
    """Return the versions to fetch, most important first; `busy` are under way. vLLM need not be up for it."""
    return [item.name for item in pod.desired if not item.fetched and item.name not in busy and item.may_be_tried(now)]


def plan(pod: Pod, busy: frozenset[str], now: float) -> Action | None:
    """
    Return what is to be done next to vLLM or the disk, None for nothing.

    `busy` are names whose files are in use, or whose unload was just tried: one that vLLM does not let go of blocks no other.
    """
    wanted = {item.name: item for item in pod.desired}
    if pod.serving:
        # What was loaded from elsewhere may be anything, and a failed version must not stay where it could be asked for.
        out = [name for name in pod.loaded if name not in busy and (name not in wanted or not pod.ours(name) or _is_out(wanted[name]))]
        if out and pod.certain:
            return Action(Step.UNLOAD, min(out))
        for item in pod.desired:
            # A load could push out of vLLM what may only seem not to be wanted.
            if (action := _towards_ready(item, pod, now)) and not (out and action.step is Step.LOAD):
                return action
    for name in sorted(pod.on_disk - wanted.keys() - pod.loaded.keys() - busy):
        # While vLLM is away nobody knows what it has; when it comes back it has nothing.
        if pod.serving and pod.certain:
            return Action(Step.DELETE, name)
    return None


def _is_out(item: Progress) -> bool:
    return item.state is VersionState.FAILED and item.reason not in RETRIED


def _towards_ready(item: Progress, pod: Pod, now: float) -> Action | None:
    if not item.fetched or item.state is VersionState.READY or not item.may_be_tried(now):
        return None
    return Action(Step.PROBE if pod.ours(item.name) else Step.LOAD, item.name)
