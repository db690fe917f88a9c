"""
Who knocks at the door: offline verification of a service account token, the gateway's or that of a Job that measures drift.

The cluster signs tokens with keys that everybody may read, so that no question goes to the API server per token, and none at all
while it is away: its keys and its issuer are kept in memory and in a file on the pod's memory volume. They are asked for anew when
a token names a key or an issuer that is not known, at most every ten seconds.
"""

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from graft_api.dataplane import door_audience, gateway_account
from graft_api.drift import drift_account
from graft_serving.agent.cluster_keys import ALGORITHMS, DISCOVERY_PATH, KEYS_PATH, ClusterKeys, Document, keep, kept, read_keys
from graft_serving.trouble import Trouble

logger = logging.getLogger(__name__)

LEEWAY_SECONDS = 10.0
"""Between the API server's clock and this node's."""
REFRESH_SECONDS = 10.0
ASK_SECONDS = 1.5
"""Less than the door waits for an answer."""
REMIND_SECONDS = 60.0
"""Between two log lines about the same kind of refusal: whoever tries tokens does not fill the log."""
BELIEVED_SECONDS = 30
"""How long the door takes an accepted token without asking again."""
REFUSED_SECONDS = 1
"""Short: a token whose key was not known yet must not wait for long."""
LONGEST_TOKEN = 8 * 1024

Get = Callable[[str], Awaitable[Document | None]]
"""GET of a path at the API server, as the pod's service account; None if nothing is there. Whatever it raises is taken for `away`."""


class Refusal(enum.StrEnum):
    """Why a token does not open the door."""

    MALFORMED = "Malformed"
    """No JSON web token, or one without the claims that every token of the cluster has."""
    ALGORITHM = "Algorithm"
    """Signed by a method that the cluster does not use."""
    UNKNOWN_KEY = "UnknownKey"
    SIGNATURE = "Signature"
    EXPIRED = "Expired"
    NOT_YET_VALID = "NotYetValid"
    ISSUER = "Issuer"
    AUDIENCE = "Audience"
    """Genuine, but made for something else, such as the door of another endpoint."""
    SUBJECT = "Subject"
    """Genuine, but of nobody who may ask here."""


class Refused(Exception):  # noqa: N818 - a statement about the caller
    """The token does not open this door: 401."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


class KeysUnavailable(Exception):  # noqa: N818 - a statement about the cluster
    """Nothing can be said about the token, for the cluster's keys could not be had: 503."""


@dataclass(frozen=True)
class Expected:
    """Whose token opens the door."""

    namespace: str
    account: str
    audience: str
    also: str | None = None
    """Another account of the namespace."""

    @property
    def subjects(self) -> dict[str, str]:
        """The account of each `sub`."""
        accounts = [self.account, *([self.also] if self.also else [])]
        return {f"system:serviceaccount:{self.namespace}:{account}": account for account in accounts}


@dataclass(frozen=True)
class Accepted:
    """The token of somebody who may ask here."""

    pod: str
    """The caller's, for the log. Empty for a token that is bound to no pod."""
    expires_at: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Answer:
    """What the agent tells the door."""

    status: int
    headers: Mapping[str, str]


def callers_of(namespace: str, endpoint: str, account: str | None = None, drift: str | None = None) -> Expected:
    """
    Return whose token opens the doors of an endpoint: its gateway's, and that of its Jobs that measure drift.

    `account`: of a shadow server, which has neither, the service account of production's collector instead. `drift`: the account of
    those Jobs where the store's credentials are a service account of the user's own, and so theirs.
    """
    also = None if account else drift or drift_account(endpoint)
    return Expected(namespace, account or gateway_account(endpoint), door_audience(endpoint), also)


