"""What a check of drift ends with when it cannot be made."""

from collections.abc import Sequence

LONGEST = 256
"""Of a problem in a report."""
FIELD = "promotion.drift"
"""Where users have written what is asked for."""


class NotMeasuredError(Exception):
    """It cannot be measured, and why: one sentence that people read in the endpoint's status. It holds no content."""


def first(failed: BaseExceptionGroup[NotMeasuredError]) -> NotMeasuredError:
    """Return one of several: they were met at the same time, and the rest would say the same."""
    found: Sequence[BaseException] = failed.exceptions
    return first(found[0]) if isinstance(found[0], BaseExceptionGroup) else NotMeasuredError(str(found[0]))
