"""
The ledger: what serves, and how that came to be. One ConfigMap per ModelEndpoint that nobody owns, meant to be backed up.

It is the truth; statuses are projections of it. An empty status beside a ledger means adopt, never start over.
"""

from typing import Annotated, Literal

from pydantic import Field

from graft_api.finetunejob import StoreUri
from graft_api.schema import Count, Digest, DnsLabel, Model, ObjectName, Timestamp


class LedgerVersion(Model):
    """An adapter as it was activated: enough to serve it again when the Adapter object is not there yet."""

    adapter: ObjectName
    digest: Digest
    uri: StoreUri
    size_bytes: Count


class Switch(Model):
    """One transition of a domain, written before anything is changed."""

    ordinal: Annotated[int, Field(ge=1)]
    at: Timestamp
    reason: Annotated[str, Field(max_length=64)]
    """Pinned, Unpinned, Deleted, ..."""
    message: Annotated[str, Field(max_length=512)] = ""
    before: ObjectName | None = None
    """Adapter that served; absent: the base model."""
    after: ObjectName | None = None


class LedgerDomain(Model):
    """One domain."""

    name: DnsLabel
    salt: Annotated[str, Field(max_length=64)]
    active: LedgerVersion | None = None
    """Absent: the base model."""
    previous: LedgerVersion | None = None
    """Served before; stays loaded for a rollback while slots allow."""
    since: Timestamp | None = None
    history: Annotated[list[Switch], Field(max_length=32)] = Field(default_factory=list)
    """Newest last."""


class Ledger(Model):
    """All domains of one endpoint, also those that its spec does not name at the moment."""

    format: Literal[1] = 1
    endpoint: ObjectName
    epoch: Count = 0
    revision: Count = 0
    """Of the routes, so that a restored endpoint goes on counting."""
    base_digest: Digest | None = None
    domains: Annotated[list[LedgerDomain], Field(max_length=64)] = Field(default_factory=list)

    def domain(self, name: str) -> LedgerDomain | None:
        """Return one domain."""
        return next((domain for domain in self.domains if domain.name == name), None)
