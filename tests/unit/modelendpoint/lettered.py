"""An endpoint with versions that are named after a letter."""

from datetime import UTC, datetime

from graft_api.dataplane import version_name
from graft_api.ledger import LedgerVersion
from graft_operator.modelendpoint.parent import Parent, Platform

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BASE = "sha256:" + "b" * 64
PARENT = Parent("shop", "prod", "uid-1")
PLATFORM = Platform("serving:1", "vllm:1", "https://reports:8443")
METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}


def digest(letter):
    return "sha256:" + letter * 64


def version(letter):
    return version_name("dsl", digest(letter))


def kept(letter):
    return LedgerVersion(adapter=f"adapter-{letter}", digest=digest(letter), uri=f"s3://adapters/{letter}", size_bytes=10)
