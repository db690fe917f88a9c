"""
AdapterApproval: one person's word about one adapter at one digest.

It is counted by the ModelEndpoint's `promotion.approval`; who is counted is said in the Adapter's status. It has no status of its own.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft_api.podtemplate import LocalObjectReference
from graft_api.schema import Digest, Model, Rule


class Author(Model):
    """Who says it, as the API server knows them (policy graft-approvals): `kubectl graft approve` fills it in."""

    username: Annotated[str, Field(min_length=1, max_length=253)]
    groups: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=64)] = Field(default_factory=list)
    """Of those they are in, the ones that shall count."""


class AdapterApprovalSpec(Model):
    """What is approved or rejected. Immutable: whoever changes their mind deletes it, which only they can, or writes another one."""

    adapter_ref: LocalObjectReference
    digest: Digest
    """Of the adapter's artifact."""
    evidence_digest: Digest | None = None
    """`status.verdict.evidenceDigest` of the ShadowTest that counts: what was looked at."""
    decision: Literal["Approve", "Reject"]
    """A rejection of what serves takes it out: it is the rollback by hand."""
    reason: Annotated[str, Field(max_length=512)] = ""
    author: Author

    rules: ClassVar = (
        Rule(
            cel="self.decision != 'Approve' || has(self.evidenceDigest)",
            message="an approval says which evidence it rests on: the ShadowTest's status.verdict.evidenceDigest",
            check=lambda self: self.decision != "Approve" or self.evidence_digest is not None,
            field=".evidenceDigest",
        ),
    )
    transition_rules: ClassVar = ({"rule": "self == oldSelf", "message": "an approval is immutable; delete it and write another one"},)


class AdapterApproval(Model):
    """Approves or rejects one adapter at one digest, in its author's own name."""

    api_version: Literal["graft.dev/v1alpha1"]
    kind: Literal["AdapterApproval"]
    metadata: dict[str, Any]
    spec: AdapterApprovalSpec
