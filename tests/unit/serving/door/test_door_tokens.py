from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from graft_serving.agent.cluster_keys import DISCOVERY_PATH, KEYS_PATH, read_keys
from graft_serving.agent.tokens import (
    LONGEST_TOKEN,
    Accepted,
    KeysUnavailable,
    Refusal,
    Refused,
    TokenVerifier,
    accepted_answer,
    bearer,
    callers_of,
    verify,
)

NOW = 1_800_000_000.0
ISSUER = "https://kubernetes.default.svc.cluster.local"
EXPECTED = callers_of("shop", "assistant")
CLAIMS = {
    "iss": ISSUER,
    "aud": ["graft.dev/door/assistant"],
    "sub": "system:serviceaccount:shop:graft-gateway-assistant",
    "iat": NOW - 100,
    "nbf": NOW - 100,
    "exp": NOW + 3600,
    "kubernetes.io": {
        "namespace": "shop",
        "serviceaccount": {"name": "graft-gateway-assistant", "uid": "u"},
        "pod": {"name": "assistant-gateway-1", "uid": "p"},
    },
}
RSA = rsa.generate_private_key(65_537, 2048)
OTHER_RSA = rsa.generate_private_key(65_537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def published(**keys: PrivateKeyTypes) -> dict[str, Any]:
    """The key set of a cluster."""
    return {"keys": [listed(key, name) for name, key in keys.items()]}


def listed(key: PrivateKeyTypes, name: str) -> dict[str, Any]:
    kinds: dict[type, tuple[Any, str]] = {
        rsa.RSAPrivateKey: (jwt.algorithms.RSAAlgorithm, "RS256"),
        ec.EllipticCurvePrivateKey: (jwt.algorithms.ECAlgorithm, "ES256"),
        ed25519.Ed25519PrivateKey: (jwt.algorithms.OKPAlgorithm, "EdDSA"),
    }
    algorithm, signs = next(value for kind, value in kinds.items() if isinstance(key, kind))
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig", "alg": signs}  # type: ignore[union-attr]


DISCOVERY = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}{KEYS_PATH}"}
KEYS = read_keys(DISCOVERY, published(r=RSA, e=EC))


def token(key: Any = RSA, kid: str | None = "r", algorithm: str = "RS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={**({"kid": kid} if kid else {}), **(headers or {})})


def bound(**changes: Any) -> dict[str, Any]:
    return {**CLAIMS["kubernetes.io"], **changes}  # type: ignore[dict-item]


def forged(**changes: Any) -> str:
    """A good token's signature under other claims."""
    head, _, signature = token().split(".")
    claims = base64.urlsafe_b64encode(json.dumps({**CLAIMS, **changes}).encode()).rstrip(b"=").decode()
    return f"{head}.{claims}.{signature}"


def public_key_as_secret() -> str:
    """The well-known confusion: the public key taken for a shared secret."""
    import hashlib
    import hmac

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=")

    text = part({"alg": "HS256", "typ": "JWT", "kid": "r"}) + b"." + part(CLAIMS)
    secret = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return (text + b"." + part(hmac.new(secret, text, hashlib.sha256).digest())).decode()


GOOD = {
    "an RSA key": token(),
    "an elliptic curve key": token(EC, "e", "ES256"),
    "one audience as a string": token(aud="graft.dev/door/assistant"),
    "one of several audiences": token(aud=["x", "graft.dev/door/assistant"]),
    "expired within the leeway": token(exp=NOW - 9),
    "valid from within the leeway on": token(nbf=NOW + 9, iat=NOW + 9),
    "no pod": token(**{"kubernetes.io": bound(pod=None)}),
    "no time of issue": token(iat=None, nbf=None),
}


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD.keys())
def test_the_gateways_token_opens(good):
    assert verify(good, KEYS, EXPECTED, NOW).expires_at in {NOW + 3600, NOW - 9}


