"""
Who is left out when the shadow takes less than production gives.

A queue that simply refused whoever comes while it is full would let the shadow choose: it is full after hard prompts, and what is
admitted in between are easy ones, or the easy turns of long conversations. So the fullness decides only *how much* is admitted, one
number for everybody; *who* that is is a hash of the conversation, which knows nothing of prompts, answers or moments. Shares are
nested: whoever is admitted at 1/4 is admitted at 1/2, too, so a conversation that is kept is kept whole as far as possible. All
this happens before the candidate is asked, and nobody who was admitted is taken out afterwards for what the candidate does.
"""

from graft_serving.collector.drawing import Purpose, place

HIGH, LOW = 0.5, 0.1
"""Of the queue's room: beyond the first the share is halved, below the second it is doubled."""
SMALLEST_SHARE = 2.0**-14
PATIENCE_SECONDS = 10.0
"""Between two steps, so that each can show what it does."""


class Admission:
    """Decides by conversation, on a clock that only grows."""

    def __init__(self, seed: int, room: int) -> None:
        self._seed = seed
        self._room = room
        self._changed = float("-inf")
        self.share = 1.0

    def admits(self, conversation: str, held: int, now: float) -> bool:
        """Whether an exchange may wait, where `held` bytes do already."""
        self._adapt(held / self._room, now)
        if place(self._seed, Purpose.ADMISSION, conversation) >= self.share:
            return False
        # Beyond the room nobody gets in: a shadow that is dead admits nobody, easy or hard. Nor is it asked how large an exchange is,
        # or small ones would get in where long ones do not; the last one may go beyond the room, and the intake bounds them all.
        return held < self._room

    def _adapt(self, fullness: float, now: float) -> None:
        if now - self._changed < PATIENCE_SECONDS:
            return
        if fullness > HIGH and self.share > SMALLEST_SHARE:
            self.share /= 2
        elif fullness < LOW and self.share < 1:
            self.share *= 2
        else:
            return
        self._changed = now
