"""What the cluster publishes about the tokens that it signs: its issuer and its public keys, and a copy of both in a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

ALGORITHMS = ("RS256", "ES256")
"""All that the API server signs with. Never one that needs a secret, never `none`."""
KNOWN_ISSUERS = 4
"""A cluster whose issuer is changed has tokens of both until the kubelet has renewed them."""

DISCOVERY_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/openid/v1/jwks"

Document = Mapping[str, Any]


@dataclass(frozen=True)
class ClusterKeys:
    """How tokens of this cluster are known."""

    issuers: tuple[str, ...]
    """Newest first."""
    keys: Mapping[str, jwt.PyJWK]
    """By key id."""
    published: Document
    """The key set as it was read."""


def read_keys(discovery: Document, published: Document, known: tuple[str, ...] = ()) -> ClusterKeys:
    """Read what the API server publishes, leaving out keys of kinds that are not ours. Raises ValueError."""
    issuer, listed = discovery.get("issuer"), published.get("keys")
    if not isinstance(issuer, str) or not issuer or not isinstance(listed, list):
        raise ValueError("no issuer, or no keys")
    keys = {key.key_id: key for key in map(_key, listed) if key is not None and key.key_id}
    if not keys:
        raise ValueError(f"no key that signs by {' or '.join(ALGORITHMS)}")
    return ClusterKeys(tuple(dict.fromkeys((issuer, *known)))[:KNOWN_ISSUERS], keys, published)


def keep(file: Path, keys: ClusterKeys) -> None:
    """Write a copy for the next start. Raises OSError."""
    written = file.with_name(f"{file.name}.new")
    written.write_text(json.dumps({"issuers": keys.issuers, "published": keys.published}))
    written.replace(file)


def kept(file: Path) -> ClusterKeys | None:
    """Return the copy; None if there is none that can be read."""
    try:
        copy = json.loads(file.read_bytes())
        newest, *older = map(str, copy["issuers"])
        return read_keys({"issuer": newest}, copy["published"], tuple(older))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _key(listed: dict[str, Any]) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(listed)
    except (jwt.PyJWTError, TypeError, AttributeError, ValueError):
        return None
    return key if key.algorithm_name in ALGORITHMS and listed.get("use", "sig") == "sig" else None