BAD = {
    "no token": ("", Refusal.MALFORMED),
    "one word": ("secret", Refusal.MALFORMED),
    "three words": ("a.b.c", Refusal.MALFORMED),
    "claims that are no object": (jwt.api_jws.encode(b"[]", RSA, "RS256", headers={"kid": "r"}), Refusal.MALFORMED),
    "no signature": (token(None, "r", "none"), Refusal.ALGORITHM),
    "a shared secret": (token("s" * 32, "r", "HS256"), Refusal.ALGORITHM),
    "the public key as a shared secret": (public_key_as_secret(), Refusal.ALGORITHM),
    "a stronger algorithm that the cluster does not use": (token(RSA, "r", "RS512"), Refusal.ALGORITHM),
    "another kind than its key's": (token(EC, "r", "ES256"), Refusal.ALGORITHM),
    "a critical extension": (token(headers={"crit": ["x"], "x": 1}), Refusal.MALFORMED),
    "no key id": (token(kid=None), Refusal.UNKNOWN_KEY),
    "an unknown key id": (token(kid="x"), Refusal.UNKNOWN_KEY),
    "a key of its own in the header": (token(OTHER_RSA, "x", headers={"jwk": listed(OTHER_RSA, "x")}), Refusal.UNKNOWN_KEY),
    "another key under a known id": (token(OTHER_RSA), Refusal.SIGNATURE),
    "claims that were changed": (forged(exp=NOW + 7200), Refusal.SIGNATURE),
    "a signature that was cut": (token().rpartition(".")[0] + ".AAAA", Refusal.SIGNATURE),
    "expired": (token(exp=NOW - 10), Refusal.EXPIRED),
    "no expiry": (token(exp=None), Refusal.MALFORMED),
    "an expiry that is no number": (token(exp="never"), Refusal.MALFORMED),
    "an expiry beyond all numbers": (token(exp=float("inf")), Refusal.MALFORMED),
    "not valid yet": (token(nbf=NOW + 11), Refusal.NOT_YET_VALID),
    "issued in the future": (token(iat=NOW + 11), Refusal.NOT_YET_VALID),
    "another issuer": (token(iss="https://other"), Refusal.ISSUER),
    "no issuer": (token(iss=None), Refusal.ISSUER),
    "another endpoint's door": (token(aud=["graft.dev/door/other"]), Refusal.AUDIENCE),
    "the operator's audience": (token(aud=["graft.dev"]), Refusal.AUDIENCE),
    "the API server's audience": (token(aud=[ISSUER]), Refusal.AUDIENCE),
    "a prefix of the audience": (token(aud="graft.dev/door/assistant2"), Refusal.AUDIENCE),
    "no audience": (token(aud=None), Refusal.AUDIENCE),
    "another account": (token(sub="system:serviceaccount:shop:default"), Refusal.SUBJECT),
    "the account of that name in another namespace": (token(sub="system:serviceaccount:evil:graft-gateway-assistant"), Refusal.SUBJECT),
    "no subject": (token(sub=None), Refusal.SUBJECT),
    "bound to another namespace": (token(**{"kubernetes.io": bound(namespace="evil")}), Refusal.SUBJECT),
    "bound to another account": (token(**{"kubernetes.io": bound(serviceaccount={"name": "default"})}), Refusal.SUBJECT),
    "no claims of the cluster": (token(**{"kubernetes.io": None}), Refusal.SUBJECT),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD.keys())
def test_everything_else_does_not(bad, reason):
    with pytest.raises(Refused) as refused:
        verify(bad, KEYS, EXPECTED, NOW)
    assert refused.value.reason == reason
    assert not bad or bad not in str(refused.value)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic a.b.c", "Bearer " + "x" * (LONGEST_TOKEN + 1)])
def test_a_header_without_a_token_is_refused(header):
    with pytest.raises(Refused):
        bearer(header)


PUBLISHED = {
    "no keys": {},
    "no key of ours": published(d=ED),
    "an encryption key": {"keys": [{**listed(RSA, "r"), "use": "enc"}]},
    "a key without an id": {"keys": [{**listed(RSA, "r"), "kid": ""}]},
    "a shared secret": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "r", "alg": "HS256"}]},
    "nonsense": {"keys": [1, None, {}, {"kty": "RSA"}]},
}


@pytest.mark.parametrize("document", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_a_key_set_without_a_usable_key_is_none(document):
    with pytest.raises(ValueError, match="no "):
        read_keys(DISCOVERY, document)


@pytest.mark.parametrize(
    ("left", "control"),
    [
        (3600.0, "max-age=30, stale-while-revalidate=3570, stale-if-error=3570"),
        (31.9, "max-age=30, stale-while-revalidate=1, stale-if-error=1"),
        (12.0, "max-age=12, stale-while-revalidate=0, stale-if-error=0"),
        (-5.0, "max-age=0, stale-while-revalidate=0, stale-if-error=0"),
    ],
)
def test_the_door_may_keep_an_answer_until_the_token_expires(left, control):
    answer = accepted_answer(Accepted("p", NOW + left), NOW)
    assert (answer.status, answer.headers["Cache-Control"]) == (204, control)


@dataclass
class Cluster:
    """What the API server publishes; it can be away."""

    documents: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {DISCOVERY_PATH: DISCOVERY, KEYS_PATH: published(r=RSA)})
    away: bool = False
    asked: int = 0
    now: float = NOW

    async def get(self, path: str) -> dict[str, Any] | None:
        self.asked += path == KEYS_PATH
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError(path)
        return self.documents[path]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def verifier(cluster, tmp_path) -> TokenVerifier:
    return TokenVerifier(cluster.get, EXPECTED, tmp_path / "keys.json", lambda: cluster.now)


