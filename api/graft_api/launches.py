"""
The record of what TuningPolicies have launched for a ModelEndpoint: one ConfigMap that nobody owns, written before a job is created.

It is the truth for the cooldown, which is a domain's, whichever policy launched and whatever that is called. So all policies of an endpoint
write the same record: of two that launch at the same moment one finds that it has changed. A launch whose job is not created yet is
completed as it is recorded, and not judged again.
"""

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from graft_api.schema import DnsLabel, Model, ObjectName, Timestamp

LAUNCHES_RECORD = "launches"
"""Value of the record label."""
LAUNCHES_KEY = "launches.json"
REMEMBERED = 32
"""Launches of one domain."""
DOMAINS = 32
"""
Those with the newest launches are remembered; an endpoint has at most 31 at a time. 32 launches of 32 domains, with the longest words, fit
into the 1 MiB of a ConfigMap.
"""


def launches_name(endpoint: str) -> str:
    """Return the ConfigMap with the record of an endpoint."""
    return f"{endpoint}-launches"


def job_name(endpoint: str, policy: str, domain: str, ordinal: int) -> str:
    """
    Return the name of a launch's FineTuneJob: always the same, so that a second attempt at the same launch finds the first.

    Ordinals are the endpoint's: a policy that goes over to another endpoint begins there with others.
    """
    digest = hashlib.sha256(f"{endpoint}/{policy}/{domain}/{ordinal}".encode()).hexdigest()[:8]
    return f"{f'{policy}-{domain}'[:46].rstrip('-')}-{ordinal}-{digest}"


class Launch(Model):
    """One launch."""

    ordinal: Annotated[int, Field(ge=1)]
    """Counts the launches of the domain, by whichever policy."""
    policy: ObjectName
    """That launched."""
    at: Timestamp
    """When it was decided: the cooldown begins."""
    job: ObjectName
    why: Annotated[str, Field(max_length=512)] = ""
    """With number and bound."""
    read_at: Timestamp | None = None
    """Of the criteria that it was decided by."""
    state: Literal["Intended", "Created", "Withdrawn"]
    """
    Withdrawn: the policy was switched off, or deleted, before there was a job. It was no launch, and begins no cooldown; its ordinal is
    used up.
    """


class LaunchedDomain(Model):
    """One domain."""

    name: DnsLabel
    launches: Annotated[list[Launch], Field(max_length=REMEMBERED)] = Field(default_factory=list)
    """Newest last."""

    def last(self) -> Launch | None:
        """Return the last one that counts."""
        return next((launch for launch in reversed(self.launches) if launch.state != "Withdrawn"), None)

    def next_ordinal(self) -> int:
        """Return the number of the launch to come."""
        return self.launches[-1].ordinal + 1 if self.launches else 1

    def with_launch(self, launch: Launch) -> "LaunchedDomain":
        """Return it with this launch in it: in its place, or as the newest."""
        others = [known for known in self.launches if known.ordinal != launch.ordinal]
        kept = sorted([*others, launch], key=lambda known: known.ordinal)
        return self.model_copy(update={"launches": kept[-REMEMBERED:]})


class Launches(Model):
    """All domains of one endpoint, also those that no policy names any more."""

    format: Literal[1] = 1
    endpoint: ObjectName
    domains: Annotated[list[LaunchedDomain], Field(max_length=DOMAINS)] = Field(default_factory=list)

    def domain(self, name: str) -> LaunchedDomain:
        """Return one domain; an empty one if nothing was launched for it."""
        return next((domain for domain in self.domains if domain.name == name), LaunchedDomain(name=name))

    def with_domain(self, domain: LaunchedDomain) -> "Launches":
        """Return it with this domain in it."""
        others = [known for known in self.domains if known.name != domain.name]
        newest = sorted(others, key=lambda known: known.launches[-1].at if known.launches else "", reverse=True)
        kept = [domain, *newest[: DOMAINS - 1]]
        return self.model_copy(update={"domains": sorted(kept, key=lambda known: known.name)})

    def names(self) -> set[str]:
        """Return the jobs of all launches that are remembered."""
        return {launch.job for domain in self.domains for launch in domain.launches}
