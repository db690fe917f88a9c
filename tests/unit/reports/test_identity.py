from __future__ import annotations

import copy
from typing import Any

import pytest

from graft_operator.engine.errors import Unavailable
from graft_operator.reports.chains import Foreign, Unauthenticated, job_of, live_pod, owner_of
from graft_operator.reports.identity import CACHE_SIZE, Identities, speaker_of, token_of, token_review

REVIEW = {
    "authenticated": True,
    "audiences": ["graft.dev"],
    "user": {
        "username": "system:serviceaccount:team:graft-trainer",
        "extra": {"authentication.kubernetes.io/pod-name": ["tune-train-1-abcde"], "authentication.kubernetes.io/pod-uid": ["pod-1"]},
    },
}
POD = {
    "metadata": {
        "name": "tune-train-1-abcde",
        "uid": "pod-1",
        "creationTimestamp": "2026-11-20T12:00:00Z",
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "tune-train-1", "uid": "job-1", "controller": True}],
    }
}
JOB = {
    "metadata": {
        "name": "tune-train-1",
        "uid": "job-1",
        "ownerReferences": [
            {"apiVersion": "graft.dev/v1alpha1", "kind": "FineTuneJob", "name": "tune", "uid": "tune-1", "controller": True}
        ],
    }
}


def changed(value: Any, path: str, new: Any) -> Any:
    """A copy with one field set, or removed where `new` is None."""
    value = copy.deepcopy(value)
    *parents, last = path.split("|")
    target = value
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    if new is None:
        del target[last]
    else:
        target[last] = new
    return value


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(None, id="no header"),
        pytest.param("", id="an empty header"),
        pytest.param("Basic abc", id="another scheme"),
        pytest.param("Bearer", id="no token"),
        pytest.param("Bearer a b", id="two words"),
        pytest.param("Bearer " + "x" * 10000, id="a token of absurd size"),
    ],
)
def test_headers_without_a_token(header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        token_of(header)


def test_a_bearer_token_in_any_case() -> None:
    assert token_of("bearer abc") == token_of("Bearer abc") == "abc"


def test_a_review_asks_for_our_audience() -> None:
    assert token_review("abc")["spec"] == {"token": "abc", "audiences": ["graft.dev"]}


EXTRA = "user|extra|authentication.kubernetes.io/"


@pytest.mark.parametrize(
    ("review", "refusal"),
    [
        pytest.param({}, Unauthenticated, id="no status"),
        pytest.param(changed(REVIEW, "authenticated", False), Unauthenticated, id="not authenticated"),
        pytest.param(changed(REVIEW, "audiences", ["https://kubernetes.default.svc"]), Unauthenticated, id="another audience"),
        pytest.param(changed(REVIEW, "audiences", None), Unauthenticated, id="no audience, as an authenticator that knows none answers"),
        pytest.param(changed(REVIEW, "user|username", "eve"), Foreign, id="a person"),
        pytest.param(changed(REVIEW, "user|username", "system:serviceaccount:team"), Foreign, id="a user that only looks like one"),
        pytest.param(changed(REVIEW, "user|extra", None), Foreign, id="a token that is bound to nothing"),
        pytest.param(changed(REVIEW, EXTRA + "pod-uid", None), Foreign, id="no pod uid"),
        pytest.param(changed(REVIEW, EXTRA + "pod-name", ["a", "b"]), Foreign, id="two pods"),
        pytest.param(changed(REVIEW, EXTRA + "pod-uid", [""]), Foreign, id="an empty uid"),
    ],
)
def test_reviews_that_prove_nothing(review: Any, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        speaker_of({"status": review})


def test_a_review_that_proves_a_pod() -> None:
    speaker = speaker_of({"status": REVIEW})
    assert (speaker.namespace, speaker.service_account) == ("team", "graft-trainer")
    assert (speaker.pod_name, speaker.pod_uid) == ("tune-train-1-abcde", "pod-1")


OWNER = "metadata|ownerReferences|0|"


@pytest.mark.parametrize(
    ("pod", "job", "words"),
    [
        pytest.param(None, JOB, "is gone", id="the pod is gone"),
        pytest.param(changed(POD, "metadata|uid", "pod-2"), JOB, "another one", id="a pod of the same name"),
        pytest.param(changed(POD, "metadata|deletionTimestamp", "now"), JOB, "being deleted", id="the pod is being deleted"),
        pytest.param(changed(POD, "metadata|ownerReferences", None), JOB, "not controlled", id="a pod of nobody"),
        pytest.param(changed(POD, OWNER + "controller", False), JOB, "not controlled", id="an owner that does not control"),
        pytest.param(changed(POD, OWNER + "kind", "ReplicaSet"), JOB, "not controlled", id="a pod of a ReplicaSet"),
        pytest.param(changed(POD, OWNER + "apiVersion", "evil.dev/v1"), JOB, "not controlled", id="a Job of another group"),
        pytest.param(POD, None, "Job tune-train-1 is gone", id="the Job is gone"),
        pytest.param(POD, changed(JOB, "metadata|uid", "job-2"), "is gone", id="a Job of the same name"),
        pytest.param(POD, changed(JOB, "metadata|ownerReferences", []), "not controlled", id="a Job of nobody"),
        pytest.param(POD, changed(JOB, OWNER + "apiVersion", "evil.dev/v1"), "not controlled", id="a FineTuneJob of another group"),
    ],
)
def test_chains_that_break(pod: Any, job: Any, words: str) -> None:
    speaker = speaker_of({"status": REVIEW})
    with pytest.raises(Foreign, match=words):
        owner_of(job, job_of(live_pod(pod, speaker)))


@pytest.fixture
def known(api: Any) -> Any:
    api.reviews["good"] = REVIEW
    api.objects["/api/v1/namespaces/team/pods/tune-train-1-abcde"] = POD
    api.objects["/apis/batch/v1/namespaces/team/jobs/tune-train-1"] = JOB
    return api


async def test_the_whole_chain(known: Any, kube: Any, clock: Any, caller: Any) -> None:
    assert await Identities(kube, clock).caller("Bearer good") == caller()


async def test_an_answer_is_believed_for_a_minute(known: Any, kube: Any, clock: Any) -> None:
    identities = Identities(kube, clock)
    await identities.caller("Bearer good")
    known.objects.clear()
    await clock.advance(59)
    await identities.caller("Bearer good")
    assert len(known.asked) == 3
    await clock.advance(2)
    with pytest.raises(Foreign):
        await identities.caller("Bearer good")


async def test_a_refusal_is_believed_for_seconds(known: Any, kube: Any, clock: Any) -> None:
    identities = Identities(kube, clock)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await identities.caller("Bearer bad")
    assert len(known.asked) == 1
    known.reviews["bad"] = REVIEW
    await clock.advance(6)
    await identities.caller("Bearer bad")


async def test_an_api_server_that_is_away_refuses_nobody(known: Any, kube: Any, clock: Any) -> None:
    identities = Identities(kube, clock)
    known.broken = True
    with pytest.raises(Unavailable):
        await identities.caller("Bearer good")
    known.broken = False
    await identities.caller("Bearer good")


async def test_no_more_is_remembered_than_fits_and_no_token(known: Any, kube: Any, clock: Any) -> None:
    identities = Identities(kube, clock)
    for number in range(CACHE_SIZE + 10):
        identities._remember(str(number).encode(), Foreign("x"))
    await identities.caller("Bearer good")
    assert len(identities._known) == CACHE_SIZE
    assert "good" not in repr(identities._known)
