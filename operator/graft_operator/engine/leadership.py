"""
At most one replica acts, by a Lease.

Whether another's lease has expired is judged only by how long, on our own monotonic clock, it has not changed: clocks of
two machines are never compared. Whoever could not renew in time ends the process, at once, because its successor may
be at work already; until the process is gone, `check` keeps it from writing.

The *epoch* is the Lease's `leaseTransitions`: it grows with every new leader, so that what an old one wrote can be told.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, NoReturn, TypeVar

from graft_operator.engine.clock import Clock, rfc3339_micro
from graft_operator.engine.errors import AlreadyExists, Conflict, KubeError, LeadershipLost, NotFound
from graft_operator.engine.kube import Kube
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import LEASES, Object

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds, with client-go's defaults. What matters is retry < renew < duration: a leader gives up before others may take over."""

    duration: float = 15
    renew: float = 10
    retry: float = 2

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew < self.duration:
            raise ValueError(f"retry < renew < duration must hold, got {self.retry}, {self.renew}, {self.duration}")


@dataclass(frozen=True)
class Candidate:
    """Who wants to lead, by which Lease. The identity must be new for every process, also in the same pod."""

    lease: Key
    identity: str
    times: LeaseTimes = LeaseTimes()


def end_process() -> NoReturn:
    """Without finally blocks, atexit or draining: all of those might still write."""
    os._exit(1)


class Leadership:
    """Acquire, then hold; `release` on the way out."""

    def __init__(self, kube: Kube, candidate: Candidate, clock: Clock, random: Random, on_lost: Callable[[], object] = end_process) -> None:
        self._kube = kube
        self._candidate = candidate
        self._times = candidate.times
        self._clock = clock
        self._random = random
        self._on_lost = on_lost
        self._seen: Any = None
        self._seen_at = 0.0
        self._version = ""
        self._renewed_at: float | None = None
        self.epoch = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process may act now. False as soon as it has been unable to renew for too long."""
        return self._renewed_at is not None and self._clock.monotonic() - self._renewed_at < self._times.renew

    def check(self) -> None:
        """Raise LeadershipLost, and end the process, unless this process may act now. Called before every write."""
        if not self.is_leader:
            self._lost("a write was due, but the lease was not renewed in time")

    async def acquire(self) -> int:
        """Wait until the lease is ours; the epoch. Errors are retried for ever: a standby has nothing better to do."""
        complained = ""
        while True:
            try:
                if await self._try_acquire():
                    logger.info("leading", extra={"epoch": self.epoch, "identity": self._candidate.identity})
                    return self.epoch
            except (KubeError, TimeoutError) as error:
                if type(error).__name__ != complained:
                    complained = type(error).__name__
                    logger.warning("cannot read or write the lease: %s", error)
            await self._clock.sleep(self._times.retry * self._random.uniform(1, 1.2))

    async def hold(self) -> None:
        """Renew until cancelled. When that has failed for too long, end the process."""
        while True:
            await self._clock.sleep(self._times.retry)
            if not self.is_leader:
                self._lost("the lease was not renewed in time")
            try:
                await self._bounded(self._renew())
            except (Conflict, NotFound) as error:
                self._lost(f"the lease was taken or deleted: {error}")
            except (KubeError, TimeoutError) as error:
                logger.warning("cannot renew the lease: %s %s", type(error).__name__, error)

    async def release(self) -> None:
        """Let the next one in without waiting for the lease to expire. Call when nothing can write any more."""
        if not self.is_leader:
            return
        self._renewed_at = None
        spec = {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": rfc3339_micro(self._clock.now())}
        try:
            await self._bounded(self._patch(spec))
        except (KubeError, TimeoutError) as error:
            logger.warning("cannot release the lease, it will expire: %s", error)

    async def _try_acquire(self) -> bool:
        lease = await self._bounded(self._kube.get(LEASES, self._candidate.lease.namespace, self._candidate.lease.name))
        began = self._clock.monotonic()
        try:
            if lease is None:
                self._accept(await self._bounded(self._create()), began)
                return True
            self._observe(lease)
            if not self._free(spec := lease.get("spec") or {}):
                return False
            spec = {**self._claim(), "leaseTransitions": spec.get("leaseTransitions", 0) + 1}
            self._accept(await self._bounded(self._patch(spec)), began)
        except (AlreadyExists, Conflict):
            return False  # somebody was faster
        return True

    def _observe(self, lease: Object) -> None:
        self._version = lease["metadata"]["resourceVersion"]
        spec = lease.get("spec") or {}
        seen = (lease["metadata"]["uid"], spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock.monotonic()

    def _free(self, spec: Object) -> bool:
        """Released, or unchanged for as long as its holder said it would be good for (ours, if that is longer)."""
        if not spec.get("holderIdentity"):
            return True
        duration = max(self._times.duration, float(spec.get("leaseDurationSeconds", 0)))
        return self._clock.monotonic() - self._seen_at >= duration

    async def _renew(self) -> None:
        began = self._clock.monotonic()
        try:
            lease = await self._patch({"renewTime": rfc3339_micro(self._clock.now())})
        except Conflict:
            lease = await self._renew_after_conflict()
        self._accept(lease, began)

    async def _renew_after_conflict(self) -> Object:
        """A renewal whose answer got lost conflicts with itself. Still ours? Then only its version was old."""
        lease = await self._kube.get(LEASES, self._candidate.lease.namespace, self._candidate.lease.name)
        if lease is None or lease["spec"].get("holderIdentity") != self._candidate.identity:
            raise Conflict("another holder", code=409)
        self._version = lease["metadata"]["resourceVersion"]
        return await self._patch({"renewTime": rfc3339_micro(self._clock.now())})

    async def _create(self) -> Object:
        # A Lease that was deleted must not start again at zero, or everything the last leader wrote would look newer than
        # what we write. Minutes since 1970 fit into its int32 and outrun any number of changes of leader.
        transitions = int(self._clock.now().timestamp() // 60)
        lease = self._candidate.lease
        metadata = {"namespace": lease.namespace, "name": lease.name}
        return await self._kube.create(LEASES, {"metadata": metadata, "spec": {**self._claim(), "leaseTransitions": transitions}})

    async def _patch(self, spec: Object) -> Object:
        lease = self._candidate.lease
        patch = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        return await self._kube.merge_patch(LEASES, lease.namespace, lease.name, patch)

    def _claim(self) -> Object:
        now = rfc3339_micro(self._clock.now())
        return {
            "holderIdentity": self._candidate.identity,
            "leaseDurationSeconds": int(self._times.duration),
            "acquireTime": now,
            "renewTime": now,
        }

    def _accept(self, lease: Object, began: float) -> None:
        """Count from when the request was sent: for the others the lease may have begun then."""
        self._version = lease["metadata"]["resourceVersion"]
        self.epoch = lease["spec"]["leaseTransitions"]
        self._renewed_at = began

    async def _bounded(self, call: Coroutine[Any, Any, _T]) -> _T:
        """No request may take so long that there is no time for a second one before the lease must be given up."""
        async with asyncio.timeout(self._times.renew / 2):
            return await call

    def _lost(self, why: str) -> NoReturn:
        self._renewed_at = None
        logger.critical("leadership lost, ending the process: %s", why)
        self._on_lost()
        raise LeadershipLost(why)
