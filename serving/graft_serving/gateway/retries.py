"""How often the gateway may ask a second pod: an outage must not double the load of what is left."""

SHARE = 0.1
MOST = 10.0


class RetryBudget:
    """Every request earns a tenth of a retry; ten at most are saved up."""

    def __init__(self) -> None:
        self._tokens = MOST

    def earn(self) -> None:
        """One request came in."""
        self._tokens = min(self._tokens + SHARE, MOST)

    def spend(self) -> bool:
        """Return whether one retry may be made, and count it."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
