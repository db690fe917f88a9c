"""Pauses between attempts that grow, up to a limit, with jitter: many pods that lost the same server must not come back as one."""

from random import Random


class Backoff:
    """`next` doubles from `first` to `longest`; what it returns is between half of that and all of it."""

    def __init__(self, first: float, longest: float, random: Random) -> None:
        self._first = first
        self._longest = longest
        self._random = random
        self._pause = first

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        return pause * (0.5 + self._random.random() / 2)

    def reset(self) -> None:
        """Something worked: begin with `first` again."""
        self._pause = self._first
