"""
Who is speaking: from a bearer token to the pod, its Job and its FineTuneJob.

The body of a report proves nothing. The token is bound to a pod by the kubelet, the pod to a Job and the Job to a FineTuneJob
by controller references, and who may create such pods is held by the admission policies (`policies.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from graft_api.reports import AUDIENCE
from graft_operator.engine.clock import Clock
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import FINE_TUNE_JOBS, JOBS, PODS, TOKEN_REVIEWS, Object, Resource
from graft_operator.reports.sink import Caller

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


class Unauthenticated(Exception):  # noqa: N818 - a statement about the caller
    """The token is not one that the API server vouches for, for our audience: 401."""


class Foreign(Exception):  # noqa: N818 - a statement about the caller
    """The token is genuine, but its bearer is no live pod of a FineTuneJob: 403."""


@dataclass(frozen=True)
class Speaker:
    """What a token proves by itself: a pod by name and uid, and its service account."""

    namespace: str
    service_account: str
    pod_name: str
    pod_uid: str


@dataclass(frozen=True)
class Controller:
    """The one owner reference with `controller: true`."""

    kind: str
    api_version: str
    name: str
    uid: str


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


def live_pod(pod: Object | None, speaker: Speaker) -> Object:
    """The very pod that the token was made for. Raises `Foreign`."""
    if pod is None:
        raise Foreign(f"pod {speaker.pod_name} is gone")
    if pod["metadata"].get("uid") != speaker.pod_uid:
        raise Foreign(f"pod {speaker.pod_name} is another one by now")
    if pod["metadata"].get("deletionTimestamp"):
        raise Foreign(f"pod {speaker.pod_name} is being deleted")
    return pod


def job_of(pod: Object) -> Controller:
    """The Job that controls a pod. Raises `Foreign`."""
    return _controller(pod, JOBS, f"pod {pod['metadata']['name']}")


def owner_of(job: Object | None, controller: Controller) -> Controller:
    """The FineTuneJob that controls the very Job that controls the pod. Raises `Foreign`."""
    if job is None or job["metadata"].get("uid") != controller.uid:
        raise Foreign(f"Job {controller.name} is gone")
    return _controller(job, FINE_TUNE_JOBS, f"Job {controller.name}")


def caller_of(speaker: Speaker, pod: Object, job: Controller, owner: Controller) -> Caller:
    """Put the chain together."""
    return Caller(
        pod_name=speaker.pod_name,
        pod_uid=speaker.pod_uid,
        pod_created_at=pod["metadata"]["creationTimestamp"],
        namespace=speaker.namespace,
        service_account=speaker.service_account,
        job_name=job.name,
        job_uid=job.uid,
        owner_name=owner.name,
        owner_uid=owner.uid,
    )


def _only(user: Object, key: str) -> str:
    values = (user.get("extra") or {}).get(key) or []
    if len(values) != 1 or not values[0]:
        raise Foreign("the token is not bound to a pod: use a projected service account token")
    return str(values[0])


def _controller(owned: Object, wanted: Resource, what: str) -> Controller:
    references = [reference for reference in owned["metadata"].get("ownerReferences") or [] if reference.get("controller")]
    for reference in references:
        group = reference["apiVersion"].partition("/")[0] if "/" in reference["apiVersion"] else ""
        if (group, reference["kind"]) == (wanted.group, wanted.kind):
            return Controller(reference["kind"], reference["apiVersion"], reference["name"], reference["uid"])
    raise Foreign(f"{what} is not controlled by a {wanted.kind}")


class Identities:
    """Callers by token, remembered for a short time under the token's hash: the token itself is never kept."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)
        self._known: OrderedDict[bytes, tuple[float, Caller | Foreign | Unauthenticated]] = OrderedDict()

    async def caller(self, authorization: str | None) -> Caller:
        """
        Prove who sent this Authorization header.

        Raises `Unauthenticated` (401), `Foreign` (403) or a `KubeError` when the API server could not be asked (503).
        """
        token = token_of(authorization)
        key = hashlib.sha256(token.encode()).digest()
        answer = self._remembered(key)
        if answer is None:
            answer = await self._ask(token)
            self._remember(key, answer)
        if isinstance(answer, Caller):
            return answer
        raise type(answer)(str(answer))

    async def _ask(self, token: str) -> Caller | Foreign | Unauthenticated:
        async with self._questions:
            try:
                speaker = speaker_of(await self._kube.create(TOKEN_REVIEWS, token_review(token)))
                pod = live_pod(await self._kube.get(PODS, speaker.namespace, speaker.pod_name), speaker)
                job = job_of(pod)
                owner = owner_of(await self._kube.get(JOBS, speaker.namespace, job.name), job)
            except (Foreign, Unauthenticated) as refusal:
                return refusal
            return caller_of(speaker, pod, job, owner)

    def _remembered(self, key: bytes) -> Caller | Foreign | Unauthenticated | None:
        until, answer = self._known.get(key, (0.0, None))
        return answer if self._clock.monotonic() < until else None

    def _remember(self, key: bytes, answer: Caller | Foreign | Unauthenticated) -> None:
        seconds = ACCEPTED_SECONDS if isinstance(answer, Caller) else REFUSED_SECONDS
        self._known[key] = (self._clock.monotonic() + seconds, answer)
        self._known.move_to_end(key)
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
