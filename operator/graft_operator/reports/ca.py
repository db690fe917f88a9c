"""What a workload namespace needs before a training pod can report from it: the authority's certificate and a service account."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from graft_api.dataplane import RECORD_LABEL
from graft_operator.engine.clock import Clock
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import CONFIG_MAPS, SERVICE_ACCOUNTS, Object

CONFIG_MAP = "graft-ca"
CA_KEY = "ca.crt"
TRAINER_SERVICE_ACCOUNT = "graft-trainer"
APPLY_AGAIN = timedelta(minutes=10)
"""Heals what somebody deleted: an administrator may, the policies keep everybody else away."""
CACHE_SIZE = 4096


def ca_config_map(namespace: str, bundle: str) -> Object:
    """The ConfigMap that training pods mount to know the reports server by."""
    metadata = {"name": CONFIG_MAP, "namespace": namespace, "labels": {RECORD_LABEL: "ca"}}
    return {"metadata": metadata, "data": {CA_KEY: bundle}}


def trainer_service_account(namespace: str) -> Object:
    """The service account of training pods: it may do nothing, and its API token is not mounted."""
    return {"metadata": {"name": TRAINER_SERVICE_ACCOUNT, "namespace": namespace}, "automountServiceAccountToken": False}


class Trust:
    """Carries the bundle into namespaces on demand. `bundle` returns the PEM of the authorities to trust now."""

    def __init__(self, kube: Kube, clock: Clock, bundle: Callable[[], str]) -> None:
        self._kube = kube
        self._clock = clock
        self._bundle = bundle
        self._applied: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()

    async def ensure(self, namespace: str, owner_uid: str) -> None:
        """
        Apply ConfigMap `graft-ca` and ServiceAccount `graft-trainer`, unless that was done a short while ago for the same owner.

        `owner_uid`: of the object that needs them. For another one they are applied at once: a namespace that was deleted and restored
        has the same name, other objects, and nothing of this in it. Raises `NotYet` while there is no certificate, or a `KubeError`.
        """
        bundle = self._bundle()
        digest = hashlib.sha256(bundle.encode()).digest()
        if self._is_applied((namespace, owner_uid), digest):
            return
        await asyncio.gather(
            self._kube.apply(CONFIG_MAPS, ca_config_map(namespace, bundle)),
            self._kube.apply(SERVICE_ACCOUNTS, trainer_service_account(namespace)),
        )
        self._remember((namespace, owner_uid), digest)

    def _is_applied(self, key: tuple[str, str], digest: bytes) -> bool:
        until, applied = self._applied.get(key, (0.0, b""))
        return applied == digest and self._clock.monotonic() < until

    def _remember(self, key: tuple[str, str], digest: bytes) -> None:
        self._applied[key] = (self._clock.monotonic() + APPLY_AGAIN.total_seconds(), digest)
        self._applied.move_to_end(key)
        while len(self._applied) > CACHE_SIZE:
            self._applied.popitem(last=False)
