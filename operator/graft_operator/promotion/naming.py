"""How the ShadowTest and the drift Jobs of a gate are called: whoever looks for one finds the same, whatever was lost in between."""

import hashlib

from graft_api.drift import Moment

ADAPTER_PART = 22
"""Of 33 characters, beside a hyphen and eight of the hash: the shadow server's own objects are named after the test."""


ENDPOINT_PART = 36
"""Of 52 characters, beside `-drift-` and eight of the hash: pods add to the name of their Job."""


def test_name(endpoint: str, domain: str, number: int, adapter: str, uid: str, digest: str) -> str:
    """
    Return the name of the ShadowTest of a domain's candidate: at most 33 characters, no dots.

    `uid` is the Adapter's when the gate begins: one that was made anew is another candidate, and never takes over its predecessor's test.
    """
    said = "\n".join((endpoint, domain, str(number), adapter, uid, digest))
    readable = adapter[:ADAPTER_PART].replace(".", "-").strip("-")
    return f"{readable}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def drift_job_name(endpoint: str, domain: str, number: int, moment: Moment, attempt: int) -> str:
    """Return the name of the Job of one attempt to measure a candidate's drift: at most 52 characters, no dots."""
    said = "\n".join((endpoint, domain, str(number), moment.value, str(attempt)))
    readable = endpoint[:ENDPOINT_PART].replace(".", "-").strip("-")
    return f"{readable}-drift-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def fingerprint(adapter: str, digest: str) -> str:
    """Return by what the ledger knows again, in few bytes, an Adapter that has had its turn: also one that a restore made anew."""
    return hashlib.sha256(f"{adapter}\n{digest}".encode()).hexdigest()[:16]