async def status(verifier: TokenVerifier, presented: str) -> int:
    return (await verifier.answer(f"Bearer {presented}")).status


async def test_the_keys_are_asked_for_once(cluster, verifier):
    assert await asyncio.gather(*(status(verifier, token()) for _ in range(20))) == [204] * 20
    assert cluster.asked == 1


async def test_a_new_key_of_the_cluster_is_found_and_invented_ones_cost_one_question_in_ten_seconds(cluster, verifier):
    assert await status(verifier, token()) == 204
    cluster.now += 10
    assert await asyncio.gather(*(status(verifier, token(kid=f"x{n}")) for n in range(20))) == [401] * 20
    assert cluster.asked == 2
    cluster.documents[KEYS_PATH] = published(r=RSA, e=EC)
    assert await status(verifier, token(EC, "e", "ES256")) == 401
    cluster.now += 10
    assert await status(verifier, token(EC, "e", "ES256")) == 204
    assert cluster.asked == 3


async def test_a_key_that_the_cluster_has_withdrawn_is_gone_with_the_next_reading(cluster, verifier):
    assert await status(verifier, token()) == 204
    cluster.documents[KEYS_PATH] = published(e=EC)
    cluster.now += 10
    assert await status(verifier, token(EC, "e", "ES256")) == 204
    assert await status(verifier, token()) == 401


async def test_after_a_change_of_the_issuer_tokens_of_both_are_good(cluster, verifier):
    assert await status(verifier, token()) == 204
    cluster.documents[DISCOVERY_PATH] = {"issuer": "https://new"}
    cluster.now += 10
    assert [await status(verifier, token(iss=issuer)) for issuer in ("https://new", ISSUER, "https://other")] == [204, 204, 401]


async def test_without_keys_nothing_can_be_said(cluster, verifier):
    cluster.away = True
    answer = await verifier.answer(f"Bearer {token()}")
    assert (answer.status, answer.headers["Cache-Control"]) == (503, "no-store")
    with pytest.raises(KeysUnavailable):
        await verifier.verify(token())
    cluster.away, cluster.now = False, NOW + 10
    assert await status(verifier, token()) == 204


async def test_an_unknown_key_is_no_lie_while_the_api_server_is_away(cluster, verifier):
    assert await status(verifier, token()) == 204
    cluster.away, cluster.now = True, NOW + 10
    assert [await status(verifier, presented) for presented in (token(kid="x"), token(), token(OTHER_RSA))] == [503, 204, 401]


async def test_a_bad_reading_leaves_what_is_known(cluster, verifier):
    assert await status(verifier, token()) == 204
    cluster.now += 10
    cluster.documents[KEYS_PATH] = None
    assert await status(verifier, token(kid="x")) == 503
    assert await status(verifier, token()) == 204


async def test_an_agent_that_was_restarted_works_while_the_api_server_is_away(cluster, verifier, tmp_path):
    assert await status(verifier, token()) == 204
    cluster.away = True
    restarted = TokenVerifier(cluster.get, EXPECTED, tmp_path / "keys.json", lambda: cluster.now)
    assert await status(restarted, token()) == 204
    assert cluster.asked == 1


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"issuers": []}', '{"issuers": ["i"], "published": {}}', '{"issuers": 5, "published": {}}']
)
async def test_a_copy_that_cannot_be_read_is_none(cluster, tmp_path, content):
    (tmp_path / "keys.json").write_text(content)
    assert await status(TokenVerifier(cluster.get, EXPECTED, tmp_path / "keys.json", lambda: cluster.now), token()) == 204


async def test_a_copy_that_cannot_be_written_stops_nobody(cluster, tmp_path, caplog):
    assert await status(TokenVerifier(cluster.get, EXPECTED, tmp_path / "none" / "keys.json", lambda: cluster.now), token()) == 204
    assert "cannot be kept" in caplog.text


async def test_many_tokens_at_once_leave_the_loop_to_others_between_any_two(verifier):
    assert await status(verifier, token()) == 204
    answered = 0

    async def forge() -> None:
        nonlocal answered
        assert await status(verifier, token(OTHER_RSA)) == 401
        answered += 1

    forgers = [asyncio.create_task(forge()) for _ in range(50)]
    in_one_turn = []
    while answered < len(forgers):
        before = answered
        await asyncio.sleep(0)
        in_one_turn.append(answered - before)
    assert max(in_one_turn) <= 2
    await asyncio.gather(*forgers)


async def test_refusals_are_told_by_their_reason_and_not_each_time(cluster, verifier, caplog):
    caplog.set_level(logging.INFO)
    presented = token(aud=["graft.dev/door/other"])
    for _ in range(3):
        assert await status(verifier, presented) == 401
    assert [record.reason for record in caplog.records] == ["Audience"]
    assert presented not in caplog.text
