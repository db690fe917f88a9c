"""When a pod is left alone because it keeps failing, and when it is tried again."""

from dataclasses import dataclass

FAILURES_TO_OPEN = 3
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


@dataclass(slots=True)
class Breaker:
    """
    Closed: all requests. Open after consecutive failures: none for a pause. After it one trial, which closes it or doubles the pause.

    Times are the event loop's.
    """

    failures: int = 0
    pause: float = 0.0
    """Zero: closed."""
    open_until: float = 0.0
    trial: bool = False
    """A trial has begun and nothing has come of it yet."""

    @property
    def is_open(self) -> bool:
        """Whether the pod is avoided, trials apart."""
        return self.pause > 0.0

    def allows(self, now: float) -> bool:
        """Whether a request may go there."""
        return self.pause == 0.0 or now >= self.open_until

    def started(self, now: float) -> None:
        """A request goes there. The next trial is a pause later, whatever becomes of this one: its client may leave."""
        if self.pause:
            self.trial = True
            self.open_until = now + self.pause

    def succeeded(self) -> None:
        """The pod answered."""
        if self.failures:
            self.failures, self.pause, self.trial = 0, 0.0, False

    def failed(self, now: float) -> None:
        """The pod did not, or with a server error."""
        self.failures += 1
        if self.pause and not self.trial:
            return  # began before it opened: says nothing new
        if self.trial or self.failures >= FAILURES_TO_OPEN:
            self.pause = min(self.pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
            self.open_until = now + self.pause
            self.trial = False
