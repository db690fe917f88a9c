"""
Who opens a door: of a shadow server the collector of the production endpoint, and nobody else, not even a gateway of its own name; of
production the gateway, and the Jobs that measure drift.
"""

import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from graft_serving.agent.cluster_keys import read_keys
from graft_serving.agent.settings import settings_from
from graft_serving.agent.tokens import Refusal, Refused, callers_of, verify

ISSUER = "https://kubernetes.default.svc"
KEY = rsa.generate_private_key(65_537, 2048)
PUBLISHED = {**jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k", "use": "sig", "alg": "RS256"}
KEYS = read_keys({"issuer": ISSUER}, {"keys": [PUBLISHED]})
ENVIRONMENT = {"GRAFT_NAMESPACE": "team", "GRAFT_ENDPOINT": "dsl-4-shadow", "GRAFT_POD_NAME": "pod"}
COLLECTOR = "graft-collector-prod"
GATEWAY = "graft-gateway-dsl-4-shadow"
DRIFT = "graft-drift-dsl-4-shadow"


def token(account: str, audience: str = "graft.dev/door/dsl-4-shadow", namespace: str = "team", subject: str | None = None) -> str:
    claims = {
        "iss": ISSUER,
        "aud": [audience],
        "sub": subject or f"system:serviceaccount:{namespace}:{account}",
        "exp": time.time() + 600,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account}, "pod": {"name": "a"}},
    }
    return jwt.encode(claims, KEY, "RS256", headers={"kid": "k"})


def opens(environment: dict[str, str], presented: str) -> Refusal | None:
    settings = settings_from(ENVIRONMENT | environment)
    me = settings.identity
    try:
        verify(presented, KEYS, callers_of(me.namespace, me.endpoint, settings.door_account, settings.drift_account), time.time())
    except Refused as refused:
        return refused.reason
    return None


@pytest.mark.parametrize(
    ("environment", "presented", "refusal"),
    [
        pytest.param({"GRAFT_DOOR_ACCOUNT": COLLECTOR}, token(COLLECTOR), None, id="the collector that is named"),
        pytest.param(
            {"GRAFT_DOOR_ACCOUNT": COLLECTOR},
            token("graft-gateway-dsl-4-shadow"),
            Refusal.SUBJECT,
            id="instead of a gateway",
        ),
        pytest.param({"GRAFT_DOOR_ACCOUNT": COLLECTOR}, token("graft-collector-other"), Refusal.SUBJECT, id="no other collector"),
        pytest.param(
            {"GRAFT_DOOR_ACCOUNT": COLLECTOR},
            token(COLLECTOR, "graft.dev/door/prod"),
            Refusal.AUDIENCE,
            id="not with any token",
        ),
        pytest.param({}, token("graft-gateway-dsl-4-shadow"), None, id="without a name the gateway"),
        pytest.param({"GRAFT_DOOR_ACCOUNT": ""}, token("graft-gateway-dsl-4-shadow"), None, id="an empty name is none"),
        pytest.param({}, token(COLLECTOR), Refusal.SUBJECT, id="and then no collector"),
        pytest.param({}, token(DRIFT), None, id="a Job that measures drift"),
        pytest.param({}, token("graft-drift-other"), Refusal.SUBJECT, id="no other endpoint's"),
        pytest.param({}, token(DRIFT, "graft.dev/door/prod"), Refusal.AUDIENCE, id="which has no other token's audience, either"),
        pytest.param({}, token(DRIFT, namespace="other"), Refusal.SUBJECT, id="and is of this namespace"),
        pytest.param({}, token(DRIFT, subject=f"system:serviceaccount:team:{GATEWAY}"), Refusal.SUBJECT, id="one account in all claims"),
        pytest.param({}, token(GATEWAY, subject=f"system:serviceaccount:team:{DRIFT}"), Refusal.SUBJECT, id="whichever of the two it is"),
        pytest.param({"GRAFT_DOOR_ACCOUNT": COLLECTOR}, token(DRIFT), Refusal.SUBJECT, id="nobody measures drift on a shadow server"),
        pytest.param({"GRAFT_DRIFT_ACCOUNT": "writer"}, token("writer"), None, id="under an account of the user's own"),
        pytest.param({"GRAFT_DRIFT_ACCOUNT": "writer"}, token(DRIFT), Refusal.SUBJECT, id="and then not under graft's"),
        pytest.param({"GRAFT_DRIFT_ACCOUNT": "writer"}, token(GATEWAY), None, id="beside which the gateway still comes in"),
        pytest.param({"GRAFT_DRIFT_ACCOUNT": ""}, token(DRIFT), None, id="an empty account of one's own is none"),
        pytest.param(
            {"GRAFT_DOOR_ACCOUNT": COLLECTOR, "GRAFT_DRIFT_ACCOUNT": "writer"},
            token("writer"),
            Refusal.SUBJECT,
            id="and a shadow server knows none",
        ),
    ],
)
def test_whose_token_opens_the_door(environment: dict[str, str], presented: str, refusal: Refusal | None) -> None:
    assert opens(environment, presented) == refusal
