"""What the routes want of this pod, and how far each version is: the notes of the loop, without anything that it does."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from graft_api.fleet import LoadFailure, VersionState
from graft_api.routes import Routes, Version
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.fetcher import Fetched
from graft_serving.agent.paths import check_version_name
from graft_serving.agent.plan import Progress
from graft_serving.agent.verify import Package, Trust

logger = logging.getLogger(__name__)

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0


@dataclass(frozen=True)
class Server:
    """
    With what this pod's vLLM was started; None: nobody said, and the routes' word counts.

    The routes follow the spec at once, a vLLM that runs does not: it would push out what is routed for what has no room.
    """

    max_loras: int | None = None
    max_lora_rank: int | None = None
    base_digest: str | None = None


class Wanted:
    """
    The versions in the routes' order, at most as many as there is room for.

    Names come and go only by a new `items`: who reads it in another thread reads one state or the other.
    """

    def __init__(self, server: Server, clock: Callable[[], float], random: Random) -> None:
        self._server = server
        self._clock = clock
        self._random = random
        self._packages: dict[str, Package] = {}
        self.routes: Routes | None = None
        self.items: dict[str, Progress] = {}
        self.beyond: tuple[Progress, ...] = ()
        """Versions that the routes give a slot, and this pod's vLLM has none for."""

    def take_over(self, routes: Routes) -> None:
        """Want what newer routes say."""
        trusted_otherwise = self.routes is not None and self._trust(routes) != self._trust(self.routes)
        self.routes, before = routes, self.items
        slots = min(routes.max_loras, self._server.max_loras or routes.max_loras)
        items = {version.name: _taken_over(before.get(version.name), version) for version in routes.versions[:slots]}
        if trusted_otherwise:  # a key may have been withdrawn: everything is held against the new ones
            items = {name: replace(_forgiven(item), fetched=False) for name, item in items.items()}
        self.items = items
        self.beyond = tuple(_without_slot(version, slots, routes.max_loras) for version in routes.versions[slots : routes.max_loras])
        for item in self.beyond:
            logger.warning("not served: %s", item.message, extra={"version": item.name, "reason": str(item.reason)})

    def trust(self) -> Trust:
        """Return what adapters must agree with now. There must be routes."""
        assert self.routes  # noqa: S101 - no version without routes
        return self._trust(self.routes)

    def routed(self) -> frozenset[str]:
        """Return the versions that some arm sends requests to."""
        return self.routes.routed() if self.routes else frozenset()

    def package(self, name: str) -> Package:
        """Return what was verified under this name."""
        return self._packages[name]

    def forget_package(self, name: str) -> None:
        """Its files are gone."""
        self._packages.pop(name, None)

    # What happened

    def update(self, name: str, change: Callable[[Progress], Progress]) -> None:
        """Note something about a version, if it is still wanted."""
        if name in self.items:
            self.items[name] = change(self.items[name])

    def fail(self, name: str, error: VersionRefusedError) -> None:
        """Note that it does not serve, and when that may be tried again."""
        item = self.items.get(name)
        if item is None:
            return
        pause = min(FIRST_RETRY * 2**item.failures, LONGEST_RETRY) * (0.5 + self._random.random() / 2)
        if error.reason is LoadFailure.SERVER_DIFFERS:
            pause = math.inf  # as long as this vLLM runs
        self.items[name] = item.failed(error.reason, error.message, self._clock() + pause)
        logger.warning("not served: %s", error, extra={"version": name, "reason": str(error.reason)})

    def refused(self, version: Version, trust: Trust, error: VersionRefusedError) -> None:
        """Note the end of a fetch, unless it was held against what does not count any more: then it is tried once more, at once."""
        item = self.items.get(version.name)
        if item is not None and item.version == version and self.trust() == trust:
            self.fail(version.name, error)
        else:
            self.update(version.name, lambda item: item if item.state is VersionState.READY else item.at(VersionState.WAITING))

    def arrived(self, version: Version, trust: Trust, fetched: Fetched) -> None:
        """Note that it is here and verified, unless that was against other keys than those of now."""
        if self.trust() != trust:
            return
        self._packages[version.name] = fetched.package
        seconds = {step: round(value, 3) for step, value in fetched.seconds.items()}

        def here(item: Progress) -> Progress:
            state = item.state if item.state is VersionState.READY else VersionState.WAITING
            return replace(item, fetched=True, state=state, seconds={**item.seconds, **seconds})

        self.update(version.name, here)

    def forgive(self, name: str) -> None:
        """Note that what went wrong with it may have gone with the vLLM that it was tried on."""
        self.items[name] = replace(_forgiven(self.items[name]), failures=0)

    def lose(self, name: str) -> None:
        """Note that vLLM does not have it any more."""
        self.items[name] = replace(self.items[name].at(VersionState.WAITING), failures=0)

    def _trust(self, routes: Routes) -> Trust:
        server = self._server
        return Trust(tuple(routes.signing_keys), server.base_digest or routes.base_digest, routes.max_lora_rank, server.max_lora_rank)


def _taken_over(before: Progress | None, version: Version) -> Progress:
    """Return what is known of a version that the routes name; a name with another digest is another version."""
    if before is not None and before.version == version:
        return _forgiven(before) if before.reason is LoadFailure.TOO_LARGE else before  # another may have made room
    if before is not None and before.version.digest == version.digest:
        return replace(_forgiven(before), version=version)
    try:
        check_version_name(version.name)
    except VersionRefusedError as error:
        return Progress(version).failed(error.reason, error.message, 0.0)
    return Progress(version)


def _without_slot(version: Version, slots: int, wanted: int) -> Progress:
    message = f"this pod's vLLM was started with --max-loras {slots}, and the endpoint has {wanted} slots now: the pod must be replaced"
    return Progress(version).failed(LoadFailure.SERVER_DIFFERS, message, math.inf)


def _forgiven(item: Progress) -> Progress:
    """Return a version as if nothing had gone wrong so far."""
    return item if item.state is VersionState.READY else replace(item.at(VersionState.WAITING), failures=0)