def bearer(authorization: str | None) -> str:
    """Return the token of an Authorization header. Raises `Refused`."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > LONGEST_TOKEN:
        raise Refused(Refusal.MALFORMED)
    return token


def verify(token: str, keys: ClusterKeys, expected: Expected, now: float) -> Accepted:
    """
    Return what the token proves. Raises `Refused`.

    The algorithm is the key's own, so a token cannot choose how it is checked. Times are compared here because PyJWT would take
    the machine's clock.
    """
    claims = _claims(token, keys)
    expires_at = _time(claims, "exp")
    if expires_at + LEEWAY_SECONDS <= now:
        raise Refused(Refusal.EXPIRED)
    if max(_time(claims, "nbf", 0.0), _time(claims, "iat", 0.0)) - LEEWAY_SECONDS > now:
        raise Refused(Refusal.NOT_YET_VALID)
    if claims.get("iss") not in keys.issuers:
        raise Refused(Refusal.ISSUER)
    audiences = claims.get("aud")
    if expected.audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise Refused(Refusal.AUDIENCE)
    return Accepted(_pod_of(claims, expected), expires_at)


def _claims(token: str, keys: ClusterKeys) -> dict[str, Any]:
    key = keys.keys.get(_key_id(token))
    if key is None:
        raise Refused(Refusal.UNKNOWN_KEY)
    options: Any = {
        "verify_aud": False,
        "verify_exp": False,
        "verify_nbf": False,
        "verify_iat": False,
        "verify_iss": False,
        "verify_sub": False,
    }
    try:
        return jwt.decode(token, key, algorithms=[key.algorithm_name], options=options)
    except jwt.InvalidAlgorithmError:
        raise Refused(Refusal.ALGORITHM) from None
    except jwt.InvalidSignatureError:
        raise Refused(Refusal.SIGNATURE) from None
    except jwt.PyJWTError:
        raise Refused(Refusal.MALFORMED) from None


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise Refused(Refusal.MALFORMED) from None
    if header.get("alg") not in ALGORITHMS:
        raise Refused(Refusal.ALGORITHM)
    return str(header.get("kid", ""))


def _time(claims: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise Refused(Refusal.MALFORMED)
    return float(value)


def _pod_of(claims: Mapping[str, Any], expected: Expected) -> str:
    # The subject alone would do. The cluster's own claims must say the same, so that another issuer's idea of a subject is no way in.
    bound = claims.get("kubernetes.io")
    if not isinstance(bound, dict) or not isinstance(bound.get("serviceaccount"), dict):
        raise Refused(Refusal.SUBJECT)
    subject = claims.get("sub")
    account = expected.subjects.get(subject) if isinstance(subject, str) else None
    if account is None or (bound.get("namespace"), bound["serviceaccount"].get("name")) != (expected.namespace, account):
        raise Refused(Refusal.SUBJECT)
    pod = bound.get("pod")
    return str(pod.get("name", "")) if isinstance(pod, dict) else ""


def accepted_answer(accepted: Accepted, now: float) -> Answer:
    """Return 204, and how long the door may keep it: half a minute, and while the agent is away until the token expires."""
    left = max(0, int(accepted.expires_at - now))
    fresh = min(BELIEVED_SECONDS, left)
    stale = left - fresh
    return Answer(204, {"Cache-Control": f"max-age={fresh}, stale-while-revalidate={stale}, stale-if-error={stale}"})


def refused_answer() -> Answer:
    """Return 401 without the reason, which is for the log and not for whoever tries tokens."""
    return Answer(401, {"Cache-Control": f"max-age={REFUSED_SECONDS}", "WWW-Authenticate": "Bearer"})


class TokenVerifier:
    """Verifies tokens by the cluster's keys, and sees to it that it has them."""

    def __init__(self, get: Get, expected: Expected, file: Path, now: Callable[[], float]) -> None:
        """
        Take what it needs; nothing is asked before the first token.

        `get`: see `Get`. `file`: the copy of the keys on the memory volume. `now`: seconds since 1970.
        """
        self._get = get
        self._expected = expected
        self._file = file
        self._now = now
        self._keys = kept(file)
        self._asked_at: float | None = None
        self._away = False
        self._asking = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._trouble = Trouble("reading the cluster's keys", REMIND_SECONDS)
        self._told: dict[Refusal, float] = {}

    async def answer(self, authorization: str | None) -> Answer:
        """Return what to tell the door about this Authorization header. Raises nothing."""
        try:
            accepted = await self.verify(bearer(authorization))
        except Refused as refused:
            self._tell(refused.reason)
            return refused_answer()
        except KeysUnavailable:
            return Answer(503, {"Cache-Control": "no-store"})
        return accepted_answer(accepted, self._now())

    async def verify(self, token: str) -> Accepted:
        """Return what the token proves. Raises `Refused`, or `KeysUnavailable` when that cannot be said."""
        if self._keys is None and not await self._refresh(None):
            raise KeysUnavailable("the API server's keys could not be had yet")
        try:
            return await self._verify(token)
        except Refused as refused:
            if refused.reason not in {Refusal.UNKNOWN_KEY, Refusal.ISSUER}:
                raise
            if not await self._refresh(self._keys):
                raise self._last_word(refused) from None
        return await self._verify(token)

    def _last_word(self, refused: Refused) -> Exception:
        """A key that we do not have is no proof of a lie while the keys cannot be asked for."""
        return KeysUnavailable("the API server's newer keys could not be had") if self._away else refused

    async def _verify(self, token: str) -> Accepted:
        async with self._turn:
            await asyncio.sleep(0)  # one in each turn of the loop: in between, gateways and the kubelet get their answers
            if self._keys is None:
                raise KeysUnavailable("the API server's keys could not be had yet")
            return verify(token, self._keys, self._expected, self._now())

    async def _refresh(self, seen: ClusterKeys | None) -> bool:
        """Ask for the keys unless that was done a moment ago; whether they are newer than those that the caller saw."""
        async with self._asking:
            if self._keys is seen and (self._asked_at is None or abs(self._now() - self._asked_at) >= REFRESH_SECONDS):
                await self._ask()
                self._asked_at = self._now()
            return self._keys is not seen

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                discovery, published = await asyncio.gather(self._get(DISCOVERY_PATH), self._get(KEYS_PATH))
            self._keys = read_keys(discovery or {}, published or {}, self._keys.issuers if self._keys else ())
        except Exception as error:  # noqa: BLE001 - a bad answer is no answer, and what is known stays good
            self._away = True
            self._trouble.met(type(error).__name__)
            return
        self._away = False
        self._trouble.over()
        await self._copy(self._keys)

    async def _copy(self, keys: ClusterKeys) -> None:
        try:
            await asyncio.to_thread(keep, self._file, keys)
        except OSError as error:
            logger.warning("the cluster's keys cannot be kept for the next start: %s", type(error).__name__)

    def _tell(self, reason: Refusal) -> None:
        if self._now() - self._told.get(reason, float("-inf")) >= REMIND_SECONDS:
            logger.warning("the door refuses a caller", extra={"reason": reason.value})
            self._told[reason] = self._now()
