"""
Who is speaking: from a bearer token to the pod, and from there to the object that it works for (`chains.py`).

The body of a report proves nothing. The token is bound to a pod by the kubelet, and the pod to its owners by controller references.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from graft_api.dataplane import SERVER
from graft_api.reports import AUDIENCE
from graft_operator.engine.clock import Clock
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import DEPLOYMENTS, JOBS, MODEL_ENDPOINTS, PODS, REPLICA_SETS, TOKEN_REVIEWS, Object
from graft_operator.reports import chains
from graft_operator.reports.chains import Foreign, Speaker, Unauthenticated
from graft_operator.reports.sink import Caller, FleetCaller

ACCEPTED_SECONDS = 60.0
"""How long a proven token is believed: a deleted pod may speak for this long at most, and the claim fences it anyway."""
REFUSED_SECONDS = 5.0
"""Short: a pod that was not yet visible when it first asked must not wait for long."""
CACHE_SIZE = 4096
MAX_TOKEN_CHARACTERS = 8 * 1024
MAX_QUESTIONS = 16
"""TokenReviews in flight: whoever floods us with made-up tokens must not flood the API server."""

_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
_ENDPOINT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")

C = TypeVar("C", Caller, FleetCaller)
Chain = Callable[[Speaker], Awaitable[C]]
Answer = Caller | FleetCaller | Foreign | Unauthenticated


def token_of(authorization: str | None) -> str:
    """The token of an Authorization header. Raises `Unauthenticated` unless it is one bearer token of sane size."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token or len(token) > MAX_TOKEN_CHARACTERS:
        raise Unauthenticated("send the pod's projected token as a bearer token")
    return token


def token_review(token: str) -> Object:
    """The TokenReview to ask the API server with."""
    return {
        "apiVersion": TOKEN_REVIEWS.api_version,
        "kind": TOKEN_REVIEWS.kind,
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }


def speaker_of(review: Object) -> Speaker:
    """Read an answered TokenReview. Raises `Unauthenticated`, or `Foreign` when the token is bound to no pod."""
    status = review.get("status") or {}
    if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or []):
        raise Unauthenticated("the token is not valid for audience graft.dev")
    user = status.get("user") or {}
    namespace, _, account = str(user.get("username", "")).removeprefix(_SERVICE_ACCOUNT_PREFIX).partition(":")
    if not str(user.get("username", "")).startswith(_SERVICE_ACCOUNT_PREFIX) or not account:
        raise Foreign("the token is not a service account's")
    return Speaker(namespace, account, _only(user, _POD_NAME), _only(user, _POD_UID))


def _only(user: Object, key: str) -> str:
    values = (user.get("extra") or {}).get(key) or []
    if len(values) != 1 or not values[0]:
        raise Foreign("the token is not bound to a pod: use a projected service account token")
    return str(values[0])


class Identities:
    """Callers by token, remembered for a short time under the token's hash: the token itself is never kept."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)
        self._known: OrderedDict[bytes, tuple[float, Answer]] = OrderedDict()

    async def caller(self, authorization: str | None) -> Caller:
        """
        Prove which training pod sent this Authorization header.

        Raises `Unauthenticated` (401), `Foreign` (403) or a `KubeError` when the API server could not be asked (503).
        """
        return await self._proven(Caller, authorization, "", self._training)

    async def fleet_caller(self, authorization: str | None, namespace: str, endpoint: str) -> FleetCaller:
        """
        Prove which pod of the data plane sent this header. Of which endpoint and in which role it is, the answer says.

        `namespace` and `endpoint` are those of the request's path: an endpoint may name a server that does not know it.
        Raises as `caller`.
        """
        if not _ENDPOINT_NAME.fullmatch(endpoint):
            raise Foreign("no ModelEndpoint has such a name")
        chain = partial(self._fleet, namespace=namespace, endpoint=endpoint)
        return await self._proven(FleetCaller, authorization, f"{namespace}/{endpoint}", chain)

    async def _proven(self, kind: type[C], authorization: str | None, about: str, chain: Chain[C]) -> C:
        token = token_of(authorization)
        key = hashlib.sha256(f"{about} {token}".encode()).digest()  # neither has a space
        answer = self._remembered(key)
        if answer is None:
            answer = await self._ask(token, chain)
            self._remember(key, answer)
        if isinstance(answer, kind):
            return answer
        if isinstance(answer, Foreign | Unauthenticated):
            raise type(answer)(str(answer))  # a new one: a traceback would grow each time the same is raised
        raise TypeError(f"a token was proven to be a {type(answer).__name__}, not a {kind.__name__}")

    async def _ask(self, token: str, chain: Chain[C]) -> C | Foreign | Unauthenticated:
        async with self._questions:
            try:
                return await chain(speaker_of(await self._kube.create(TOKEN_REVIEWS, token_review(token))))
            except (Foreign, Unauthenticated) as refusal:
                return refusal

    async def _training(self, speaker: Speaker) -> Caller:
        pod = chains.live_pod(await self._kube.get(PODS, speaker.namespace, speaker.pod_name), speaker)
        job = chains.job_of(pod)
        owner = chains.owner_of(await self._kube.get(JOBS, speaker.namespace, job.name), job)
        return chains.caller_of(speaker, pod, job, owner)

    async def _fleet(self, speaker: Speaker, namespace: str, endpoint: str) -> FleetCaller:
        if speaker.namespace != namespace:
            raise Foreign(f"pod {speaker.pod_name} is in namespace {speaker.namespace}")
        pod = chains.pod_of(await self._kube.get(PODS, namespace, speaker.pod_name), speaker)
        if by := chains.from_a_job(pod):
            job = chains.very(await self._kube.get(JOBS, namespace, by.name), by)
            asked_by = chains.endpoint_of_job(job)
            return chains.fleet_caller_of(speaker, pod, chains.drift_role_of(speaker, pod, asked_by.name), asked_by)
        deployment = await self._deployment(pod)
        if owner := chains.endpoint_of(deployment):
            return chains.fleet_caller_of(speaker, pod, chains.role_of(speaker, pod, owner.name), owner)
        found = await self._kube.get(MODEL_ENDPOINTS, namespace, endpoint)
        return chains.fleet_caller_of(speaker, pod, SERVER, chains.injected_into(speaker, pod, deployment, found, endpoint))

    async def _deployment(self, pod: Object) -> Object:
        """The Deployment that a pod comes from."""
        namespace = pod["metadata"]["namespace"]
        by = chains.controller_of(pod, REPLICA_SETS, f"pod {pod['metadata']['name']}")
        replica_set = chains.very(await self._kube.get(REPLICA_SETS, namespace, by.name), by)
        by = chains.controller_of(replica_set, DEPLOYMENTS, f"ReplicaSet {by.name}")
        return chains.very(await self._kube.get(DEPLOYMENTS, namespace, by.name), by)

    def _remembered(self, key: bytes) -> Answer | None:
        until, answer = self._known.get(key, (0.0, None))
        return answer if self._clock.monotonic() < until else None

    def _remember(self, key: bytes, answer: Answer) -> None:
        seconds = REFUSED_SECONDS if isinstance(answer, Exception) else ACCEPTED_SECONDS
        self._known[key] = (self._clock.monotonic() + seconds, answer)
        self._known.move_to_end(key)
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
