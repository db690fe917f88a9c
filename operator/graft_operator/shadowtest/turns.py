"""Pure: which ShadowTest has an endpoint's collector. It compares one at a time, and writes that one's report before the next begins."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from graft_api.health import SHADOW_TERMINAL
from graft_api.schema import Invalid, parse
from graft_api.shadowtest import ShadowTestSpec, ShadowTestStatus
from graft_operator.engine.clock import parse_rfc3339

REPORT_PATIENCE = timedelta(minutes=30)
"""For a report. Then the next test begins: a store that is away must not end all measuring."""
NOT_WRITTEN = "NotWritten"
"""Reason of the condition Reported: there will be no report, and nobody waits for it any more."""


@dataclass(frozen=True)
class TestView:
    """The part of a ShadowTest that others decide by."""

    __test__ = False  # pytest would collect it

    name: str
    uid: str
    created_at: str
    spec: ShadowTestSpec
    status: ShadowTestStatus
    deleting: bool = False

    @classmethod
    def of(cls, resource: dict[str, Any]) -> "TestView | None":
        """Read it from the object; one that cannot be read takes no turn, and speaks for itself in its own status."""
        metadata = resource["metadata"]
        try:
            spec, status = parse(ShadowTestSpec, resource.get("spec")), parse(ShadowTestStatus, resource.get("status") or {})
        except Invalid:
            return None
        deleting = "deletionTimestamp" in metadata
        return cls(metadata["name"], metadata["uid"], metadata["creationTimestamp"], spec, status, deleting)

    def order(self) -> tuple[str, str]:
        """Return by what tests take turns."""
        return self.created_at, self.name

    def compares(self) -> bool:
        """Whether pairs are to be made."""
        return self.status.phase == "Running"

    def reports(self, now: datetime) -> bool:
        """Whether its report is to be written: the verdict is read, and there is something to show."""
        status = self.status
        if status.phase not in SHADOW_TERMINAL or status.verdict is None or status.report is not None or status.ended_at is None:
            return False
        if any(condition.type == "Reported" and condition.reason == NOT_WRITTEN for condition in status.conditions or []):
            return False
        return now - parse_rfc3339(status.ended_at) < REPORT_PATIENCE


def holder(tests: Iterable[TestView], endpoint_uid: str, now: datetime) -> TestView | None:
    """
    Return the test that has the collector of an endpoint: one that has begun and is not done with it.

    There is one at most, but for a moment in which two have started at the same time: then who is farther goes first, and the other
    queues again.
    """

    def rank(test: TestView) -> tuple[bool, bool, tuple[str, str]]:
        return not test.compares(), not test.reports(now), test.order()

    begun = [test for test in _at(tests, endpoint_uid) if test.status.phase in {"Starting", "Running"} or test.reports(now)]
    return min(begun, key=rank, default=None)


def ahead(tests: Iterable[TestView], name: str, endpoint_uid: str, now: datetime) -> TestView | None:
    """Return whom the test of this name waits for: who has the collector, else who queues and was there before."""
    here = list(tests)
    has = holder(here, endpoint_uid, now)
    if has is not None:
        return has if has.name != name else None
    own = next((test.order() for test in here if test.name == name), None)
    queue = [test for test in _at(here, endpoint_uid) if test.status.phase == "Queued"]
    return min((test for test in queue if own is not None and test.order() < own), key=TestView.order, default=None)


def _at(tests: Iterable[TestView], endpoint_uid: str) -> list[TestView]:
    """Return the tests of an endpoint, as far as they were resolved."""
    resolved = [(test, test.status.resolved) for test in tests if not test.deleting]
    return [test for test, found in resolved if found is not None and found.endpoint_uid == endpoint_uid]
