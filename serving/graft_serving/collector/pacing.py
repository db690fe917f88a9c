"""
A budget of requests, spent over its whole time: a day of production, or a ShadowTest.

Spent on who comes first, it would be gone an hour after midnight, and what is known of a domain would be what it is like at night. So
each slot has its part, and within it it is a hash that chooses, with a share by what came in the slot before.
"""

from __future__ import annotations

SLOTS = 144
"""Of a day: ten minutes each."""
SLOT_SECONDS = 86_400 // SLOTS
CARRIED = 6
"""Slots whose unspent part may be spent in one: after a quiet hour, or a start at noon, not all of the day's at once."""


class Pace:
    """Of one score of one domain, or of one metric of a test."""

    def __init__(self, budget: int, test_seconds: float | None = None) -> None:
        """`budget`: requests of a test of so many seconds, beyond which all that is left may be spent; None: of each day of UTC."""
        self._budget = budget
        self._once = test_seconds is not None
        self._slot_seconds = SLOT_SECONDS if test_seconds is None else test_seconds / SLOTS
        self._slot = -1
        self._wanted = 0
        """Requests that this slot's answers would take."""
        self._left = 0.0
        self._share = 1.0

    def take(self, requests: int, place: float, now: float, spent: int) -> bool:
        """
        Whether an answer may be asked about; then its requests are spent.

        `place`: where its hash falls in [0, 1). `now`: seconds since 1970, or of the test. `spent`: requests of this day, or test, so far.
        """
        slot = int(now // self._slot_seconds)
        if slot != self._slot:
            self._begin(slot, requests, spent)
        self._wanted += requests
        if place >= self._share or requests > self._left:
            return False
        self._left -= requests
        return True

    def _begin(self, slot: int, requests: int, spent: int) -> None:
        before = self._wanted if slot == self._slot + 1 else 0
        slots = min(slot + 1, SLOTS) if self._once else slot % SLOTS + 1
        due = self._budget * slots / SLOTS - spent
        # A small budget has less than one request for many slots together.
        self._left = min(due, max(self._budget * CARRIED / SLOTS, requests))
        self._share = min(1.0, max(self._left, 0.0) / before) if before else 1.0
        self._slot, self._wanted = slot, 0
